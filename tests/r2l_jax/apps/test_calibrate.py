import json

import numpy as np
import pytest
from flawed_sensor import FlawedSensor, write_frames
from programs import call

from r2l_jax.apps.calibrate import calibrate
from r2l_jax.data.files.known_camera import read_known_camera
from r2l_jax.data.files.rawfile import read_raw
from r2l_jax.errors import InputError
from r2l_jax.results.files import read_csv

CORRECTIONS = {"dark": "dark.tiff", "flat": "flat.tiff", "defects": "defects.csv"}
SENSOR = FlawedSensor(seed=1, black=(0.05, 0.06, 0.07, 0.08))


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frames")
    write_frames(folder, SENSOR, exposures=(0.1, 0.4, 0.8))
    return folder


@pytest.fixture(scope="module")
def output(frames, tmp_path_factory):
    folder = tmp_path_factory.mktemp("calibrated") / "camera"
    calibrate([frames / "dark"], [frames / "flat"], folder, str(frames / "base.json"))
    return folder


def test_the_camera_has_the_measured_values_and_keeps_the_others(frames, output):
    fields = json.loads((output / "camera.json").read_text())
    base = json.loads((frames / "base.json").read_text())
    others = {"camera.json", "photon_transfer.json", "photon_transfer.png"}
    assert {path.name for path in output.iterdir()} == {*CORRECTIONS.values(), *others}
    assert {name: fields[name] for name in CORRECTIONS} == CORRECTIONS
    assert fields["black_level"] == pytest.approx(SENSOR.black, abs=2e-5)
    assert fields["full_well"] == pytest.approx(SENSOR.full_well, rel=0.05)
    assert fields["read_noise"] == pytest.approx(SENSOR.read_noise, rel=0.05)
    assert fields["bits"] == 12
    kept = set(base) - {"black_level"}
    assert {name: fields[name] for name in kept} == {name: base[name] for name in kept}
    assert set(fields) == {*base, *CORRECTIONS, "full_well", "read_noise", "bits"}


def test_black_is_in_digital_numbers_if_the_base_camera_states_white(frames, tmp_path):
    base = json.loads((frames / "base.json").read_text()) | {"white_level": 65535}
    (tmp_path / "base.json").write_text(json.dumps(base))
    calibrate([frames / "dark"], [frames / "flat"], tmp_path / "out", str(tmp_path / "base.json"))
    fields = json.loads((tmp_path / "out/camera.json").read_text())
    assert fields["black_level"] == pytest.approx(65535 * np.array(SENSOR.black), abs=2)
    assert read_known_camera(tmp_path / "out/camera.json").camera.black_level == pytest.approx(SENSOR.black, abs=3e-5)


@pytest.mark.shows("calibrate --dark --flat --output --threshold --camera")
def test_the_threshold_decides_which_sites_are_defects(tmp_path):
    """Ten sites are 25 electrons too bright, 11 standard deviations: of the 2 electrons of DSNU and the read noise."""
    sensor = FlawedSensor(seed=2, shape=(128, 128), hot=0, dead=0, flickering=0)
    sites = np.stack([12 * np.arange(10) + 5, (7 * np.arange(10) ** 2 + 3) % 128], 1)
    sensor.offset[tuple(sites.T)] = 25
    write_frames(tmp_path, sensor, exposures=(0.3, 0.6), flats=4)
    flags = [f"--{name}={tmp_path}/{name}" for name in ("dark", "flat")] + [f"--camera={tmp_path}/base.json"]
    for given, count in (([], 10), (["--threshold=20"], 0)):
        done = call("calibrate.py", *flags, f"--output={tmp_path}/{count}", *given)
        assert done.stdout.splitlines()[-1] == f"defects: {count} hot, 0 dead, 0 flickering", done.stderr
        rows = read_csv(tmp_path / f"{count}/defects.csv")
        assert [[int(row["row"]), int(row["column"])] for row in rows] == sites[:count].tolist()


def test_corrected_frames_are_flat_and_without_defects(frames, output):
    known = read_known_camera(output / "camera.json")
    black = np.tile(np.reshape(known.camera.black_level, (2, 2)), (128, 128))
    light = known.corrections.apply(SENSOR.expected(0.6), known.camera) - black
    for row, col in np.ndindex(2, 2):
        plane = light[row::2, col::2]
        assert plane.std() / plane.mean() < 0.005
    dark = known.corrections.apply(SENSOR.expected(0.0), known.camera)
    # Six standard deviations of the mean of 16 darks, which the gain of a corner enlarges.
    assert abs(dark - black).max() < 6 / 4 * 1.7 * SENSOR.read_noise / SENSOR.full_well
    # Files are corrected as they are read.
    file = frames / "flat" / "023.tiff"
    plain, _ = read_raw(file, known.camera)
    np.testing.assert_array_equal(read_raw(file, known)[0], known.corrections.apply(plain, known.camera))


def test_camera_formats_keep_what_frames_do_not_show(write_dng, tmp_path):
    rng = np.random.default_rng(0)

    def shot(name, light, cfa=(1, 0, 2, 1)):
        samples = (256 + rng.normal(0, 3, (64, 96)) + rng.poisson(light, (64, 96))).astype(np.uint16)
        return write_dng(samples, f"{name}.dng", cfa=cfa, black=(240,) * 4)

    dark, flat = (
        [shot(f"{kind}_{number}", light) for number in range(3)] for kind, light in (("dark", 0), ("flat", 1500))
    )
    calibrate(dark, flat, tmp_path / "out")
    fields = json.loads((tmp_path / "out" / "camera.json").read_text())
    assert set(fields) == {"black_level", "full_well", "read_noise", "bits", *CORRECTIONS}
    assert fields["black_level"] == pytest.approx([255.5 / 4095] * 4, abs=2e-4)
    assert fields["full_well"] == pytest.approx(4095 - 255.5, rel=0.1)  # an electron for each digital number
    _, camera = read_raw(dark[0], read_known_camera(tmp_path / "out" / "camera.json"))
    assert camera.pattern == "GRBG"
    assert camera.black_level == tuple(fields["black_level"])
    assert camera.white_balance == pytest.approx((2, 1, 1 / 0.7), rel=1e-3)
    with pytest.raises(InputError, match=r"dark_0\.dng has GRBG, .*other\.dng has BGGR"):
        calibrate(dark, [*flat, shot("other", 1500, (2, 1, 1, 0))], tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"camera": "auto"}, r"dark/000\.tiff: .* no calibration values: give a camera .`camera`.; "),
        ({"flat": ["flat", "dark/003.tiff"]}, r"dark/003\.tiff is in both `dark` and `flat`"),
        ({"flat": ["dark.tiff"], "output": "."}, r"dark\.tiff is a frame and would be overwritten"),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(frames, tmp_path, monkeypatch, change, message):
    for name in ("dark", "flat", "base.json"):
        (tmp_path / name).symlink_to(frames / name)
    (tmp_path / "dark.tiff").touch()
    monkeypatch.chdir(tmp_path)
    arguments = {"dark": ["dark"], "flat": ["flat"], "output": "out", "camera": "base.json", **change}
    with pytest.raises(InputError, match=message):
        calibrate(**arguments)
    assert not (tmp_path / "out" / "camera.json").exists()

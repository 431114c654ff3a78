import csv
import dataclasses
import json

import numpy as np
import pytest
import tifffile
from flawed_sensor import FlawedSensor, write_frames

import isp
from r2l_jax.apps.calibrate import calibrate, summary
from r2l_jax.data.files.known_camera import read_known_camera
from r2l_jax.data.files.rawfile import read_raw
from r2l_jax.runtime.errors import InputError

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


def test_an_earlier_calibration_can_be_started_from_and_replaced(frames, output, tmp_path):
    def run(camera, threshold=6.0):
        return calibrate([frames / "dark"], [frames / "flat"], tmp_path, str(camera / "camera.json"), threshold)

    run(output, 4.0)
    strict = (tmp_path / "defects.csv").read_bytes()
    (black, values, defects) = summary(run(tmp_path)).splitlines()
    for name in ("camera.json", *CORRECTIONS.values()):
        assert (tmp_path / name).read_bytes() == (output / name).read_bytes()
    assert len((tmp_path / "defects.csv").read_bytes()) < len(strict)
    assert black.startswith("black level 204.")
    assert " electrons per digital number; full well 1" in values
    assert defects.startswith("defects: 12 hot, 12 dead, 12 flickering")


@pytest.mark.parametrize(
    ("pattern", "tile"),
    [("RRGG/RRGG/GGBB/GGBB", np.repeat(np.repeat([[0, 1], [1, 2]], 2, 0), 2, 1)), ("MONO", [[0]])],
    ids=["quad", "mono"],
)
def test_other_color_filter_arrays_have_a_level_for_each_color(tmp_path, pattern, tile):
    tile = np.array(tile)
    levels = (0.05, 0.06, 0.07)[: tile.max() + 1]
    sensor = FlawedSensor(seed=2, tile=tuple(map(tuple, tile.tolist())), black=tuple(np.array(levels)[tile.ravel()]))
    write_frames(tmp_path, sensor, exposures=(0.3, 0.7))
    base = isp.Camera([0.0] * len(levels), (1, 1, 1), np.eye(3), pattern)
    (tmp_path / "base.json").write_text(base.to_json())
    calibrate([tmp_path / "dark"], [tmp_path / "flat"], tmp_path / "out", str(tmp_path / "base.json"))
    known = read_known_camera(tmp_path / "out" / "camera.json")
    assert known.camera.black_level == pytest.approx(levels, abs=2e-5)
    light = known.corrections.apply(sensor.expected(0.6), known.camera)
    light -= np.asarray(isp.cfa.black_levels(np.float32(known.camera.black_level), pattern, *sensor.shape))
    for channel in range(len(levels)):
        of_color = light[np.tile(tile == channel, np.array(sensor.shape) // tile.shape)]
        assert of_color.std() / of_color.mean() < 0.005


def test_the_table_of_defects(output):
    with (output / "defects.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["row", "column", "kind", "figure"]
    listed = {(int(row["row"]), int(row["column"])): row["kind"] for row in rows}
    for kind, sites in SENSOR.defects.items():
        assert {listed[tuple(site)] for site in sites.tolist()} == {kind}
    assert all(abs(float(row["figure"])) > 6 for row in rows)


def test_the_photon_transfer_in_digital_numbers(output):
    found = json.loads((output / "photon_transfer.json").read_text())
    gain = np.mean([SENSOR.full_well / (1 - black) for black in SENSOR.black]) / 4095
    assert (found["white_level"], found["bits"]) == (4095, 12)
    assert found["electrons_per_number"] == pytest.approx(gain, rel=0.02)
    assert found["numbers_per_electron"] == pytest.approx(1 / gain, rel=0.02)
    assert found["flats_of_each_exposure"] == [8, 8, 8]
    assert found["dsnu_electrons"] == pytest.approx(SENSOR.dsnu, rel=0.05)
    assert found["prnu"] == pytest.approx(SENSOR.prnu, rel=0.05)
    assert found["dynamic_range_decibels"] == pytest.approx(20 * np.log10(15000 / 4), abs=0.5)
    assert [site["color"] for site in found["sites"]] == ["red", "green", "green", "blue"]
    assert [site["black_level"] / 4095 for site in found["sites"]] == pytest.approx(SENSOR.black, abs=2e-5)
    assert len(found["curve"]) == 9
    for point in found["curve"]:
        assert point["variance"] == pytest.approx(point["mean"] / gain, rel=0.1)
    # The noise of the measurement alone.
    assert 0 < found["relative_error_of_gain"] < 0.01


@pytest.mark.parametrize(
    ("suffix", "stated"),
    [("tiff", {"white_level": 4095}), ("raw", {"raw": {"width": 96, "height": 64, "bits": 12}})],
)
def test_a_stated_white_level_or_layout_stays(tmp_path, suffix, stated):
    sensor = dataclasses.replace(SENSOR, shape=(64, 96), hot=0, dead=0, flickering=0)
    rng, files = np.random.default_rng(0), {"dark": [], "flat": []}
    for name, level in (("dark", 0.0), ("flat", 0.5)):
        for number in range(8):
            file = tmp_path / f"{name}_{number}.{suffix}"
            numbers = np.round(sensor.frame(level, rng) * 4095).astype("<u2")
            tifffile.imwrite(file, numbers) if suffix == "tiff" else file.write_bytes(numbers.tobytes())
            files[name].append(file)
    base = json.loads(isp.Camera([0] * 4, (2, 1, 1.5), np.eye(3)).to_json())
    (tmp_path / "base.json").write_text(json.dumps({**base, **stated}))
    calibrate(files["dark"], files["flat"], tmp_path / "out", str(tmp_path / "base.json"))
    written = json.loads((tmp_path / "out" / "camera.json").read_text())
    # A layout's bits state the white level as well.
    assert (written["white_level"], written["bits"]) == (4095, 12)
    assert written["black_level"] == pytest.approx(np.multiply(4095, sensor.black), abs=0.2)
    assert read_raw(files["flat"][0], read_known_camera(tmp_path / "out" / "camera.json"))[0].shape == (64, 96)


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
    with pytest.raises(InputError, match=r"dark_0\.dng has GRBG, .*other\.dng BGGR"):
        calibrate(dark, [*flat, shot("other", 1500, (2, 1, 1, 0))], tmp_path / "out")


def test_dim_flats_are_remarked_once(tmp_path, capsys):
    write_frames(tmp_path, dataclasses.replace(SENSOR, shape=(64, 64), hot=0, flickering=0), exposures=(0.02, 0.03))
    calibrate([tmp_path / "dark"], [tmp_path / "flat"], tmp_path / "out", str(tmp_path / "base.json"))
    assert capsys.readouterr().err.count("warning: ") == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"camera": "auto"}, r"dark/000\.tiff: .* no calibration values: a camera must be given; .*--camera"),
        ({"flat": ["flat", "dark/003.tiff"]}, r"dark/003\.tiff is both in --dark and in --flat"),
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

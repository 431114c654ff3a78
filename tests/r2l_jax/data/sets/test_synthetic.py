import concurrent.futures
import io
import json
import shutil

import numpy as np
import pytest
import tifffile
from PIL import Image

import isp
from r2l_jax.data.sets import phantom, synthetic
from r2l_jax.names import INTENSITIES
from r2l_jax.runtime.errors import InputError

IMAGES, SIZE = 10, 32
SCALES = ("001", "005", "010", "025", "050", "075", "100")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Ten images, which are rendered in three batches of four, of which the last one starts early."""
    return synthetic.generate(tmp_path_factory.mktemp("data"), images=IMAGES, size=SIZE)


def labels(root):
    return [line.split() for line in (root / "labels" / "labels.dat").read_text().splitlines()]


def load(root, intensity):
    folder = root / "images" / synthetic.intensity_folder(intensity)
    return np.stack([tifffile.imread(folder / f"{name}.tiff") for name, _ in labels(root)])


def files(root):
    return {path.relative_to(root): path for path in root.rglob("*") if path.is_file()}


def test_layout(root):
    names = [name for name, _ in labels(root)]
    expected = {f"images/raw_scale{percent}/{name}.tiff" for percent in SCALES for name in names}
    expected |= {f"masks/{name}.png" for name in names}
    expected |= {"labels/labels.dat", "camera.json", "dataset.json"}
    assert {path.as_posix() for path in files(root)} == expected
    assert isp.Camera.from_json((root / "camera.json").read_text()) == synthetic.CAMERA
    assert json.loads((root / "dataset.json").read_text()) == {"version": 2, "images": 10, "size": 32, "seed": 0}
    assert sorted(label for _, label in labels(root)) == sorted(2 * phantom.CLASSES)
    for name in names:
        mask = np.asarray(Image.open(root / "masks" / f"{name}.png"))
        assert (mask.dtype, mask.shape, set(np.unique(mask))) == (np.uint8, (SIZE, SIZE), {0, 255})


def test_mosaics_are_12_bits_in_16(root):
    raw = load(root, 1.0)
    assert raw.dtype == np.uint16
    assert raw.shape == (IMAGES, SIZE, SIZE)
    steps = raw / 65535 * 4095
    np.testing.assert_allclose(steps, np.round(steps), atol=0.04)
    # The images are bright without saturation.
    assert 0.7 < raw.max() / 65535 < 1


def test_every_intensity_shows_the_same_scene_with_its_own_noise(root):
    black = synthetic.CAMERA.black_level[0]
    electrons = synthetic.FULL_WELL / (1 - black)
    full = electrons * (load(root, 1.0) / 65535 - black)
    for intensity in INTENSITIES[:-1]:
        signal = electrons * (load(root, intensity) / 65535 - black)
        assert signal.mean() / full.mean() == pytest.approx(intensity, rel=0.02)
        # The noise of photons, read-out and quantization in both exposures.
        constant = synthetic.READ_NOISE**2 + (electrons / 4095) ** 2 / 12
        variance = full.mean() / intensity + constant / intensity**2 + full.mean() + constant
        assert np.std(signal / intensity - full) == pytest.approx(np.sqrt(variance), rel=0.05)


def test_isp_renders_pale_background_and_purple_nuclei(root):
    rgb = np.asarray(isp.parametrized(synthetic.CAMERA)(load(root, 1.0) / np.float32(65535)))
    background = np.quantile(rgb, 0.95, axis=(0, 1, 2))
    assert (background > 0.8).all()
    assert np.ptp(background) < 0.05
    dark = rgb.mean(-1) < np.quantile(rgb.mean(-1), 0.03)
    red, green, blue = rgb[dark].mean(0)
    assert blue > 1.5 * red > 1.5 * green


def test_an_existing_folder_is_not_written_again(root):
    before = {path: file.stat().st_mtime_ns for path, file in files(root).items()}
    assert synthetic.generate(root.parent, images=IMAGES, size=SIZE) == root
    assert {path: file.stat().st_mtime_ns for path, file in files(root).items()} == before


def test_the_seed_decides_every_byte(root, tmp_path):
    again = synthetic.generate(tmp_path, images=IMAGES, size=SIZE)
    assert {path: file.read_bytes() for path, file in files(again).items()} == {
        path: file.read_bytes() for path, file in files(root).items()
    }
    other = synthetic.generate(tmp_path, images=IMAGES, size=SIZE, seed=1)
    assert other != again
    assert (load(other, 1.0) != load(root, 1.0)).any(axis=(1, 2)).all()


def test_two_calls_at_the_same_time_agree(root, tmp_path):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: synthetic.generate(tmp_path, images=IMAGES, size=SIZE), range(2))
    assert first == second
    assert list(tmp_path.iterdir()) == [first]
    assert files(first).keys() == files(root).keys()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 30}, "size must be even and at least 32, got 30"),
        ({"size": 33}, "size must be even and at least 32, got 33"),
        ({"images": 4}, "images must be at least 5, one of each class, got 4"),
    ],
)
def test_refuses_settings(tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        synthetic.generate(tmp_path, **{"images": IMAGES, "size": SIZE, **settings})
    assert not list(tmp_path.iterdir())


@pytest.fixture
def copy(root, tmp_path):
    """Returns the parent of a copy of the data set, and the copy."""
    return tmp_path, shutil.copytree(root, tmp_path / root.name)


def encoded(shape, form, dtype=np.uint8):
    """Returns a file whose pixels are all 7."""
    file = io.BytesIO()
    samples = np.full(shape, 7, dtype)
    tifffile.imwrite(file, samples) if form == "tiff" else Image.fromarray(samples).save(file, form)
    return file.getvalue()


def halved(content):
    return content[: len(content) // 2]


MOSAIC, MASK = "images/raw_scale100/cell_00003.tiff", "masks/cell_00003.png"


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        (MOSAIC, halved, r"cell_00003\.tiff: truncated, corrupt or no TIFF"),
        (MOSAIC, b"", r"cell_00003\.tiff: truncated, corrupt or no TIFF"),
        (MOSAIC, None, r"cell_00003\.tiff: No such file or directory"),
        *(
            (MOSAIC, encoded(shape, "tiff", dtype), r"cell_00003\.tiff must be 32x32 with one channel of 16 bits, got")
            for shape, dtype in (((1, 1), "u2"), ((1, SIZE), "u2"), ((SIZE, SIZE), "f4"), ((SIZE, SIZE), "u1"))
        ),
        (MASK, halved, r"cell_00003\.png: truncated, corrupt or no PNG"),
        (MASK, encoded((1, 1), "png"), r"cell_00003\.png must have shape \(32, 32\), got \(1, 1\)"),
        (MASK, None, r"cell_00003\.png: No such file or directory"),
        ("labels/labels.dat", halved, r"labels\.dat: line \d+ must be 'cell_\d+ \w+', got"),
        ("labels/labels.dat", lambda text: text + b"cell_00099 LYT\n", "line 11 must be 'nothing', got 'cell_00099"),
        ("labels/labels.dat", b"\xff", r"labels\.dat: no text in UTF-8"),
        ("labels/labels.dat", lambda text: text.replace(b"cell_00001 ", b"cell_00001"), r"line 2 must be 'cell_00001 "),
        ("camera.json", halved, r"camera\.json: "),
        ("camera.json", b"[" * 200_000, r"camera\.json: .*nested too deeply"),
        ("camera.json", bytes(2**21), r"camera\.json: expected a text of at most 1048576 bytes"),
        ("dataset.json", halved, "is not the synthetic data set of"),
        ("dataset.json", b"[" * 200_000, "is not the synthetic data set of"),
    ],
)
def test_a_damaged_file_is_named_with_the_way_out(copy, file, damage, message):
    parent, root = copy
    if damage is None:
        (root / file).unlink()
    else:
        (root / file).write_bytes(damage if isinstance(damage, bytes) else damage((root / file).read_bytes()))
    with pytest.raises(InputError, match=message) as caught:
        synthetic.load("SyntheticSegmentation", parent, 1.0, IMAGES, SIZE).samples(np.arange(IMAGES))
    assert "\n" not in str(caught.value)
    assert str(root) in str(caught.value)
    if damage is not None:
        assert ("delete" in str(caught.value)) != (file == "dataset.json")

import pathlib
import shutil

import numpy as np
import pytest
import tifffile
from PIL import Image

import isp
from r2l_jax.data.sets import datasets, phantom, synthetic
from r2l_jax.errors import InputError
from r2l_jax.names import INTENSITIES

# The second of two batches of 20 starts early.
IMAGES, SIZE = 25, 32
SCALES = ("001", "005", "010", "025", "050", "075", "100")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
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
    assert [label for _, label in labels(root)] == [*5 * phantom.CLASSES]
    for name in names:
        mask = np.asarray(Image.open(root / "masks" / f"{name}.png"))
        assert (mask.dtype, mask.shape, set(np.unique(mask))) == (np.uint8, (SIZE, SIZE), {0, 255})


@pytest.mark.shows(
    "train --synthetic_images --synthetic_size", "r2l_jax.data.load(iso, synthetic_images, synthetic_size)"
)
@pytest.mark.parametrize("name", ["Synthetic", "SyntheticSegmentation"])
def test_loads_mosaics_of_an_intensity_with_classes_or_masks(root, name):
    dataset = datasets.load(name, data_dir=root.parent, iso=0.1, synthetic_images=IMAGES, synthetic_size=SIZE)
    assert (len(dataset), dataset.camera) == (IMAGES, synthetic.CAMERA)
    raw, target = dataset[3]
    assert raw.dtype == np.float32
    np.testing.assert_allclose(raw, load(root, 0.1)[3] / 65535, rtol=1e-6)
    if name == "Synthetic":
        assert dataset.task == "classification"
        assert [dataset.classes[label] for label in dataset.labels] == [label for _, label in labels(root)]
        assert target == dataset.labels[3]
    else:
        assert (dataset.task, dataset.classes) == ("segmentation", ("white cell",))
        mask = np.asarray(Image.open(root / "masks" / f"{dataset.names[3]}.png"))
        np.testing.assert_array_equal(target, mask / 255)


@pytest.mark.shows("train --classes", "r2l_jax.data.load(classes)")
def test_parts_of_the_scenes_are_classes_or_an_object(root, tmp_path):
    shutil.copytree(root, tmp_path / root.name)

    def of(*chosen, iso=1.0):
        settings = {"data_dir": tmp_path, "iso": iso, "synthetic_images": IMAGES, "synthetic_size": SIZE}
        return datasets.load("SyntheticSegmentation", **settings, classes=chosen or None)

    white, parts = of(), of("nucleus", "cytoplasm", "red cell")
    assert parts.classes == ("background", "nucleus", "cytoplasm", "red cell")
    raws, masks = parts.samples(np.arange(IMAGES))
    white_raws, white_masks = white.samples(np.arange(IMAGES))
    np.testing.assert_array_equal(raws, white_raws)
    np.testing.assert_array_equal((masks == 1) | (masks == 2), white_masks)
    # Hemoglobin hardly absorbs red light, and chromatin does.
    reds = raws[:, ::2, ::2]
    means = [reds[masks[:, ::2, ::2] == part].mean() for part in range(4)]
    assert means[1] < means[2] < means[3] < means[0]

    chosen = of("red cell", "nucleus")
    assert chosen.classes == ("background", "red cell", "nucleus")
    np.testing.assert_array_equal(chosen.samples(np.arange(IMAGES))[1], np.array([0, 2, 0, 1])[masks])
    nucleus = of("nucleus", iso=0.1)
    assert nucleus.classes == ("nucleus",)
    np.testing.assert_array_equal(nucleus.samples(np.arange(IMAGES))[1], masks == 1)
    assert len({each.content for each in (white, parts, chosen, of("nucleus"))}) == 4
    for wrong in (("white cell",), ("nucleus", "nucleus")):
        with pytest.raises(InputError, match="`classes` must be one or more of nucleus, cytoplasm, red cell, got "):
            of(*wrong)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "Microscope"}, "`dataset` must be one of Synthetic, .*, Folder, Microscopy, .*, got 'Microscope'"),
        ({"synthetic_size": 33}, "synthetic data set: `synthetic_size` must be even and from 32 to 1024, got 33"),
        ({"synthetic_images": 4}, r"`synthetic_images` must be from 5 \(one per class\) to 1000000, got 4"),
    ],
)
def test_refuses_settings(tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        datasets.load(**{"name": "Synthetic", "data_dir": tmp_path, **arguments})
    assert not list(tmp_path.iterdir())


def test_every_intensity_shows_the_same_scene_with_its_own_noise(root):
    black = synthetic.CAMERA.black_level[0]
    electrons = synthetic.CAMERA.full_well / (1 - black)
    full = electrons * (load(root, 1.0) / 65535 - black)
    for intensity in INTENSITIES[:-1]:
        signal = electrons * (load(root, intensity) / 65535 - black)
        assert signal.mean() / full.mean() == pytest.approx(intensity, rel=0.02)
        # The noise of photons, read-out and quantization in both exposures.
        constant = synthetic.CAMERA.read_noise**2 + (electrons / 4095) ** 2 / 12
        variance = full.mean() / intensity + constant / intensity**2 + full.mean() + constant
        assert np.std(signal / intensity - full) == pytest.approx(np.sqrt(variance), rel=0.05)


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


def test_a_larger_set_begins_with_the_scenes_of_a_smaller_one(root, tmp_path):
    """Guides train on scenes after those of a run, which has not seen them."""
    larger = synthetic.generate(tmp_path, images=IMAGES + 20, size=SIZE)
    np.testing.assert_array_equal(load(larger, 0.05)[:IMAGES], load(root, 0.05))
    assert labels(larger)[:IMAGES] == labels(root)
    assert len(np.unique(load(larger, 0.05), axis=0)) == IMAGES + 20


def halved(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("images/raw_scale100/cell_00003.tiff", halved, r"cell_00003\.tiff: truncated, corrupt or not a valid TIFF"),
        ("masks/cell_00003.png", Image.new("L", (1, 1), 7).save, r"cell_00003\.png must have shape \(32, 32\), got "),
        ("camera.json", pathlib.Path.unlink, r"camera\.json"),
    ],
)
def test_a_damaged_file_is_named_with_the_way_out(root, tmp_path, file, damage, message):
    root = shutil.copytree(root, tmp_path / root.name)
    damage(root / file)
    with pytest.raises(InputError, match=f"{message}.*delete {root} to render"):
        synthetic.load("SyntheticSegmentation", tmp_path, 1.0, IMAGES, SIZE).samples(np.arange(IMAGES))

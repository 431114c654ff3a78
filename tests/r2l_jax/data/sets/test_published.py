import collections
import itertools
import pathlib
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

import isp
from r2l_jax.data.fetch import download
from r2l_jax.data.sets import datasets, published
from r2l_jax.errors import InputError

FULL = "raw_scale100"


def level(stem, folder):
    """Returns the value of all sites of an image."""
    return zlib.crc32((folder + stem).encode()) % 65536


def write_cells(root, stem, label, folders=(FULL,)):
    """Writes an image in the microscopy layout, and its line of labels."""
    labels = root / "microscopy" / "labels" / "Ma190c_annotations.dat"
    labels.parent.mkdir(parents=True, exist_ok=True)
    with labels.open("a") as file:
        file.write(f"{stem} {label}\n")
    for folder in folders:
        path = root / "microscopy" / "images" / folder / f"{stem}.tiff"
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, np.full((256, 256), level(stem, folder), np.uint16))


def write_frame(root, stem, cars):
    """Writes a frame with numbered sites, and its mask: by tile, the fraction that cars cover."""
    frames, masks = root / "drone" / "images_full" / FULL, root / "drone" / "masks_full"
    for path in (frames, masks):
        path.mkdir(parents=True, exist_ok=True)
    raw = (np.arange(512 * 768) % 65536).astype(np.uint16).reshape(512, 768)
    mask = np.zeros_like(raw, np.uint8)
    for (row, col), fraction in cars.items():
        tile = mask[256 * row : 256 * (row + 1), 256 * col : 256 * (col + 1)]
        tile[: round(256 * fraction)] = 255
    tifffile.imwrite(frames / f"{stem}.tif", raw)
    Image.fromarray(mask).save(masks / f"{stem}_mask.png")
    return raw, mask


@pytest.fixture
def microscopy(tmp_path):
    # Five images of LYT, five of EOS and the unusable one, four of BAS (too few), and a label that is not a class.
    for label, count in (("LYT", 5), ("EOS", 5), ("BAS", 4), ("dirt", 6)):
        for index in range(count):
            write_cells(tmp_path, f"{label}_{index}", label, (FULL, "raw_scale001"))
    write_cells(tmp_path, published.LEFT_OUT, "EOS")
    return tmp_path


def test_microscopy_leaves_out_rare_classes_and_the_unusable_image(microscopy):
    dataset = datasets.load("Microscopy", data_dir=microscopy)
    assert (dataset.task, dataset.classes) == ("classification", ("EOS", "LYT"))
    assert dataset.camera == isp.CAMERAS["microscopy"]
    assert dataset.names == tuple(f"{label}_{index}" for label in ("LYT", "EOS") for index in range(5))
    np.testing.assert_array_equal(dataset.labels, [1] * 5 + [0] * 5)
    raw, target = dataset[7]
    assert (raw.shape, raw.dtype, target) == ((256, 256), np.float32, 0)
    np.testing.assert_allclose(raw, level("EOS_2", FULL) / 65535, rtol=1e-6)
    assert dataset.files[7] == (microscopy / f"microscopy/images/{FULL}/EOS_2.tiff",)


@pytest.mark.shows("r2l_jax.data.load(download)")
@pytest.mark.parametrize(("name", "there"), [("Microscopy", True), ("Drone", False)])
def test_only_a_missing_data_set_is_downloaded(microscopy, monkeypatch, name, there):
    calls = []

    def bring(dataset, data_dir):
        calls.append(dataset)
        write_frame(data_dir, "DJI_1", {(0, 0): 0.5})

    monkeypatch.setattr(download, "download", bring)
    for _ in range(2):
        assert datasets.load(name, data_dir=microscopy, download=True).name == name
    assert calls == ([] if there else [name])


@pytest.mark.parametrize("remove", ["images/raw_scale100", "images/raw_scale100/EOS_3.tiff"])
def test_missing_files_of_microscopy_are_named(microscopy, remove):
    (microscopy / "microscopy" / remove).rename(microscopy / "elsewhere")
    message = f"microscopy/{remove} is not in `data_dir=.*; download it with .*download.py --dataset=Microscopy"
    with pytest.raises(InputError, match=message):
        datasets.load("Microscopy", data_dir=microscopy)


@pytest.mark.parametrize("layout", [(256, 256, 3), (3, 256, 256)])
def test_processed_images_have_channels_last_whatever_their_files_have(microscopy, layout):
    folder = microscopy / "microscopy/images/rgb_scale001"
    folder.mkdir()
    values = np.arange(3, dtype=np.uint16) * 20000
    image = np.broadcast_to(values if layout[2] == 3 else values[:, None, None], layout)
    for index, label in itertools.product(range(5), ("LYT", "EOS")):
        tifffile.imwrite(folder / f"{label}_{index}.tiff", image, photometric="minisblack")
    dataset = datasets.load("MicroscopyRGB", data_dir=microscopy, iso=0.01)
    assert dataset.camera is None
    assert dataset.fingerprint == datasets.load("Microscopy", data_dir=microscopy, iso=0.01).fingerprint
    image, target = dataset[0]
    assert (image.dtype, target) == (np.float32, 1)
    np.testing.assert_allclose(image, np.broadcast_to(values / 65535, (256, 256, 3)), rtol=1e-6)


@pytest.fixture
def drone(tmp_path):
    """Returns a folder with two frames of six tiles, and the frames; one frame's name starts with the other's."""
    frames = {
        "DJI_1": write_frame(tmp_path, "DJI_1", {(0, 0): 0.5, (1, 2): 0.005}),
        "DJI_10": write_frame(tmp_path, "DJI_10", {(row, col): 0.25 for row in (0, 1) for col in (0, 1)}),
    }
    return tmp_path, frames


def test_segmentation_tiles_are_those_with_a_car(drone):
    root, frames = drone
    dataset = datasets.load("DroneSegmentation", data_dir=root)
    assert (dataset.task, dataset.classes, dataset.camera) == ("segmentation", ("car",), isp.CAMERAS["drone"])
    places = ["00_00", "00_01", "01_00", "01_01"]
    assert dataset.names == ("DJI_1_00_00", "DJI_1_01_02", *(f"DJI_10_{place}" for place in places))
    for index, (stem, tile) in ((1, ("DJI_1", np.s_[256:, 512:])), (3, ("DJI_10", np.s_[:256, 256:512]))):
        raw, mask = dataset[index]
        frame, frame_mask = frames[stem]
        np.testing.assert_array_equal(np.round(raw.raw * 65535), frame[tile])
        np.testing.assert_array_equal(mask, frame_mask[tile] > 0)
        assert mask.dtype == np.uint8


def test_classification_tiles_are_balanced_in_every_frame(drone):
    root, _ = drone
    dataset = datasets.load("Drone", data_dir=root)
    assert dataset.classes == ("car", "no car")
    tally = collections.Counter(
        (name[:-6], int(label)) for name, label in zip(dataset.names, dataset.labels, strict=True)
    )
    # The first frame has one tile with a car, one with too small a part of a car, and four without; the second has four
    # with a car and two without.
    assert tally == {("DJI_1", 0): 1, ("DJI_1", 1): 1, ("DJI_10", 0): 2, ("DJI_10", 1): 2}
    assert not {"DJI_1_01_02"} & set(dataset.names)
    assert dataset[0][1] == 0


def test_tiles_are_drawn_as_published():
    # The functions of the published program keep these of six tiles with and eight without a car.
    fractions = [0.5, 0.0, 0.0, 0.2, 0.0, 0.005, 0.0, 0.0, 0.3, 0.0, 0.5, 0.0, 0.4, 0.02, 0.0]
    kept = [index for index, label in published._balanced(fractions) if label == "no car"]
    assert kept == [2, 4, 6, 7, 11, 14]


def test_tiles_are_cut_once_and_damaged_ones_are_named(drone):
    root, _ = drone
    datasets.load("Drone", data_dir=root)
    datasets.load("Drone", data_dir=root)
    (folder,) = (root / "drone/tiles_256/Drone" / FULL).iterdir()
    (folder / "labels.dat").write_text("DJ")
    with pytest.raises(InputError, match=r"each line must be .* got 'DJ'; delete .*/tiles_256/.* to cut the tiles"):
        datasets.load("Drone", data_dir=root)


@pytest.mark.parametrize("file", [f"images_full/{FULL}/DJI_2.tif", "masks_full/DJI_2.png"])
def test_an_interrupted_download_is_not_taken_for_a_data_set(drone, file):
    root, _ = drone
    assert published.is_there("Drone", root, FULL)
    (root / f"drone/{file}.part").write_bytes(b"half")
    assert not published.is_there("Drone", root, FULL)
    with pytest.raises(InputError, match=rf"{file}.part in `data_dir=.*` is from an interrupted download: run"):
        datasets.load("Drone", data_dir=root)


def test_whole_frames(drone):
    root, frames = drone
    dataset = datasets.load("DroneSegmentationFull", data_dir=root)
    assert dataset.names == ("DJI_1", "DJI_10")
    assert [path.name for path in dataset.files[1]] == ["DJI_10.tif", "DJI_10_mask.png"]
    raw, mask = dataset[1]
    np.testing.assert_array_equal(np.round(raw * 65535), frames["DJI_10"][0])
    np.testing.assert_array_equal(mask, frames["DJI_10"][1] > 0)


MASKS = "drone/masks_full/DJI_"


def mask(*shape):
    return lambda path: Image.new("L", shape[::-1]).save(path)


@pytest.mark.parametrize(
    ("name", "spoiled", "spoil", "message"),
    [
        ("Microscopy", "microscopy/labels/*", lambda path: path.write_text("alone\n"), "must be a name .* got 'alone'"),
        ("DroneSegmentation", MASKS + "10_mask.png", pathlib.Path.unlink, r"10.tif must have exactly one mask .* 0"),
        ("DroneSegmentation", MASKS + "10_mask.png", mask(500, 768), r"DJI_10_mask.png must have the size of .*DJI_10"),
        ("DroneSegmentation", MASKS + "*", mask(512, 768), r"the masks of all tiles are empty"),
    ],
)
def test_wrong_files_are_named_and_leave_no_tiles(drone, microscopy, name, spoiled, spoil, message):
    root, _ = drone
    for path in sorted(root.glob(spoiled)):
        spoil(path)
    with pytest.raises(InputError, match=message):
        datasets.load(name, data_dir=root)
    assert not [path for path in root.glob("drone/tiles_256/*/*/*") if path.is_dir()]


def test_normalization_is_that_of_the_published_program():
    drone = ((0.35, 0.36, 0.35), (0.12, 0.11, 0.12))
    assert {
        "Microscopy": ((0.91, 0.84, 0.94), (0.08, 0.12, 0.05)),
        **dict.fromkeys(("Drone", "DroneSegmentation", "DroneSegmentationFull"), drone),
    } == published.STATIC_STATISTICS
    assert published.MOSAIC_STATISTICS == {"Microscopy": ((0.5663, 0.1401, 0.0731), (0.097, 0.0423, 0.008))}

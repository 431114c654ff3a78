import dataclasses
import re
import shutil

import numpy as np
import pytest
import tifffile
from changes import change_camera, change_mask, change_pixel
from PIL import Image

import isp
from r2l_jax.data import raw_dataset
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.data.sets import datasets
from r2l_jax.errors import InputError

RNG = np.random.default_rng(0)


def write_own_files(root, segmentation):
    """Writes a folder as a user may have it."""
    for number in range(4):
        folder = root / "images" if segmentation else root / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(folder / f"{number}.tiff", RNG.integers(0, 65536, (64, 64)).astype(np.uint16), metadata=None)
        if segmentation:
            (root / "masks").mkdir(exist_ok=True)
            Image.fromarray(RNG.integers(0, 2, (64, 64)).astype(np.uint8) * 255).save(root / "masks" / f"{number}.png")


SETTINGS = {
    "Synthetic": {"synthetic_images": 20, "synthetic_size": 32},
    "SyntheticSegmentation": {"synthetic_images": 20, "synthetic_size": 32},
    "Folder": {"camera": "drone", "tile_size": 32},
    "FolderSegmentation": {"camera": "drone", "tile_size": 32},
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    root = tmp_path_factory.mktemp("originals")
    datasets.load("Synthetic", data_dir=root / "Synthetic", **SETTINGS["Synthetic"])
    write_own_files(root / "Folder", False)
    write_own_files(root / "FolderSegmentation", True)
    return root


@pytest.fixture(params=SETTINGS)
def place(originals, tmp_path, request):
    """Returns the name of a data set and the folder of a copy that may be changed."""
    folder = "Synthetic" if request.param.startswith("Synthetic") else request.param
    return request.param, shutil.copytree(originals / folder, tmp_path / "data")


def load(place, **changes):
    name, root = place
    settings = {"data_dir": root, **SETTINGS[name], **changes}
    return datasets.load("Folder" if name.startswith("Folder") else name, **settings)


def test_the_content_does_not_depend_on_the_folder(place, tmp_path):
    name, root = place
    content = load(place).content
    assert load(place).content == content
    shutil.copytree(root, tmp_path / "elsewhere")
    assert load((name, tmp_path / "elsewhere")).content == content


def test_samples_are_read_without_hashing_any_file(place, monkeypatch):
    dataset, hashed = load(place), []
    monkeypatch.setattr(raw_dataset, "hash_files", lambda paths: hashed.extend(paths) or ["0"] * len(paths))
    for index in (0, 3):
        _ = dataset[index]
    assert hashed == []
    dataset.content_of([3])
    assert hashed == list(dataset.files[3])


def test_a_pixel_changes_the_content_of_its_sample_only(place):
    name, root = place
    before = load(place)
    hashes, content = before.sample_hashes(range(len(before))), before.content
    # Frames are cut into tiles, so a pixel of a frame changes one tile.
    if name.startswith("Folder"):
        source = root / ("images" if name == "FolderSegmentation" else "a") / "0.tiff"
        change_pixel(source, (32, 32))
        source.touch()
    else:
        change_pixel(before.files[-1][0])
    after = load(place)
    changed = [one != other for one, other in zip(hashes, after.sample_hashes(range(len(after))), strict=True)]
    assert sum(changed) == 1
    (index,) = np.flatnonzero(changed)
    others = np.delete(np.arange(len(after)), index)
    assert after.content != content
    assert after.content_of(others) == before.content_of(others)
    assert after.fingerprint == before.fingerprint


@pytest.mark.parametrize(
    ("place", "masks"),
    [("Synthetic", "*/masks/*.png"), ("SyntheticSegmentation", "*/masks/*.png"), ("FolderSegmentation", "masks/*.png")],
    indirect=["place"],
)
def test_a_mask_changes_the_content_where_it_is_a_target(place, masks):
    content = load(place).content
    change_mask(min(place[1].glob(masks)))
    assert (load(place).content != content) == (load(place).task == "segmentation")


@pytest.mark.parametrize("place", ["Folder", "FolderSegmentation"], indirect=True)
def test_the_content_does_not_depend_on_the_camera(place, tmp_path):
    (tmp_path / "camera.json").write_text(isp.CAMERAS["drone"].to_json())
    change_camera(tmp_path / "camera.json")
    other = load(place, camera=str(tmp_path / "camera.json"))
    assert other.camera != isp.CAMERAS["drone"]
    assert other.content == load(place).content


def in_memory(raws=None, labels=(0, 1, 0, 1), **changes):
    """Returns a data set of four samples, and the list of those that are read."""
    read, labels = [], np.array(labels, np.int32)
    given = {"read": lambda index: read.append(index) or (raws[index], labels[index]), **changes}
    return RawDataset("memory", "classification", ("a", "b"), None, tuple("abcd"), labels, **given), read


def test_samples_without_files_are_hashed_by_their_arrays():
    raws = RNG.random((4, 8, 8)).astype(np.float32)
    dataset, _ = in_memory(raws)
    changed = raws.copy()
    changed[3, 0, 0] += 0.5
    other, _ = in_memory(changed)
    assert in_memory(raws.copy())[0].content == dataset.content != other.content
    assert other.content_of([0, 1, 2]) == dataset.content_of([0, 1, 2])
    assert in_memory(raws, (0, 1, 1, 1))[0].content != dataset.content
    # A label counts even where the target is the same.
    same_target = {"read": lambda index: (raws[index], np.int32(0))}
    assert in_memory(raws, (0, 1, 1, 1), **same_target)[0].content != in_memory(raws, **same_target)[0].content
    assert in_memory(raws, provenance="darker")[0].content != dataset.content
    # An image of the same bytes is another one in another shape or type.
    for another in (raws.reshape(4, 4, 16), raws.view(np.int32)):
        assert in_memory(another)[0].content != dataset.content
    assert dataset.content_of([0, 1]) != dataset.content_of([1, 0])
    assert dataset.content_of(np.array([0, 1])) == dataset.content_of([0, 1])


def test_samples_with_nan_are_refused_with_its_place():
    raws = np.zeros((4, 8, 8), np.float32)
    raws[2, 3, 7] = np.nan
    dataset, _ = in_memory(raws)
    with pytest.raises(InputError, match=r"^memory: c must contain only finite values, got nan at \(3, 7\)$"):
        dataset.samples(np.array([0, 2]))


def test_the_fingerprint_has_names_labels_and_classes():
    dataset, _ = in_memory()
    changes = ({"names": tuple("abce")}, {"labels": np.array([0, 1, 1, 1])}, {"classes": ("a", "c")})
    others = [dataclasses.replace(dataset, **change).fingerprint for change in changes]
    assert in_memory()[0].fingerprint == dataset.fingerprint
    assert len({dataset.fingerprint, *others}) == 4


@pytest.mark.parametrize("is_short", [False, True])
def test_samples_are_kept_only_if_all_of_them_fit_in_half_of_the_memory(monkeypatch, is_short):
    raws = np.zeros((4, 8, 8), np.float32)
    size = 2 * (raws.nbytes + 4 * 4) - is_short
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": size}.get)
    dataset, read = in_memory(raws)
    assert [dataset[3][1] for _ in range(2)] == [1, 1]
    assert read.count(3) == 1 + is_short


def test_a_sample_is_read_when_it_is_first_asked_for():
    raws = RNG.random((4, 8, 8)).astype(np.float32)
    dataset, read = in_memory(raws)
    assert read == []
    for _ in range(2):
        np.testing.assert_array_equal(dataset[2][0], raws[2])
    # The first sample tells how much room all of them need.
    assert read == [0, 2]
    read.clear()
    assert dataset.content == dataset.content
    assert sorted(read) == [0, 1, 2, 3]


@pytest.mark.parametrize("shape", [(1, 1), (8, 6)])
@pytest.mark.parametrize("is_kept", [True, False])
def test_a_sample_of_another_shape_is_named_rather_than_spread(monkeypatch, shape, is_kept):
    dataset, _ = in_memory([np.zeros((8, 8), np.float32), np.full(shape, 0.5, np.float32)])
    if not is_kept:
        monkeypatch.setattr("os.sysconf", lambda name: 1)
    expected = rf"^memory: all samples must have the shape \(8, 8\), got {re.escape(str(shape))} for b$"
    with pytest.raises(InputError, match=expected):
        dataset.samples(np.arange(2))

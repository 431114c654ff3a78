"""A folder of pictures as a raw data set, for training and everything that opens a run."""

import dataclasses
import shutil

import numpy as np
import pytest
from PIL import Image
from small_runs import metrics

import isp
import r2l_jax
from r2l_jax.data import unprocessing
from r2l_jax.data.sets import datasets
from r2l_jax.runtime import startup
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.flags import replace
from r2l_jax.training import train

CAMERA = dataclasses.replace(isp.CAMERAS["drone"], full_well=1e12, read_noise=0.0, bits=16, white_level=1023)


def save(path, picture):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def picture(index, size=32):
    """A smooth picture, dark on the left, whose hue depends on the class."""
    ramp = np.linspace(20, 200, size)[None, :, None] * np.ones((size, 1, 1))
    return (ramp * np.array([1, 0.6, 0.8] if index % 2 else [0.6, 0.8, 1]) + index).astype(np.uint8)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(startup, "cache_dir", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "unprocessed"


@pytest.fixture
def photos(tmp_path):
    """Pictures of two classes, and the settings of a data set of them."""
    for index in range(24):
        save(tmp_path / "photos" / "ab"[index % 2] / f"{index:02d}.png", picture(index))
    (tmp_path / "camera.json").write_text(CAMERA.to_json())
    return {"data_dir": tmp_path / "photos", "camera": str(tmp_path / "camera.json"), "unprocess": True}


def test_pictures_are_the_mosaics_that_a_camera_takes(photos, cache, capsys):
    dataset = datasets.load("Folder", **photos)
    assert (dataset.classes, dataset.names[0], dataset.white_level) == (("a", "b"), "a/00.tiff", None)
    assert dataset.camera == dataclasses.replace(CAMERA, white_level=None)
    for place, index in ((0, 0), (13, 3)):
        raw, label = dataset[place]
        assert label == index % 2
        np.testing.assert_allclose(raw, isp.unprocess(picture(index) / np.float32(255), CAMERA), atol=2e-5)
    # Not even of a dark picture.
    save(photos["data_dir"] / "a" / "00.png", picture(0) // 8)
    datasets.load("Folder", **photos)
    assert "warning" not in capsys.readouterr().err


def test_they_are_made_once(photos, cache, tmp_path, monkeypatch):
    first = datasets.load("Folder", **photos).content
    made = []
    monkeypatch.setattr(unprocessing, "write_mosaics", lambda *arguments: made.append(arguments))
    assert datasets.load("Folder", **photos).content == first
    # A copy elsewhere has the same pictures.
    shutil.copytree(photos["data_dir"], tmp_path / "copy")
    assert datasets.load("Folder", **photos | {"data_dir": tmp_path / "copy"}).content == first
    assert made == []
    monkeypatch.undo()
    monkeypatch.setattr(startup, "cache_dir", lambda: tmp_path / "cache")
    assert datasets.load("Folder", **photos | {"camera": "drone"}).content != first
    save(photos["data_dir"] / "b" / "01.png", picture(5))
    assert datasets.load("Folder", **photos).content != first
    assert len(list(cache.iterdir())) == 3


def test_pictures_with_masks_are_segmented(tmp_path, cache):
    for index in range(2):
        save(tmp_path / "photos/images" / f"{index}.png", picture(index, 65))
        save(tmp_path / "photos/masks" / f"{index}_mask.png", (picture(index, 65) > 100)[..., 1].astype(np.uint8))
    dataset = datasets.load("Folder", data_dir=tmp_path / "photos", camera="drone", unprocess=True)
    assert (dataset.task, len(dataset), dataset.shape) == ("segmentation", 2, (64, 64))
    np.testing.assert_array_equal(dataset[1][1], (picture(1, 65) > 100)[:64, :64, 1])
    assert not list(tmp_path.glob("photos/tiles*"))


def test_a_run_on_them_is_opened_as_any_other(photos, cache, base, tmp_path):
    settings = {"dataset": "Folder", "run_name": "photos"}
    place = {"data_dir": str(photos["data_dir"]), "camera": photos["camera"], "unprocess": True}
    config = replace(base, **settings, **place, epochs=1)
    train.run(config)
    assert metrics(config)["flags"]["unprocess"] is True
    run = r2l_jax.load(config.run_dir)
    raws, targets = run.dataset.samples(run.folds[0].valid_indices)
    assert raws.shape[1:] == (32, 32)
    assert (run.predict(raws).argmax(-1) == targets).mean() == pytest.approx(metrics(config)["val_accuracy"], abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"camera": "auto"}, "--camera=auto: pictures hold no camera's calibration; name a camera or a JSON file"),
        ({"camera": "singular.json"}, "--camera: color_matrix must have an inverse"),
        ({"data_dir": "photos/a"}, r"photos/a must have a sub-folder of pictures \(.jpg, .jpeg, .png\) for each class"),
    ],
)
def test_errors_name_what_is_wrong(photos, cache, tmp_path, monkeypatch, changes, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "singular.json").write_text(dataclasses.replace(CAMERA, color_matrix=np.ones((3, 3))).to_json())
    with pytest.raises(InputError, match=f"^{message}"):
        datasets.load(**{"name": "Folder", **photos, "data_dir": "photos", **changes})


def test_a_picture_that_cannot_be_read_leaves_nothing(photos, cache, capsys):
    (photos["data_dir"] / "a" / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(InputError, match="photos: 1 of 25 pictures cannot be unprocessed, for the reasons above"):
        datasets.load("Folder", **photos)
    assert "broken.jpg" in capsys.readouterr().err
    assert not list(cache.iterdir())

"""A folder of raw files with a COCO JSON file of boxes."""

import copy
import json

import numpy as np
import pytest
import tifffile

import isp
from r2l_jax.cli.flags import build
from r2l_jax.data import loader
from r2l_jax.data.sets import datasets
from r2l_jax.data.settings import TrainingDataSettings
from r2l_jax.errors import InputError
from r2l_jax.training.plan import splits_of

NAMES = ("night/a1.tiff", "night/b.tiff", "day/a1.tiff", "c.tiff")

COCO = {
    # Not in the order of the ids, which need not begin at 1.
    "images": [
        {"id": 30, "file_name": "c.jpg", "width": 64, "height": 49},
        {"id": 10, "file_name": "night/a1.jpg"},
        {"id": 20, "file_name": "day/a1.tiff", "width": 65, "height": 48},
        {"id": 25, "file_name": "night/b"},
    ],
    "categories": [{"id": 7, "name": "nut", "supercategory": "part"}, {"id": 2, "name": "bolt"}],
    "annotations": [
        {"id": 1, "image_id": 30, "category_id": 7, "bbox": [4, 6, 10, 20], "iscrowd": 0, "area": 200},
        {"id": 2, "image_id": 10, "category_id": 2, "bbox": [0.5, 1.5, 30, 2.25]},
        {"id": 3, "image_id": 30, "category_id": 2, "bbox": [0, 0, 64.5, 48], "iscrowd": 1, "segmentation": []},
    ],
}


@pytest.fixture
def frames(tmp_path):
    """Writes four frames of 48x64 numbered sites, and their boxes."""
    for number, name in enumerate(NAMES):
        path = tmp_path / "frames" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, (np.arange(48 * 64, dtype=np.uint16) + number).reshape(48, 64))
    (tmp_path / "frames/._c.tiff").touch()
    write(tmp_path)
    return tmp_path


def write(root, change=lambda coco: None):
    coco = copy.deepcopy(COCO)
    change(coco)
    (root / "coco.json").write_text(json.dumps(coco))


def load(root, **settings):
    given = {"data_dir": root / "frames", "camera": "drone", "annotations": str(root / "coco.json"), **settings}
    return datasets.load("Folder", **given)


EMPTY = [0, 0, 0, 0, -1, 0]


@pytest.mark.shows("train --annotations", "r2l_jax.data.load(annotations)")
def test_boxes_are_corners_with_the_class_and_the_crowd_in_the_order_of_the_images_ids(frames):
    dataset = load(frames)
    assert (dataset.task, dataset.classes, dataset.camera) == ("detection", ("bolt", "nut"), isp.CAMERAS["drone"])
    assert dataset.names == ("night/a1.tiff", "day/a1.tiff", "night/b.tiff", "c.tiff")
    raw, boxes = dataset[0]
    np.testing.assert_array_equal(np.round(raw * 65535), np.arange(48 * 64).reshape(48, 64))
    np.testing.assert_array_equal(boxes, [[0.5, 1.5, 30.5, 3.75, 0, 0], EMPTY])
    for without in (1, 2):
        np.testing.assert_array_equal(dataset[without][1], [EMPTY, EMPTY])
    raw, boxes = dataset[3]
    assert round(float(raw[0, 0]) * 65535) == 3
    np.testing.assert_array_equal(boxes, [[4, 6, 14, 26, 1, 0], [0, 0, 64.5, 48, 0, 1]])
    assert (boxes.dtype, raw.dtype) == (np.float32, np.float32)


def test_batches_have_the_boxes(frames):
    (batch,) = loader.eval_batches(load(frames), np.arange(3), 4)
    assert batch["target"].shape == (4, 2, 6)
    np.testing.assert_array_equal(batch["target"][:, 0, 4], [0, -1, -1, 0])
    np.testing.assert_array_equal(batch["weight"], [1, 1, 1, 0])


def test_boxes_and_files_are_the_content(frames):
    before = load(frames)
    write(frames, lambda coco: coco["annotations"][0].update(bbox=[4, 6, 10, 21]))
    moved = load(frames)
    assert moved.content != before.content
    assert moved.fingerprint == before.fingerprint
    write(frames)
    assert load(frames).content == before.content
    tifffile.imwrite(frames / "frames/c.tiff", np.zeros((48, 64), np.uint16))
    assert load(frames).content != before.content


def test_frames_may_be_in_images_and_only_the_listed_ones_count(frames, capsys):
    (frames / "frames").rename(frames / "images")
    (frames / "frames").mkdir()
    (frames / "images").rename(frames / "frames/images")
    write(frames, lambda coco: coco["images"].pop())
    dataset = load(frames)
    assert dataset.names == ("images/night/a1.tiff", "images/day/a1.tiff", "images/c.tiff")
    assert "1 of 4 raw files in " in (err := capsys.readouterr().err)
    assert "are not among the images, such as " in err
    assert "night/b.tiff" in err


def test_groups_stay_together(frames):
    dataset = load(frames, group="folder")
    np.testing.assert_array_equal(dataset.groups, [0, 1, 0, 2])
    settings = build(TrainingDataSettings, {"test_size": 0.25})
    tests = [set(splits_of(settings, seed, dataset, trains=False)[0].test.tolist()) for seed in range(8)]
    assert all(len({0, 2} & test) != 1 for test in tests)
    assert len(set(map(frozenset, tests))) > 1


WRONG = {
    'annotation 2 has the image 11, which "images" lacks': lambda coco: coco["annotations"][1].update(image_id=11),
    'annotation 1 has the category 8, which "cat': lambda coco: coco["annotations"][0].update(category_id=8),
    '"images" must have each id once, got 30 2 times': lambda coco: coco["images"][1].update(id=30),
    '"annotations" must have each id once, got 1 2 times': lambda coco: coco["annotations"][1].update(id=1),
    '"categories" must have each id once, got 7 2 times': lambda coco: coco["categories"][1].update(id=7),
    "\"categories\" must have each name once, got 'nut'": lambda coco: coco["categories"][1].update(name="nut"),
    '"images" must have each file_name once': lambda coco: coco["images"][1].update(file_name="c.png"),
    "image 30, d.jpg, has no raw file of this name": lambda coco: coco["images"][0].update(file_name="d.jpg"),
    "image 20, .*, has the width 640, but its raw file 64": lambda coco: coco["images"][2].update(width=640),
    r"frame of 48x64, got \[60, 6, 10, 20\] for annotation 1": lambda c: c["annotations"][0].update(
        bbox=[60, 6, 10, 20]
    ),
    r"got \[4, -2, 10, 20\] for annotation 1": lambda coco: coco["annotations"][0].update(bbox=[4, -2, 10, 20]),
    r"got \[4, 6, 0, 20\] for annotation 1": lambda coco: coco["annotations"][0].update(bbox=[4, 6, 0, 20]),
    "Invalid enum value 2 - at `.*iscrowd`": lambda coco: coco["annotations"][2].update(iscrowd=2),
    r"all are fractions, such as \[0.1, 0.2, 0.5, 1\] for annotation 1": lambda coco: [
        each.update(bbox=[0.1, 0.2, 0.5, 1]) for each in coco["annotations"]
    ],
    r"missing required field `bbox` - at `\$.annotations\[0\]`": lambda coco: coco["annotations"][0].pop("bbox"),
    "must list images and categories, found none": lambda coco: coco.update(images=[], annotations=[]),
}


@pytest.mark.parametrize("message", WRONG)
def test_a_wrong_file_is_named_in_one_line(frames, message):
    write(frames, WRONG[message])
    with pytest.raises(InputError, match=rf"coco.json: .*{message}") as caught:
        load(frames)
    assert "\n" not in str(caught.value)


def test_all_frames_have_one_size(frames):
    tifffile.imwrite(frames / "frames/night/b.tiff", np.zeros((50, 64), np.uint16))
    with pytest.raises(InputError, match=r"all frames must have one size, got 48x64 for .*a1.tiff and 50x64 for .*b"):
        load(frames)


def test_a_missing_file_and_tiles_are_refused(frames):
    with pytest.raises(InputError, match=r"none.json: No such file"):
        load(frames, annotations="none.json")
    with pytest.raises(InputError, match=r"is for whole frames of one camera: omit `tile_size=32`"):
        load(frames, tile_size=32)


def test_a_folder_of_frames_and_boxes_names_the_flag(frames):
    (frames / "frames").rename(frames / "images")
    with pytest.raises(InputError, match=r"images but no masks: .* for boxes, give a COCO file as `annotations`"):
        datasets.load("Folder", data_dir=frames, camera="drone")

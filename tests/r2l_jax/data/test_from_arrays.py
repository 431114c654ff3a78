"""Data sets of arrays: the same as of files with the same content, or one line that says what is wrong."""

import dataclasses
import re

import brightness
import numpy as np
import pytest
import tifffile

import isp
import r2l_jax
from r2l_jax.data import loader
from r2l_jax.data.settings import TrainingDataSettings
from r2l_jax.data.splits import random_splits
from r2l_jax.drift import cases, measure
from r2l_jax.errors import InputError, collected_warnings
from r2l_jax.model.tasks import task_of
from r2l_jax.training.plan import splits_of

RNG = np.random.default_rng(3)
CAMERA = isp.CAMERAS["drone"]
RAWS = RNG.random((6, 8, 10)).astype(np.float32)
LABELS = np.array([0, 1, 1, 0, 1, 0])
EMPTY = [0, 0, 0, 0, -1]


def made(raws=RAWS, targets=LABELS, camera=CAMERA, **options):
    return r2l_jax.data.from_arrays(raws, targets, camera, **options)


def with_value(array, place, value, dtype=None):
    changed = np.array(array, dtype)
    changed[place] = value
    return changed


@pytest.mark.shows("r2l_jax.data.from_arrays(raws, targets, camera)")
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, list])
def test_fractions_stay_as_they_are(kind):
    raws = RAWS.astype(np.float16)
    dataset = made(raws.tolist() if kind is list else raws.astype(kind))
    found, targets = dataset.samples(np.array([4, 0]))
    np.testing.assert_array_equal(found, raws[[4, 0]].astype(np.float32))
    assert found.dtype == np.float32
    assert (targets.tolist(), targets.dtype, dataset.shape) == ([1, 0], np.int32, (8, 10))
    assert made(camera="drone").camera == CAMERA


@pytest.mark.parametrize("where", ["camera", "argument"])
@pytest.mark.parametrize("kind", [np.uint16, np.int64])
def test_integers_are_what_read_raw_makes_of_them_in_a_file(tmp_path, where, kind):
    """Values above the white level are saturated."""
    raws = RNG.integers(0, 1100, (6, 8, 10)).astype(kind)
    known = dataclasses.replace(CAMERA, white_level=1023)
    dataset = made(raws, camera=known) if where == "camera" else made(raws, white_level=1023)
    for index, raw in enumerate(raws):
        tifffile.imwrite(tmp_path / "raw.tiff", raw.astype(np.uint16))
        wanted, _ = r2l_jax.data.read_raw(tmp_path / "raw.tiff", known)
        np.testing.assert_array_equal(dataset[index][0], wanted)
    # The level is used up in the samples, and kept for files.
    assert (dataset.camera, dataset.white_level) == (CAMERA, 1023)
    assert made(RAWS, camera=known).white_level == 1023


def test_a_white_level_that_many_numbers_exceed_is_warned_of():
    raws = np.arange(6 * 80, dtype=np.uint16).reshape(6, 8, 10)
    # Three sites of the first and of the last image exceed it, 6 of 480.
    raws[0, 0, :3] = raws[5, 7, 7:] = 600
    message = "1% of the numbers in `raws` exceed `white_level=480` and are clipped: is it the level at which"
    with collected_warnings() as warned:
        assert made(raws, white_level=480)[5][0].max() == 1
        # Up to one in a hundred may be noise of saturated sites.
        made(raws[1:], white_level=480, targets=["a", "b", "a", "b", "c"])
    (warning,) = warned
    assert warning.startswith(message)


@pytest.mark.shows("r2l_jax.data.from_arrays(white_level)")
def test_a_given_white_level_comes_before_the_cameras():
    raws, known = np.full((6, 8, 10), 512, np.uint16), dataclasses.replace(CAMERA, white_level=1024)
    assert made(raws, camera=known)[0][0].max() == 0.5
    with collected_warnings() as warnings:
        assert made(raws, camera=known, white_level=2048)[0][0].max() == 0.25
        assert made(raws, camera=known, white_level=1024)[0][0].max() == 0.5
    assert warnings == ["`raws` are divided by `white_level=2048`, and not by the camera's, 1024"]


@pytest.mark.shows("r2l_jax.data.from_arrays(classes)")
def test_labels_are_integers_or_names():
    named = made(targets=["b", "a", "a", "b", "c", "c"])
    assert (named.classes, named.labels.tolist()) == (("a", "b", "c"), [1, 0, 0, 1, 2, 2])
    ordered = made(targets=["b", "a", "a", "b", "a", "b"], classes=["b", "x", "a"])
    assert (ordered.classes, ordered.labels.tolist()) == (("b", "x", "a"), [0, 2, 2, 0, 2, 0])
    assert made(targets=LABELS, classes=["no", "yes"]).labels.tolist() == LABELS.tolist()
    # Without names, values name their classes, so that an absent one shifts no others.
    values = made(targets=[10, 2, 2, 7, 7, 7])
    assert (values.classes, values.labels.tolist()) == (("2", "7", "10"), [2, 0, 0, 1, 1, 1])
    assert (made(targets=LABELS > 0).classes, made(targets=LABELS > 0).task) == (("False", "True"), "classification")


@pytest.mark.parametrize("value", [True, 1, 255])
def test_masks_of_one_object_have_any_value(value):
    inside = RAWS > 0.5
    dataset = made(targets=inside * np.asarray(value), classes=["car"])
    assert (dataset.task, dataset.classes, dataset.labels.tolist()) == ("segmentation", ("car",), [0] * 6)
    np.testing.assert_array_equal(dataset[3][1], inside[3])
    assert dataset[3][1].dtype == np.uint8


def test_masks_of_classes_keep_their_indices_and_ignored_pixels():
    masks = with_value(RNG.integers(0, 3, RAWS.shape), (0, 2, 3), 255)
    dataset = made(targets=masks, classes=["sky", "road", "car"])
    np.testing.assert_array_equal(dataset[0][1], masks[0])
    assert (dataset[0][1].dtype, task_of(dataset).outputs) == (np.uint8, 3)


@pytest.mark.parametrize("columns", [5, 6])
def test_boxes_are_stored_as_those_of_files_are(columns):
    """A row without a box has the class -1, whatever else it holds."""
    boxes = np.zeros((6, 2, columns))
    boxes[:, :, 4] = -1
    boxes[:, 1, :4] = 99
    boxes[2, 0, :5] = [0, 0.5, 10, 8, 1]
    boxes[2, 0, 5:] = 1
    dataset = made(targets=boxes, classes=["bolt", "nut"])
    assert dataset.task == "detection"
    np.testing.assert_array_equal(dataset[0][1], [[*EMPTY, 0]] * 2)
    np.testing.assert_array_equal(dataset[2][1], [[0, 0.5, 10, 8, 1, columns - 5], [*EMPTY, 0]])
    assert dataset[2][1].dtype == np.float32


def test_numbers_have_names():
    numbers = RNG.random((6, 2))
    dataset = made(targets=numbers, classes=["x", "y"])
    assert (dataset.task, dataset.classes, made(targets=numbers).classes) == ("numbers", ("x", "y"), ("0", "1"))
    np.testing.assert_array_equal(dataset[5][1], numbers[5].astype(np.float32))


@pytest.mark.shows("r2l_jax.data.from_arrays(groups)")
@pytest.mark.parametrize(
    ("groups", "numbers"),
    [
        ([("p1", 1), ("p2", 1), ("p1", 1), ("p1", 2), ("p2", 1), ("p2", 1)], [0, 1, 0, 2, 1, 1]),
        ([1, "1", 1, None, None, "1"], [0, 1, 0, 2, 2, 1]),
        (np.array([7, 7, 3, 3, 3, 9]), [0, 0, 1, 1, 1, 2]),
        (range(6), None),
    ],
)
def test_groups_are_any_hashables_and_stay_together_in_splits(groups, numbers):
    dataset = made(groups=groups)
    assert (None if dataset.groups is None else dataset.groups.tolist()) == numbers
    if numbers is not None:
        (split,) = random_splits(dataset.labels, dataset.groups, 1, 0.5, 0)
        assert not {numbers[i] for i in split.train} & {numbers[i] for i in split.valid}


@pytest.mark.shows("train --test_groups")
def test_groups_to_test_on_are_chosen_by_name():
    dataset = made(RAWS[[0, 1, 2, 3, 4, 5] * 2], np.tile([0, 1], 6), groups=np.repeat([9, 4, 7, 1], 3))
    (split,) = splits_of(TrainingDataSettings(test_groups=("7", "9")), 0, dataset)
    assert split.test.tolist() == [0, 1, 2, 6, 7, 8]
    assert sorted([split.train.tolist(), split.valid.tolist()]) == [[3, 4, 5], [9, 10, 11]]
    # Images of groups that appear in another order keep the groups' names.
    some = [11, 10, 7, 6]
    fewer = dataclasses.replace(dataset, labels=dataset.labels[some], groups=dataset.groups[some])
    assert (fewer.groups.tolist(), fewer.group_names) == ([0, 0, 1, 1], ("1", "7"))
    assert dataclasses.replace(dataset, groups=None).group_names == ()


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["a", "b", "b", "a", "a", "b"], r"`test_groups=c,b` must be among 2 groups such as a, got c$"),
        (None, r"`test_groups=c,b` needs groups, and all images of Arrays are independent$"),
    ],
)
def test_groups_to_test_on_must_be_known(groups, message):
    with pytest.raises(InputError, match=message):
        splits_of(TrainingDataSettings(test_groups=("c", "b")), 0, made(groups=groups))


def test_samples_are_loaded_in_batches():
    dataset = made()
    *_, last = loader.eval_batches(dataset, np.arange(6), 4)
    np.testing.assert_array_equal(last["raw"][:2], RAWS[4:])
    assert (last["index"][:2].tolist(), last["weight"].tolist()) == ([4, 5], [1, 1, 0, 0])
    trained = next(loader.train_batches(dataset, np.arange(6), 6, seed=0))
    np.testing.assert_array_equal(trained["raw"], RAWS[trained["index"]])
    assert sorted(trained["index"].tolist()) == list(range(6))


def test_the_content_and_the_fingerprint_follow_from_the_arrays():
    dataset, same = made(), made(RAWS.copy(), LABELS.tolist())
    assert (same.fingerprint, same.content) == (dataset.fingerprint, dataset.content)
    others = [
        made(with_value(RAWS, (5, 0, 0), 0.123)),
        made(targets=with_value(LABELS, 0, 1)),
        made(targets=RAWS > 0.5),
        made(targets=RAWS > 0.6),
        made(classes=["x", "y"]),
    ]
    assert len({each.fingerprint for each in (dataset, *others)}) == 6
    assert len({each.content for each in (dataset, *others)}) == 6
    assert others[0].content_of([0, 1]) == dataset.content_of([0, 1])
    # Drifted samples share the splits of clean ones.
    drifted = dataclasses.replace(dataset, read=lambda i: (RAWS[i] / 2, LABELS[i]), provenance="darker")
    assert drifted.fingerprint == dataset.fingerprint
    assert drifted.content != dataset.content


def test_outcomes_are_measured_on_arrays():
    """A corruption to the brightest images makes those of the second class right."""
    intensities = np.linspace(0.3, 0.7, 6)
    raws = np.broadcast_to(np.round(1000 * (0.1 + intensities))[:, None, None], (6, 8, 8)).astype(np.uint16)
    bright = intensities > brightness.BRIGHT
    targets = np.where(bright, "bright", "dark")
    dataset = made(raws, targets, brightness.CAMERA, classes=["dark", "bright"], white_level=1000)
    fold = brightness.fold(dataset, [], range(6))
    known = [cases.CLEAN, *cases.corruptions(["brightness"], [5])]
    found = measure.measure({"model": measure.Model(fold.model)}, known, measure.Samples.of(fold, 4))
    assert [found.score("model"), found.score("model", "brightness.5")] == [1, bright.mean()]


BOXES = with_value(np.tile(np.array(EMPTY, float), (6, 2, 1)), (0, 0), [1, 1, 5, 5, 0])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"raws": RAWS[0]}, "`raws` must be raw images (N, H, W) with even H and W, got shape (8, 10)"),
        ({"raws": RAWS[:, 1:]}, "`raws` must be raw images (N, H, W) with even H and W, got shape (6, 7, 10)"),
        ({"raws": RAWS[:0]}, "`raws` must be raw images (N, H, W) with even H and W, got shape (0, 8, 10)"),
        ({"raws": RAWS > 0}, "`raws` must be floating point or integers, got bool"),
        ({"raws": [[[0.0, 1.0]], [[0.0]]]}, "`raws` must be one array: "),
        (
            {"raws": with_value(RAWS, (3, 7, 9), np.nan)},
            "`raws` must be from 0 to 1 in floating point, got nan at image 3, row 7, column 9",
        ),
        (
            {"raws": with_value(RAWS, (2, 0, 1), 1.5)},
            "`raws` must be from 0 to 1 in floating point, got 1.5 at image 2, row 0, column 1",
        ),
        (
            {"raws": np.ones((6, 8, 10), np.uint16)},
            "`raws` are integers: give the `white_level` at which the sensor saturates, such as 4095",
        ),
        (
            {"raws": with_value(np.ones((6, 8, 10), int), (1, 2, 3), -4), "white_level": 9},
            "`raws` must not be negative, got -4 at image 1, row 2, column 3",
        ),
        ({"raws": np.ones((6, 8, 10), int), "white_level": 0}, "`white_level` must be positive, got 0"),
        ({"white_level": 9}, "`white_level` is for integers: floating-point `raws` must be fractions of it"),
        ({"camera": "auto"}, "`camera` must be an isp.Camera, drone, microscopy or a JSON file for arrays, got auto"),
        ({"camera": "x.json"}, "`camera` must be drone, microscopy, auto or a JSON file, got 'x.json': not found"),
        ({"targets": LABELS[:5]}, "`targets` must have one for each of 6 raw images, got shape (5,)"),
        ({"targets": 1}, "`targets` must have one for each of 6 raw images, got shape ()"),
        ({"targets": LABELS / 2}, "`targets` (N,) must be labels, integers or names, got float64; numbers are (N, M)"),
        ({"targets": ["a"] * 6}, "`targets` must be of at least two classes, got a"),
        ({"targets": ["a", "b", "c"] * 2, "classes": ["a", "b"]}, "`targets` must be among a, b, got 'c' at 2"),
        (
            {"targets": [0, 1, 2] * 2, "classes": ["a", "b"]},
            "`targets` must be 0 to 1, the indices of `classes`, got 2 at 2",
        ),
        ({"classes": "ab"}, "`classes` must be a sequence of different names, got 'ab'"),
        ({"classes": ["a", "a"]}, "`classes` must be a sequence of different names, got ['a', 'a']"),
        (
            {"targets": np.ones((6, 4, 4), int)},
            "`targets` must be labels (N,), masks (6, 8, 10), boxes (N, K, 5) or floating-point numbers (N, M), got "
            "int64 of shape (6, 4, 4)",
        ),
        ({"targets": RAWS}, "`targets` must be masks of integers, got float32"),
        (
            {"targets": RNG.integers(0, 3, RAWS.shape)},
            "masks of one object must have one value besides 0, got 1, 2: name several `classes`",
        ),
        (
            {"targets": with_value(np.zeros(RAWS.shape, int), (1, 2, 3), 7), "classes": ["sky", "car"]},
            "masks must be from 0 to 1, or 255, got 7 at image 1, row 2, column 3",
        ),
        ({"targets": BOXES}, "boxes need `classes`, the names of the classes in the order of their indices"),
        *(
            (
                {"targets": with_value(BOXES, (0, 0), box), "classes": ["car"]},
                "boxes must be x1, y1, x2, y2 in pixels, with an area and inside 8x10, and a class from 0 to 0, or -1 "
                f"in empty rows, got {list(map(float, box))} at 0, 0",
            )
            for box in ([5, 1, 1, 5, 0], [1, 1, 5, 9, 0], [-1, 1, 5, 5, 0], [1, 1, 5, 5, 1], [1, 1, 5, 5, 0.5])
        ),
        (
            {"targets": with_value(BOXES, (0, 0), [0.1, 0.1, 0.5, 1, 0]), "classes": ["car"]},
            "boxes must be in pixels, but all are fractions",
        ),
        (
            {"targets": with_value(BOXES, (3, 1, 2), np.nan), "classes": ["car"]},
            "`targets` must contain only finite values, got nan at (3, 1, 2)",
        ),
        (
            {"targets": with_value(RNG.random((6, 2)), (5, 1), np.inf)},
            "`targets` must contain only finite values, got inf at (5, 1)",
        ),
        ({"targets": RNG.random((6, 2)), "classes": ["x"]}, "`classes` must name each of 2 numbers, got 1"),
        ({"groups": [1, 2]}, "Arrays: groups must have one for each of 6 samples, got 2"),
        ({"groups": [[1], [2]] * 3}, "`groups` must have a hashable group for each raw image, got [1] at 0"),
        ({"groups": [1, 2, 2, np.nan, 1, 1]}, "`groups` must have a hashable group for each raw image, got nan at 3"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(given, expected):
    with pytest.raises(InputError, match=f"^{re.escape(expected)}[^\n]*$"):
        made(**given)

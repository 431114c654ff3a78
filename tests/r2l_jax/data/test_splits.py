import json

import numpy as np
import pytest

from r2l_jax.data import splits
from r2l_jax.runtime.errors import InputError

NAMES = [("a/1.tiff",), ("a/2.tiff",), ("b/x.y.tiff",), ("b/4.tiff",), ("b/5.tiff",)]


def write(folder, content):
    file = folder / "split.json"
    file.write_text(json.dumps(content))
    return file


@pytest.mark.parametrize(
    "content",
    [
        {"test": ["b/5.tiff", "a/1.tiff"], "train": ["a/2.tiff"], "valid": ["b/x.y.tiff"]},
        # Pictures become mosaics of another suffix.
        {"test": ["b/5.jpg", "a/1"], "train": ["a/2.jpg"], "valid": ["b/x.y.jpg"]},
    ],
)
def test_a_file_names_the_part_of_each_sample(tmp_path, content, capsys):
    file = write(tmp_path, content)
    assert splits.named_parts(file, NAMES).tolist() == ["test", "train", "valid", "", "test"]
    assert capsys.readouterr().err == f"warning: --split={file} omits 1 of 5 images, such as b/4.tiff\n"


def test_a_frame_stands_for_all_of_its_tiles(tmp_path):
    file = write(tmp_path, {"train": ["a1.tiff"], "test": ["a"]})
    names = [("a_00_00", "a"), ("a_00_01", "a"), ("a1_00_00", "a1")]
    assert splits.named_parts(file, names).tolist() == ["test", "test", "train"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train": ["a/1.tiff", "a/7.tiff", "c"]}, r"must name .* such as a/1.tiff, got a/7.tiff \(and 1 more\)$"),
        ({"train": ["a/1.tiff"], "test": ["a/1.tiff"]}, "names a/1.tiff twice"),
        ({"training": ["a/1.tiff"]}, "not a valid JSON .Object contains unknown field `training`"),
    ],
)
def test_refuses_files(tmp_path, content, message):
    file = write(tmp_path, content)
    with pytest.raises(InputError, match=f"{file}.*{message}"):
        splits.named_parts(file, NAMES)


def test_samples_to_validate_on_are_drawn_from_those_to_train_on_unless_they_are_named():
    labels, parts = np.arange(40) % 2, np.array(["test"] * 8 + [""] * 2 + ["train"] * 30)
    first, second = splits.given_splits(parts, labels, 2, 0.8, 1, ("a", "b"), "x")
    for split in (first, second):
        assert sorted([*split.train, *split.valid]) == list(range(10, 40))
        assert [len(part) for part in split] == [24, 6, 8]
        assert split.test.tolist() == list(range(8))
    assert sorted(first.valid) != sorted(second.valid)
    parts[[13, 14]] = "valid"
    (split,) = splits.given_splits(parts, labels, 1, 0.8, 1, ("a", "b"), "x")
    assert (split.valid.tolist(), len(split.train)) == ([13, 14], 28)


def test_refuses_a_split_without_images_to_train_on():
    with pytest.raises(InputError, match=r"^x: must name an image to train on$"):
        splits.given_splits(np.array(["test"] * 4), np.array([0, 1, 0, 1]), 1, 0.8, 1, ("a", "b"), "x")

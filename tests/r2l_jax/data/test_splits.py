import json
import warnings

import numpy as np
import pytest
from sklearn.model_selection import GroupShuffleSplit, StratifiedGroupKFold

from r2l_jax.data import splits
from r2l_jax.errors import InputError

# Eight patients with other numbers of cells, in other proportions of three classes.
RANDOM = np.random.default_rng(0)
SIZES = RANDOM.integers(10, 60, 8)
PATIENTS = np.repeat(np.arange(8), SIZES)
CELLS = np.concatenate([RANDOM.choice(3, size, p=RANDOM.dirichlet([3, 3, 1])) for size in SIZES])

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
    assert capsys.readouterr().err == f"warning: `split={file}` omits 1 of 5 images, such as b/4.tiff\n"


def test_a_frame_stands_for_all_of_its_tiles(tmp_path):
    file = write(tmp_path, {"train": ["a1.tiff"], "test": ["a"]})
    names = [("a_00_00", "a"), ("a_00_01", "a"), ("a1_00_00", "a1")]
    assert splits.named_parts(file, names).tolist() == ["test", "test", "train"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train": ["a/1.tiff", "a/7.tiff", "c"]}, r"must name .* such as a/1.tiff, got a/7.tiff \(and 1 more\)$"),
        ({"train": ["a/1.tiff"], "test": ["a/1.tiff"]}, "names a/1.tiff twice"),
        ({"training": ["a/1.tiff"]}, "Object contains unknown field `training`"),
    ],
)
def test_refuses_files(tmp_path, content, message):
    file = write(tmp_path, content)
    with pytest.raises(InputError, match=f"{file}.*{message}"):
        splits.named_parts(file, NAMES)


def test_samples_to_validate_on_are_drawn_from_those_to_train_on_unless_they_are_named():
    labels, parts = np.arange(40) % 2, np.array(["test"] * 8 + [""] * 2 + ["train"] * 30)
    first, second = splits.given_splits(parts, labels, None, 2, 0.8, 1, ("a", "b"), "x")
    for split in (first, second):
        assert sorted([*split.train, *split.valid]) == list(range(10, 40))
        assert [len(part) for part in split] == [24, 6, 8]
        assert split.test.tolist() == list(range(8))
    assert sorted(first.valid) != sorted(second.valid)
    parts[[13, 14]] = "valid"
    (split,) = splits.given_splits(parts, labels, None, 1, 0.8, 1, ("a", "b"), "x")
    assert (split.valid.tolist(), len(split.train)) == ([13, 14], 28)


def test_refuses_a_split_without_images_to_train_on():
    with pytest.raises(InputError, match=r"^x: must name an image to train on$"):
        splits.given_splits(np.array(["test"] * 4), np.array([0, 1, 0, 1]), None, 1, 0.8, 1, ("a", "b"), "x")


def patients(part):
    return set(PATIENTS[part].tolist())


def test_a_split_never_divides_a_group():
    order = np.random.default_rng(1).permutation(len(CELLS))  # Groups need not be adjacent.
    for split in splits.random_splits(CELLS[order], PATIENTS[order], 4, 0.75, 1, ("a", "b", "c"), 0.25):
        parts = [set(PATIENTS[order][part].tolist()) for part in split]
        assert all(parts)
        assert sorted(number for part in parts for number in part) == list(range(8))
        assert sorted(np.concatenate(split)) == list(range(len(CELLS)))
        assert set(CELLS[order][split.train]) == {0, 1, 2}
        assert 0.15 < len(split.test) / len(CELLS) < 0.35


def test_splits_of_groups_differ_and_their_seed_repeats_them():
    first, again, other = (splits.random_splits(CELLS, PATIENTS, 5, 0.8, seed) for seed in (1, 1, 2))
    assert [patients(split.valid) for split in first] == [patients(split.valid) for split in again]
    assert [patients(split.valid) for split in first] != [patients(split.valid) for split in other]
    assert len({tuple(sorted(patients(split.valid))) for split in first}) == 5


def test_splits_of_groups_keep_the_proportions_of_classes_better_than_random_ones():
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(30), random.integers(1, 40, 30))
    labels = np.concatenate([random.choice(3, size, p=random.dirichlet([1, 1, 1])) for size in np.bincount(groups)])
    wanted = np.bincount(labels) / len(labels)

    def error(valid):
        return abs(np.bincount(labels[valid], minlength=3) / len(valid) - wanted).max()

    found = [error(split.valid) for split in splits.random_splits(labels, groups, 10, 0.8, 1)]
    drawn = GroupShuffleSplit(10, train_size=0.8, random_state=1).split(labels, labels, groups)
    assert np.mean(found) < 0.3 * np.mean([error(valid) for _, valid in drawn])


def test_no_part_is_empty_where_folds_of_scikit_learn_are():
    counts = [[4, 0], [2, 7], [8, 1], [0, 16]]
    groups, labels = np.repeat(np.arange(4), np.sum(counts, 1)), np.repeat([0, 1] * 4, np.ravel(counts))
    with warnings.catch_warnings(action="ignore"):
        theirs = [len(valid) for _, valid in StratifiedGroupKFold(4).split(labels, labels, groups)]
    assert 0 in theirs
    for split in splits.random_splits(labels, groups, 4, 0.75, 1):
        assert all(map(len, split[:2]))
        assert set(labels[split.train]) == {0, 1}


def test_each_group_is_left_out_once():
    found = splits.random_splits(CELLS, PATIENTS, "groups", 0.8, 1, ("a", "b", "c"), 0.25)
    (tested,) = {frozenset(patients(split.test)) for split in found}
    assert [patients(split.valid) for split in found] == [{number} for number in range(8) if number not in tested]
    assert all(len(patients(split.train)) == 7 - len(tested) for split in found)
    with pytest.raises(InputError, match=r"^`n_splits=groups` leaves out the only group of class b: it needs two$"):
        splits.random_splits((PATIENTS == 3).astype(int), PATIENTS, "groups", 0.8, 1, ("a", "b"))
    with pytest.raises(InputError, match=r"^`n_splits=groups` needs groups of several images, and all images are i"):
        splits.random_splits(CELLS, None, "groups", 0.8, 1)


def test_the_only_group_of_a_class_stays_for_training(capsys):
    labels = (PATIENTS == 3).astype(int)
    for split in splits.random_splits(labels, PATIENTS, 5, 0.5, 1, ("a", "b"), 0.25):
        assert 3 in patients(split.train)
    assert "warning: class b is in a single group, which stays for training" in capsys.readouterr().err


def test_too_few_groups_of_a_class_are_named():
    groups, labels = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 0, 1, 1])
    with pytest.raises(InputError, match=r"^`train_size=0\.8` is not possible: .*; class a is in 1 of 2 groups$"):
        splits.random_splits(labels, groups, 1, 0.8, 1, ("a", "b"))


def test_validation_samples_of_a_given_split_are_of_other_groups():
    """The validation samples choose the checkpoint, so they must not be of patients that were trained on."""
    parts = np.where(np.isin(PATIENTS, [0, 5]), "test", "train")
    for split in splits.given_splits(parts, CELLS, PATIENTS, 3, 0.8, 1, ("a", "b", "c"), "x"):
        assert patients(split.test) == {0, 5}
        assert patients(split.valid)
        assert not patients(split.valid) & patients(split.train)


def test_a_given_split_must_not_divide_a_group():
    parts, groups, names = np.array(["train", "", "test", "train"]), np.array([4, 4, 7, 7]), ["a", "b", "c", "d"]
    with pytest.raises(InputError, match=r"^x: c and d are of one group, .* must be in one part, got test and train$"):
        splits.check_groups(parts, groups, names, "x")
    # Samples that are left out do not matter.
    splits.check_groups(np.array(["train", "", "test", "test"]), groups, names, "x")


def test_groups_of_one_size_and_of_mixed_classes_keep_the_proportions_of_classes():
    # Most samples of each group are of class 0.
    groups, labels = np.repeat(np.arange(12), 3), np.array([[0, 0, 1], [0, 0, 2]] * 6).ravel()
    for split in splits.random_splits(labels, groups, 5, 0.5, 1):
        np.testing.assert_array_equal(np.bincount(labels[split.valid]), [12, 3, 3])
    # A number of test images, and their share.
    for test_size in (9.0, 0.25):
        (split,) = splits.random_splits(labels, groups, 1, 0.5, 1, test_size=test_size)
        assert len(split.test) == 9


def test_groups_of_one_size_with_a_class_in_a_single_group_are_split():
    groups, labels = np.repeat(np.arange(6), 4), np.repeat([0, 1, 1, 1, 1, 1], 4)
    for split in splits.random_splits(labels, groups, 3, 0.6, 1, ("a", "b"), 0.2):
        assert 0 in groups[split.train]
        assert all(map(len, split))


@pytest.mark.parametrize(
    ("test_size", "message"),
    [
        (500.0, r"^`test_size=500` must be less than the \d+ images$"),
        (0.9, r"^`test_size=0\.9` leaves 1 of 2 groups; two are needed$"),
    ],
)
def test_too_large_a_test_size_is_named(test_size, message):
    few = PATIENTS < 2
    with pytest.raises(InputError, match=message):
        splits.random_splits(np.zeros(few.sum(), int), PATIENTS[few], 1, 0.8, 1, ("a",), test_size)


def test_each_group_is_left_out_or_validation_samples_are_given():
    parts = np.where(PATIENTS == 0, "valid", "train")
    with pytest.raises(InputError, match=r"^`n_splits=groups` validates on each group, but x names images to valid"):
        splits.given_splits(parts, CELLS, PATIENTS, "groups", 0.8, 1, ("a", "b", "c"), "x")

import dataclasses
import functools
import itertools
import time

import jax
import numpy as np
import pytest
from sklearn.model_selection import StratifiedShuffleSplit

import isp
from r2l_jax.data import loader, splits
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.devices import memory
from r2l_jax.devices.placement import shardings, to_devices
from r2l_jax.errors import InputError


def numbered(count):
    """Returns a data set whose sample i is a mosaic of the value i."""
    labels = np.arange(count, dtype=np.int32) % 3
    return RawDataset(
        name="numbered",
        task="classification",
        classes=("a", "b", "c"),
        camera=isp.CAMERAS["drone"],
        names=tuple(map(str, range(count))),
        labels=labels,
        read=lambda index: (np.full((2, 2), index, np.float32), labels[index]),
    )


def samples(batches, count):
    return [batch["raw"][:, 0, 0].astype(int).tolist() for batch in itertools.islice(batches, count)]


def test_an_epoch_has_each_sample_at_most_once_and_the_next_epoch_has_another_order():
    dataset, indices = numbered(20), np.arange(3, 20)
    epochs = np.array(samples(loader.train_batches(dataset, indices, 5, seed=0), 6)).reshape(2, 15)
    for epoch in epochs:
        assert len(set(epoch)) == 15
        assert set(epoch) <= set(indices)
    assert list(epochs[0]) != list(epochs[1])


def test_training_can_start_at_any_step_of_the_same_order():
    dataset, indices = numbered(20), np.arange(20)
    whole = samples(loader.train_batches(dataset, indices, 6, seed=1), 9)
    assert samples(loader.train_batches(dataset, indices, 6, seed=1, first_step=4), 5) == whole[4:]
    assert samples(loader.train_batches(dataset, indices, 6, seed=2), 9) != whole


@pytest.mark.parametrize("target", [np.int32(1), np.ones((2, 2), np.uint8)])
def test_the_shapes_of_a_batch_are_known_before_it_is_read(target):
    dataset = dataclasses.replace(numbered(8), read=lambda index: (np.ones((2, 2), np.float32), target))
    batch = to_devices(next(loader.train_batches(dataset, np.arange(8), 4, seed=0)), shardings().split)
    known = loader.shapes(dataset, 4, shardings().split)
    assert jax.tree.map(jax.typeof, batch) == jax.tree.map(jax.typeof, known)
    assert jax.tree.map(lambda leaf: leaf.sharding, batch) == jax.tree.map(lambda leaf: leaf.sharding, known)


@pytest.mark.parametrize("options", [{}, {"keep_decoded": False}])
def test_evaluation_yields_every_sample_once_in_batches_of_one_shape(options):
    dataset, indices = numbered(20), np.arange(7, 20)
    batches = list(loader.eval_batches(dataset, indices, 4, **options))
    assert [batch["raw"].shape for batch in batches] == [(4, 2, 2)] * 4
    weights = np.concatenate([batch["weight"] for batch in batches])
    raws = np.concatenate([batch["raw"][:, 0, 0] for batch in batches])
    targets = np.concatenate([batch["target"] for batch in batches])
    np.testing.assert_array_equal(raws[weights == 1], indices)
    np.testing.assert_array_equal(targets[weights == 1], indices % 3)
    assert weights.sum() == 13
    # Training has the same entries.
    batches += itertools.islice(loader.train_batches(dataset, indices, 4, seed=0), 6)
    for batch in batches:
        assert batch.keys() == {"raw", "target", "index", "weight"}
        assert (batch["index"].shape, batch["index"].dtype) == ((4,), np.int32)
        np.testing.assert_array_equal(batch["index"], batch["raw"][:, 0, 0])


def test_a_single_pass_reads_only_its_samples_and_keeps_none():
    read, dataset = [], numbered(20)
    dataset = dataclasses.replace(dataset, read=lambda index: read.append(index) or numbered(20).read(index))
    for _ in range(2):
        list(loader.eval_batches(dataset, np.arange(3, 8), 5, keep_decoded=False))
    assert sorted(read) == sorted(2 * [3, 4, 5, 6, 7])


# A batch of 4 numbered samples takes 112 bytes: each has 16 of its raw image, and 4 each of target, index and weight.
@pytest.mark.parametrize(
    ("budget", "machine", "ahead"),
    [(100, 2**40, 1), (112 * 6 - 1, 2**40, 5), (112 * 6, 2**40, 6), (2**31, 2**40, 64), (2**31, 8 * 112 * 3, 3)],
)
@pytest.mark.parametrize("load", [functools.partial(loader.train_batches, seed=0), loader.eval_batches])
def test_batches_are_loaded_ahead_within_a_budget_of_bytes(monkeypatch, load, budget, machine, ahead):
    monkeypatch.setattr(loader, "_AHEAD", budget)
    monkeypatch.setattr(memory, "of_process", lambda: machine)
    loaded, dataset = [], numbered(400)
    dataset = dataclasses.replace(dataset, read=lambda index: loaded.append(index) or numbered(400).read(index))
    batches = load(dataset, np.arange(400), 4)
    next(batches)
    wanted = 1 + 4 * (1 + ahead)  # The first sample is read once more, for its shape.
    ending = time.monotonic() + 10
    while len(loaded) < wanted - 1 and time.monotonic() < ending:
        time.sleep(0.01)
    time.sleep(0.1)
    assert abs(len(loaded) - wanted) <= 1


def test_splits_are_those_of_the_published_program():
    labels = np.repeat([0, 1], [13, 8])
    pairs = splits.random_splits(labels, None, 2, 0.7, seed=1)
    expected = StratifiedShuffleSplit(2, train_size=0.7, random_state=1).split(labels, labels)
    np.testing.assert_equal([[*pair] for pair in pairs], [[*pair, np.zeros(0)] for pair in expected])


@pytest.mark.parametrize(("test_size", "count"), [(0.3, 30), (20.0, 20)])
def test_test_samples_are_drawn_first_and_keep_the_proportions_of_classes(test_size, count):
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [50, 30, 20]))
    first, second = splits.random_splits(labels, None, 2, 0.8, seed=1, test_size=test_size)
    np.testing.assert_array_equal(first.test, second.test)
    assert not np.array_equal(first.valid, second.valid)
    (fewer,) = splits.random_splits(labels, None, 1, 0.5, seed=1, test_size=test_size)
    np.testing.assert_array_equal(first.test, fewer.test)
    for split in (first, second):
        assert sorted(np.concatenate(split)) == list(range(100))
        assert [len(part) for part in split] == [(100 - count) * 0.8, (100 - count) * 0.2, count]
        for part in split:
            np.testing.assert_allclose(np.bincount(labels[part]) / len(part), [0.5, 0.3, 0.2], atol=0.5 / len(part))


@pytest.mark.parametrize(
    ("labels", "train_size", "test_size", "message"),
    [
        ([0, 1] * 5, 0.5, 0.1, "`test_size=0.1` is not possible for 10 images .5 of class EOS.: "),
        ([0] * 8 + [1] * 2, 0.5, 5.0, "`train_size=0.5` is not possible for 5 images .1 of class BAS.: .* least"),
    ],
)
def test_each_part_of_a_split_has_a_sample_of_each_class(labels, train_size, test_size, message):
    with pytest.raises(InputError, match=f"^{message}"):
        splits.random_splits(np.array(labels), None, 1, train_size, 1, ("EOS", "BAS"), test_size)


def test_a_few_samples_are_of_all_classes_in_turn():
    labels = np.array([0, 0, 0, 0, 2, 2, 1])  # as of a folder, whose files are sorted by class
    assert splits.varied(labels, 5).tolist() == [0, 6, 4, 1, 5]
    assert splits.varied(labels, 2).tolist() == [0, 6]
    assert sorted(splits.varied(labels, 9).tolist()) == [*range(7)]
    assert splits.varied(np.zeros(4, np.int64), 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize(("count", "batch_size"), [(15, 8), (13, 6), (16, 8)])
@pytest.mark.parametrize("load", [functools.partial(loader.train_batches, seed=0), loader.eval_batches])
def test_two_processes_take_the_batches_of_one(monkeypatch, load, count, batch_size):
    """Also where the first process has samples for one more batch of an epoch than the second."""
    dataset, indices = numbered(20), np.arange(count)

    def batches(process, processes):
        monkeypatch.setattr("jax.process_count", lambda: processes)
        monkeypatch.setattr("jax.process_index", lambda: process)
        return samples(load(dataset, indices, batch_size), 6)

    for whole, first, second in zip(batches(0, 1), batches(0, 2), batches(1, 2), strict=True):
        assert len(first) == len(second) == batch_size // 2
        assert sorted([*first, *second]) == sorted(whole)

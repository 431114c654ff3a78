"""Splits of a data set into training, validation and test samples."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from r2l_jax.runtime.errors import InputError


class Split(NamedTuple):
    """The indices of the samples to train on, to validate on, and to test on."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray = np.zeros(0, np.int64)


def stratified_splits(
    labels: np.ndarray,
    n_splits: int,
    train_size: float,
    seed: int,
    names: Sequence[str] = (),
    test_size: float = 0.0,
) -> list[Split]:
    """Draws random splits with the same proportions of classes in each part (`StratifiedShuffleSplit`).

    Args:
        labels: the class of each sample.
        n_splits: how many independent splits to draw. All of them have the same test samples.
        train_size: the fraction to train on, of the samples that are not test samples.
        seed: decides the splits.
        names: the names of the classes, for errors.
        test_size: the samples to test on: a share if below 1, else a number.

    Raises:
        InputError: there are too few samples for the classes.
    """
    # Importing scikit-learn takes a second, which programs that split nothing need not wait for.
    from sklearn.model_selection import StratifiedShuffleSplit

    test, rest, where = np.zeros(0, np.int64), np.arange(len(labels)), ""
    if count := round(test_size * len(labels)) if test_size < 1 else int(test_size):
        classes, where = len(np.unique(labels)), f" outside of --test_size={test_size:g}"
        if not classes <= count <= len(labels) - classes:
            raise InputError(
                f"--test_size={test_size:g} takes {count} of {len(labels)} images to test on: the test and the other "
                f"images must each hold the {classes} classes"
            )
        _check_classes(labels, names, "")
        drawn = StratifiedShuffleSplit(1, test_size=count, random_state=seed).split(np.zeros(len(labels)), labels)
        ((rest, test),) = (map(np.sort, parts) for parts in drawn)
    labels = labels[rest]
    _check_classes(labels, names, where)
    train, classes = math.floor(train_size * len(labels)), len(np.unique(labels))
    for part, size in (("train on", train), ("validate on", len(labels) - train)):
        if size < classes:
            raise InputError(
                f"--train_size={train_size:g} leaves {size} of {len(labels)} images to {part}, fewer than the "
                f"{classes} classes"
            )
    splitter = StratifiedShuffleSplit(n_splits, train_size=train_size, random_state=seed)
    return [Split(rest[train], rest[valid], test) for train, valid in splitter.split(np.zeros(len(labels)), labels)]


def _check_classes(labels: np.ndarray, names: Sequence[str], where: str) -> None:
    """Raises an InputError for a class of one image."""
    counts = np.bincount(labels)
    if not len(few := np.flatnonzero(counts == 1)):
        return
    name = names[few[0]] if len(names) >= len(counts) else f"number {few[0]}"
    others = f" (other such classes: {len(few) - 1})" if len(few) > 1 else ""
    raise InputError(f"class {name} has 1 image{where}{others}; a split needs 2")


def varied(labels: np.ndarray, count: int) -> np.ndarray:
    """Returns the indices of at most `count` samples of all classes in turn: the first of each, the second, ..."""
    order = np.argsort(labels, kind="stable")
    of_class = labels[order]
    place = np.arange(len(labels)) - np.searchsorted(of_class, of_class)
    return order[np.lexsort((of_class, place))][:count].astype(np.int32)

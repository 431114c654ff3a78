"""Splits of a data set into training and validation samples."""

import math
from collections.abc import Sequence

import numpy as np

from r2l_jax.runtime.errors import InputError

# The indices of the training samples, and of the validation samples.
Split = tuple[np.ndarray, np.ndarray]


def stratified_splits(
    labels: np.ndarray, n_splits: int, train_size: float, seed: int, names: Sequence[str] = ()
) -> list[Split]:
    """Draws random splits with the same proportions of classes on both sides (`StratifiedShuffleSplit`).

    Args:
        labels: the class of each sample.
        n_splits: how many independent splits to draw.
        train_size: the fraction of samples to train on.
        seed: decides the splits.
        names: the names of the classes, for errors.

    Raises:
        InputError: there are too few samples for the classes.
    """
    counts = np.bincount(labels)
    few = np.flatnonzero(counts == 1)
    train, classes = math.floor(train_size * len(labels)), np.count_nonzero(counts)
    named = names if len(names) >= len(counts) else [f"number {label}" for label in range(len(counts))]
    if len(few):
        others = f", and so have {len(few) - 1} more" if len(few) > 1 else ""
        raise InputError(f"class {named[few[0]]} has 1 image{others}; a split needs 2")
    for part, size in (("train on", train), ("validate on", len(labels) - train)):
        if size < classes:
            raise InputError(
                f"--train_size={train_size:g} leaves {size} of {len(labels)} images to {part}, fewer than the "
                f"{classes} classes"
            )
    # Importing scikit-learn takes a second, which programs that split nothing need not wait for.
    from sklearn.model_selection import StratifiedShuffleSplit

    splitter = StratifiedShuffleSplit(n_splits, train_size=train_size, random_state=seed)
    return list(splitter.split(np.zeros(len(labels)), labels))

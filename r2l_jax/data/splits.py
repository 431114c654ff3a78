"""Splits of a data set into training and validation samples."""

import numpy as np

from r2l_jax.runtime.errors import InputError

# The indices of the training samples, and those of the validation samples.
Split = tuple[np.ndarray, np.ndarray]


def stratified_splits(labels: np.ndarray, n_splits: int, train_size: float, seed: int) -> list[Split]:
    """Draws random splits with the same proportions of classes on both sides (`StratifiedShuffleSplit`).

    Args:
        labels: the class of each sample.
        n_splits: how many independent splits to draw.
        train_size: the fraction of samples to train on.
        seed: decides the splits.

    Raises:
        InputError: there are too few samples for the classes.
    """
    # Imported here, because importing scikit-learn takes a second.
    from sklearn.model_selection import StratifiedShuffleSplit

    splitter = StratifiedShuffleSplit(n_splits, train_size=train_size, random_state=seed)
    try:
        return [(train, val) for train, val in splitter.split(np.zeros(len(labels)), labels)]
    except ValueError as error:
        raise InputError(f"the data set cannot be split with --train_size={train_size}: {error}") from None

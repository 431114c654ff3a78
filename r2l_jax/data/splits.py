"""Which samples train and which validate."""

import numpy as np

from r2l_jax.runtime.errors import InputError

Split = tuple[np.ndarray, np.ndarray]


def stratified_splits(labels: np.ndarray, n_splits: int, train_size: float, seed: int) -> list[Split]:
    """Random splits in which every class has its share on both sides (scikit-learn's `StratifiedShuffleSplit`).

    Args:
        labels: the class of each sample.
        n_splits: how many independent splits.
        train_size: the fraction of samples to train on.
        seed: the same seed gives the same splits.

    Returns:
        Pairs of training and validation indices.

    Raises:
        InputError: too few samples for the classes.
    """
    # Imported here, since it takes a second that all programs would wait for.
    from sklearn.model_selection import StratifiedShuffleSplit

    splitter = StratifiedShuffleSplit(n_splits, train_size=train_size, random_state=seed)
    try:
        return [(train, val) for train, val in splitter.split(np.zeros(len(labels)), labels)]
    except ValueError as error:
        raise InputError(f"the data set cannot be split with --train_size={train_size}: {error}") from None

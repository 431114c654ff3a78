"""A run's folds: how each splits the data, and where its files go."""

import pathlib
from typing import NamedTuple

import numpy as np


class Fold(NamedTuple):
    """One of a run's splits.

    Attributes:
        number: which of them.
        train_indices: the samples to train on, by their indices in the data set.
        valid_indices: the samples to validate on.
        folder: the folder of the fold's files.
    """

    number: int
    train_indices: np.ndarray
    valid_indices: np.ndarray
    folder: pathlib.Path

    @property
    def metrics_file(self) -> pathlib.Path:
        """The numbers so far, and how to reproduce them."""
        return self.folder / "metrics.json"

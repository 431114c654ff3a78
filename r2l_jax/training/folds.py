"""A run's folds: how each splits the data, and where its files go."""

import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from r2l_jax.runtime.errors import InputError


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


def fold_number(folder: pathlib.Path) -> int | None:
    """Returns the number of the fold whose folder this is; None for another folder, such as a copy of one."""
    match = re.fullmatch(r"fold_(0|[1-9][0-9]{0,8})", folder.name)
    return int(match[1]) if match and folder.is_dir() else None


def fold_folders(run: pathlib.Path) -> list[pathlib.Path]:
    """Lists the folders of a run's folds, by their numbers."""
    numbers = {folder: number for folder in run.glob("fold_*") if (number := fold_number(folder)) is not None}
    return sorted(numbers, key=numbers.__getitem__)


def run_names(uris: Sequence[str]) -> list[str]:
    """Returns names of runs for tables and plots: those of their folders, or the paths as given if two are the same.

    Args:
        uris: folders of runs, or of their folds.

    Raises:
        InputError: two paths lead to one folder.
    """
    paths = [pathlib.Path(uri).resolve() for uri in uris]
    for number, path in enumerate(paths):
        if path in paths[:number]:
            raise InputError(f"--run={uris[number]} is given twice")
    names = ["/".join(path.parts[-2:]) if fold_number(path) is not None else path.name for path in paths]
    return names if len(set(names)) == len(names) else list(uris)

"""Splits of a data set into training, validation and test samples."""

import csv
import math
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from r2l_jax.runtime.errors import InputError, warn
from r2l_jax.runtime.files import read_csv


class Split(NamedTuple):
    """The indices of the samples to train on, to validate on, and to test on."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray = np.zeros(0, np.int64)


class _Named(msgspec.Struct, forbid_unknown_fields=True):
    """The names of the samples of each part of a split."""

    train: list[str] = []
    valid: list[str] = []
    test: list[str] = []


def named_parts(file: pathlib.Path, names: Sequence[Sequence[str]]) -> np.ndarray:
    """Returns the part of each scene, "train", "valid" or "test", that a file names; "" for a scene that it leaves out.

    Args:
        file: JSON with a list of names for each part, or CSV with the columns `name` and `part`.
        names: the names of each scene, some of which may be those of others as well, such as of a frame with several
            tiles. Suffixes may differ.

    Raises:
        InputError: the file cannot be read, names something else, or names a scene twice.
    """
    numbers: dict[str, list[int]] = {}
    for number, each in enumerate(names):
        for name in dict.fromkeys([*each, *map(_stem, each)]):
            numbers.setdefault(name, []).append(number)
    given = _read(file)
    found = [(name, part, numbers.get(name) or numbers.get(_stem(name), [])) for name, part in given]
    if unknown := [name for name, _, scenes in found if not scenes]:
        others = f" (nor {len(unknown) - 1} other{'s' * (len(unknown) > 2)})" if len(unknown) > 1 else ""
        raise InputError(f"--split={file}: the data has no {unknown[0]}{others}; its names are such as {names[0][0]}")
    parts = np.full(len(names), "", "<U5")
    for name, part, scenes in found:
        if parts[scenes].any():
            raise InputError(f"--split={file} names {name} twice")
        parts[scenes] = part
    if len(left_out := np.flatnonzero(parts == "")):
        warn(f"--split={file} leaves {len(left_out)} of {len(names)} images out, such as {names[left_out[0]][0]}")
    return parts


def _stem(name: str) -> str:
    return name.removesuffix(pathlib.PurePath(name).suffix)


def _read(file: pathlib.Path) -> list[tuple[str, str]]:
    """Reads the names in the file of a split, each with its part."""
    wanted = f'--split={file} must be JSON such as {{"train": [names], "test": [names]}}, or CSV with name and part'
    try:
        if file.suffix.lower() != ".csv":
            named = msgspec.json.decode(file.read_bytes(), type=_Named)
            return [(name, part) for part in Split._fields for name in getattr(named, part)]
        rows = read_csv(file)
    except OSError as error:
        raise InputError(f"--split={file}: {error.strerror}") from None
    except (ValueError, csv.Error) as error:
        raise InputError(f"{wanted}: {str(error).replace('`', '')}") from None
    if not rows or not {"name", "part"} <= rows[0].keys():
        raise InputError(wanted)
    for row in rows:
        if row["part"] not in Split._fields:
            raise InputError(
                f"--split={file}: the part of {row['name']} must be train, valid or test, got {row['part']!r}"
            )
    return [(row["name"], row["part"]) for row in rows]


def given_splits(
    parts: np.ndarray,
    labels: np.ndarray,
    n_splits: int,
    train_size: float,
    seed: int,
    names: Sequence[str],
    where: str,
) -> list[Split]:
    """Returns splits of given parts; without samples to validate on, these are drawn from those to train on.

    Args:
        parts: "train", "valid" or "test" for each sample; those of another part are left out.
        labels: as for `stratified_splits`.
        n_splits: as for `stratified_splits`.
        train_size: as for `stratified_splits`.
        seed: as for `stratified_splits`.
        names: as for `stratified_splits`.
        where: says in an error where the parts come from.

    Raises:
        InputError: there are too few samples to train on.
    """
    given = Split(*(np.flatnonzero(parts == part) for part in Split._fields))
    if not len(given.train):
        raise InputError(f"{where}: no image to train on")
    if lacking := set(labels[parts != ""].tolist()) - set(labels[given.train].tolist()):
        raise InputError(f"{where}: the class {names[min(lacking)]} has no image to train on")
    if len(given.valid):
        return [given] * n_splits
    drawn = stratified_splits(labels[given.train], n_splits, train_size, seed, names)
    return [Split(given.train[each.train], given.train[each.valid], given.test) for each in drawn]


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

"""Splits of a data set into training, validation and test samples."""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from r2l_jax.data.files.decoding import read_text, reading
from r2l_jax.runtime.errors import InputError, warn

# Enough bytes for the names of a few million images.
_LONGEST = 2**28


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
    """Returns each scene's part in a file, "train", "valid" or "test"; "" for a scene that the file leaves out.

    The file is JSON with a list of names for each part. Their suffixes may differ from those in `names`. Scenes may
    share a name, as the tiles of a frame do.
    """
    numbers: dict[str, list[int]] = {}
    for number, each in enumerate(names):
        for name in dict.fromkeys([*each, *map(_stem, each)]):
            numbers.setdefault(name, []).append(number)
    with reading(file):
        named = msgspec.json.decode(read_text(file, _LONGEST), type=_Named)
    given = [(name, part) for part in Split._fields for name in getattr(named, part)]
    found = [(name, part, numbers.get(name) or numbers.get(_stem(name), [])) for name, part in given]
    if unknown := [name for name, _, scenes in found if not scenes]:
        others = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise InputError(f"--split={file} must name images such as {names[0][0]}, got {unknown[0]}{others}")
    parts = np.full(len(names), "", "<U5")
    for name, part, scenes in found:
        if parts[scenes].any():
            raise InputError(f"--split={file} names {name} twice")
        parts[scenes] = part
    if len(left_out := np.flatnonzero(parts == "")):
        warn(f"--split={file} omits {len(left_out)} of {len(names)} images, such as {names[left_out[0]][0]}")
    return parts


def _stem(name: str) -> str:
    return name.removesuffix(pathlib.PurePath(name).suffix)


def given_splits(
    parts: np.ndarray,
    labels: np.ndarray,
    n_splits: int,
    train_size: float,
    seed: int,
    names: Sequence[str],
    where: str,
) -> list[Split]:
    """Returns splits with given parts; if there are no validation samples, they are drawn from the training samples.

    `parts` has "train", "valid" or "test" for each sample; other samples are left out. `where` names the source of the
    parts in errors. `stratified_splits` explains the other arguments.
    """
    given = Split(*(np.flatnonzero(parts == part) for part in Split._fields))
    if not len(given.train):
        raise InputError(f"{where}: must name an image to train on")
    if lacking := set(labels[parts != ""].tolist()) - set(labels[given.train].tolist()):
        raise InputError(f"{where}: must name an image of the class {names[min(lacking)]} to train on")
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

    All splits have the same test samples: `test_size` is their share if it is below 1, else their number. `train_size`
    is the fraction of the other samples to train on. `names` holds the class names, for errors.
    """
    # Imported here, because scikit-learn takes a second, and some programs split nothing.
    from sklearn.model_selection import StratifiedShuffleSplit

    def drawn(labels: np.ndarray, count: int, **sizes: float | int) -> list[tuple[np.ndarray, np.ndarray]]:
        try:
            return list(StratifiedShuffleSplit(count, random_state=seed, **sizes).split(np.zeros(len(labels)), labels))
        except ValueError as error:
            ((name, size),) = sizes.items()
            rarest = _rarest(labels, names)
            raise InputError(f"--{name}={size:g} is not possible for {len(labels)} images{rarest}: {error}") from None

    test, rest = np.zeros(0, np.int64), np.arange(len(labels))
    if count := round(test_size * len(labels)) if test_size < 1 else int(test_size):
        ((rest, test),) = (map(np.sort, parts) for parts in drawn(labels, 1, test_size=count))
    splits = drawn(labels[rest], n_splits, train_size=train_size)
    return [Split(rest[train], rest[valid], test) for train, valid in splits]


def _rarest(labels: np.ndarray, names: Sequence[str]) -> str:
    """Returns the number of images in the rarest class, in words, if its name is known."""
    counts = np.bincount(labels, minlength=len(names))
    index = int(np.where(counts, counts, len(labels)).argmin())
    return f" ({counts[index]} of class {names[index]})" if index < len(names) else ""


def varied(labels: np.ndarray, count: int) -> np.ndarray:
    """Returns the indices of at most `count` samples, cycling through the classes."""
    order = np.argsort(labels, kind="stable")
    of_class = labels[order]
    place = np.arange(len(labels)) - np.searchsorted(of_class, of_class)
    return order[np.lexsort((of_class, place))][:count].astype(np.int32)

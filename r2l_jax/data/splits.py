"""Splits of a data set into training, validation and test samples."""

import math
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from r2l_jax.data.files.decoding import read_text, reading
from r2l_jax.data.groups import turns
from r2l_jax.data.settings import LEAVE_ONE_OUT
from r2l_jax.errors import InputError, warn

# The number of random orders in which groups of different sizes are offered to a part.
_ORDERS = 8

_ROUNDING = 1e-9


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
    """Returns each sample's part in a file, "train", "valid" or "test"; "" for a sample that the file leaves out.

    The file is JSON with a list of names for each part. Their suffixes may differ from those in `names`. Samples may
    share a name, as the tiles of a frame do.
    """
    numbers: dict[str, list[int]] = {}
    for number, each in enumerate(names):
        for name in dict.fromkeys([*each, *map(_stem, each)]):
            numbers.setdefault(name, []).append(number)
    with reading(file):
        named = msgspec.json.decode(read_text(file), type=_Named)
    given = [(name, part) for part in Split._fields for name in getattr(named, part)]
    found = [(name, part, numbers.get(name) or numbers.get(_stem(name), [])) for name, part in given]
    if unknown := [name for name, _, samples in found if not samples]:
        others = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise InputError(f"`split={file}` must name images such as {names[0][0]}, got {unknown[0]}{others}")
    parts = np.full(len(names), "", "<U5")
    for name, part, samples in found:
        if parts[samples].any():
            raise InputError(f"`split={file}` names {name} twice")
        parts[samples] = part
    if len(left_out := np.flatnonzero(parts == "")):
        warn(f"`split={file}` omits {len(left_out)} of {len(names)} images, such as {names[left_out[0]][0]}")
    return parts


def _stem(name: str) -> str:
    return name.removesuffix(pathlib.PurePath(name).suffix)


def given_splits(
    parts: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray | None,
    n_splits: int | str,
    train_size: float,
    seed: int,
    names: Sequence[str],
    where: str,
) -> list[Split]:
    """Returns splits with given parts; if there are no validation samples, they are drawn from the training samples.

    `parts` has "train", "valid" or "test" for each sample; other samples are left out. `where` names the source of the
    parts in errors. `random_splits` explains the other arguments.

    Raises:
        InputError: a class without training samples, or as for `random_splits`.
    """
    given = Split(*(np.flatnonzero(parts == part) for part in Split._fields))
    if not len(given.train):
        raise InputError(f"{where}: must name an image to train on")
    if lacking := set(labels[parts != ""].tolist()) - set(labels[given.train].tolist()):
        raise InputError(f"{where}: must name an image of the class {names[min(lacking)]} to train on")
    if len(given.valid) and isinstance(n_splits, str):
        raise InputError(f"`n_splits={n_splits}` validates on each group, but {where} names images to validate on")
    if len(given.valid):
        return [given] * int(n_splits)
    of_train = None if groups is None else groups[given.train]
    drawn = random_splits(labels[given.train], of_train, n_splits, train_size, seed, names)
    return [Split(given.train[each.train], given.train[each.valid], given.test) for each in drawn]


def check_groups(parts: np.ndarray, groups: np.ndarray, names: Sequence[str], where: str) -> None:
    """Raises an InputError if samples of one group have different parts; `names` are the samples'."""
    named = np.flatnonzero(parts != "")
    _, first, inverse = np.unique(groups[named], return_index=True, return_inverse=True)
    first = named[first][inverse]
    if len(divided := np.flatnonzero(parts[named] != parts[first])):
        one, other = int(named[divided[0]]), int(first[divided[0]])
        raise InputError(
            f"{where}: {names[other]} and {names[one]} are of one group, such as tiles of one frame or cells of one "
            f"patient, and must be in one part, got {parts[other]} and {parts[one]}"
        )


def random_splits(
    labels: np.ndarray,
    groups: np.ndarray | None,
    n_splits: int | str,
    train_size: float,
    seed: int,
    names: Sequence[str] = (),
    test_size: float = 0.0,
) -> list[Split]:
    """Draws random splits with about the same proportions of classes in each part, and all classes in training.

    All splits have the same test samples. Samples of a group stay together. If all groups have one class and one size,
    such as groups of one sample, the proportions are exact (`StratifiedShuffleSplit`).

    Args:
        labels: the class of each sample.
        groups: the group of each sample; None if all samples are independent.
        n_splits: the number of splits, or "groups" for one that validates on each group.
        train_size: the fraction of the samples outside of the test samples to train on.
        seed: the seed.
        names: the names of the classes, for errors.
        test_size: the share of test samples if it is below 1, else their number.

    Raises:
        InputError: too few samples, or too few groups of a class.
    """
    if groups is None and isinstance(n_splits, str):
        raise InputError(f"`n_splits={n_splits}` needs groups of several images, and all images are independent")
    groups = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    counts = np.zeros((groups.max(initial=-1) + 1, labels.max(initial=-1) + 1), np.int64)
    np.add.at(counts, (groups, labels), 1)
    rest, test = np.arange(len(counts)), np.zeros(0, np.int64)
    if len(counts) < len(labels):
        for alone in np.flatnonzero((counts > 0).sum(0) == 1).tolist():
            warn(f"{_class(alone, names)} is in a single group, which stays for training")
    has_rare = len(counts) < len(labels) and ((counts > 0).sum(0) == 1).any()
    draw = _stratified if (counts.max(1) == counts.sum() / len(counts)).all() and not has_rare else _grouped
    if test_size:
        share = test_size if test_size < 1 else test_size / len(labels)
        if share >= 1:
            raise InputError(f"`test_size={test_size:g}` must be less than the {len(labels)} images")
        ((rest, test),) = draw(counts, 1, seed, names, f"`test_size={test_size:g}`", 1 - max(share, 1 / len(counts)))
        rest, test = np.sort(rest), np.sort(test)
        if len(rest) < 2:
            raise InputError(f"`test_size={test_size:g}` leaves {len(rest)} of {len(counts)} groups; two are needed")
    if isinstance(n_splits, str):
        drawn = _each_left_out(counts[rest], names)
    else:
        drawn = draw(counts[rest], n_splits, seed, names, f"`train_size={train_size:g}`", train_size)
    order = np.argsort(groups, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(groups))[:-1])

    def samples(part: np.ndarray) -> np.ndarray:
        return np.concatenate([members[group] for group in part]) if len(part) else np.zeros(0, np.int64)

    return [Split(samples(rest[train]), samples(rest[valid]), samples(test)) for train, valid in drawn]


def _each_left_out(counts: np.ndarray, names: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns, for each group, all others and the group."""
    if len(counts) < 2:
        raise InputError(f"`n_splits={LEAVE_ONE_OUT}` needs at least two groups, got {len(counts)}")
    if alone := np.flatnonzero((counts > 0).sum(0) == 1).tolist():
        only = _class(alone[0], names)
        raise InputError(f"`n_splits={LEAVE_ONE_OUT}` leaves out the only group of {only}: it needs two")
    every = np.arange(len(counts))
    return [(np.delete(every, group), every[group : group + 1]) for group in every]


def _stratified(
    counts: np.ndarray, n_splits: int, seed: int, names: Sequence[str], flag: str, stays: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Draws groups of one class and one size, in exact proportions; returns those that stay and those held out."""
    # Imported here, because scikit-learn takes a second, and some programs split nothing.
    from sklearn.model_selection import StratifiedShuffleSplit

    labels = counts.argmax(1)
    # The number of test samples is rounded; scikit-learn rounds the number of training samples down.
    size = {"test_size": round((1 - stays) * len(labels))} if "test" in flag else {"train_size": stays}
    try:
        return list(StratifiedShuffleSplit(n_splits, random_state=seed, **size).split(np.zeros(len(labels)), labels))
    except ValueError as error:
        unit = "images" if counts.max() == 1 else "groups"
        raise InputError(f"{flag} is not possible for {len(labels)} {unit}{_rarest(labels, names)}: {error}") from None


def _grouped(
    counts: np.ndarray, n_splits: int, seed: int, names: Sequence[str], flag: str, stays: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Draws groups of any classes `(groups, classes)`; returns those that stay and those held out.

    Groups in random order are held out where that brings each class, and all samples, closer to their shares. Of
    several orders, the one with the closest shares is taken, and one that differs from earlier splits if there is any.
    A class always keeps a group.
    """
    random, held_out, drawn = np.random.default_rng(seed), 1 - stays, []
    # All samples together count as one more class.
    shares = np.concatenate([counts, counts.sum(1, keepdims=True)], 1).astype(float)
    shares = shares[:, shares.sum(0) > 0] / shares.sum(0)[shares.sum(0) > 0]
    for _ in range(n_splits):
        best, least = np.zeros(len(counts), bool), (True, math.inf)
        for order in (random.permutation(len(counts)) for _ in range(_ORDERS)):
            taken, share = np.zeros(len(counts), bool), np.zeros(shares.shape[1])
            for group in order:
                after = share + shares[group]
                # The first one is taken in any case, since no part may be empty.
                closer = ((after - held_out) ** 2).sum() < ((share - held_out) ** 2).sum() or not taken.any()
                if closer and (after < 1 - _ROUNDING).all():
                    taken[group], share = True, after
            rank = any(np.array_equal(taken, other) for _, other in drawn), ((share - held_out) ** 2).sum()
            if taken.any() and rank < least:
                best, least = taken, rank
        if not best.any():
            few = (counts > 0).sum(0)
            rare = int(np.where(few, few, len(counts) + 1).argmin())
            raise InputError(
                f"{flag} is not possible: each group has the last samples of a class, which must stay for "
                f"training; {_class(rare, names)} is in {few[rare]} of {len(counts)} groups"
            )
        drawn.append((~best, best))
    return [(np.flatnonzero(stay), np.flatnonzero(leave)) for stay, leave in drawn]


def _class(index: int, names: Sequence[str]) -> str:
    return f"class {names[index] if index < len(names) else index}"


def _rarest(labels: np.ndarray, names: Sequence[str]) -> str:
    """Returns the number of images or groups of the rarest class, in words, if its name is known."""
    counts = np.bincount(labels, minlength=len(names))
    index = int(np.where(counts, counts, len(labels)).argmin())
    return f" ({counts[index]} of class {names[index]})" if index < len(names) else ""


def varied(labels: np.ndarray, count: int) -> np.ndarray:
    """Returns the indices of at most `count` samples, cycling through the classes."""
    return turns(np.unique(labels, return_inverse=True)[1])[:count].astype(np.int32)

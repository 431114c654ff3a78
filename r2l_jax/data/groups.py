"""Groups of samples that depend on each other, such as the cells of a patient or the tiles of a frame."""

import pathlib
import re
from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Int

from r2l_jax.data.files.decoding import read_table, reading
from r2l_jax.errors import InputError

# The value of --group for which the folder of a file is its group.
FOLDER = "folder"


def numbered(values: Sequence[Hashable]) -> Int[np.ndarray, " N"]:
    """Numbers equal values from 0, in the order in which they appear."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], np.int64)


def turns(groups: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
    """Returns an order in which groups, given by their numbers, take turns; members of a group stay in order."""
    order = np.argsort(groups, kind="stable")
    places = np.empty_like(order)
    places[order] = np.arange(len(order)) - np.searchsorted(groups[order], groups[order])
    return np.lexsort((groups, places))


def named_groups(how: str, files: Sequence[pathlib.PurePath], least: int = 2) -> list[str]:
    """Returns the group of each file.

    Args:
        how: "folder", the name of the file's folder; a CSV file with the columns `name` and `group`; or a regular
            expression, whose first group matches a part of the file's name.
        files: the paths of the files from the folder of the data set.
        least: the least number of groups.

    Raises:
        InputError: a file without a group, a name that is given twice, or too few groups.
    """
    if how == FOLDER:
        found = [file.parent.name for file in files]
    elif how.endswith(".csv"):
        found = _listed(pathlib.Path(how), files)
    else:
        found = _matched(how, files)
    if len(set(found)) < least:
        raise InputError(
            f"`group={how}` must give at least two groups, got only {found[0]!r} for {len(set(files))} images"
        )
    return found


def _matched(pattern: str, files: Sequence[pathlib.PurePath]) -> list[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"`group={pattern}` is not a regular expression: {error}") from None
    if not compiled.groups:
        raise InputError(f"`group={pattern}` must have a group in parentheses, such as '(p\\d+)_'")
    found = []
    for file in files:
        match = compiled.search(file.name)
        if match is None or match[1] is None:
            raise InputError(f"`group={pattern}` does not match the name {file.name}")
        found.append(match[1])
    return found


def _listed(table: pathlib.Path, files: Sequence[pathlib.PurePath]) -> list[str]:
    with reading(table):
        columns, rows = read_table(table)
        if not {"name", "group"} <= set(columns):
            raise InputError(f"must have the columns name and group, got {', '.join(columns) or 'none'}")
        given = {name: row["group"] for name, row in rows.items()}
        for name, group in given.items():
            if not group:
                raise InputError(f"must give {name} a group")
    # Names with and without a suffix, as in a split: frames have none.
    stems = {name.removesuffix(pathlib.PurePath(name).suffix): group for name, group in given.items()}
    names = [(file.as_posix(), file.with_suffix("").as_posix()) for file in files]
    found = [given.get(name) or given.get(stem) or stems.get(name) for name, stem in names]
    if lacking := [*dict.fromkeys(file for file, group in zip(files, found, strict=True) if group is None)]:
        others = f" (and {len(lacking) - 1} more)" if len(lacking) > 1 else ""
        raise InputError(f"`group={table}` must name all images, but lacks {lacking[0]}{others}")
    return [group for group in found if group is not None]

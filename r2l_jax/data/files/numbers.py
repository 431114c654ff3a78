"""CSV files of numbers for raw files, such as how many cells each shows."""

import csv
import io
import pathlib

import numpy as np
from jaxtyping import Float32

from r2l_jax.data.files.decoding import read_text, reading
from r2l_jax.data.files.rawfile import RAW_SUFFIXES
from r2l_jax.runtime.errors import InputError

# Enough bytes for the names of a few million images.
_LONGEST = 2**28


def read_numbers(
    table: pathlib.Path, root: pathlib.Path
) -> tuple[list[pathlib.Path], Float32[np.ndarray, "files numbers"], tuple[str, ...]]:
    """Reads the raw files of a folder that a CSV file names, their numbers, and the names of these.

    The column `name` has the paths of files from the folder, and all others have finite numbers.

    Raises:
        InputError: a missing column or file, a name that is given twice, or a value that is not a finite number.
    """
    with reading(table):
        rows = csv.DictReader(io.StringIO(read_text(table, _LONGEST).removeprefix("\ufeff")))
        names = tuple(name for name in rows.fieldnames or () if name != "name")
        if not names or len(names) == len(rows.fieldnames or ()):
            columns = ", ".join(rows.fieldnames or ()) or "none"
            raise InputError(f"must have the column name and at least one of numbers, got {columns}")
        found: dict[str, list[float]] = {}
        for row in rows:
            if row["name"] in found:
                raise InputError(f"names {row['name']} twice")
            if not (root / row["name"]).is_file():
                raise InputError(f"names {row['name']}, which is not a file in {root}")
            if pathlib.PurePath(row["name"]).suffix.lower() not in RAW_SUFFIXES:
                raise InputError(f"names {row['name']}, which is not a raw file")
            found[row["name"]] = [_number(row[name], name, row["name"]) for name in names]
        if not found:
            raise InputError("must name at least one raw file")
    return [root / name for name in found], np.array([*found.values()], np.float32), names


def _number(text: str | None, column: str, name: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise InputError(f"must have a finite number for {column} of {name}, got {text!r}")
    return value

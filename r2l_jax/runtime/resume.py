"""Manifests and tables of what is done, by which the same command resumes a program that was killed."""

import csv
import json
import os
import pathlib
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.files import append_csv, cut_torn_row, open_csv, read_csv, write_csv

# The manifest of a folder. A file has its own beside it, <file>.manifest.json.
MANIFEST = "manifest.json"


def read_manifest(file: pathlib.Path, fixed: Mapping[str, Any], content: str) -> dict[str, Any] | None:
    """Reads the manifest that earlier calls have left, and refuses one of other settings; returns None without one.

    `fixed` are the entries that all calls must share, in the form that they have after a round trip through JSON.
    `content` is a word for the contents of the output, such as "sets".
    """
    if not file.exists():
        return None
    try:
        earlier = json.loads(file.read_text())
        changed = {name: earlier[name] for name in fixed if earlier[name] != fixed[name]}
    except (OSError, ValueError, LookupError, TypeError):
        raise InputError(f"{file} is damaged: choose another --output") from None
    if changed:
        differences = [
            f"other {name}" if dict in (type(value), type(fixed[name])) else f"{name}={value}, not {fixed[name]}"
            for name, value in changed.items()
        ]
        raise InputError(f"{file} lists {content} of {' and '.join(differences)}: choose another --output")
    return earlier


class Table:
    """The rows of the items that are done, added to a CSV file one by one. The first cell of a row is its name."""

    def __init__(self, file: pathlib.Path, columns: Sequence[str]):
        self.file, self._columns, self._next_sync = file, list(columns), 0.0

    def rows(self) -> dict[str, dict[str, str]]:
        """Returns the complete rows by their names. Removes a damaged file, and an incomplete last row."""
        try:
            cut_torn_row(self.file)
            with open_csv(self.file) as file:
                columns = next(csv.reader(file))
            rows = read_csv(self.file)
        except (OSError, ValueError, csv.Error, StopIteration):
            self.file.unlink(missing_ok=True)
            return {}
        if columns != self._columns:
            raise InputError(f"{self.file} has other columns than {', '.join(self._columns)}: choose another output")
        return {row[columns[0]]: row for row in rows if None not in (*row, *row.values())}

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Rewrites the file with these rows."""
        write_csv(self.file, list(rows), self._columns)

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Adds rows. Every second, they are forced to the disk, in case the machine loses its power."""
        if not self.file.exists():
            self.write([])
        append_csv(self.file, rows, self._columns)
        if time.monotonic() >= self._next_sync:
            with self.file.open("a") as file:
                os.fsync(file.fileno())
            self._next_sync = time.monotonic() + 1

    def sort(self, names: Iterable[str]) -> None:
        """Sorts rows by name, unnamed rows first; removes the file if there are no rows."""
        rows, order = self.rows(), {name: number for number, name in enumerate(names)}
        if rows:
            self.write(sorted(rows.values(), key=lambda row: order.get(row[self._columns[0]], -1)))
        else:
            self.file.unlink(missing_ok=True)

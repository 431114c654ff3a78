"""Writes and reads the tables of measurements, the CSV files in docs/results."""

import csv
import pathlib
from collections.abc import Mapping, Sequence

FOLDER = pathlib.Path(__file__).parents[1] / "results"


def write(name: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Writes rows to the CSV file of a name."""
    with (FOLDER / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read(name: str) -> list[dict[str, str]]:
    """Reads the rows of the CSV file of a name."""
    with (FOLDER / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))

"""Tables that programs print as text and write as CSV and JSON. All three must hold the same numbers."""

import csv
import json
import math
import re


def read(file):
    """The rows of a CSV file, numbers as floats, empty cells as None."""

    def value(text):
        try:
            return float(text) if text else None
        except ValueError:
            return text

    with open(file, newline="") as lines:
        return [{name: value(text) for name, text in row.items()} for row in csv.DictReader(lines)]


def points(fraction):
    """Hundredths with three digits."""
    rounded = round(100 * fraction, 1) + 0.0
    return f"{rounded:.1f}" if abs(rounded) < 100 else f"{rounded:.0f}"


def interval(estimate, low, high):
    """The text of a score in points with its interval."""
    return f"{points(estimate)} ({points(low)} to {points(high)})"


def printed(text):
    """The tables in a program's output: the cells of each row, by title."""
    found, lines = {}, text.splitlines()
    for number, line in enumerate(lines[2:], 2):
        if re.fullmatch("-{8,}", line):
            rows = lines[number + 1 : lines.index("", number) if "" in lines[number:] else None]
            header = re.split(" {2,}", lines[number - 1].strip())
            rows = [re.split(" {2,}", row.strip()) for row in rows]
            # The last cell may be empty.
            rows = [[*row, ""] if len(row) == len(header) - 1 else row for row in rows]
            found[lines[number - 2]] = [header, *(row for row in rows if len(row) == len(header))]
    return found


def _is_written(cell, value):
    """Whether a value of a CSV file, which has twelve digits, is a cell."""
    if isinstance(cell, float) and isinstance(value, float):
        return math.isclose(cell, value, rel_tol=1e-11)
    if isinstance(cell, str) and isinstance(value, float):
        return float(cell) == value  # A number that is a name.
    return value == (str(cell) if isinstance(cell, bool) else cell or None)


def stored(folder, output=""):
    """The tables of a result's folder by name, as rows of CSV; JSON must hold the same, and the output show it."""
    found, titles = {}, printed(output)
    for name, table in json.loads((folder / "result.json").read_text())["tables"].items():
        found[name] = rows = read(folder / f"{name}.csv")
        shown = [cells for title, cells in titles.items() if title.rpartition(": ")[2] == table["title"]]
        for number, (row, cells) in enumerate(zip(rows, table["rows"], strict=True)):
            parts = [cell if isinstance(cell, list) else [cell] for cell in cells]
            # CSV does not tell empty texts from missing values.
            filled = [part for part in parts if part not in ([None], [""])]
            assert sum(map(len, filled)) == sum(value is not None for value in row.values())
            for (column, *_), each in zip(table["columns"], parts, strict=True):
                same = [row[end] for end in (column, f"{column} low", f"{column} high")[: len(each)]]
                assert all(map(_is_written, each, same)), (name, column)
            texts = [_text(cell, style) for (*_, style), cell in zip(table["columns"], cells, strict=True)]
            assert all(each[number + 1] == texts for each in shown), (name, texts, shown)
    return found


def _text(cell, style):
    if isinstance(cell, list):
        return "{} ({} to {})".format(*(_text(each, style) for each in cell))
    if isinstance(cell, str):
        return cell
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if cell is None or math.isnan(cell):
        return "-"
    if style in ("score", "drop"):
        return points(cell)
    # Less is rounding.
    return format(cell if abs(cell) >= 5e-8 or isinstance(cell, int) else 0.0, style)

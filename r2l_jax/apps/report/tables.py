"""Cells and tables that several sections of a report share."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from isp.parameter import MOST_ELEMENTS
from r2l_jax.apps.report.document import Cell, Table
from r2l_jax.drift.results import ByShots
from r2l_jax.drift.statistics import points

Rows: TypeAlias = Sequence[Sequence[Cell]]

_NOTHING = Cell("\N{EN DASH}")


def text(content: object) -> Cell:
    """Makes a cell of text; None is a dash."""
    return _NOTHING if content is None else Cell(str(content))


def score(value: float | None, **look: Any) -> Cell:
    """Makes a cell of a score or a difference of scores in points; None is a dash."""
    return _cell(value, points, look)


def loss(value: float | None, **look: Any) -> Cell:
    """Makes a cell of a loss, or a number compared with published ones, with three digits; None is a dash."""
    return _cell(value, three_digits, look)


def share(value: float | None, **look: Any) -> Cell:
    """Makes a cell of a share in percent; None is a dash."""
    return _cell(value, "{:.0%}".format, look)


def number(value: float | int | None, **look: Any) -> Cell:
    """Makes a cell of a whole number, or of another one with three significant digits; None is a dash."""
    return _cell(value, _short, look)


def value(content: float | None) -> Cell:
    """Makes a cell of a value of a parameter, without the tiny remainders of computations that end at 0."""
    return number(content) if content is None else number(content)._replace(text=number(round(content, 7)).text)


def with_deviation(make: Callable[[float | None], Cell], mean: float | None, deviation: float | None) -> Cell:
    """Makes a cell of a mean and, unless that is None, its standard deviation."""
    cell = make(mean)
    return cell if mean is None or deviation is None else cell._replace(text=f"{cell.text} ± {make(deviation).text}")


def dropped(rows: Rows) -> list[list[Cell]]:
    """Colors cells of drops of a score by their share of the greatest drop or gain among them."""
    values = [abs(cell.value) for row in rows for cell in row if cell.value is not None and math.isfinite(cell.value)]
    most = max(values, default=0.0) or 1.0

    def colored(cell: Cell) -> Cell:
        value = cell.value or 0.0
        return cell._replace(shade=abs(value) / most, tone="loss" if value > 0 else "gain")

    return [[*map(colored, row)] for row in rows]


def three_digits(value: float | int) -> str:
    """Formats a loss with three digits, such as "0.950" or "12.3"."""
    # Adding 0.0 turns -0.0 into 0.0.
    return f"{value + 0.0:.3f}" if abs(value) < 0.9995 else f"{value:#.3g}".removesuffix(".")


def _short(value: float | int) -> str:
    whole = math.isfinite(value) and float(value).is_integer() and abs(value) < 1e6
    return f"{value + 0.0:.0f}" if whole else f"{float(f'{value:.3g}'):g}"


def _cell(value: float | int | None, write: Callable[[Any], str], look: dict[str, Any]) -> Cell:
    if value is None:
        return _NOTHING._replace(**look)
    return Cell(write(value).replace("-", "\N{MINUS SIGN}"), float(value), **look)


def leveled(rows: Rows, logarithmic: bool = False) -> list[list[Cell]]:
    """Colors cells by their values, from the least among them, which has no color, to the greatest.

    Values without a place on the scale have no color: None, not finite, or on a logarithmic scale not positive.
    """
    known = [scaled for row in rows for cell in row if (scaled := _scaled(cell.value, logarithmic)) is not None]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)

    def colored(cell: Cell) -> Cell:
        value = _scaled(cell.value, logarithmic)
        return cell if value is None or low == high else cell._replace(shade=(value - low) / (high - low))

    return [[*map(colored, row)] for row in rows]


def _scaled(value: float | None, logarithmic: bool) -> float | None:
    if value is None or not math.isfinite(value) or (logarithmic and value <= 0):
        return None
    return math.log(value) if logarithmic else value


def breakable(name: str) -> str:
    """Lets a long name, such as a pipeline's, be broken into lines at its dots and underscores."""
    return re.sub(r"[._](?=[a-z])", "\\g<0>\N{ZERO WIDTH SPACE}", name)


def by_shots(score_name: str, field: str, groups: ByShots, scores: Sequence[Sequence[float]]) -> Table:
    """Makes the table of the scores of groups of samples by a fact of their shots."""
    cells = leveled([[*map(score, row)] for row in scores])
    rows = [
        [Cell(value), number(count), *row]
        for value, count, row in zip(groups.rows, groups.samples, cells, strict=False)
    ]
    title = field.replace("_", " ")
    return Table(f"{score_name} by {title}", [title, "samples", *map(breakable, groups.columns)], rows)


def elements(parameters: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Returns the single values of parameters, by name and place; those with many values are left out."""
    return {
        ".".join([name, *map(str, place)]): float(each)
        for name, value in parameters.items()
        if value.size <= MOST_ELEMENTS
        for place, each in np.ndenumerate(value)
    }


def values(title: str, columns: Mapping[str, Mapping[str, float]]) -> list[Table]:
    """Makes the table of single values by their names, with a column for each state; no table without a value."""
    names = dict.fromkeys(name for column in columns.values() for name in column)
    rows = [[Cell(breakable(name)), *(number(column.get(name)) for column in columns.values())] for name in names]
    return [Table(title, ["value", *columns], rows)] if rows else []

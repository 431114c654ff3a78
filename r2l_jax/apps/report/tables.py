"""Cells and tables that several sections of a report share."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from isp.parameter import MOST_ELEMENTS
from r2l_jax.apps.report.document import Cell, Table
from r2l_jax.drift.results import ByShots

_NOTHING = Cell("\N{EN DASH}")


def text(content: object) -> Cell:
    """Makes a cell of text; None is a dash."""
    return _NOTHING if content is None else Cell(str(content))


def score(value: float | None, **look: Any) -> Cell:
    """Makes a cell of a number with four digits after the point; None is a dash."""
    return _cell(value, "{:.4f}", look)


def number(value: float | int | None, **look: Any) -> Cell:
    """Makes a cell of a number with four significant digits; None is a dash."""
    return _cell(value, "{:.4g}", look)


def value(content: float) -> Cell:
    """Makes a cell of a value of a parameter, without the tiny remainders of computations that end at 0."""
    return number(content)._replace(text=number(round(content, 7)).text)


def score_and_deviation(mean: float | None, deviation: float | None) -> Cell:
    """Makes a cell of a mean and, unless that is None, its standard deviation."""
    cell = score(mean)
    return cell if mean is None or deviation is None else cell._replace(text=f"{cell.text} ± {score(deviation).text}")


def drop(value: float | None, most: float, **look: Any) -> Cell:
    """Makes a cell of a drop of the score, colored by its share of the greatest drop."""
    shade = abs(value) / most if value is not None and most > 0 else 0.0
    return score(value, shade=shade, tone="loss" if value is not None and value > 0 else "gain", **look)


def greatest(values: Iterable[float | None]) -> float:
    """Returns the greatest magnitude of values, without those that are None or not finite."""
    return max((abs(value) for value in values if value is not None and math.isfinite(value)), default=0.0)


def _cell(value: float | int | None, form: str, look: dict[str, Any]) -> Cell:
    if value is None:
        return _NOTHING._replace(**look)
    # Adding 0.0 turns -0.0 into 0.0.
    return Cell(form.format(value + 0.0).replace("-", "\N{MINUS SIGN}"), float(value), **look)


def shades(values: Sequence[float | None], logarithmic: bool = False) -> list[float]:
    """Computes how strongly cells are colored: from 0 for the least value to 1 for the greatest.

    Values without a place on the scale get 0: None, not finite, or on a logarithmic scale not positive.
    """
    scaled = [_scaled(value, logarithmic) for value in values]
    known = [value for value in scaled if value is not None]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    return [0.0 if value is None or low == high else (value - low) / (high - low) for value in scaled]


def _scaled(value: float | None, logarithmic: bool) -> float | None:
    if value is None or not math.isfinite(value) or (logarithmic and value <= 0):
        return None
    return math.log(value) if logarithmic else value


def breakable(name: str) -> str:
    """Lets a long name, such as a pipeline's, be broken into lines at its dots and underscores."""
    return re.sub(r"[._](?=[a-z])", "\\g<0>\N{ZERO WIDTH SPACE}", name)


def by_shots(score_name: str, field: str, groups: ByShots, scores: Sequence[Sequence[float]]) -> Table:
    """Makes the table of the scores of groups of samples by a fact of their shots."""
    shade = iter(shades([each for row in scores for each in row]))
    rows = [
        [Cell(value), number(count), *(score(each, shade=next(shade)) for each in row)]
        for value, count, row in zip(groups.rows, groups.samples, scores, strict=False)
    ]
    title = field.replace("_", " ")
    return Table(f"{score_name} by {title}", [title, "samples", *map(breakable, groups.columns)], rows)


def elements(parameters: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Returns the single values of parameters, by name and place; those with many values are left out."""
    found = {}
    for name, value in parameters.items():
        if value.size <= MOST_ELEMENTS:
            found |= {".".join([name, *map(str, place)]): float(each) for place, each in np.ndenumerate(value)}
    return found

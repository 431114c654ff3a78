"""The cells of tables on a page: texts, the numbers to sort by, and colors."""

import math
import re
from typing import NamedTuple

from r2l_jax.results.result import DROP, SCORE, Column, Table
from r2l_jax.results.result import Cell as Content


class Cell(NamedTuple):
    """A cell of a table.

    Attributes:
        text: the text that is shown.
        remark: a line in small type below the text: the interval of an estimate.
        value: the number behind the text, unrounded, by which the column is sorted.
        tone: the color: "level" of a score, or "loss" or "gain" for a drop.
        shade: how strongly the cell is colored, from 0 to 1.
    """

    text: str
    remark: str = ""
    value: float | None = None
    tone: str = ""
    shade: float = 0.0


def cells(table: Table) -> list[list[Cell]]:
    """Returns the rows of a table for a page.

    Scores are shaded from the least in the table, which has no color, to the greatest; drops and gains in proportion to
    the greatest of both.
    """
    rows = [[*zip(table.columns, row, strict=True)] for row in table.rows]
    known = [(column.format, value) for row in rows for column, cell in row if (value := _number(cell)) is not None]
    scores, drops = ([value for form, value in known if form == wanted] for wanted in (SCORE, DROP))
    least, span = min(scores, default=0.0), max(scores, default=0.0) - min(scores, default=0.0)
    most = max(map(abs, drops), default=0.0)

    def cell(column: Column, content: Content) -> Cell:
        value = _number(content)
        if isinstance(content, str):
            return Cell(breakable(content))
        text, _, remark = column.text(content).replace("-", "\N{MINUS SIGN}").partition(" (")
        known = value is not None or isinstance(content, bool)
        made = Cell(text if known else "\N{EN DASH}", remark.removesuffix(")"), value)
        if value is not None and column.format == SCORE and span:
            return made._replace(tone="level", shade=(value - least) / span)
        if value is not None and column.format == DROP and most:
            return made._replace(tone="loss" if value > 0 else "gain", shade=abs(value) / most)
        return made

    return [[cell(*each) for each in row] for row in rows]


def _number(content: Content) -> float | None:
    estimate = content[0] if isinstance(content, tuple) else content
    if isinstance(estimate, bool) or not isinstance(estimate, int | float):
        return None
    return float(estimate) if math.isfinite(estimate) else None


def breakable(name: str) -> str:
    """Allows line breaks at the dots and underscores of a long name, such as a pipeline's."""
    return re.sub(r"[._](?=[a-z])", "\\g<0>\N{ZERO WIDTH SPACE}", name)

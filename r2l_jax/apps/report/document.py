"""The content of a report before it is a page: sections of tables, charts, pictures and texts.

A template turns each block into HTML by its class. Texts are plain: the template escapes them.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import markupsafe

from r2l_jax.apps.report.charts import BarChart, LineChart, Range
from r2l_jax.apps.report.pictures import Picture

Shade = Literal["level", "loss", "gain"]


class Cell(NamedTuple):
    """A cell of a table.

    Attributes:
        text: the text that is shown.
        value: the number behind the text, unrounded, by which the column is sorted.
        shade: how strongly the cell is colored, from 0 to 1.
        tone: the color: "level" of a quantity, or "loss" or "gain" of a score.
        framed: whether the cell has a frame, as the cases of a run's own images have.
        remark: a line in small type below the text.
        range: a bar in place of the text.
    """

    text: str
    value: float | None = None
    shade: float = 0.0
    tone: Shade = "level"
    framed: bool = False
    remark: str = ""
    range: Range | None = None


class Table(NamedTuple):
    """A table with a caption and titles of columns; the first cell of a row is the row's title.

    The reader can sort the rows by each column.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


class Charts(NamedTuple):
    """Charts in a grid."""

    charts: Sequence[LineChart | BarChart]


class Pictures(NamedTuple):
    """Pictures with their captions, in a grid; `wide` ones are as wide as the page."""

    pictures: Sequence[Picture]
    wide: bool = False


class Frame(NamedTuple):
    """A position of a slider: its title, and rows of pictures."""

    title: str
    rows: Sequence[Sequence[Picture]]


class Slider(NamedTuple):
    """Pictures that change with the epoch; screen readers are told the title."""

    title: str
    frames: Sequence[Frame]


class Tiles(NamedTuple):
    """The most important numbers, in large type: for each its title, its text and a remark."""

    tiles: Sequence[tuple[str, str, str]]


class Drawing(NamedTuple):
    """A drawing in the colors of the page, for wide pages and for narrow ones."""

    wide: markupsafe.Markup
    narrow: markupsafe.Markup


class Findings(NamedTuple):
    """Sentences in large type, one below the other."""

    sentences: Sequence[str]


class Text(NamedTuple):
    """A paragraph."""

    text: str


class Code(NamedTuple):
    """A command or another text of fixed width."""

    text: str


class Details(NamedTuple):
    """Blocks that are folded away until the reader opens them."""

    title: str
    blocks: Sequence["Block"]


class Panels(NamedTuple):
    """Titled groups of blocks, side by side where the page is wide enough."""

    panels: Sequence[tuple[str, Sequence["Block"]]]


Block: TypeAlias = Table | Charts | Pictures | Drawing | Findings | Slider | Tiles | Text | Code | Details | Panels


@dataclasses.dataclass(frozen=True)
class Section:
    """A section with an entry in the table of contents.

    Attributes:
        title: the heading.
        blocks: the content.
        sections: the sections within it.
    """

    title: str
    blocks: Sequence[Block] = ()
    sections: Sequence["Section"] = ()

    @property
    def anchor(self) -> str:
        """The name by which the table of contents links to the section."""
        return re.sub("[^a-z0-9]+", "-", self.title.lower()).strip("-")

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing below the heading."""
        return not self.blocks and not self.sections


def section(title: str, blocks: Sequence[Block] = (), sections: Sequence[Section] = ()) -> list[Section]:
    """Returns a section without its empty parts, in a list that is empty if nothing is left."""
    made = Section(title, blocks, [each for each in sections if not each.is_empty])
    return [] if made.is_empty else [made]


def panels(named: Sequence[tuple[str, Sequence[Block]]]) -> list[Block]:
    """Returns groups of blocks side by side, without the empty ones. If only one was given, it needs no title."""
    if len(named) == 1:
        return list(named[0][1])
    filled = [(title, blocks) for title, blocks in named if blocks]
    return [Panels(filled)] if filled else []

"""The content of a report before it is a page: sections of tables, charts, pictures and texts.

A template turns each block into HTML by its `kind`. Texts are plain: the template escapes them.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple, TypeAlias

from r2l_jax.apps.report.charts import LineChart, Range
from r2l_jax.apps.report.pictures import Picture

Shade = Literal["level", "loss", "gain"]


class Cell(NamedTuple):
    """A cell of a table.

    Attributes:
        text: the text that is shown.
        value: the number behind the text, unrounded, by which the column is sorted.
        shade: how strongly the cell is colored, from 0 to 1.
        tone: the color: "level" of a quantity, or "loss" or "gain" of a score.
        framed: whether the cell has a frame, such as that of a run's own images.
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


@dataclasses.dataclass(frozen=True)
class Table:
    """A table, the rows of which can be sorted by each column.

    Attributes:
        title: the caption.
        columns: the titles of the columns.
        rows: the cells of each row, of which the first is the row's title.
    """

    kind: ClassVar[str] = "table"
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclasses.dataclass(frozen=True)
class Charts:
    """Charts in a grid."""

    kind: ClassVar[str] = "charts"
    charts: Sequence[LineChart]


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Pictures with their captions, in a grid.

    Attributes:
        pictures: the pictures.
        wide: whether each is as wide as the page.
    """

    kind: ClassVar[str] = "pictures"
    pictures: Sequence[Picture]
    wide: bool = False


class Frame(NamedTuple):
    """A position of a slider: its title, and rows of pictures."""

    title: str
    rows: Sequence[Sequence[Picture]]


@dataclasses.dataclass(frozen=True)
class Slider:
    """Pictures that change with the epoch.

    Attributes:
        title: the name of the slider, for screen readers.
        frames: the positions.
    """

    kind: ClassVar[str] = "slider"
    title: str
    frames: Sequence[Frame]


@dataclasses.dataclass(frozen=True)
class Tiles:
    """The most important numbers, in large type: for each its title, its text and a remark."""

    kind: ClassVar[str] = "tiles"
    tiles: Sequence[tuple[str, str, str]]


@dataclasses.dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclasses.dataclass(frozen=True)
class Code:
    """A command or another text of fixed width."""

    kind: ClassVar[str] = "code"
    text: str


@dataclasses.dataclass(frozen=True)
class Details:
    """Blocks that are folded away until the reader opens them."""

    kind: ClassVar[str] = "details"
    title: str
    blocks: Sequence["Block"]


@dataclasses.dataclass(frozen=True)
class Panels:
    """Titled groups of blocks, side by side where the page is wide enough."""

    kind: ClassVar[str] = "panels"
    panels: Sequence[tuple[str, Sequence["Block"]]]


Block: TypeAlias = Table | Charts | Pictures | Slider | Tiles | Text | Code | Details | Panels


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

"""The content of a page before it is HTML: sections of paragraphs, tables, figures and commands.

A template turns each block into HTML by its class. Texts are plain: the template escapes them.
"""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from r2l_jax.results.result import Table


class Code(NamedTuple):
    """A command."""

    text: str


class Findings(NamedTuple):
    """Sentences in large type, one below the other."""

    sentences: Sequence[str]


class Plot(NamedTuple):
    """An SVG file of a result, with its caption."""

    file: pathlib.Path
    caption: str


class Picture(NamedTuple):
    """A picture, with its caption."""

    file: pathlib.Path
    caption: str


class Figures(NamedTuple):
    """Plots and pictures in a grid."""

    figures: Sequence[Plot | Picture]


class Details(NamedTuple):
    """Blocks that are collapsed until the reader opens them."""

    title: str
    blocks: Sequence["Block"]


# A text is a paragraph.
Block: TypeAlias = str | Table | Code | Findings | Figures | Details


class Section(NamedTuple):
    """A section, with an entry in the table of contents, and the sections within it."""

    title: str
    blocks: Sequence[Block] = ()
    sections: Sequence["Section"] = ()

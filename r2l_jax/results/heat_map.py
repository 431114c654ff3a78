"""Heat maps of matrices, as figures of results."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np

from r2l_jax.results.result import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.image import AxesImage


def heat_map(
    values: np.ndarray | Sequence[Sequence[float]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    label: str,
    row_title: str = "",
    column_title: str = "",
    framed: Collection[tuple[int, int]] = (),
    number: str = ".3f",
    logarithmic: bool = False,
    caption: str = "",
) -> Figure:
    """Plots a matrix as colored cells with their values.

    Args:
        values: `(rows, columns)`.
        rows: the titles of the rows. Titles with more than one dot, such as pipeline names, are broken into lines at
            the dots.
        columns: the titles of the columns, likewise.
        label: the label of the color bar.
        row_title: what the rows are, along their axis.
        column_title: what the columns are, likewise.
        framed: cells to draw a frame around; neighbors have one frame.
        number: the format of the numbers, as `format` takes it.
        logarithmic: use a logarithmic color scale, for nonnegative values; zeros get no color.
        caption: the caption.
    """
    matrix = np.asarray(values, float)
    rows, columns = (
        [name.replace(".", "\n") if name.count(".") > 1 else name for name in each] for each in (rows, columns)
    )

    def draw(axes: "Axes") -> None:
        image = fill_heat_map(
            axes, matrix, rows, columns, _color_scale(matrix, logarithmic), framed=framed, number=number
        )
        axes.set(xlabel=column_title, ylabel=row_title)
        axes.figure.colorbar(image, ax=axes, label=label)

    letters = max(len(f"{value:{number}}") for value in matrix.flat)
    return Figure(draw, _size(rows, columns, letters), caption)


def fill_heat_map(
    axes: "Axes",
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    norm: "Normalize",
    *,
    framed: Collection[tuple[int, int]] = (),
    number: str = ".3f",
) -> "AxesImage":
    """Draws a matrix on axes as `heat_map` does, without breaking titles; returns the image, for a color bar."""
    from matplotlib.collections import LineCollection

    image = axes.imshow(values, cmap="viridis", norm=norm, aspect="auto")
    upright = all(len(name) < 6 for name in columns)
    axes.set_xticks(range(len(columns)), columns, rotation=0 if upright else 90, fontsize="small")
    axes.set_yticks(range(len(rows)), rows, fontsize="small")
    for (row, column), value in np.ndenumerate(values):
        # Formats such as "#.2g" leave a point after a whole number.
        text, dark = f"{value:{number}}".removesuffix("."), norm(value) < 0.6
        axes.text(column, row, text, ha="center", va="center", fontsize="small", color="white" if dark else "black")
    # Each cell has the sides that it shares with no other framed one, so neighbors have one frame.
    sides = [
        [(column + x / 2, row + y / 2) for x, y in ((right - down, down - right), (right + down, down + right))]
        for row, column in framed
        for down, right in ((0, 1), (0, -1), (1, 0), (-1, 0))
        if (row + down, column + right) not in framed
    ]
    axes.add_collection(
        LineCollection(sides, colors="red", linewidths=2, capstyle="projecting", zorder=3), autolim=False
    )
    return image


def _size(rows: Sequence[str], columns: Sequence[str], letters: int) -> tuple[float, float]:
    """Computes the width and height in inches that fit a heat map's titles and its numbers of so many letters."""
    row_lines, column_lines = (max(name.count("\n") for name in names) + 1 for names in (rows, columns))
    row_length, column_length = (
        max(len(line) for name in names for line in name.split("\n")) for names in (rows, columns)
    )
    width = 2.0 + 0.08 * row_length + max(0.42, 0.12 + 0.08 * letters, 0.16 * column_lines) * len(columns)
    return width, 1.2 + 0.08 * column_length + max(0.36, 0.16 * row_lines) * len(rows)


def _color_scale(values: np.ndarray, logarithmic: bool) -> "Normalize":
    """Returns a color scale from the smallest to the largest value; if all are equal, they get the middle color."""
    from matplotlib.colors import LogNorm, Normalize

    colored = values[values > 0] if logarithmic else values
    low, high = (colored.min(), colored.max()) if colored.size else (1.0, 1.0)
    if logarithmic:
        return LogNorm(low, high) if low < high else LogNorm(low / 2, high * 2)
    return Normalize(low, high) if low < high else Normalize(low - 0.05, high + 0.05)

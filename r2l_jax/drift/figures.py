"""Draws heat maps, and writes figures and pictures as PNG files and TensorBoard events."""

import pathlib
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from PIL import Image
from tensorboardX import SummaryWriter

from r2l_jax.drift.results import ByShots
from r2l_jax.runtime.files import EVENTS, naming, replacing


def heat_map(
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str,
    label: str,
    deviations: np.ndarray | None = None,
    framed: Collection[tuple[int, int]] = (),
    number: str = ".3f",
    logarithmic: bool = False,
) -> Figure:
    """Draws a matrix as colored cells with their values.

    Args:
        values: `(rows, columns)`.
        rows: the titles of the rows. Titles with more than one dot, such as the names of pipelines, are broken into
            lines at the dots.
        columns: the titles of the columns, likewise.
        title: the title of the figure.
        label: the label of the color bar.
        deviations: standard deviations, written below the values.
        framed: cells to draw a frame around.
        number: the format of the numbers, as `format` takes it.
        logarithmic: use a logarithmic color scale, for values that are not negative; zeros get no color.
    """
    rows, columns = _broken_into_lines(rows), _broken_into_lines(columns)
    norm = _color_scale(values, logarithmic)
    figure = Figure(figsize=_size(rows, columns, title), layout="constrained")
    axes = figure.subplots()
    image = fill_heat_map(axes, values, rows, columns, norm, deviations=deviations, framed=framed, number=number)
    axes.set_title(title, fontsize="medium")
    figure.colorbar(image, label=label)
    return figure


def heat_map_of_groups(title: str, groups: ByShots, scores: Sequence[Sequence[float]], label: str) -> Figure:
    """Draws the scores of groups of samples."""
    rows = [f"{row} ({samples})" for row, samples in zip(groups.rows, groups.samples, strict=True)]
    title = f"{title.replace('_', ' ')} (number of samples)"
    return heat_map(np.array(scores), rows, groups.columns, title=title, label=label)


def fill_heat_map(
    axes: Axes,
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    norm: Normalize,
    *,
    deviations: np.ndarray | None = None,
    framed: Collection[tuple[int, int]] = (),
    number: str = ".3f",
) -> AxesImage:
    """Draws a matrix as `heat_map` does into the axes of a figure, and returns the cells, for a color bar.

    Titles are drawn as they are, and `norm` is the color scale.
    """
    image = axes.imshow(values, cmap="viridis", norm=norm, aspect="auto")
    upright = all(len(name) < 5 for name in columns)
    axes.set_xticks(range(len(columns)), columns, rotation=0 if upright else 90, fontsize="small")
    axes.set_yticks(range(len(rows)), rows, fontsize="small")
    for (row, column), value in np.ndenumerate(values):
        # Formats such as "#.2g" end a whole number with a point.
        text = f"{value:{number}}".removesuffix(".") + (
            "" if deviations is None else f"\n±{deviations[row, column]:{number}}"
        )
        dark = norm(value) < 0.6
        axes.text(column, row, text, ha="center", va="center", fontsize="small", color="white" if dark else "black")
    for row, column in framed:
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="red", linewidth=2, zorder=3))
    return image


def _broken_into_lines(names: Sequence[str]) -> list[str]:
    return [name.replace(".", "\n") if name.count(".") > 1 else name for name in names]


def _size(rows: Sequence[str], columns: Sequence[str], title: str) -> tuple[float, float]:
    """Computes the width and the height in inches at which a heat map's titles and numbers fit."""
    lines = max(name.count("\n") for name in rows) + 1
    row_length, column_length = (
        max(len(line) for name in names for line in name.split("\n")) for names in (rows, columns)
    )
    width = 1.8 + 0.09 * row_length + 0.72 * len(columns)
    height = 1.0 + 0.09 * column_length + max(0.5, 0.19 * lines) * len(rows)
    return max(width, 1 + 0.09 * len(title)), height


def _color_scale(values: np.ndarray, logarithmic: bool) -> Normalize:
    """Returns a color scale from the least to the greatest value; if these are equal, they get the middle color."""
    colored = values[values > 0] if logarithmic else values
    low, high = (colored.min(), colored.max()) if colored.size else (1.0, 1.0)
    if logarithmic:
        return LogNorm(low, high) if low < high else LogNorm(low / 2, high * 2)
    return Normalize(low, high) if low < high else Normalize(low - 0.05, high + 0.05)


def write(folder: pathlib.Path, figures: Mapping[str, Figure | Image.Image]) -> list[str]:
    """Writes each figure or picture as `<name>.png`, and all of them as TensorBoard events that replace earlier ones.

    Returns the names of the pictures and of the new file of events.
    """
    before = set(folder.glob("events.*"))
    # `purge_step=0` makes TensorBoard ignore the events of earlier calls.
    with naming(folder / EVENTS), SummaryWriter(str(folder), purge_step=0) as writer:
        for name, figure in figures.items():
            if isinstance(figure, Figure):
                canvas = FigureCanvasAgg(figure)
                canvas.draw()
                figure = canvas.buffer_rgba()
            picture = np.asarray(figure)[..., :3]
            with replacing(folder / f"{name}.png") as part:
                Image.fromarray(picture).save(part, "png")
            writer.add_image(name, picture, 0, dataformats="HWC")
    return [*(f"{name}.png" for name in figures), *(path.name for path in set(folder.glob("events.*")) - before)]

"""Heat maps, and how pictures are kept."""

import pathlib
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from tensorboardX import SummaryWriter

from r2l_jax.runtime.files import replacing


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
    """A matrix as a picture, with the numbers written in.

    Args:
        values: `(rows, columns)`.
        rows: their titles; dots break them into lines, as in the names of pipelines.
        columns: likewise.
        title: of the figure.
        label: of the colours.
        deviations: of the values, written below them.
        framed: cells to draw a frame around.
        number: how numbers are written, as `format` takes it.
        logarithmic: colours stand for orders of magnitude, of values that are not negative; zeros have none.
    """
    rows, columns = (
        [name.replace(".", "\n") if name.count(".") > 1 else name for name in names] for names in (rows, columns)
    )
    lines = max(name.count("\n") for name in rows) + 1
    longest = max(len(line) for name in rows for line in name.split("\n"))
    title_length = max(len(line) for name in columns for line in name.split("\n"))
    size = (
        1.8 + 0.09 * longest + 0.72 * len(columns),
        1.0 + 0.09 * title_length + max(0.5, 0.19 * lines) * len(rows),
    )
    figure = Figure(figsize=(max(size[0], 1 + 0.09 * len(title)), size[1]), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(values, cmap="viridis", norm=_colours(values, logarithmic), aspect="auto")
    axes.set_title(title, fontsize="medium")
    upright = all(len(name) < 5 for name in columns)
    axes.set_xticks(range(len(columns)), columns, rotation=0 if upright else 90, fontsize="small")
    axes.set_yticks(range(len(rows)), rows, fontsize="small")
    for (row, column), value in np.ndenumerate(values):
        # Two digits of a whole number come with a point that nothing follows.
        text = f"{value:{number}}".removesuffix(".") + (
            "" if deviations is None else f"\n±{deviations[row, column]:{number}}"
        )
        dark = image.norm(value) < 0.6
        axes.text(column, row, text, ha="center", va="center", fontsize="small", color="white" if dark else "black")
    for row, column in framed:
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="red", linewidth=2, zorder=3))
    figure.colorbar(image, label=label)
    return figure


def _colours(values: np.ndarray, logarithmic: bool) -> Normalize:
    """The colours from the least value to the greatest; a single value is in their middle."""
    coloured = values[values > 0] if logarithmic else values
    low, high = (coloured.min(), coloured.max()) if coloured.size else (1.0, 1.0)
    if logarithmic:
        return LogNorm(low, high) if low < high else LogNorm(low / 2, high * 2)
    return Normalize(low, high) if low < high else Normalize(low - 0.05, high + 0.05)


def write(folder: pathlib.Path, figures: Mapping[str, Figure | Image.Image]) -> list[str]:
    """Writes `<name>.png` of each figure or picture, and all of them as TensorBoard events in place of earlier ones.

    Returns:
        The names of the files of events.
    """
    before = set(folder.glob("events.*"))
    # At a first step of 0, what earlier calls recorded is superseded.
    with SummaryWriter(str(folder), purge_step=0) as writer:
        for name, figure in figures.items():
            if isinstance(figure, Figure):
                canvas = FigureCanvasAgg(figure)
                canvas.draw()
                figure = canvas.buffer_rgba()
            picture = np.asarray(figure)[..., :3]
            with replacing(folder / f"{name}.png") as part:
                Image.fromarray(picture).save(part, "png")
            writer.add_image(name, picture, 0, dataformats="HWC")
    return sorted(path.name for path in set(folder.glob("events.*")) - before)

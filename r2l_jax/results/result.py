"""Program results: metadata, tables, figures and outcomes, and how to write, find and print them.

A result is a folder: `result.json` (metadata, tables and the identity of all inputs), a CSV file for each table, PNG
and SVG files for each figure, TensorBoard events with the pictures, and `outcomes.safetensors`.
"""

import dataclasses
import functools
import io
import json
import math
import pathlib
import re
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from r2l_jax.errors import InputError, spelled
from r2l_jax.results import notebook, store, tables
from r2l_jax.results.environment import environment
from r2l_jax.results.files import (
    EVENTS,
    clear_parts,
    inside,
    replacing,
    write_csv,
    write_json,
    write_safetensors,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL import Image

FILE = "result.json"
OUTCOMES = "outcomes.safetensors"

# The suffix of a result's event files, which distinguishes them from those of a training run in the same folder.
_EVENTS_SUFFIX = ".result"

# The color of text and lines in figures, which pages replace with their text color, see `write`.
INK = "#1b2733"

# Formats for scores and score differences in points (hundredths), such as "12.3".
SCORE, DROP = "score", "drop"

_STYLE: Any = {
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "axes.prop_cycle": "cycler('color', ['#4c8dd6', '#e08a2e', '#45a36b', '#c85a8e', '#8a78d0', '#9a9a4a', '#5bb5c0'])",
    "svg.fonttype": "none",
    "svg.hashsalt": "r2l",
    "font.size": 9,
}
_DPI = 110

# An estimate with the ends of its 95% confidence interval, or of its range over models; the table's note says which.
Interval = tuple[float, float, float]
Cell = str | int | float | bool | Interval | None


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        name: its heading.
        unit: the unit of its numbers.
        format: how numbers are shown: `SCORE` or `DROP` in hundredths, else as `format` takes it.
    """

    name: str
    unit: str = ""
    format: str = ".4g"

    @property
    def heading(self) -> str:
        """The name with the unit."""
        return f"{self.name}, {self.unit}" if self.unit else self.name

    def text(self, cell: Cell) -> str:
        """Formats a cell; an interval becomes "12.3 (10.1 to 14.6)"."""
        if isinstance(cell, str):
            return cell
        if cell is None:
            return "-"
        if isinstance(cell, bool):
            return "yes" if cell else "no"
        if isinstance(cell, tuple):
            estimate, low, high = map(self.text, cell)
            return f"{estimate} ({low} to {high})"
        if math.isnan(cell):
            return "-"
        if self.format in (SCORE, DROP):
            return points(cell)
        # Numbers below this, and -0.0, are rounding of 0.
        return f"{cell}" if isinstance(cell, int) else f"{cell if abs(cell) >= 5e-8 else 0.0:{self.format}}"


class Table(NamedTuple):
    """A table: the first cell of a row is its title. `note` explains how to read it."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    note: str = ""

    def __repr__(self) -> str:
        return f"Table({self.title!r}, {len(self.rows)} rows)"

    def text(self) -> str:
        """Formats the table for a terminal."""
        cells = [[column.heading for column in self.columns]]
        cells += [[column.text(cell) for column, cell in zip(self.columns, row, strict=True)] for row in self.rows]
        return "\n".join([self.title, tables.table(cells), *([self.note] if self.note else [])])

    def numbers(self, column: str) -> dict[str, float]:
        """Returns the numbers in a column by row title; for intervals, the estimates."""
        place = [each.name for each in self.columns].index(column)
        cells = {str(row[0]): row[place] for row in self.rows}
        cells = {title: cell[0] if isinstance(cell, tuple) else cell for title, cell in cells.items()}
        return {title: float(cell) for title, cell in cells.items() if isinstance(cell, int | float)}

    def to_pandas(self) -> Any:
        """Returns the table as a `pandas.DataFrame` of `records`."""
        try:
            import pandas  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise InputError("a table as a DataFrame needs pandas: pip install pandas") from None
        return pandas.DataFrame(self.records())

    def _repr_html_(self) -> str:
        return notebook.of_table(self)

    def records(self) -> list[dict[str, Any]]:
        """Returns the rows by column; the ends of intervals have separate columns.

        Scores and their differences are fractions, of which texts show hundredths, points.
        """
        records = []
        for row in self.rows:
            records.append({})
            for column, cell in zip(self.columns, row, strict=True):
                parts = cell if isinstance(cell, tuple) else (cell,)
                names = (column.name, f"{column.name} low", f"{column.name} high")
                records[-1] |= dict(zip(names, parts, strict=False))
        return records


@dataclasses.dataclass(frozen=True, repr=False)
class Figure:
    """A plot, or a picture that was read from a file.

    Attributes:
        drawing: draws on axes.
        size: the width and height in inches.
        caption: the caption.
        file: the PNG file, once the result is read; a plot's SVG file is beside it.
    """

    drawing: "Callable[[Axes], Any]"
    size: tuple[float | int, float | int] = (7, 4)
    caption: str = ""
    file: pathlib.Path | None = None

    def draw(self, axes: "Axes | None" = None) -> "Axes":
        """Draws on axes, by default those of a new figure of Matplotlib's pyplot, and returns them."""
        if axes is None:
            from matplotlib import pyplot

            axes = pyplot.figure(figsize=self.size, layout="constrained").subplots()
        self.drawing(axes)
        return axes

    def __repr__(self) -> str:
        return f"Figure({self.caption or self.file or self.drawing!r})"

    def _repr_html_(self) -> str:
        return notebook.of_figure(self)

    def rendered(self) -> "tuple[Image.Image, str]":
        """Returns the plot as a picture, and as the text of an SVG file."""
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure as Canvas
        from PIL import Image

        with matplotlib.rc_context(_STYLE):
            canvas = Canvas(figsize=self.size, dpi=_DPI, layout="constrained")
            self.drawing(canvas.subplots())
            agg = FigureCanvasAgg(canvas)
            agg.draw()
            # The layout takes half of the time, so the second drawing reuses the first one's.
            canvas.set_layout_engine("none")
            stream = io.StringIO()
            canvas.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
        return Image.fromarray(np.asarray(agg.buffer_rgba())[..., :3]), stream.getvalue()


class Arrays(NamedTuple):
    """Arrays with a description, the content of a safetensors file."""

    arrays: Mapping[str, np.ndarray]
    about: Mapping[str, str] = types.MappingProxyType({})


@dataclasses.dataclass(frozen=True, repr=False)
class Result:
    """The result of a program, or of a part of one.

    Attributes:
        metadata: all other content, as JSON values. The report shows `title`, and the sentences of `verdict` and, below
            the tables, of `notes`; `training` has the ids of the trained models.
        tables: tables by name.
        figures: plots and pictures by name.
        outcomes: the outcomes of the samples, if there are any.
        files: names of further files in the folder that belong to the result.
        captions: the captions of pictures, by name; plots include theirs.
    """

    metadata: Mapping[str, Any]
    tables: Mapping[str, Table] = dataclasses.field(default_factory=dict)
    figures: "Mapping[str, Figure | Image.Image]" = dataclasses.field(default_factory=dict)
    outcomes: Arrays | None = None
    files: Sequence[str] = ()
    captions: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def text(self) -> str:
        """Formats the tables and the notes for a terminal."""
        notes = "\n".join(self.metadata.get("notes", ()))
        return spelled("\n\n".join([*(table.text() for table in self.tables.values()), *([notes] if notes else [])]))

    def __repr__(self) -> str:
        return f"Result({self.metadata.get('title', '')!r}, tables: {', '.join(self.tables)})"

    def __str__(self) -> str:
        verdict = "\n".join(self.metadata.get("verdict", ()))
        return "\n\n".join(filter(None, [verdict, self.text()]))

    def _repr_html_(self) -> str:
        return notebook.of_result(self)


def points(value: float | np.floating) -> str:
    """Formats a score in hundredths with at most three digits, such as "12.3"."""
    rounded = round(100 * float(value), 1) + 0.0
    return f"{rounded:.1f}" if abs(rounded) < 100 else f"{rounded:.0f}"


def cached(folder: pathlib.Path, inputs: store.Identity, make: Callable[[], Result]) -> Result:
    """Returns the stored result for the given inputs from a folder, or makes it and writes it there.

    A result for other inputs stays until the new one is made, and is then removed with the files that it lists. Other
    files in the folder stay.

    Args:
        folder: the result's folder.
        inputs: the identity of everything that the result depends on, see `store.identity`.
        make: makes the result.

    Raises:
        InputError: the result is damaged.
    """
    if not _holds(folder, _content(folder), inputs):
        write(folder, make(), inputs)
    found = read(folder)
    assert found is not None
    return found


def holds(folder: pathlib.Path, inputs: store.Identity) -> bool:
    """Returns whether a folder holds the result for some inputs, with all its files; removes a result for other inputs.

    For results whose `files` are written before `write`, so that they are never mixed with an earlier result.
    """
    content = _content(folder)
    found = _holds(folder, content, inputs)
    if content is not None and not found:
        (folder / FILE).unlink()
        _remove(folder, content, keep=())
    return found


def _holds(folder: pathlib.Path, content: Mapping[str, Any] | None, inputs: store.Identity) -> bool:
    """Returns whether a folder's content is the result for some inputs; prints the reasons if it must be recomputed."""
    if content is None:
        return False
    reasons = store.differences(content.get("identity"), inputs)
    if not reasons and not all((folder / name).exists() for name in _listed(folder, content)):
        reasons = ["files are missing"]
    if reasons:
        print(f"{folder}: recomputing ({'; '.join(reasons)})", file=sys.stderr)
    return not reasons


def write(folder: pathlib.Path, result: Result, inputs: store.Identity | None = None) -> None:
    """Writes a result in place of an earlier one; `result.json` is written last.

    In SVG files, text and axes have the color `INK`, and the background is transparent.
    """
    earlier = _content(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _remove_unfinished(folder)
    files = list(result.files)
    if result.outcomes is not None:
        write_safetensors(folder / OUTCOMES, result.outcomes.arrays, result.outcomes.about)
        files.append(OUTCOMES)
    for name, table in result.tables.items():
        if records := table.records():
            columns = dict.fromkeys(column for record in records for column in record)
            write_csv(folder / f"{name}.csv", records, list(columns))
            files.append(f"{name}.csv")
    figures, captions = {}, {}
    if result.figures:
        for name, figure in result.figures.items():
            figures[name] = f"{name}.png"
            captions[name] = figure.caption if isinstance(figure, Figure) else result.captions.get(name, "")
        files += _draw(folder, result.figures)
        files += [path.name for path in folder.glob(EVENTS + _EVENTS_SUFFIX)]
    content = {
        "metadata": result.metadata,
        "tables": {name: table._asdict() for name, table in result.tables.items()},
        "figures": figures,
        "captions": captions,
        "identity": inputs,
        "files": files,
        **environment(),
    }
    write_json(folder / FILE, json.loads(json.dumps(content, default=_plain)))
    # Written last, so that a program killed earlier leaves the earlier result's metadata and tables, to be replaced.
    _remove(folder, earlier or {}, keep=files)


def read(folder: pathlib.Path) -> Result | None:
    """Reads a result; returns None if there is none, and raises an InputError if it is damaged."""
    content = _content(folder)
    if content is None:
        return None
    outcomes = None
    try:
        if OUTCOMES in content["files"]:
            outcomes = _read_arrays(folder / OUTCOMES)
        read_tables = {
            name: Table(
                table["title"],
                [Column(*column) for column in table["columns"]],
                [[tuple(cell) if isinstance(cell, list) else cell for cell in row] for row in table["rows"]],
                table["note"],
            )
            for name, table in content["tables"].items()
        }
        captions, figures = dict(content["captions"]), {}
        for name, file in content["figures"].items():
            path = inside(folder, file)
            figures[name] = Figure(functools.partial(_show_file, path), caption=str(captions.get(name, "")), file=path)
        return Result(dict(content["metadata"]), read_tables, figures, outcomes, content["files"], captions)
    except (OSError, LookupError, TypeError, ValueError, AttributeError, InputError) as error:
        raise _damaged(folder / FILE, error) from None


def _content(folder: pathlib.Path) -> dict[str, Any] | None:
    try:
        content = json.loads((folder / FILE).read_text())
        return {**content}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise _damaged(folder / FILE, error) from None


def _damaged(file: pathlib.Path, error: Exception) -> InputError:
    return InputError(f"{file} cannot be read ({error}): delete it and run the same command again")


def _read_arrays(file: pathlib.Path) -> Arrays:
    import safetensors

    try:
        with safetensors.safe_open(file, "np") as opened:
            return Arrays({name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata() or {})  # noqa: SIM118 -- not a dict
    except safetensors.SafetensorError as error:
        raise ValueError(f"{file.name}: {error}") from None


def _remove_unfinished(folder: pathlib.Path) -> None:
    """Removes the temporary files and events that a call may have left if it was killed while writing."""
    clear_parts(folder, 0.0)
    for events in folder.glob(EVENTS + _EVENTS_SUFFIX):
        events.unlink(missing_ok=True)


def _remove(folder: pathlib.Path, content: Mapping[str, Any], keep: Sequence[str]) -> None:
    """Removes the files that a result lists, except for some."""
    for name in set(_listed(folder, content)) - set(keep):
        (folder / name).unlink(missing_ok=True)


def _listed(folder: pathlib.Path, content: Mapping[str, Any]) -> list[str]:
    """Returns the names of a result's files, except those that lead out of its folder."""
    listed = content.get("files")
    names = (
        [name for name in listed if isinstance(name, str) and name.isprintable()] if isinstance(listed, list) else []
    )
    root = folder.resolve()
    return [name for name in names if name and (folder / name).resolve().is_relative_to(root) and name != FILE]


def _draw(folder: pathlib.Path, figures: "Mapping[str, Figure | Image.Image]") -> list[str]:
    """Writes figures and pictures, and events of all of them, and returns the names of PNG and SVG files."""
    from tensorboardX import summary

    from r2l_jax.results.events import Events

    files = []
    with Events(folder, suffix=_EVENTS_SUFFIX) as events:
        for name, figure in figures.items():
            if isinstance(figure, Figure):
                if figure.file is not None:
                    raise ValueError(f"figure {name} is already a file")
                figure, svg = figure.rendered()
                with replacing(folder / f"{name}.svg") as part:
                    part.write_text(svg)
                files.append(f"{name}.svg")
            with replacing(folder / f"{name}.png") as part:
                figure.save(part, "png")
            files.append(f"{name}.png")
            tag = re.sub("[^A-Za-z0-9_./-]", "_", name)
            events.add(summary.image(tag, np.asarray(figure)[..., :3], dataformats="HWC"), 0)
    return files


def _show_file(file: pathlib.Path, axes: "Axes") -> None:
    from PIL import Image

    axes.imshow(np.asarray(Image.open(file)))
    axes.axis("off")


def _plain(value: Any) -> Any:
    """Converts a value to a JSON value."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, pathlib.Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"a result cannot hold {type(value).__name__}")

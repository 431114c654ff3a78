"""The processing in a report: its parameters over the epochs, and pictures of its stages and their gradients."""

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

import isp
from r2l_jax.apps.report import document, tables
from r2l_jax.apps.report.charts import Line, LineChart
from r2l_jax.apps.report.document import Block, Cell, Charts, Details, Frame, Section, Slider, Table, Text
from r2l_jax.apps.report.pictures import Detail, Picture, embedded, thinned
from r2l_jax.apps.report.runs import FoldRecord, RunRecord
from r2l_jax.pipelines import find_pipeline


def make(runs: Sequence[RunRecord], detail: Detail) -> list[Section]:
    """Makes the sections of parameters and pictures over epochs."""
    parameters = [(run.name, _parameters(run)) for run in runs]
    pictures = [(run.title(fold.number), _pictures(fold, run, detail)) for run in runs for fold in run.folds]
    return [
        *document.section("Processing over epochs", document.panels(parameters)),
        *document.section("Pictures over epochs", document.panels(pictures)),
    ]


def _parameters(run: RunRecord) -> list[Block]:
    """Makes a chart of each parameter that changes and one of the norms of gradients, and a table of all values."""
    names = list(dict.fromkeys(name for fold in run.folds for name in fold.recorded.parameters))
    if not names:
        return []
    title, starts, units = _declared(run)
    lines = {name: _parameter_lines(run, name, title, starts.get(name)) for name in names}
    constant = [name for name in names if all(not any(line.ys) for line in lines[name])]
    charts = [
        LineChart(name, "epoch", f"change, {units[name]}" if name in units else "change", lines[name])
        for name in names
        if name not in constant
    ]
    charts += _norms_chart(run)
    values = _values_table(run, names, title, starts)
    if not charts:
        return [Text("No parameter changes."), values]
    since = "the start, which is epoch 0" if starts else "the end of the first epoch"
    words = Text(f"Changes of the parameters from their values at {since}.")
    blocks: list[Block] = [words, Charts(charts), Details("Values at the start and the end", [values])]
    return [Text(f"Without any change: {', '.join(constant)}."), *blocks] if constant else blocks


# Names an element of a parameter, given by its place.
_Title: TypeAlias = Callable[[str, tuple[int, ...]], str]


def _parameter_lines(run: RunRecord, name: str, title: _Title, start: np.ndarray | None) -> list[Line]:
    """Makes a line of the changes of each element of a parameter and each fold; folds share the colors."""
    lines = []
    for fold in run.folds:
        for color, (place, course) in enumerate(fold.recorded.parameters.get(name, {}).items()):
            epochs, values = [epoch + 1.0 for epoch in course.epochs], course.values
            if start is not None:
                epochs, values = [0.0, *epochs], [float(start[place]), *values]
            lines.append(Line(title(name, place), epochs, [value - values[0] for value in values], color))
    return lines


def _norms_chart(run: RunRecord) -> list[LineChart]:
    norms = [
        Line(name, [epoch + 1.0 for epoch in course.epochs], course.values, color)
        for fold in run.folds
        for color, (name, course) in enumerate(fold.recorded.norms.items())
        if any(course.values)
    ]
    return [LineChart("norms of the loss's gradients", "epoch", "mean norm", norms, log_y=True)] if norms else []


def _values_table(run: RunRecord, names: Sequence[str], title: _Title, starts: Mapping[str, np.ndarray]) -> Table:
    """Makes the table of all elements at the start, if it is known, and at the end of the first and the last epoch."""
    folds = [f", fold {fold.number}" if len(run.folds) > 1 else "" for fold in run.folds]
    columns = ["value", *(f"{which} epoch{fold}" for which in ("first", "last") for fold in folds)]
    if starts:
        columns.insert(1, "start")
    rows = []
    for name in names:
        elements = [fold.recorded.parameters.get(name, {}) for fold in run.folds]
        for place in dict.fromkeys(place for each in elements for place in each):
            full = name if title(name, place) == name else f"{name}.{title(name, place)}"
            ends = [each[place].values[end] if place in each else None for end in (0, -1) for each in elements]
            if starts:
                ends.insert(0, float(starts[name][place]) if name in starts else None)
            rows.append([Cell(tables.breakable(full)), *map(tables.value, ends)])
    return Table("Parameters", columns, rows)


def _declared(run: RunRecord) -> tuple[_Title, dict[str, np.ndarray], dict[str, str]]:
    """Returns a function that names an element of a parameter, such as "red", its values at the start, and the units.

    There are no values if the training started from another run's parameters. A report does not run a user's own
    pipeline, so it knows none of them: elements are then named by their places.
    """
    names: dict[tuple[str, tuple[int, ...]], str] = {}
    starts: dict[str, np.ndarray] = {}
    units: dict[str, str] = {}
    declared = run.flags["pipeline"] or run.flags["processing_mode"]
    if declared in ("parametrized", "full"):
        named, camera = find_pipeline(declared), isp.Camera.from_json(json.dumps(run.folds[0].camera))
        made = named.metered(run.flags.get("auto") or ())(camera)
        values, units = made.parameters(), {name: facts.unit for name, facts in made.facts.items() if facts.unit}
        for name, facts in made.facts.items():
            shape = np.shape(values[name])
            places = [(name, place) for place in np.ndindex(*shape)]
            names |= zip(places, facts.element_names(name, shape), strict=True)
        # Another run's values are not in this one's folder.
        if not run.flags["processor_uri"] and not run.flags["half_size"]:
            # Metering starts from the training images.
            arrays = {name: np.asarray(value) for name, value in named(camera).parameters().items()}
            starts = {name: array for name, array in arrays.items() if _is_of_all(run, name, array)}

    def title(name: str, place: tuple[int, ...]) -> str:
        full = names.get((name, place), ".".join([name, *map(str, place)]))
        return full.removeprefix(f"{name}.")

    return title, starts, units


def _is_of_all(run: RunRecord, name: str, value: np.ndarray) -> bool:
    """Tells whether all recorded elements of a parameter are elements of a value."""
    places = {*np.ndindex(*np.shape(value))}
    return all(recorded.keys() <= places for fold in run.folds if (recorded := fold.recorded.parameters.get(name)))


def _pictures(fold: FoldRecord, run: RunRecord, detail: Detail) -> list[Block]:
    """Makes a slider of the stages beside their gradients, and of predictions and differences, of each epoch."""
    recorded = {epoch: shown for epoch, files in fold.pictures.items() if (shown := _shown(files))}
    frames = []
    for epoch in thinned(list(recorded), detail.epochs):
        rows: dict[str, list[Picture]] = {}
        for name, file in recorded[epoch].items():
            group, _, stage = name.rpartition("/")
            key = stage if group == "gradients" else name.removeprefix("stages/")
            rows.setdefault(key, []).append(_picture(group, stage, file, epoch, detail))
        frames.append(Frame(f"epoch {epoch + 1}", list(rows.values())))
    return [Slider(f"Pictures over epochs, {run.title(fold.number)}", frames)] if frames else []


def _shown(files: Mapping[str, pathlib.Path]) -> dict[str, pathlib.Path]:
    """Puts stages first; leaves out the confusion matrix, which is a table of its own."""
    names = sorted((name for name in files if name != "confusion"), key=lambda name: not name.startswith("stages/"))
    return {name: files[name] for name in names}


def _picture(group: str, stage: str, file: pathlib.Path, epoch: int, detail: Detail) -> Picture:
    number, _, rest = stage.partition("_")
    title = (rest if number.isdecimal() else stage).replace("_", " ")
    captions = {
        "stages": (title, f"The recorded samples after the stage {title}"),
        "gradients": (f"gradient after {title}", f"Magnitude of the loss's gradient for the samples after {title}"),
    }
    caption, alternative = captions.get(group, (title, f"{title.capitalize()} for the recorded samples"))
    on_paper = group not in captions
    return embedded(file, detail.width, f"{alternative}, epoch {epoch + 1}", caption, on_paper=on_paper)

"""Forensics of a group: medians and ranges of sensitivities, tolerances and worst cases over its trainings."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from r2l_jax.drift import figures, results
from r2l_jax.drift.forensics.config import ForensicsConfig
from r2l_jax.drift.forensics.sensitivity import digits, named
from r2l_jax.drift.forensics.tolerance_figures import LINEAR
from r2l_jax.drift.results import EndOfTrainings, Forensics, KnobOfTrainings, Spread
from r2l_jax.drift.search.knobs import format_value
from r2l_jax.runtime import store
from r2l_jax.runtime.environment import environment
from r2l_jax.runtime.flags import flat
from r2l_jax.runtime.locks import writing_to
from r2l_jax.runtime.tables import table
from r2l_jax.training.artifact import Artifact

# The numbers of a worst case that are summarized, with their headings and formats.
_NUMBERS: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "drop": ("points lost", lambda value: f"{100 * value:.1f}"),
    "ssim": ("SSIM", lambda value: f"{value:.3f}"),
    "change": ("largest change", lambda value: f"{value:.3f}"),
    "color": ("CIEDE2000", lambda value: f"{value:.1f}"),
    "color_95": ("CIEDE2000, 95%", lambda value: f"{value:.1f}"),
}


def write(
    config: ForensicsConfig, trainings: Mapping[str, Artifact], done: Sequence[Mapping[str, dict[str, Any]]]
) -> None:
    """Writes `forensics.json` and `forensics.png` to the group's output folder, and prints the tables.

    Args:
        config: the settings of the group.
        trainings: the folds of all members, by their names in the group.
        done: the results of each training's analyses, by name.
    """
    content = summarize(trainings, done)
    text, file = _tables(content), config.output_dir / "forensics.json"
    flags = flat(config)
    identity = store.identity(flags, model=content.training)
    whole = {**results.plain(content), "table": text, "flags": flags, **environment()}
    with writing_to(config.output_dir):
        store.clear(file)
        store.finish(file, whole, identity, figures.write(file.parent, {"forensics": make_figure(content)}))
    print(f"{text}\n")


def summarize(trainings: Mapping[str, Artifact], done: Sequence[Mapping[str, dict[str, Any]]]) -> Forensics:
    """Computes the medians and the ranges over trainings, see `write`."""
    first = next(iter(trainings.values()))

    def found(name: str, kind: type) -> list[Any]:
        return [results.converted(each[name], kind, first.folder / f"{name}.json") for each in done if name in each]

    sensitivities, tolerances = found("sensitivity", results.Sensitivity), found("tolerances", results.Tolerances)
    worst = [results.worst(each.rows) for each in found("worst_case", results.WorstCases)]
    groups = dict.fromkeys(group for each in worst for group in each)
    knobs = dict.fromkeys(name for each in tolerances for name in each.knobs)
    return Forensics(
        training={name: fold.training for name, fold in trainings.items()},
        score=first.task.score,
        measured=first.measured,
        samples=len(first.measured_indices),
        tolerance=tolerances[0].tolerance if tolerances else None,
        samples_needed=max((each.samples_needed or 0 for each in tolerances), default=None),
        sensitivity=_spreads(
            [{name: change.worst for name, change in named(each.overall).items()} for each in sensitivities]
        ),
        tolerances={name: _knob([each.knobs[name] for each in tolerances if name in each.knobs]) for name in knobs},
        worst_case={
            group: _spreads([{name: getattr(each[group], name) for name in _NUMBERS} for each in worst])
            for group in groups
        },
    )


def _spreads(rows: Sequence[Mapping[str, float | None]]) -> dict[str, Spread]:
    """Computes the spread of each number over trainings."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: Spread.of([row.get(name) for row in rows]) for name in names}


def _knob(knobs: Sequence[results.Knob]) -> KnobOfTrainings:
    """Summarizes a knob over the trainings that have it."""
    ends = {}
    for side in ("low", "high"):
        of_side = [knob.ends[side] for knob in knobs]
        ends[side] = EndOfTrainings(
            value=Spread.of([end.value for end in of_side]),
            away=Spread.of([knob.away(end.value) for knob, end in zip(knobs, of_side, strict=True)]),
            at_limit=sum(end.at_limit for end in of_side),
            failing=Spread.of([end.failing for end in of_side]),
        )
    return KnobOfTrainings(knobs[0].quantity, Spread.of([knob.value for knob in knobs]), ends)


def _tables(content: Forensics) -> str:
    """Formats the medians and ranges of all analyses that were made."""
    tables = []
    if content.sensitivity:
        rows = [["sensitivity", "rise of the loss, values moved by 1% of their range"]]
        tables.append(table([*rows, *([name, each.text(digits)] for name, each in content.sensitivity.items())]))
    if content.tolerances:
        rows = [["tolerated", "of", "value", "low", "high", "fails below", "fails above"]]
        for name, knob in content.tolerances.items():
            ends = [_with_count(end.value, end.at_limit, "at limit") for end in knob.ends.values()]
            failing = [
                _with_count(end.failing, end.failing.trainings.count(None), "never") for end in knob.ends.values()
            ]
            rows.append([name, knob.quantity, knob.value.text(format_value), *ends, *failing])
        tables.append("\n".join([table(rows), *results.too_few(content)]))
    if content.worst_case:
        rows = [["worst case", *(heading for heading, _ in _NUMBERS.values())]]
        for group, numbers in content.worst_case.items():
            rows.append([group, *(numbers[name].text(written) for name, (_, written) in _NUMBERS.items())])
        tables.append(table(rows))
    stated = (
        f"median (least to greatest) of {len(content.training)} trainings, "
        f"measured on {content.samples} {content.measured} samples"
    )
    return "\n\n".join([*tables, stated])


def _with_count(spread: Spread, count: int, words: str) -> str:
    """Formats the spread of a knob's values, followed by a count of trainings with some words, unless it is 0."""
    text = spread.text(format_value)
    return f"{text}, {count} {words}" if count else text


def make_figure(content: Forensics) -> Figure:
    """Draws a dot for each training and a line at the median: one panel for each analysis that was made."""
    points = f"{100 * (content.tolerance or 0):g} points"
    lost = {
        group: [Spread.of([100 * value for value in numbers["drop"].trainings if value is not None])]
        for group, numbers in content.worst_case.items()
    }
    panels = [
        (
            "rise of the task loss, values moved by 1% of their range",
            "log",
            {name: [spread] for name, spread in content.sensitivity.items()},
        ),
        (
            f"where {content.score} is {points} below the default's, in natural ranges from the default",
            "symlog",
            {name: [end.away for end in knob.ends.values()] for name, knob in content.tolerances.items()},
        ),
        (f"points of {content.score} lost in the worst case", "linear", lost),
    ]
    panels = [panel for panel in panels if panel[-1]]
    heights = [1 + len(rows) for _, _, rows in panels]
    figure = Figure(figsize=(9, 1 + 0.25 * sum(heights)), layout="constrained")
    every_axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (title, scale, rows) in zip(every_axes, panels, strict=True):
        for row, spread in ((row, spread) for row, spreads in enumerate(rows.values()) for spread in spreads):
            values = np.array(spread.trainings, float)
            axes.plot(values, np.full(len(values), row), "o", color="C0", alpha=0.5, markersize=4)
            axes.plot(spread.median, row, "|", color="black", markersize=12)
        axes.set_xscale(scale, **({"linthresh": LINEAR} if scale == "symlog" else {}))
        axes.set_yticks(range(len(rows)), list(rows), fontsize="small")
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(axis="x", alpha=0.3)
        axes.set_title(title, fontsize="medium")
    return figure

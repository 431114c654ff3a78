"""Runs side by side in the terminal: scores, settings that differ, and paired differences."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from r2l_jax.apps.report.runs import RunRecord, differing_flags
from r2l_jax.drift import statistics
from r2l_jax.drift.results import Estimate
from r2l_jax.drift.search.measure import own_outcomes
from r2l_jax.drift.statistics import points
from r2l_jax.names import About
from r2l_jax.runtime.errors import InputError, printable
from r2l_jax.runtime.tables import table
from r2l_jax.training.run import load

# The greatest width of a table, in characters.
WIDTH = 100

# The greatest width of a column, in characters.
_WIDEST = 24


def comparison_table(runs: Sequence[RunRecord]) -> str:
    """Formats the scores of runs and the settings in which they differ, in lines of at most `WIDTH` characters.

    Each run is a column; those that do not fit beside the others are in further tables below.
    """
    facts = {**_scores(runs), **_settings(runs)}
    names = [run.name for run in runs]
    rows = [["", *map(_cut, names)], *([fact, *map(_cut, values)] for fact, values in facts.items())]
    return "\n\n".join(table([[row[0], *row[1:][part]] for row in rows]) for part in _parts(rows))


def _parts(rows: Sequence[Sequence[str]]) -> list[slice]:
    """Divides the columns after the first among tables that are narrow enough."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    parts, start, width = [], 0, widths[0]
    for column, each in enumerate(widths[1:]):
        if column > start and width + 2 + each > WIDTH:
            parts.append(slice(start, column))
            start, width = column, widths[0]
        width += 2 + each
    return [*parts, slice(start, len(widths) - 1)]


def _scores(runs: Sequence[RunRecord]) -> dict[str, list[str]]:
    """Returns the best and last scores of the validation and the length of the training."""
    scores = dict.fromkeys(fold.score for run in runs for fold in run.folds if fold.score)
    found = {
        f"{which} {score}": [_mean_text(run, which, points) if run.score == score else "-" for run in runs]
        for score in scores
        for which in ("best", "last")
    }
    return found | {
        "last loss": [_mean_text(run, "val_loss", "{:.3g}".format) for run in runs],
        **({"members": [str(len(run.members)) for run in runs]} if any(len(run.members) > 1 for run in runs) else {}),
        "folds": [str(len(run.folds)) for run in runs],
        "epochs": [", ".join(dict.fromkeys(str(len(fold.history)) for fold in run.folds)) for run in runs],
        "minutes": [_minutes(run) for run in runs],
        "finished": ["yes" if all(fold.final for fold in run.folds) else "no" for run in runs],
    }


def _mean_text(run: RunRecord, name: str, form: Callable[[float], str]) -> str:
    """Formats the mean of a number over the finished folds, with its deviation if there are several."""
    known = [getattr(fold.final, name) for fold in run.folds if fold.final]
    if not known:
        return "-"
    deviation = f" ±{form(float(np.std(known)))}" if len(known) > 1 else ""
    return f"{form(float(np.mean(known)))}{deviation}"


def _minutes(run: RunRecord) -> str:
    """Adds up the time of all epochs."""
    seconds = [row["seconds"] for fold in run.folds for row in fold.history]
    return f"{sum(seconds) / 60:.1f}" if seconds else "-"


def _settings(runs: Sequence[RunRecord]) -> dict[str, list[str]]:
    return {f"--{name}": [_text(value) for value in values] for name, values in differing_flags(runs).items()}


def _text(value: Any) -> str:
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _cut(text: str) -> str:
    """Shortens a text in the middle, where names of one kind differ least; escapes control characters."""
    text = printable(text)
    if len(text) <= _WIDEST:
        return text
    start, end = -(-(_WIDEST - 3) // 2), (_WIDEST - 3) // 2
    return f"{text[:start]}...{text[-end:]}"


def differences_table(runs: Sequence[RunRecord], code: Sequence[str] = ()) -> str:
    """Measures runs of the same samples, and formats the paired difference of the scores of every two of them.

    The intervals of two groups of trainings are about the recipes, and all others about the models. Where runs have
    different samples or cannot be measured, a line says why there is no difference.
    """
    pairs, lines = [], []
    for first, second in itertools.combinations(runs, 2):
        samples = [_samples(run) for run in (first, second)]
        reasons = [f"{run.name} is not trained to its end" for run in (first, second) if not _is_finished(run)]
        if not reasons and (None in samples or samples[0] != samples[1]):
            reasons = ["other samples"]
        if reasons:
            lines.append(f"{first.name} and {second.name}: no paired difference: {', '.join(reasons)}")
        else:
            pairs.append((first, second))
    try:
        tables = _difference_tables(pairs, code) if pairs else []
    except InputError as error:
        tables = [f"no paired differences: {error}"]
    return "\n\n".join([*tables, *(["\n".join(lines)] if lines else [])])


def _is_finished(run: RunRecord) -> bool:
    return all(fold.final for fold in run.folds)


def _samples(run: RunRecord) -> list[Any] | None:
    """Returns the samples that all members of a run are measured on, for each fold; None if members have others."""
    first, *others = [
        [(fold.fingerprint, fold.measured) for fold in run.folds if member in (fold.folder, fold.folder.parent)]
        for member in run.members
    ]
    return first if all(each == first for each in others) else None


def _difference_tables(pairs: Sequence[tuple[RunRecord, RunRecord]], code: Sequence[str]) -> list[str]:
    """Formats paired differences: a table for all pairs whose intervals are about the same."""
    measured = {run.name: run for pair in pairs for run in pair}
    # The models of all runs at once, which share their data.
    opened = {
        name: [load(member, None, code=code, with_data=True) for member in run.members]
        for name, run in measured.items()
    }
    outcomes = {
        name: np.stack([own_outcomes(member.folds) for member in of_run])
        for name, of_run in tqdm(opened.items(), "clean images", unit="run", disable=None)
    }
    tables: dict[str, list[list[str]]] = {}
    for first, second in pairs:
        ours, theirs = outcomes[first.name], outcomes[second.name]
        about: About = "recipe" if min(len(ours), len(theirs)) > 1 else "model"
        found = statistics.difference(ours, theirs, about)
        fold = opened[first.name][0].folds[0]
        stated = statistics.stated(about, 1, ours.shape[-1], f"{fold.measured} {fold.dataset.counted}")
        rows = tables.setdefault(stated, [["first", "second", f"{first.score}: first - second", "first is better"]])
        rows.append([_cut(first.name), _cut(second.name), Estimate.of(found, -1.0).points, f"{found.probability:.0%}"])
    return [f"{table(rows)}\n{stated}" for stated, rows in tables.items()]

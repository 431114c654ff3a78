"""Runs side by side in the terminal: scores, settings that differ, and paired differences."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from r2l_jax.apps.report.runs import RunRecord, differing_flags
from r2l_jax.cli.commands import command
from r2l_jax.drift import measure, statistics
from r2l_jax.errors import printable
from r2l_jax.results.result import DROP, Column, Table, points
from r2l_jax.results.tables import table

# The greatest width of a table, in characters.
WIDTH = 100

# The greatest width of a column, in characters.
_WIDEST = 24


def comparison_table(runs: Sequence[RunRecord]) -> str:
    """Formats the scores of runs and the settings in which they differ, in lines of at most `WIDTH` characters.

    Each run is a column; those that do not fit beside the others are in further tables below.
    """
    settings = {name: [_text(value) for value in each] for name, each in differing_flags(runs).items()}
    names = [run.name for run in runs]
    rows = [[name, *map(_cut, values)] for name, values in {"": names, **_scores(runs), **settings}.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    fitting = max((WIDTH - widths[0]) // (2 + max(widths[1:])), 1)
    parts = [slice(start, start + fitting) for start in range(1, len(rows[0]), fitting)]
    return "\n\n".join(table([[row[0], *row[part]] for row in rows]) for part in parts)


def _scores(runs: Sequence[RunRecord]) -> dict[str, list[str]]:
    """Returns the best and last validation scores and the length of training."""
    found = {
        f"{which} {score}": [_mean(run, which, points) if run.score == score else "-" for run in runs]
        for score in dict.fromkeys(run.score for run in runs)
        for which in ("best", "last")
    }
    minutes = [sum(row.get("seconds", 0) for fold in run.folds for row in fold.record.history) / 60 for run in runs]
    return found | {
        "last loss": [_mean(run, "val_loss", "{:.3g}".format) for run in runs],
        **({"members": [str(len(run.members)) for run in runs]} if any(len(run.members) > 1 for run in runs) else {}),
        "folds": [str(len(run.folds)) for run in runs],
        "epochs": [", ".join(dict.fromkeys(str(fold.epochs) for fold in run.folds)) for run in runs],
        "minutes": [f"{each:.1f}" for each in minutes],
        "finished": ["yes" if all(fold.is_finished for fold in run.folds) else "no" for run in runs],
    }


def _mean(run: RunRecord, name: str, form: Callable[[float], str]) -> str:
    """Formats the mean of a number over the finished folds, with the standard deviation if there are several."""
    known = [value for fold in run.folds if fold.is_finished and (value := getattr(fold.numbers, name)) is not None]
    if not known:
        return "-"
    deviation = f" ±{form(float(np.std(known)))}" if len(known) > 1 else ""
    return f"{form(float(np.mean(known)))}{deviation}"


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(map(_text, value)) or "none"
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _cut(text: str) -> str:
    """Shortens a text in the middle, where names of one kind differ least; escapes control characters."""
    text = printable(text)
    if len(text) <= _WIDEST:
        return text
    start, end = -(-(_WIDEST - 3) // 2), (_WIDEST - 3) // 2
    return f"{text[:start]}...{text[-end:]}"


def differences_table(runs: Sequence[RunRecord]) -> str:
    """Formats the paired difference of the scores of every two runs, from the outcomes that `evaluate.py` has stored.

    An interval is about the training recipes if both runs are groups of seeds, and otherwise about the models. Lines
    below the table name the pairs without outcomes of the same samples.
    """
    tested, rows, lines = {run.name: _tested(run) for run in runs}, [], []
    for first, second in itertools.combinations(runs, 2):
        pair = f"{_cut(first.name)} - {_cut(second.name)}"
        (samples, ours), (others, theirs) = tested[first.name], tested[second.name]
        if own := [run.score for run in (first, second) if _is_own(run)]:
            lines.append(f"{pair}: no paired difference: {own[0]} is computed by a file, which a report does not run")
        elif missing := [name for name in (first.name, second.name) if not len(tested[name][1])]:
            lines.append(f"{pair}: no paired difference: {command('evaluate')} has not tested {' and '.join(missing)}")
        elif samples != others:
            lines.append(f"{pair}: no paired difference: the samples, their groups or the checkpoints differ")
        else:
            about = "recipe" if min(len(ours), len(theirs)) > 1 else "model"
            estimate, low, high, probability = map(float, statistics.difference(ours, theirs, about))
            rows.append([f"{pair} ({about})", (estimate, low, high), probability])
    columns = [Column("first - second"), Column("difference", "points", DROP), Column("first is better", "", ".0%")]
    made = Table(f"Differences in {runs[0].score} on clean images, with 95% confidence intervals", columns, rows)
    return "\n\n".join([*([made.text()] if rows else []), *(["\n".join(lines)] if lines else [])])


def _is_own(run: RunRecord) -> bool:
    """Tells whether a run's score comes from the user's file."""
    return not {"task", "score"}.isdisjoint(run.folds[0].record.code)


def _tested(run: RunRecord) -> tuple[Any, np.ndarray]:
    """Returns the data, samples and checkpoint of a run's test on its clean images, and the outcomes `(M, S)`."""
    found = [each.result for each in run.results if each.place == ("evaluation", "clean") and not _is_own(run)]
    blocks = [block for each in found for block in measure.unpacked_blocks(each.outcomes)]
    members = measure.by_member(blocks)
    each = [measure.over_folds(folds) for member, folds in members.items() if member != measure.ENSEMBLE]
    same = len({len(outcomes) for outcomes in each}) == 1
    samples = [[block.samples.tolist(), block.groups_or_samples.tolist()] for block in blocks]
    checkpoints = [each.metadata.get("flags", {}).get("checkpoint") for each in found]
    return (run.folds[0].record.fingerprint, samples, checkpoints), np.stack(each) if same else np.zeros((0, 0))

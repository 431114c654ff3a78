"""The beginning of a report: the most important numbers of each run, its settings, and how to reproduce it."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from r2l_jax.apps.report import document, tables
from r2l_jax.apps.report.document import Block, Cell, Code, Details, Section, Table, Text, Tiles
from r2l_jax.apps.report.runs import Final, FoldRecord, RunRecord, common_score, differing_flags


def make(runs: Sequence[RunRecord]) -> list[Section]:
    """Makes the section of the most important numbers, and the section of settings and commands."""
    summary = [
        *document.panels([(run.name, [_tiles(run), *map(Text, run.left_out)]) for run in runs]),
        _folds_table(runs),
    ]
    reproduction = [*_differences(runs), *document.panels([(run.name, _reproduction(run)) for run in runs])]
    return [*document.section("Summary", summary), *document.section("How to reproduce", reproduction)]


def _tiles(run: RunRecord) -> Tiles:
    """Collects the numbers that a run is judged by."""
    tiles = [_score_tile(run), ("Data", str(run.flags.get("dataset")), _samples(run.folds[0]))]
    if run.evaluation and len(run.evaluation.runs) == 1:
        (evaluated,) = run.evaluation.runs.values()
        for name, value in evaluated.headline.items():
            if name.endswith("_drop") and value is not None:
                kind = name.removesuffix("_drop")
                tiles.append((f"Mean drop, {kind}", tables.score(value).text, f"of {run.score}, drift synthesis"))
    rows = [row for each in run.analyses if "worst_case" in each.found for row in each.found["worst_case"].rows]
    if rows:
        worst = min(rows, key=lambda row: row.order)
        remark = f"moves {worst.group}, SSIM {tables.three_digits(worst.ssim)}"
        tiles.append((f"Worst {run.score}", tables.score(worst.score).text, remark))
    if run.adaptation:
        for name, numbers in list(run.adaptation.drifts.items())[:2]:
            before, after = (tables.score(each.mean).text for each in (numbers.before, numbers.after))
            tiles.append((f"Adapted to {name}", after, f"{run.score}, {before} before"))
    return Tiles(tiles)


def _score_tile(run: RunRecord) -> tuple[str, str, str]:
    finals, epochs = [fold.final for fold in run.folds if fold.final], len(run.folds[0].history)
    if not finals:
        return "Training", "not finished", f"{epochs} epochs so far"
    mean = tables.score(float(np.mean([final.best for final in finals]))).text
    if not epochs:
        return f"{run.folds[0].measured[0].capitalize()} {run.score}", mean, "not trained"
    title = f"Validation {run.score}, best checkpoint"
    if len(run.folds) > 1:
        return title, mean, f"mean of {len(finals)} folds"
    return title, mean, f"epoch {finals[0].best_epoch + 1} of {epochs}"


def _samples(fold: FoldRecord) -> str:
    train, valid = fold.samples
    kind, measured = fold.measured
    if fold.final and not fold.history:
        return f"{len(measured)} {kind} samples"
    test = f", {len(measured)} to test" if kind == "test" else ""
    return f"{train} samples to train, {valid} to validate{test}"


def _folds_table(runs: Sequence[RunRecord]) -> Table:
    """Lists all folds of all runs, and the means over the folds of a run."""
    score, every = common_score(runs), [fold.final for run in runs for fold in run.folds if fold.final]
    attacked = any(final.default is not None for final in every)
    numbers = {f"{score}, best checkpoint": "best", "best epoch": "best_epoch", f"{score}, last checkpoint": "last"}
    numbers |= {f"{score} by default": "default"} if attacked else {}
    numbers |= {"loss, best checkpoint": "best_loss", "loss, last checkpoint": "val_loss"}
    rows = []
    for run in runs:
        for fold in run.folds:
            state = Cell("finished" if fold.final else "not finished")
            found = [_number(fold.final, name) for name in numbers.values()]
            beside = map(tables.number, fold.samples)
            rows.append([Cell(run.title(fold.number)), state, tables.number(len(fold.history)), *found, *beside])
        if len(run.folds) > 1:
            finals = [fold.final for fold in run.folds if fold.final]
            state, nothing = Cell(f"{len(finals)} of {len(run.folds)} folds"), tables.text(None)
            means = [_mean(finals, name) if name != "best_epoch" else nothing for name in numbers.values()]
            rows.append([Cell(f"{run.name}, mean"), state, nothing, *means, nothing, nothing])
    columns = ["run", "training", "epochs", *numbers, "train", "valid"]
    return Table("Scores and losses of the validation, and the numbers of samples", columns, rows)


def _number(final: Final | None, name: str) -> Cell:
    """Makes the cell of a number of a fold, with epochs from 1 on."""
    value = getattr(final, name, None)
    return tables.number(value + 1) if name == "best_epoch" and value is not None else _form(name)(value)


def _form(name: str) -> Callable[[float | None], Cell]:
    """Returns what makes the cells of a number of a fold."""
    return tables.loss if name.endswith("loss") else tables.score


def _mean(finals: Sequence[Final], name: str) -> Cell:
    """Makes the cell of the mean and the deviation of a number over the finished folds."""
    known = [value for final in finals if (value := getattr(final, name)) is not None]
    mean, deviation = (float(np.mean(known)), float(np.std(known))) if known else (None, None)
    return tables.with_deviation(_form(name), mean, deviation)


def _differences(runs: Sequence[RunRecord]) -> list[Block]:
    """Lists the settings in which the runs differ."""
    found = differing_flags(runs)
    if not found:
        return []
    rows = [[Cell(f"--{name}"), *(_value(value) for value in values)] for name, values in found.items()]
    return [Table("Settings in which the runs differ", ["setting", *(run.name for run in runs)], rows)]


def _value(value: Any) -> Cell:
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53:
        return Cell(f"{value:.3g}" if isinstance(value, float) else f"{value}", float(value))
    return tables.text(value)


def _reproduction(run: RunRecord) -> list[Block]:
    fold = run.folds[0]
    environment = fold.environment
    versions = ", ".join(f"{name} {version}" for name, version in environment.versions.items() if version)
    facts = [
        ("commit", environment.git_commit),
        ("versions", versions or None),
        ("devices", ", ".join(environment.devices) or None),
        ("seed", None if environment.seed is None else str(environment.seed)),
        ("data", fold.fingerprint),
        ("folder", run.folder),
    ]
    settings = [[Cell(f"--{name}"), _value(value)] for name, value in run.flags.items()]
    return [
        Code(run.command),
        Table("Where it was trained", ("", ""), [[Cell(name), Cell(str(value))] for name, value in facts if value]),
        Details("All settings", [Table("Settings, with those at their defaults", ("setting", "value"), settings)]),
    ]

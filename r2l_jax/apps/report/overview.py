"""The beginning of a report: the most important numbers of each run, its settings, and how to reproduce it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from r2l_jax.apps.report import document, tables
from r2l_jax.apps.report.document import Block, Cell, Code, Details, Section, Table, Text, Tiles
from r2l_jax.apps.report.runs import FoldRecord, RunRecord, common_score, differing_flags


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
        remark = f"moves {worst.group}, SSIM {worst.ssim:.2f}"
        tiles.append((f"Worst {run.score}", tables.score(worst.score).text, remark))
    if run.adaptation:
        for name, numbers in list(run.adaptation.drifts.items())[:2]:
            before, after = (tables.score(each.mean).text for each in (numbers.before, numbers.after))
            tiles.append((f"Adapted to {name}", after, f"{run.score}, {before} before"))
    return Tiles(tiles)


def _score_tile(run: RunRecord) -> tuple[str, str, str]:
    finished = [fold for fold in run.folds if fold.complete]
    if not finished:
        return "Training", "not finished", f"{len(run.folds[0].history)} epochs so far"
    mean = tables.score(float(np.mean([fold.best for fold in finished if fold.best is not None]))).text
    if len(run.folds) > 1:
        return f"Best {run.score}", mean, f"mean of {len(finished)} folds, validation"
    epoch = finished[0].final.best_epoch + 1 if finished[0].final else "?"
    return f"Best {run.score}", mean, f"validation, epoch {epoch} of {len(finished[0].history)}"


def _samples(fold: FoldRecord) -> str:
    train, valid = fold.samples
    return f"{train} samples to train, {valid} to validate"


def _folds_table(runs: Sequence[RunRecord]) -> Table:
    """Lists all folds of all runs."""
    attacked = any(fold.default is not None for run in runs for fold in run.folds)
    rows = []
    for run in runs:
        for fold in run.folds:
            final = fold.final
            rows.append(
                [
                    Cell(run.title(fold.number)),
                    Cell("finished" if fold.complete else "not finished"),
                    tables.number(len(fold.history)),
                    tables.score(fold.best),
                    tables.number(final.best_epoch + 1 if final else None),
                    tables.score(fold.last),
                    *([tables.score(fold.default)] if attacked else []),
                    tables.score(final.val_loss if final else None),
                    tables.number(fold.samples[0]),
                    tables.number(fold.samples[1]),
                ]
            )
        if len(run.folds) > 1:
            rows.append(_mean_row(run, attacked))
    score = common_score(runs)
    columns = ["run", "training", "epochs", f"best {score}", "at epoch", f"last {score}"]
    columns += [*([f"{score} by default"] if attacked else []), "last loss", "train", "valid"]
    return Table("Scores and losses of the validation, and the numbers of samples", columns, rows)


def _mean_row(run: RunRecord, attacked: bool) -> list[Cell]:
    """Averages the finished folds of a run."""
    finished = [fold for fold in run.folds if fold.complete]

    def mean(values: Sequence[float | None]) -> Cell:
        known = [value for value in values if value is not None]
        return tables.score_and_deviation(float(np.mean(known)), float(np.std(known))) if known else tables.score(None)

    return [
        Cell(f"{run.name}, mean"),
        Cell(f"{len(finished)} of {len(run.folds)} folds"),
        tables.text(None),
        mean([fold.best for fold in finished]),
        tables.text(None),
        mean([fold.last for fold in finished]),
        *([mean([fold.default for fold in finished])] if attacked else []),
        mean([fold.final and fold.final.val_loss for fold in finished]),
        tables.text(None),
        tables.text(None),
    ]


def _differences(runs: Sequence[RunRecord]) -> list[Block]:
    """Lists the settings in which the runs differ."""
    found = differing_flags(runs)
    if not found:
        return []
    rows = [[Cell(f"--{name}"), *(_value(value) for value in values)] for name, values in found.items()]
    return [Table("Settings in which the runs differ", ["setting", *(run.name for run in runs)], rows)]


def _value(value: Any) -> Cell:
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53:
        return Cell(f"{value:g}", float(value))
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

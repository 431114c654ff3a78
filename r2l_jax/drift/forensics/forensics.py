"""Drift forensics: finds the processing that breaks a trained model, and the processing that it tolerates."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from r2l_jax.cli import progress, stop
from r2l_jax.cli.commands import closing
from r2l_jax.cli.flags import flat
from r2l_jax.cli.stop import Interrupted
from r2l_jax.drift import shot_groups
from r2l_jax.drift.dots import Row, dots
from r2l_jax.drift.forensics import sensitivity, tolerance, worst_case
from r2l_jax.drift.forensics.config import ForensicsConfig
from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.drift.trained_folds import TrainedFold, folds_of, for_each_fold, over_models
from r2l_jax.errors import InputError
from r2l_jax.model.heads import has_gradient
from r2l_jax.model.raw_to_logit import pipeline_of
from r2l_jax.results import store
from r2l_jax.results.locks import writing_to
from r2l_jax.results.result import Figure, Result, cached, write
from r2l_jax.training.model_io import Trained
from r2l_jax.training.run import Run

# For several models: the tables and columns to draw, the scale of the axis, the factor on numbers, and the label.
_DOTS = {
    "sensitivity": (
        ("parameters", "stages"),
        ("worst",),
        "log",
        1.0,
        "rise in task loss when moved by 1% of the range",
    ),
    "tolerances": (("distances",), ("low", "high"), "symlog", 1.0, "ends, in natural ranges from the default"),
    "worst_case": (("worst_case",), ("drop",), "linear", 100.0, "points lost in the worst case"),
}

_TITLES = {"worst_case": "Worst cases", "shots": "Worst cases by shot metadata"}


class _Analysis(NamedTuple):
    """An analysis: the flags and the training samples that its result depends on, and the function that makes it."""

    flags: Mapping[str, Any]
    drawn: Sequence[int] | np.ndarray
    make: Callable[[], Result]


def run(config: ForensicsConfig) -> dict[str, dict[str, Result]]:
    """Analyzes every fold of a run, or of all members of a group of seeds.

    Writes results to `<output>/fold_<k>/<analysis>/`, which later calls with the same settings reuse; for members of a
    group, to the members' folders. Medians and ranges over several models are in `<output>/<analysis>/`.

    Returns:
        The results by fold and by analysis.

    Raises:
        InputError: a folder is not a finished run, the processing has no parameters or lacks a group or a pair, or
            another program is writing to the output folder.
        Interrupted: SIGINT or SIGTERM came; the same call keeps the finished analyses.
    """
    folds = folds_of(config)
    Run([trained.fold for trained in folds]).check_parameters()
    # Checked before the analyses, which take minutes.
    for trained in folds:
        _check(config, trained.fold)
    found = for_each_fold(folds, functools.partial(_analyze_all, config))
    if len(folds) > 1 or folds[0].output != config.output_dir:
        with writing_to(config.output_dir):
            for name in found[folds[0].name]:
                whole = _over(name, {fold: results[name] for fold, results in found.items()})
                write(config.output_dir / name, whole)
                print(f"{len(folds)} models: {whole.text()}\n")
    print(closing(config.output_dir, [config.run], config.output is None))
    return found


def _check(config: ForensicsConfig, fold: Trained) -> None:
    """Raises an InputError unless a fold can be analyzed with the settings."""
    Frozen(fold.model, fold.task)
    for name in config.analyses:
        if name != "tolerances" and not has_gradient(fold.model.head):
            raise InputError(
                f"`analyses={name}` needs the gradient of the head, which an ONNX head does not have; "
                "`analyses=tolerances` works without it"
            )
    if "tolerances" in config.analyses:
        tolerance.check(fold, config.tolerances)
    if "worst_case" in config.analyses:
        worst_case.searches_of(
            pipeline_of(worst_case.searched(fold, config.worst_case)), config.worst_case, config.seed
        )
    shot_groups.groups(fold.dataset, fold.measured_indices, config.by)


def _analyses(config: ForensicsConfig, fold: Trained, done: Mapping[str, Result]) -> dict[str, _Analysis]:
    """Returns the chosen analyses of a fold; when one is made, `done` has the results of those before it."""
    size, seed, searches, allowed = config.batch_size, config.seed, config.worst_case, config.tolerances
    flags, drawn = {**flat(searches), "batch_size": size, "seed": seed}, worst_case.drawn(fold, searches, seed)
    known = {
        "sensitivity": _Analysis({}, (), lambda: sensitivity.analyze(fold, size)),
        "tolerances": _Analysis(
            {**flat(allowed), "seed": seed}, (), lambda: tolerance.analyze(fold, allowed, size, seed)
        ),
        "worst_case": _Analysis(flags, drawn, lambda: worst_case.analyze(fold, searches, size, seed)),
        "shots": _Analysis(
            {**flags, "by": config.by}, drawn, lambda: worst_case.by_shot(fold, config.by, done["worst_case"])
        ),
    }
    return {name: known[name] for name in (*config.analyses, *(["shots"] if config.by else []))}


def _analyze_all(config: ForensicsConfig, trained: TrainedFold) -> dict[str, Result]:
    """Returns the results of all analyses of a fold by name, made now or by an earlier call, and prints them."""
    fold, done = trained.fold, dict[str, Result]()
    analyses = _analyses(config, fold, done)
    for number, (name, analysis) in enumerate(analyses.items(), 1):
        if stop.requested():
            raise Interrupted(f"stopped before {name} of {trained.name}; the same command resumes with it")
        folder = trained.output / f"fold_{fold.number}" / name
        data = fold.dataset.content_of([*analysis.drawn, *fold.measured_indices])
        inputs = store.identity(analysis.flags, data, [fold.identity, fold.training])
        with progress.part(name, number, len(analyses)):
            done[name] = cached(folder, inputs, functools.partial(_made, name, analysis, fold))
        print(f"{trained.name}: {done[name].text()}\nresults in {folder}\n")
    return done


def _made(name: str, analysis: _Analysis, fold: Trained) -> Result:
    """Makes the result of an analysis, and adds metadata about the fold."""
    found = analysis.make()
    measured = f"measured on {len(fold.measured_indices)} {fold.measured} samples, {fold.about.state}"
    metadata = {
        **found.metadata,
        "title": _TITLES.get(name, name.capitalize()),
        "notes": [*found.metadata.get("notes", ()), measured],
        "training": {f"fold_{fold.number}": fold.training},
        "model": fold.identity,
        "checkpoint": fold.about.checkpoint,
        "flags": analysis.flags,
    }
    return dataclasses.replace(found, metadata=metadata)


def _over(name: str, results: Mapping[str, Result]) -> Result:
    """Combines the results of one analysis of several models."""
    first, notes = next(iter(results.values())), []
    if name == "tolerances":
        samples, groups, allowed = (first.metadata[key] for key in ("samples", "groups", "tolerance"))
        needed = max(each.metadata["samples_needed"] or 0 for each in results.values())
        notes = tolerance.too_few(samples, groups, allowed, needed)
    metadata = {
        **{key: first.metadata[key] for key in ("title", "checkpoint", "flags")},
        "training": {fold: id for fold, each in results.items() for id in each.metadata["training"].values()},
        "notes": [*notes, first.metadata["notes"][-1]],
        "verdict": worst_case.verdict(list(results.values())) if name == "worst_case" else [],
    }
    # Maps are left out, since their positions differ between models.
    tables = {key: table for key, table in over_models(results).items() if not key.startswith("map")}
    return Result(metadata, tables, {"dots": _dots(list(results.values()), *_DOTS[name])} if name in _DOTS else {})


def _dots(
    results: Sequence[Result], tables: Sequence[str], columns: Sequence[str], scale: str, factor: float, label: str
) -> Figure:
    """Draws columns of tables of several models, with the median and the range."""
    groups = {}
    for column in columns:
        each = [
            {k: v for table in tables for k, v in result.tables[table].numbers(column).items()} for result in results
        ]
        found = {title: [numbers[title] for numbers in each if title in numbers] for title in each[0]}
        groups[column] = [Row(title, of, (float(np.median(of)), min(of), max(of))) for title, of in found.items()]
    return dots(groups, label, "a dot for each model, the median and the range", scale, factor)

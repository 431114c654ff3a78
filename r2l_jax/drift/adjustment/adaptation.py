"""Drift adjustment by adaptation: re-tunes a trained model's processing on a few labeled images of drifted data."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from r2l_jax.drift import cases
from r2l_jax.drift.adjustment.adaptation_report import (
    curves_figure,
    drifts_table,
    parameters_table,
    pictures_sheet,
    starts_table,
)
from r2l_jax.drift.adjustment.config import STOPS, AdaptationConfig
from r2l_jax.drift.adjustment.drifts import Drifted, drifted, free_parameters
from r2l_jax.drift.analysis import Analysis, once
from r2l_jax.drift.cases import Case
from r2l_jax.drift.search import ranges
from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.drift.search.measure import LEAST_DROP, Measured, Measurer, ticking, whole_batches
from r2l_jax.drift.search.ranges import gains
from r2l_jax.drift.search.searcher import Found, Search, Searcher
from r2l_jax.model.model_hash import model_hash
from r2l_jax.runtime import store
from r2l_jax.runtime.commands import closing
from r2l_jax.runtime.environment import environment
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.files import write_json
from r2l_jax.runtime.flags import flat
from r2l_jax.runtime.hosts import is_first, on_every_process, on_first_process
from r2l_jax.runtime.locks import writing_to
from r2l_jax.runtime.stop import StopSignals
from r2l_jax.training.run import TrainedFold, open_runs


def run(config: AdaptationConfig) -> dict[str, Any]:
    """Adapts the processing of every fold of a run to each drift, and measures how much of the score comes back.

    The head and all statistics stay as they are. From several exposures, searches lower the task loss of the labeled
    images over the parameters of the processing. The start that ends at the lowest loss of these images is chosen, and
    measured on other images. If the drifted data shows the run's own scenes, the labeled images are drawn from those
    that the fold was trained on, and all that it was validated on are measured.

    Writes `<output>/adaptation.json` (all numbers, and how to reproduce them). Writes to `<output>/fold_<k>/<drift>/`:
    `adaptation.json` (the parameters found), `curves.png`, `pictures.png` (undrifted, before, after) and TensorBoard
    events of the pictures. A drift that an earlier call of the same settings has finished is not adapted to again.

    Returns:
        The content of adaptation.json.

    Raises:
        InputError: a folder that is no finished run, a processing without parameters, a drift that does not fit the
            data, or another program that writes to the output folder.
        Interrupted: SIGINT or SIGTERM came; the same call goes on where this one stopped.
    """
    (run,) = open_runs([config.run], config.data_dir, config.own_pipelines, config.checkpoint)
    run.check_parameters()
    folds = run.folds
    on_every_process(lambda: [_check(config, fold) for fold in folds])
    drifts = config.drifts()
    with writing_to(config.output_dir), StopSignals() as stop:
        results = {fold.number: {drift.name: _adapted(config, fold, drift, stop) for drift in drifts} for fold in folds}
        return _summarize(config, folds, drifts, results)


def _summarize(
    config: AdaptationConfig,
    folds: Sequence[TrainedFold],
    drifts: Sequence[Case],
    results: Mapping[int, Mapping[str, dict[str, Any]]],
) -> dict[str, Any]:
    """Writes adaptation.json over all folds, and returns its content."""
    content = {
        "score": folds[0].task.score,
        "drifts": {drift.name: _over_folds([result[drift.name] for result in results.values()]) for drift in drifts},
        "folds": results,
        "flags": flat(config),
        **environment(),
    }
    on_first_process(lambda: write_json(config.output_dir / "adaptation.json", content))
    if is_first():
        where = closing(config.output_dir, [config.run], config.output is None)
        print(f"{drifts_table(content)}\n\n{where}")
    return content


def _over_folds(results: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Computes the mean and the standard deviation of each number over the folds that have it."""
    summary = {}
    for name in ("undrifted", "before", "after", "won_back"):
        values = [result[name] for result in results]
        known = [value for value in values if value is not None]
        mean, std = (float(np.mean(known)), float(np.std(known))) if known else (None, None)
        summary[name] = {"mean": mean, "std": std, "folds": values}
    return summary


def _check(config: AdaptationConfig, fold: TrainedFold) -> None:
    """Raises an InputError unless a fold can be adapted to all drifts, before anything is computed."""
    if config.intensities and fold.config.data.dataset == "Folder":
        raise InputError(
            f"--intensities: --run={config.run} was trained on a Folder, which holds one intensity; --exposures "
            "computes others"
        )
    cases.check_pipelines([cases.for_run(drift, fold.config) for drift in config.drifts()], fold.dataset)
    for drift in config.drifts():
        pipeline = drifted(config, fold, drift).pipeline
        free_parameters(config, pipeline)
        ranges.check(pipeline.facts, jax.device_get(pipeline.parameters()))


def _adapted(config: AdaptationConfig, fold: TrainedFold, drift: Case, stop: StopSignals) -> dict[str, Any]:
    """Returns the adaptation of a fold to a drift, made now or by an earlier call, and prints its tables."""
    folder = config.output_dir / f"fold_{fold.number}" / drift.name
    under = on_every_process(lambda: drifted(config, fold, drift))
    identity = on_every_process(lambda: _identity(config, fold, drift, under))
    content = once(
        folder / "adaptation.json", fold, identity, lambda unfinished: _adapt(config, fold, under, stop, unfinished)
    )
    if is_first():
        print(f"fold {fold.number}: {drift.name}\n{content['table']}\nresults in {folder}\n")
    return content


def _identity(config: AdaptationConfig, fold: TrainedFold, drift: Case, under: Drifted) -> store.Identity:
    """Collects everything that an adaptation depends on."""
    drifted_data = under.dataset.content_of([*under.labeled, *under.measured])
    return store.identity(
        {**config.settings, "drift": drift._replace(pipeline=None)._asdict(), "drifted_data": drifted_data},
        model=fold.fingerprint,
        drifted_model=[*(drift.pipeline.identity if drift.pipeline else ()), model_hash(under.model)],
        data=fold.dataset.content_of(fold.valid_indices),
    )


def _adapt(
    config: AdaptationConfig, fold: TrainedFold, under: Drifted, stop: StopSignals, file: pathlib.Path
) -> Analysis:
    """Searches from each start, chooses the best end by the labeled images, and measures it on others."""
    frozen, own = Frozen(under.model, fold.task), Frozen(fold.model, fold.task)
    group = free_parameters(config, under.pipeline)
    stops = STOPS[: config.starts] if gains(frozen.facts, group) else (0,)
    found = _search(config, frozen, group, stops, under, stop, file)
    measurer = Measurer(frozen)

    def measure(indices: np.ndarray, title: str) -> list[Measured]:
        batches = whole_batches(under.dataset, indices, config.batch_size)
        total = len(ends) * len(batches)
        with ticking(title, total, stop.agreed, lambda: "stopped; the same command goes on from there") as tick:
            return measurer.measure(ends, batches, tick)

    # On few images a search may end where it is worse than no adaptation, which is therefore a choice as well.
    starts = [None, *stops]
    ends = [frozen.default, *(one.parameters for one in found)]
    on_labeled, on_measured = measure(under.labeled, "labeled images"), measure(under.measured, "other images")
    chosen = int(np.argmin([measured.loss for measured in on_labeled]))
    before, after = on_measured[0], on_measured[chosen]
    own_batches = whole_batches(fold.dataset, fold.valid_indices, config.batch_size)
    (undrifted,) = Measurer(own).measure([own.default], own_batches)
    lost = undrifted.score - before.score
    content = {
        "undrifted": undrifted.score,
        "before": before.score,
        "after": after.score,
        "won_back": (after.score - before.score) / lost if lost >= LEAST_DROP else None,
        "start": starts[chosen],
        "starts": [
            {"stops": stops, "labelled_loss": labeled.loss, "labelled_score": labeled.score, "score": measured.score}
            for stops, labeled, measured in zip(starts, on_labeled, on_measured, strict=True)
        ],
        "default": {name: value.tolist() for name, value in frozen.default.items()},
        "parameters": {name: np.asarray(value).tolist() for name, value in ends[chosen].items()},
    }
    pictures = pictures_sheet(config.track_n_images, fold, under, frozen, frozen.pipeline(ends[chosen]))
    tables = [starts_table(content, fold.task.score), parameters_table(frozen, group, ends[chosen])]
    return Analysis(content, "\n\n".join(tables), {"curves": curves_figure(found, stops), "pictures": pictures})


def _search(
    config: AdaptationConfig,
    frozen: Frozen,
    group: tuple[str, ...],
    stops: Sequence[int],
    under: Drifted,
    stop: StopSignals,
    file: pathlib.Path,
) -> list[Found]:
    """Lowers the task loss of the labeled images from each exposure, given in stops."""
    searches = [Search(group, 0.0, config.seed, exposure=2.0**each) for each in stops]
    searcher = Searcher(frozen, direction="best", learning_rate=config.lr, batch_size=config.batch_size)
    raws, targets = on_every_process(lambda: under.dataset.samples(under.labeled))
    return searcher.run(searches, raws, targets, config.steps, stop.agreed, file)

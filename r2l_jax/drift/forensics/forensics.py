"""Drift forensics: which processing breaks a trained model, and which it tolerates."""

import pathlib
from typing import Any

from r2l_jax.drift.analysis import Analysis, once
from r2l_jax.drift.forensics import camera_check, sensitivity, tolerance, worst_case
from r2l_jax.drift.forensics.config import ForensicsConfig
from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.drift.search.knobs import knobs_of
from r2l_jax.runtime import store
from r2l_jax.runtime.stop import Interrupted, StopSignals
from r2l_jax.training.trained import TrainedFold, load_pipelines


def run(config: ForensicsConfig) -> dict[int, dict[str, dict[str, Any]]]:
    """Analyses every fold of a run.

    Writes to `<output>/fold_<k>/<analysis>/`: `<analysis>.json` (all numbers, and how to reproduce them), pictures,
    tables in CSV, and TensorBoard's events of the pictures. An analysis that an earlier call of the same settings has
    finished is taken as it is, and one that was stopped goes on.

    - `sensitivity`: the task loss's gradient for every parameter and every stage's image.
    - `tolerances`: how far each parameter may move by itself.
    - `worst_case`: how far the score falls when parameters are searched for that.

    Returns:
        What the JSON files hold, by fold and analysis.

    Raises:
        InputError: a folder that is no finished run, a processing without parameters, a group or a pair that it does
            not have, or several processes.
        Interrupted: SIGINT or SIGTERM came; the same call goes on where this one stopped.
    """
    folds = load_pipelines(config.run, config.data_dir, config.own_pipelines)
    for fold in folds:
        # Before minutes of work, not after them.
        frozen = Frozen(fold.model, fold.task)
        worst_case.make_searches(config, worst_case.searched(config, fold).processor)
        if config.map:
            tolerance.check_pair(config.map, knobs_of(frozen.facts, frozen.default))
    with StopSignals() as stop:
        return {
            fold.fold.number: {name: _analyse(config, fold, name, stop) for name in config.analyses} for fold in folds
        }


def check(config: ForensicsConfig) -> bool:
    """Whether a camera's figures are within what every fold of a run tolerates; prints what is not, and by how much.

    Takes the folds' `tolerances` as earlier calls of the same settings have left them, or finds them now. A camera is
    within them if each of its figures is, and if the score with all of them together is.

    Raises:
        InputError: as `run`, or a camera that cannot be read.
        Interrupted: as `run`.
    """
    camera = camera_check.read_camera(config.check)
    tolerated = True
    with StopSignals() as stop:
        for fold in load_pipelines(config.run, config.data_dir, config.own_pipelines):
            tolerances = _analyse(config, fold, "tolerances", stop, ignored=("map",))
            frozen = Frozen(fold.model, fold.task)
            findings = camera_check.check(tolerances, frozen.facts, camera)
            default, together = camera_check.score_together(
                frozen, fold.dataset, fold.fold.valid_indices, config.batch_size, camera
            )
            print(
                f"fold {fold.fold.number}: {config.check}\n{camera_check.table(findings)}\n"
                f"{fold.task.score} {default:.4f}, with all of the camera's figures together {together:.4f}\n"
            )
            inside = all(finding.inside for finding in findings)
            tolerated &= inside and together >= default - config.tolerance / 100 - tolerance.ROUNDING
    return tolerated


def _analyse(
    config: ForensicsConfig, fold: TrainedFold, name: str, stop: StopSignals, ignored: tuple[str, ...] = ()
) -> dict[str, Any]:
    """An analysis of a fold, or what an earlier call has left of it."""
    folder = config.output_dir / f"fold_{fold.fold.number}" / name

    def analyse(unfinished: pathlib.Path) -> Analysis:
        if stop.after_step():
            raise Interrupted(f"stopped before {name} of fold {fold.fold.number}; the same command goes on with that")
        return _run(config, fold, name, stop, unfinished)

    content = once(folder / f"{name}.json", fold, _identity(config, fold, name), analyse, ignored)
    print(f"fold {fold.fold.number}: {name.replace('_', ' ')}\n{content['table']}\nresults in {folder}\n")
    return content


def _identity(config: ForensicsConfig, fold: TrainedFold, name: str) -> store.Identity:
    """Collects all that an analysis depends on; not the camera, since the model has its own numbers and pattern."""
    drawn = worst_case.drawn(config, fold) if name == "worst_case" else ()
    data = fold.dataset.content_of([*drawn, *fold.fold.valid_indices])
    return store.identity(config.settings(name), model=fold.fingerprint, data=data)


def _run(config: ForensicsConfig, fold: TrainedFold, name: str, stop: StopSignals, file: pathlib.Path) -> Analysis:
    if name == "worst_case":
        return worst_case.analyse(config, fold, stop.after_step, file)
    frozen = Frozen(fold.model, fold.task)
    samples = (frozen, fold.dataset, fold.fold.valid_indices)
    if name == "sensitivity":

        def tick() -> None:
            if stop.after_step():
                raise Interrupted("stopped; the same command begins with this analysis")

        return sensitivity.analyse(*samples, config.batch_size, tick)
    pair = config.map or None
    return tolerance.analyse(
        *samples, config.batch_size, config.tolerance / 100, pair, config.seed, stop.after_step, file
    )

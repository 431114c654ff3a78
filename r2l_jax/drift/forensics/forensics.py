"""Drift forensics: finds the processing that breaks a trained model, and the processing that it tolerates."""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from r2l_jax.drift import shot_groups
from r2l_jax.drift.analysis import Analysis, once
from r2l_jax.drift.forensics import camera_check, sensitivity, shots, tolerance, worst_case
from r2l_jax.drift.forensics.config import ForensicsConfig
from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.drift.search.knobs import knobs_of
from r2l_jax.model.raw_to_logit import pipeline_of
from r2l_jax.runtime import store
from r2l_jax.runtime.commands import closing
from r2l_jax.runtime.hosts import is_first, on_every_process, on_first_process
from r2l_jax.runtime.locks import writing_to
from r2l_jax.runtime.stop import Interrupted, StopSignals
from r2l_jax.training.run import TrainedFold, open_runs


def run(config: ForensicsConfig) -> dict[int, dict[str, dict[str, Any]]]:
    """Analyzes every fold of a run.

    Writes to `<output>/fold_<k>/<analysis>/`: `<analysis>.json` (all numbers, and how to reproduce them), pictures,
    tables in CSV, and TensorBoard events of the pictures. An analysis that an earlier call of the same settings has
    finished is not repeated, and one that was stopped goes on.

    - `sensitivity`: the gradient of the task loss for every parameter and for the image after every stage.
    - `tolerances`: the interval in which each parameter may move by itself.
    - `worst_case`: the lowest score that a search over the parameters finds.
    - `shots`, with `by`: the scores of groups of shots, by default and in the worst cases.

    Returns:
        The content of the JSON files, by fold and analysis.

    Raises:
        InputError: a folder that is no finished run, a processing without parameters, a group or a pair that the
            processing does not have, or another program that writes to the output folder.
        Interrupted: SIGINT or SIGTERM came; the same call goes on where this one stopped.
    """
    folds = _folds(config)
    for fold in folds:
        # Checked before the analyses, which take minutes.
        frozen = Frozen(fold.model, fold.task)
        worst_case.make_searches(config, pipeline_of(worst_case.searched(config, fold)))
        on_every_process(functools.partial(shot_groups.groups, fold.dataset, fold.valid_indices, config.by))
        if config.map:
            tolerance.check_pair(config.map, knobs_of(frozen.facts, frozen.default))
    with writing_to(config.output_dir), StopSignals() as stop:
        done = {fold.number: _analyse_all(config, fold, stop) for fold in folds}
    if is_first():
        print(closing(config.output_dir, [config.run], config.output is None))
    return done


def _folds(config: ForensicsConfig) -> Sequence[TrainedFold]:
    """Opens the run."""
    (run,) = open_runs([config.run], config.data_dir, config.own_pipelines, config.checkpoint)
    run.check_parameters()
    return run.folds


def _analyse_all(config: ForensicsConfig, fold: TrainedFold, stop: StopSignals) -> dict[str, dict[str, Any]]:
    """Returns all analyses of a fold by name."""
    done = {name: _analyse(config, fold, name, stop) for name in config.analyses}
    if config.by:
        done["shots"] = _analyse(config, fold, "shots", stop, worst=done.get("worst_case"))
    return done


def check(config: ForensicsConfig) -> bool:
    """Checks whether every fold of a run tolerates a camera's calibration values, and prints those that it does not.

    Takes the folds' `tolerances` as earlier calls of the same settings have left them, or finds them now. A fold
    tolerates a camera if it tolerates each of its values, and all of them together.

    Raises:
        InputError: as `run`, or a camera that cannot be read.
        Interrupted: as `run`.
    """
    if config.check is None:
        raise ValueError("the settings must have a camera to check")
    name = config.check
    camera = on_first_process(lambda: camera_check.read_camera(name))
    tolerated = True
    folds = _folds(config)
    with writing_to(config.output_dir), StopSignals() as stop:
        for fold in folds:
            tolerances = _analyse(config, fold, "tolerances", stop, ignored=("map",))
            frozen = Frozen(fold.model, fold.task)
            findings = camera_check.check(tolerances, frozen.facts, camera)
            default, together = camera_check.score_together(
                frozen, fold.dataset, fold.valid_indices, config.batch_size, camera
            )
            if is_first():
                print(
                    f"fold {fold.number}: {config.check}\n{camera_check.table(findings)}\n"
                    f"{fold.task.score} {default:.4f}, with all of the camera's values together {together:.4f}\n"
                )
            inside = all(finding.inside for finding in findings)
            tolerated &= inside and together >= default - config.tolerance / 100 - tolerance.ROUNDING
    return tolerated


def _analyse(
    config: ForensicsConfig,
    fold: TrainedFold,
    name: str,
    stop: StopSignals,
    ignored: tuple[str, ...] = (),
    worst: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Returns an analysis of a fold, made now or by an earlier call, and prints its table."""
    folder = config.output_dir / f"fold_{fold.number}" / name

    def analyse(unfinished: pathlib.Path) -> Analysis:
        if stop.agreed():
            raise Interrupted(f"stopped before {name} of fold {fold.number}; the same command goes on with that")
        if name == "shots":
            return shots.analyse(config, fold, worst, stop.agreed)
        return _run(config, fold, name, stop, unfinished)

    identity = on_every_process(lambda: _identity(config, fold, name))
    content = once(folder / f"{name}.json", fold, identity, analyse, ignored)
    if is_first():
        print(f"fold {fold.number}: {name.replace('_', ' ')}\n{content['table']}\nresults in {folder}\n")
    return content


def _identity(config: ForensicsConfig, fold: TrainedFold, name: str) -> store.Identity:
    """Collects all that an analysis depends on; not the camera, since the model has its own numbers and pattern."""
    uses_searches = name == "worst_case" or (name == "shots" and "worst_case" in config.analyses)
    drawn = worst_case.drawn(config, fold) if uses_searches else ()
    data = fold.dataset.content_of([*drawn, *fold.valid_indices])
    return store.identity(config.settings(name), model=fold.fingerprint, data=data)


def _run(config: ForensicsConfig, fold: TrainedFold, name: str, stop: StopSignals, file: pathlib.Path) -> Analysis:
    if name == "worst_case":
        return worst_case.analyse(config, fold, stop.agreed, file)
    frozen = Frozen(fold.model, fold.task)
    samples = (frozen, fold.dataset, fold.valid_indices)
    if name == "sensitivity":

        def tick() -> None:
            if stop.agreed():
                raise Interrupted("stopped; the same command begins with this analysis")

        return sensitivity.analyse(*samples, config.batch_size, tick)
    return tolerance.analyse(
        *samples, config.batch_size, config.tolerance / 100, config.map, config.seed, stop.agreed, file
    )

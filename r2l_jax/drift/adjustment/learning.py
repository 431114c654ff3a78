"""Drift adjustment by learning: compares training processing and head together with training the head alone."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from isp.parameter import MOST_ELEMENTS
from r2l_jax.config import TrainConfig
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.drift import figures, results, statistics
from r2l_jax.drift.adjustment.config import LearningConfig
from r2l_jax.drift.cases import camera_of
from r2l_jax.drift.results import Curve, Estimate, Learning, LearntParameter, LearntRun
from r2l_jax.drift.search.measure import own_outcomes
from r2l_jax.drift.statistics import points
from r2l_jax.model.raw_to_logit import pipeline_of
from r2l_jax.names import About
from r2l_jax.runtime import store
from r2l_jax.runtime.commands import closing
from r2l_jax.runtime.environment import environment
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.files import write_json
from r2l_jax.runtime.flags import flat, replace
from r2l_jax.runtime.locks import writing_to
from r2l_jax.runtime.tables import table
from r2l_jax.training import train
from r2l_jax.training.artifact import Artifact
from r2l_jax.training.record import (
    changed_data,
    changes,
    describe,
    fold_folders,
    fold_number,
    members,
    other_makers,
    read_metrics,
)
from r2l_jax.training.run import load

# The names in results and of folders, which stay as earlier versions wrote them.
LEARNED, FROZEN = "learnt", "frozen"


class _OfRun(NamedTuple):
    """The comparison of a run: the content of its file, the folds of both runs, and their outcomes.

    The outcomes `(S,)` are those with learned processing less those with fixed processing.
    """

    content: dict[str, Any]
    folds: Mapping[str, Sequence[Artifact]]
    differences: np.ndarray


def run(config: LearningConfig) -> dict[str, Any]:
    """Trains the counterpart of a run, with fixed processing if the run learned it, and compares the two.

    The counterpart has the run's flags except `freeze_processor`. It is trained in `<output>/learning/`, unless an
    earlier call has trained it there. Writes `<output>/learning.json` (all numbers, and how to reproduce them), and to
    `<output>/learning/` `learning_curves.png` and TensorBoard events of it.

    Each member of a group is compared with a counterpart of its own in its own folder, and `<output>` has the
    comparison of all.

    Returns:
        The content of learning.json: for each fold of both runs, the score at each epoch and the epochs and seconds of
        training until the target; the learned parameters with their starts at the camera's calibration values; and the
        difference of the scores, paired by sample, with its interval.

    Raises:
        InputError: a folder that is not a finished run, or whose processing cannot be learned; or another program that
            writes to the output folder.
        Interrupted: SIGINT or SIGTERM came; the same call resumes where this one stopped.
    """
    configs = [config.of_member(folder) for folder in members(config.run)]
    given = {"code": config.code, "data_dir": config.data_dir, "with_data": True}
    runs = [load(each.run, None, config.checkpoint, **given) for each in configs]
    pairs = list(zip(configs, (run.folds for run in runs), strict=True))
    for each, folds in pairs:
        _check(each, folds)
    compared = [_train_and_compare(each, folds) for each, folds in pairs]
    content = compared[0].content if configs[0] is config else _over_members(config, compared)
    print(closing(config.output_dir, [config.run], config.output is None))
    return content


def _train_and_compare(config: LearningConfig, folds: Sequence[Artifact]) -> _OfRun:
    """Trains the counterpart of a run, and writes, prints and returns the comparison."""
    trained = folds[0].config
    own, other = (FROZEN, LEARNED) if trained.processing.freeze_processor else (LEARNED, FROZEN)
    with writing_to(config.output_dir):
        runs = {own: folds, other: _counterpart(config, folds[0], other)}
        runs = {name: runs[name] for name in (LEARNED, FROZEN)}
        learned, frozen = map(own_outcomes, runs.values())
        training = {str(fold.number): fold.training for fold in folds}
        content = _finish(config, runs, training, (learned - frozen)[None], [])
    return _OfRun(content, runs, learned - frozen)


def _counterpart(config: LearningConfig, fold: Artifact, name: str) -> Sequence[Artifact]:
    """Trains the counterpart of the run of a fold, unless an earlier call has trained it, and returns its folds."""
    counterpart = replace(
        fold.config,
        freeze_processor=not fold.config.processing.freeze_processor,
        logdir=str(config.output_dir),
        experiment_name="learning",
        run_name=name,
        overwrite=False,
        data_dir=config.data_dir or fold.config.data.data_dir,
    )
    if reasons := _stale(counterpart, fold.dataset):
        store.say_anew(str(counterpart.run_dir), reasons)
        counterpart = replace(counterpart, overwrite=True)
    train.run(counterpart)
    data_dir, code = config.data_dir, config.code
    others = load(counterpart.run_dir, None, config.checkpoint, code, data_dir, with_data=True)
    return others.folds


def _over_members(config: LearningConfig, compared: Sequence[_OfRun]) -> dict[str, Any]:
    """Writes, prints and returns the comparison of all members of a group with their counterparts."""
    folders = members(config.run)
    runs = {name: [fold for each in compared for fold in each.folds[name]] for name in (LEARNED, FROZEN)}
    training = {
        f"{folder.name}/{fold}": each
        for folder, of_run in zip(folders, compared, strict=True)
        for fold, each in of_run.content["training"].items()
    }
    differences = np.stack([each.differences for each in compared])
    with writing_to(config.output_dir):
        return _finish(config, runs, training, differences, [folder.name for folder in folders])


def _finish(
    config: LearningConfig,
    runs: Mapping[str, Sequence[Artifact]],
    training: dict[str, str],
    differences: np.ndarray,
    names: list[str],
) -> dict[str, Any]:
    """Compares folds, writes the comparison and its figure, and prints its tables.

    Args:
        config: the settings.
        runs: the folds with learned and with fixed processing.
        training: the ids of the trainings.
        differences: the differences of the outcomes `(M, S)`.
        names: the folders of a group's members.
    """
    about: About = "recipe" if len(differences) > 1 else "model"
    compared = compare(runs, config.target_score)
    compared.training, compared.members, compared.about = training, names, about
    compared.difference = difference = Estimate.of(statistics.interval(differences, about), -1.0)
    first = runs[LEARNED][0]
    compared.measured, compared.samples = f"{first.measured} {first.dataset.counted}", differences.shape[-1]
    content = results.plain(compared)
    _write(config, compared, content)
    stated = statistics.stated(about, len(names), compared.samples, compared.measured)
    print(
        f"\n{_table(compared)}\n\n{compared.score} of the {config.checkpoint} checkpoint, learned minus fixed, in "
        f"points: {difference.points}\n{stated}\n"
    )
    return content


def _check(config: LearningConfig, folds: Sequence[Artifact]) -> None:
    """Raises an InputError unless the counterpart of a run can be trained and compared, before it is trained."""
    trained = folds[0].config
    if not trained.processing.learns_pipeline or trained.attack.adv_training:
        raise InputError(
            f"--run={config.run} was trained with {trained.processing.flag}"
            f"{' --adv_training' if trained.attack.adv_training else ''}; learning is compared for "
            "--processing_mode=parametrized and for a --pipeline"
        )
    if not pipeline_of(folds[0].model).facts:
        raise InputError(
            f"--run={config.run} was trained with {trained.processing.flag}, which has no parameters to learn"
        )
    if fold_number(pathlib.Path(config.run).resolve()) is not None:
        raise InputError(f"--run={config.run} is one fold: the whole run is compared")
    if trained.model.freeze_classifier:
        raise InputError(f"--run={config.run} was trained with --freeze_classifier: with both fixed nothing is trained")
    for fold in folds:
        if changed := changed_data(fold.dataset, fold.metrics):
            raise InputError(
                f"--run={config.run} was trained on other data ({'; '.join(changed)}): what is trained now does not "
                "compare with it"
            )


def _write(config: LearningConfig, compared: Learning, content: Mapping[str, Any]) -> None:
    """Writes the comparison and its figure."""
    everything = {**content, "flags": flat(config), **environment()}
    write_json(config.output_dir / "learning.json", everything)
    figures.write(config.output_dir / "learning", {"learning_curves": _figure(compared)})


def _stale(counterpart: TrainConfig, dataset: RawDataset) -> list[str]:
    """Lists the reasons why the counterpart of an earlier call must be trained anew."""
    reasons, described = [], describe(counterpart, dataset)
    for folder in fold_folders(counterpart.run_dir):
        if (file := folder / "metrics.json").exists():
            try:
                earlier = read_metrics(file, "it is trained anew")
            except InputError as error:
                return [str(error)]
            reasons += changes(described, earlier)
            if other_makers(earlier):
                reasons.append("different source code or another version of JAX has trained it")
    return list(dict.fromkeys(reasons))


def compare(runs: Mapping[str, Sequence[Artifact]], target: float) -> Learning:
    """Compares the learning curves of two runs and the time to a score, and collects the learned parameters."""
    score = runs[LEARNED][0].task.score
    curves = {
        name: LearntRun([curve(fold.metrics["history"], f"val_{score}", target) for fold in folds])
        for name, folds in runs.items()
    }
    return Learning(score, target, curves, _parameters(runs[LEARNED]))


def curve(history: Sequence[Mapping], score: str, target: float) -> Curve:
    """Computes the scores of one fold over epochs and seconds of training, and when they first reach the target."""
    seconds = np.cumsum([row["seconds"] for row in history])
    rows = [
        (row["epoch"] + 1, float(time), row[score]) for time, row in zip(seconds, history, strict=True) if score in row
    ]
    epochs, seconds, scores = map(list, zip(*rows, strict=True))
    reached = next((place for place, value in enumerate(scores) if value >= target), None)
    until = (None, None) if reached is None else (epochs[reached], seconds[reached])
    return Curve(epochs, seconds, scores, *until)


def _parameters(folds: Sequence[Artifact]) -> dict[str, LearntParameter]:
    """Collects each parameter's values at the camera's calibration, and as each fold has learned them."""
    named = folds[0].config.processing.named_pipeline
    if named is None:
        raise ValueError("a run that learns its processing must have a pipeline")
    camera = named(camera_of(folds[0].dataset))
    learned = [pipeline_of(fold.model).parameters() for fold in folds]
    return {
        name: LearntParameter(
            names=camera.facts[name].element_names(name, value.shape),
            camera=np.asarray(value),
            folds=[np.asarray(of_fold[name]) for of_fold in learned],
        )
        for name, value in camera.parameters().items()
    }


def _table(compared: Learning) -> str:
    """Formats the scores of each run and the time to the target, and the small parameters that were learned."""
    target = f"{compared.target:g}"
    rows = [["", f"val {compared.score}", "deviation", "best", f"epochs to {target}", f"seconds to {target}"]]
    for name, of_run in compared.runs.items():
        last = [fold.scores[-1] for fold in of_run.folds]
        best = np.mean([max(fold.scores) for fold in of_run.folds])
        numbers = map(points, (np.mean(last), np.std(last), best))
        epochs = _mean_reached([fold.epochs_to_target for fold in of_run.folds])
        seconds = _mean_reached([fold.seconds_to_target for fold in of_run.folds])
        rows.append([name, *numbers, epochs, seconds])
    text = table(rows)
    rows = [["parameter", "camera", "learned", "deviation"]]
    for values in compared.parameters.values():
        if values.camera.size <= MOST_ELEMENTS:
            folds = np.array(values.folds, float)
            columns = (values.camera.ravel(), folds.mean(0).ravel(), folds.std(0).ravel())
            rows += [
                [title, *(f"{number:.4f}" for number in row)]
                for title, *row in zip(values.names, *columns, strict=True)
            ]
    return f"{text}\n\n{table(rows)}"


def _mean_reached(values: Sequence[int | float | None]) -> str:
    """Formats the mean over the folds that reached the target, and their number unless all did."""
    reached = [value for value in values if value is not None]
    if not reached:
        return "-"
    return f"{np.mean(reached):.1f}" + (f" ({len(reached)} of {len(values)})" if len(reached) < len(values) else "")


def _figure(compared: Learning) -> Figure:
    """Draws the validation score over epochs and over seconds: the mean of the folds, and their standard deviation."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, unit in zip(figure.subplots(1, 2, sharey=True), ("epochs", "seconds"), strict=True):
        for number, (name, of_run) in enumerate(compared.runs.items()):
            scores = np.array([fold.scores for fold in of_run.folds])
            places = np.mean([getattr(fold, unit) for fold in of_run.folds], 0)
            mean, std = scores.mean(0), scores.std(0)
            axes.plot(places, mean, color=f"C{number}", marker=".", label=f"{name} processing")
            axes.fill_between(places, mean - std, mean + std, color=f"C{number}", alpha=0.2, linewidth=0)
        axes.axhline(compared.target, color="gray", linestyle=":", linewidth=1)
        axes.set_xlabel({"epochs": "epoch", "seconds": "seconds of training"}[unit])
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel(f"validation {compared.score}")
    figure.axes[0].legend()
    return figure

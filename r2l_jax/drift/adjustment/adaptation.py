"""Drift adjustment by adaptation: re-tunes a trained model's processing on a few labeled images of drifted data."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from r2l_jax.data import loader
from r2l_jax.drift import cases, outcomes, statistics
from r2l_jax.drift.adjustment.config import STOPS, AdaptationConfig, AdaptationSettings
from r2l_jax.drift.adjustment.drifts import Drifted, drifted, free_parameters
from r2l_jax.drift.analysis import Analysis, once
from r2l_jax.drift.cases import Case
from r2l_jax.drift.outcomes import Outcomes
from r2l_jax.drift.results import (
    Adaptation,
    Adapted,
    AdaptedIntervals,
    AdaptedOverFolds,
    Estimate,
    PartialStatistic,
    Start,
    plain,
)
from r2l_jax.drift.search import ranges
from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.drift.search.knobs import format_value
from r2l_jax.drift.search.measure import LEAST_DROP, Measurer
from r2l_jax.drift.search.ranges import gains
from r2l_jax.drift.search.searcher import Found, Search, Searcher
from r2l_jax.drift.statistics import points
from r2l_jax.model.model_hash import model_hash
from r2l_jax.names import About
from r2l_jax.runtime import store
from r2l_jax.runtime.commands import closing
from r2l_jax.runtime.contact_sheet import contact_sheet
from r2l_jax.runtime.environment import environment
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.files import write_json
from r2l_jax.runtime.flags import flat
from r2l_jax.runtime.hosts import is_first, on_every_process, on_first_process
from r2l_jax.runtime.locks import writing_to
from r2l_jax.runtime.stop import StopSignals
from r2l_jax.runtime.tables import table
from r2l_jax.training.record import members
from r2l_jax.training.run import TrainedFold, open_runs

# A table shows the values of parameters with at most this many.
_SHOWN = 4

# The scores of an adaptation, whose outcomes are kept for each sample.
_SCORES = ("undrifted", "before", "after")

# The outcomes of samples `(S,)`, by score, see `outcomes.joined`.
Scored = Mapping[str, np.ndarray]


class _OfRun(NamedTuple):
    """The adaptation of a run: the content of its file, its numbers, and the outcomes of all its folds by drift."""

    content: dict[str, Any]
    adaptation: Adaptation
    outcomes: Mapping[str, Scored]


def run(config: AdaptationConfig) -> dict[str, Any]:
    """Adapts the processing of every fold of a run to each drift, and measures how much of the score comes back.

    The head and all statistics stay as they are. From several exposures, searches lower the task loss of the labeled
    images over the parameters of the processing. The start that ends at the lowest loss of these images is chosen, and
    measured on other images. If the drifted data shows the run's own scenes, the labeled images are drawn from those
    that the fold was trained on, and all that controls measure on are measured.

    Writes `<output>/adaptation.json` (all numbers, and how to reproduce them). Writes to `<output>/fold_<k>/<drift>/`:
    `adaptation.json` (the parameters found), `outcomes.safetensors` (the outcome of each sample), `curves.png`,
    `pictures.png` (undrifted, before, after) and TensorBoard events of the pictures. A drift that an earlier call of
    the same settings has finished is not adapted to again.

    Each member of a group is adapted in its own folder, and `<output>/adaptation.json` has the numbers over all.

    Returns:
        The content of adaptation.json.

    Raises:
        InputError: a folder that is not a finished run, a processing without parameters, a drift that does not fit the
            data, or another program that writes to the output folder.
        Interrupted: SIGINT or SIGTERM came; the same call resumes where this one stopped.
    """
    configs = [config.of_member(folder) for folder in members(config.run)]
    runs = open_runs([each.run for each in configs], config.data_dir, config.own_pipelines, config.checkpoint)
    pairs = list(zip(configs, (run.folds for run in runs), strict=True))
    for run in runs:
        run.check_parameters()
    on_every_process(lambda: [_check(each, fold) for each, folds in pairs for fold in folds])
    with StopSignals() as stop:
        adapted = [_adapt_run(each, folds, stop) for each, folds in pairs]
    content = adapted[0].content if configs[0] is config else _over_members(config, configs, adapted)
    if is_first():
        print(closing(config.output_dir, [config.run], config.output is None))
    return content


def _adapt_run(config: AdaptationConfig, folds: Sequence[TrainedFold], stop: StopSignals) -> _OfRun:
    """Adapts all folds of a run to all drifts, writes adaptation.json, and prints its table."""
    with writing_to(config.output_dir):
        results = {
            fold.number: {drift.name: _adapted(config, fold, drift, stop) for drift in config.drifts} for fold in folds
        }
        scored = on_first_process(lambda: {drift.name: _read_outcomes(config, folds, drift) for drift in config.drifts})
        drifts = {
            name: _summary([of_fold[name] for of_fold in results.values()], [of_drift], "model")
            for name, of_drift in scored.items()
        }
        training = {str(fold.number): fold.training for fold in folds}
        adaptation = Adaptation(training=training, score=folds[0].task.score, drifts=drifts)
        # The folds have the table and the identity of their own files as well.
        content = _write(config, adaptation, results)
    return _OfRun(content, adaptation, scored)


def _over_members(
    config: AdaptationConfig, configs: Sequence[AdaptationConfig], adapted: Sequence[_OfRun]
) -> dict[str, Any]:
    """Writes adaptation.json of a group from the adaptations of its members, prints its table, and returns it."""
    about: About = "recipe" if len(adapted) > 1 else "model"
    names = [pathlib.Path(each.run).name for each in configs]
    drifts = {}
    for name in adapted[0].outcomes:
        of_members = [each.adaptation.drifts[name] for each in adapted]
        means = [
            {"measured": each.measured} | {score: getattr(each, score).mean for score in (*_SCORES, "won_back")}
            for each in of_members
        ]
        drifts[name] = _summary(means, [each.outcomes[name] for each in adapted], about)
    training = {
        f"{name}/{fold}": each
        for name, of_run in zip(names, adapted, strict=True)
        for fold, each in of_run.adaptation.training.items()
    }
    score = adapted[0].adaptation.score
    with writing_to(config.output_dir):
        return _write(config, Adaptation(training=training, score=score, drifts=drifts, about=about, members=names), {})


def _write(config: AdaptationConfig, adaptation: Adaptation, folds: Mapping[int, Any]) -> dict[str, Any]:
    """Writes adaptation.json, prints its table, and returns its content."""
    content = {**plain(adaptation), "folds": folds, "flags": flat(config), **environment()}
    on_first_process(lambda: write_json(config.output_dir / "adaptation.json", content))
    if is_first():
        print(f"{_drifts_table(adaptation)}\n")
    return content


def _file(config: AdaptationConfig, fold: TrainedFold, drift: Case) -> pathlib.Path:
    return config.output_dir / f"fold_{fold.number}" / drift.name / "adaptation.json"


def _read_outcomes(config: AdaptationConfig, folds: Sequence[TrainedFold], drift: Case) -> Scored:
    """Reads the outcomes of the samples, with all folds joined."""
    kept = {fold.number: outcomes.read(_file(config, fold, drift).with_name(outcomes.FILE)) for fold in folds}
    return {
        score: outcomes.joined([of_fold[score][number] for number, of_fold in kept.items()], score) for score in _SCORES
    }


def _summary(results: Sequence[Mapping[str, Any]], scored: Sequence[Scored], about: About) -> AdaptedOverFolds:
    """Summarizes the adaptations of folds or members to a drift.

    Args:
        results: the numbers of each fold or member.
        scored: the outcomes of each member.
        about: what the intervals are about.
    """
    of_samples = {score: np.stack([each[score] for each in scored]) for score in _SCORES}
    scores = {score: Estimate.of(statistics.interval(each, about), 0.0) for score, each in of_samples.items()}
    won_back = statistics.interval(of_samples["after"] - of_samples["before"], about)
    return AdaptedOverFolds(
        *(PartialStatistic.of([result[name] for result in results]) for name in (*_SCORES, "won_back")),
        measured=results[0]["measured"],
        samples=of_samples["after"].shape[-1],
        intervals=AdaptedIntervals(**scores, won_back=Estimate.of(won_back, -1.0)),
    )


def _check(config: AdaptationConfig, fold: TrainedFold) -> None:
    """Raises an InputError unless a fold can be adapted to all drifts, before anything is computed."""
    if config.intensities and fold.config.data.dataset == "Folder":
        raise InputError(
            f"--intensities: --run={config.run} was trained on a Folder, which holds one intensity; --exposures "
            "computes others"
        )
    cases.check_pipelines([cases.for_run(drift, fold.config.processing) for drift in config.drifts], fold.dataset)
    for drift in config.drifts:
        pipeline = drifted(config, fold, drift).pipeline
        free_parameters(config.searches.parameters, pipeline)
        ranges.check(pipeline.facts, jax.device_get(pipeline.parameters()))


def _adapted(config: AdaptationConfig, fold: TrainedFold, drift: Case, stop: StopSignals) -> dict[str, Any]:
    """Returns the adaptation of a fold to a drift, made now or by an earlier call, and prints its tables."""
    file = _file(config, fold, drift)
    under = on_every_process(lambda: drifted(config, fold, drift))
    identity = on_every_process(lambda: _identity(config.searches, fold, drift, under))

    def analyze(unfinished: pathlib.Path) -> Analysis:
        return adapt(config.searches, fold, under, stop.agreed, unfinished)

    return once(file, drift.name, fold, identity, analyze)


def _identity(settings: AdaptationSettings, fold: TrainedFold, drift: Case, under: Drifted) -> store.Identity:
    """Collects everything that an adaptation depends on."""
    drifted_data = under.dataset.content_of([*under.labeled, *under.samples])
    return store.identity(
        {**flat(settings), "drift": drift._replace(pipeline=None)._asdict(), "drifted_data": drifted_data},
        model=fold.fingerprint,
        drifted_model=[*(drift.pipeline.identity if drift.pipeline else ()), model_hash(under.model)],
        data=fold.dataset.content_of(fold.measured_indices),
    )


def adapt(
    settings: AdaptationSettings, fold: TrainedFold, under: Drifted, stop: Callable[[], bool], file: pathlib.Path
) -> Analysis:
    """Searches from each start, chooses the best end on the labeled images, and measures it on others.

    The content is a `results.Adapted`. Unfinished searches are kept in the file.

    Raises:
        InputError: a search has diverged.
        Interrupted: `stop` returned True.
    """
    frozen, own = Frozen(under.model, fold.task), Frozen(fold.model, fold.task)
    group = free_parameters(settings.parameters, under.pipeline)
    stops = STOPS[: settings.starts] if gains(frozen.facts, group) else (0,)
    searcher = Searcher(frozen, direction="best", learning_rate=settings.lr, batch_size=settings.batch_size)
    searches = [Search(group, 0.0, settings.seed, exposure=2.0**each) for each in stops]
    labeled = on_every_process(lambda: loader.batch_of(under.dataset, under.labeled))
    raws, targets = labeled["raw"], labeled["target"]
    found = searcher.run(searches, raws, targets, settings.steps, stop, file, labeled.get("cameras"))
    # On few images a search may end where it is worse than no adaptation, which is therefore a choice as well.
    starts = [None, *stops]
    ends = [frozen.default, *(one.parameters for one in found)]
    measurer = Measurer(frozen)
    on_labeled, on_measured = (
        measurer.measure_samples(ends, under.dataset, indices, settings.batch_size, title, stop)
        for indices, title in ((under.labeled, "labeled images"), (under.samples, "other images"))
    )
    chosen = int(np.argmin([measured.loss for measured in on_labeled]))
    before, after = on_measured[0], on_measured[chosen]
    ours = fold.dataset, fold.measured_indices
    (undrifted,) = Measurer(own).measure_samples([own.default], *ours, settings.batch_size)
    samples = fold.measured_indices, under.samples, under.samples
    kept = {
        score: {
            fold.number: Outcomes(
                indices, {score: np.stack(fold.task.outcome(measured.confusion))}, under.dataset.scenes(indices)
            )
        }
        for score, indices, measured in zip(_SCORES, samples, (undrifted, before, after), strict=True)
    }
    lost = undrifted.score - before.score
    adapted = Adapted(
        undrifted=undrifted.score,
        before=before.score,
        after=after.score,
        won_back=(after.score - before.score) / lost if lost >= LEAST_DROP else None,
        start=starts[chosen],
        starts=[
            Start(stops, labeled.loss, labeled.score, measured.score)
            for stops, labeled, measured in zip(starts, on_labeled, on_measured, strict=True)
        ],
        default=frozen.default,
        parameters={name: np.asarray(value) for name, value in ends[chosen].items()},
        measured=under.measured,
    )
    pictures = _pictures(settings.track_n_images, fold, own, under, frozen, ends[chosen])
    tables = [_starts_table(adapted, fold.task.score), _parameters_table(frozen, group, adapted.parameters)]
    return Analysis(
        plain(adapted),
        "\n\n".join(tables),
        {"curves": _curves(found, stops), "pictures": pictures},
        outcomes=kept,
    )


def _drifts_table(adaptation: Adaptation) -> str:
    """Formats the scores before and after adaptation to each drift, and the points won back, with intervals."""
    columns = ["drift", f"{adaptation.score} undrifted", "before", "after", "won back"]
    rows = [columns + ["by members"] * (len(adaptation.members) > 1)]
    for name, drift in adaptation.drifts.items():
        if found := drift.intervals:
            rows.append([name, *(each.points for each in (found.undrifted, found.before, found.after, found.won_back))])
        if len(adaptation.members) > 1:
            each = np.array(drift.after.folds, float) - np.array(drift.before.folds, float)
            rows[-1].append(f"{points(each.min())} to {points(each.max())}")
    samples = dict.fromkeys(f"{drift.samples} {drift.measured} samples" for drift in adaptation.drifts.values())
    stated = statistics.stated(adaptation.about, len(adaptation.members), " or ".join(samples))
    return f"{table(rows)}\n{stated}"


def _starts_table(adapted: Adapted, score: str) -> str:
    """Formats where the search from each start ended, with a mark at the chosen start."""
    rows = [["start", "labeled loss", f"labeled {score}", score]]
    for start in adapted.starts:
        name = "no adaptation" if start.stops is None else f"{start.stops:+d} stops"
        mark = " *" if start.stops == adapted.start else ""
        numbers = (start.labelled_loss, start.labelled_score, start.score)
        rows.append([name + mark, *(f"{number:.4f}" for number in numbers)])
    return table(rows)


def _parameters_table(frozen: Frozen, group: Sequence[str], adapted: Mapping[str, np.ndarray]) -> str:
    """Formats how far each parameter of the group has moved, and the values of small parameters."""
    rows = [["parameter", "default", "adapted", "farthest in natural ranges"]]
    for name in group:
        values = (frozen.default[name], adapted[name])
        cells = [
            " ".join(map(format_value, each.ravel().tolist())) if each.size <= _SHOWN else f"{each.size} values"
            for each in values
        ]
        farthest = np.abs(np.asarray(frozen.facts[name].offset(*values))).max()
        rows.append([name, *cells, f"{farthest:.3f}"])
    return table(rows)


def _curves(found: Sequence[Found], starts: Sequence[int]) -> Figure:
    """Draws the task loss of the batches over the steps, with a line for each start."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for stops, one in zip(starts, found, strict=True):
        axes.plot(one.task_loss, linewidth=1, label=f"{stops:+d} stops")
    axes.set(xlabel="step", ylabel="task loss of labeled images")
    axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", title="start")
    return figure


def _pictures(
    count: int, fold: TrainedFold, own: Frozen, under: Drifted, frozen: Frozen, adapted: Mapping[str, np.ndarray]
) -> Image.Image:
    """Draws measured samples undrifted, as the head learned them, under the drift, and after adaptation.

    Undrifted samples are left out unless the drifted data has the same scenes.
    """
    indices = under.samples[:count]
    shown = loader.batch_of(under.dataset, indices)
    pictures = {"before": frozen.images(frozen.default, shown), "after": frozen.images(adapted, shown)}
    if under.dataset.fingerprint == fold.dataset.fingerprint:
        pictures = {"undrifted": own.images(own.default, loader.batch_of(fold.dataset, indices)), **pictures}
    # One by one, since whatever maps over a dict sorts it by name.
    pictures = {name: np.asarray(images) for name, images in pictures.items()}
    return contact_sheet(
        {f"{number} {name}": images[number] for number in range(len(indices)) for name, images in pictures.items()},
        columns=len(pictures),
    )

"""Drift adjustment by adaptation: mends a trained model for drifted data, without labels or with a few."""

import json
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from r2l_jax.data import loader
from r2l_jax.data.loader import Batch
from r2l_jax.data.splits import varied
from r2l_jax.drift import cases, outcomes, statistics
from r2l_jax.drift.adjustment.config import AdaptationConfig, AdaptationSettings
from r2l_jax.drift.adjustment.drifts import Drifted, drifted, free_parameters
from r2l_jax.drift.adjustment.methods import Searched, try_all
from r2l_jax.drift.analysis import Analysis, once
from r2l_jax.drift.cases import Case
from r2l_jax.drift.outcomes import Outcomes
from r2l_jax.drift.results import (
    METHOD_TITLES,
    Adaptation,
    Adapted,
    AdaptedIntervals,
    AdaptedOverFolds,
    Estimate,
    PartialStatistic,
    plain,
    start_titles,
)
from r2l_jax.drift.search import ranges
from r2l_jax.drift.search.knobs import format_value
from r2l_jax.drift.search.measure import LEAST_DROP, confusions_of, whole_batches
from r2l_jax.drift.search.ranges import Facts
from r2l_jax.drift.statistics import points
from r2l_jax.model.model_hash import model_hash
from r2l_jax.model.normalization import undone
from r2l_jax.model.raw_to_logit import RawToLogit, pipeline_of
from r2l_jax.names import About
from r2l_jax.runtime import stop, store
from r2l_jax.runtime.commands import closing
from r2l_jax.runtime.contact_sheet import contact_sheet
from r2l_jax.runtime.environment import environment
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.files import write_json
from r2l_jax.runtime.flags import flat
from r2l_jax.runtime.locks import writing_to
from r2l_jax.runtime.tables import table
from r2l_jax.training.artifact import Artifact
from r2l_jax.training.record import members
from r2l_jax.training.run import load

# A table shows the values of parameters with at most this many.
_SHOWN = 4

# The longer side of a picture in pixels. The words above it can still be read where a page shows the sheet smaller.
_PANEL = 256

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
    """Adapts every fold of a run to each drift, and measures how much of the score comes back.

    The weights of the head stay as they are. The model normalizes by statistics of its training images, into which
    those of the unlabeled images are mixed (`r2l_jax.model.mending`). Then searches from several exposures tune the
    processing until the statistics of the features are as in training. With labels, another search goes on from there,
    and lowers the task loss of the labeled images. Each method is measured beside a baseline, see `methods`. If the
    drifted data shows the run's own scenes, the images to adapt by are drawn from the fold's training scenes, and the
    scores are measured on the test or validation scenes.

    Writes `<output>/adaptation.json` (all numbers, and how to reproduce them). Writes to `<output>/fold_<k>/<drift>/`:
    `adaptation.json` (the parameters found), `outcomes.safetensors` (the outcome of each sample), `curves.png`,
    `pictures.png` (undrifted, before, after) and TensorBoard events of the pictures. `<output>/<drift>/` is the adapted
    model as a run, which every program takes. A drift that an earlier call of the same settings has finished is not
    adapted to again.

    Each member of a group is adapted in its own folder, and `<output>/adaptation.json` has the numbers over all.
    `<output>/<drift>/` is then a group of links to the members' adapted runs.

    Returns:
        The content of adaptation.json.

    Raises:
        InputError: a folder that is not a finished run, a processing without parameters, a drift that does not fit the
            data, or another program that writes to the output folder.
        Interrupted: SIGINT or SIGTERM came; the same call keeps the finished drifts.
    """
    configs = [config.of_member(folder) for folder in members(config.run)]
    given = {"code": config.code, "data_dir": config.data_dir, "with_data": True}
    runs = [load(each.run, None, config.checkpoint, **given) for each in configs]
    pairs = list(zip(configs, (run.folds for run in runs), strict=True))
    for run in runs:
        run.check_parameters()
    for each, folds in pairs:
        for fold in folds:
            _check(each, fold)
    count = sum(len(folds) for _, folds in pairs)
    drifts = f"{len(config.drifts)} drift{'s' * (len(config.drifts) > 1)}"
    print(f"to adapt: {count} model{'s' * (count > 1)}, to {drifts}", file=sys.stderr)
    with stop.after_step():
        adapted = [_adapt_run(each, folds) for each, folds in pairs]
    content = adapted[0].content if configs[0] is config else _over_members(config, configs, adapted)
    print(closing(config.output_dir, [config.run], config.output is None))
    return content


def _adapt_run(config: AdaptationConfig, folds: Sequence[Artifact]) -> _OfRun:
    """Adapts all folds of a run to all drifts, writes adaptation.json, and prints its table."""
    with writing_to(config.output_dir):
        results = {
            fold.number: {drift.name: _adapted(config, fold, drift) for drift in config.drifts} for fold in folds
        }
        names = (*_SCORES, *config.searches.tried)
        scored = {drift.name: _read_outcomes(config, folds, drift, names) for drift in config.drifts}
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
        _link_members(config, configs)
        return _write(config, Adaptation(training=training, score=score, drifts=drifts, about=about, members=names), {})


def _link_members(config: AdaptationConfig, configs: Sequence[AdaptationConfig]) -> None:
    """Makes a group of the members' adapted runs, for each drift: a folder of relative links."""
    for drift in config.drifts:
        for member in configs:
            link = config.output_dir / drift.name / pathlib.Path(member.run).name
            link.parent.mkdir(exist_ok=True)
            if not link.exists():
                link.unlink(missing_ok=True)
                link.symlink_to(os.path.relpath(member.output_dir / drift.name, link.parent), target_is_directory=True)


def _write(config: AdaptationConfig, adaptation: Adaptation, folds: Mapping[int, Any]) -> dict[str, Any]:
    """Writes adaptation.json, prints its table, and returns its content.

    The file also keeps the drifts that earlier calls have adapted the same checkpoint of the same trainings to.
    """
    content = {**plain(adaptation), "folds": folds, "flags": flat(config), **environment()}
    file = config.output_dir / "adaptation.json"
    earlier = json.loads(file.read_text()) if file.exists() else {}
    if _adapted_model(earlier) == _adapted_model(content):
        content["drifts"] = earlier["drifts"] | content["drifts"]
        content["folds"] = {fold: earlier["folds"][str(fold)] | drifts for fold, drifts in folds.items()}
    write_json(file, content)
    print(f"{_drifts_table(adaptation)}\n")
    for drift in config.drifts:
        print(f"the model for {drift.name} is the run {config.output_dir / drift.name}")
    print()
    return content


def _adapted_model(content: Mapping[str, Any]) -> tuple[Any, Any]:
    """Returns which trainings and which checkpoint of them the content of an adaptation.json is about."""
    return content.get("training"), content.get("flags", {}).get("checkpoint")


def _file(config: AdaptationConfig, fold: Artifact, drift: Case) -> pathlib.Path:
    return config.output_dir / f"fold_{fold.number}" / drift.name / "adaptation.json"


def _read_outcomes(config: AdaptationConfig, folds: Sequence[Artifact], drift: Case, names: Sequence[str]) -> Scored:
    """Reads the outcomes of the samples, with all folds joined."""
    kept = {fold.number: outcomes.read(_file(config, fold, drift).with_name(outcomes.FILE)) for fold in folds}
    return {name: outcomes.joined([of_fold[name][number] for number, of_fold in kept.items()], name) for name in names}


def _summary(results: Sequence[Mapping[str, Any]], scored: Sequence[Scored], about: About) -> AdaptedOverFolds:
    """Summarizes the adaptations of folds or members to a drift.

    Args:
        results: the numbers of each fold or member.
        scored: the outcomes of each member.
        about: what the intervals are about.
    """
    of_samples = {name: np.stack([each[name] for each in scored]) for name in scored[0]}
    estimates = {name: Estimate.of(statistics.interval(each, about), 0.0) for name, each in of_samples.items()}
    scores = {name: estimates.pop(name) for name in _SCORES}
    won_back = statistics.interval(of_samples["after"] - of_samples["before"], about)
    return AdaptedOverFolds(
        *(PartialStatistic.of([result[name] for result in results]) for name in (*_SCORES, "won_back")),
        measured=results[0]["measured"],
        samples=of_samples["after"].shape[-1],
        intervals=AdaptedIntervals(**scores, won_back=Estimate.of(won_back, -1.0)),
        methods=estimates,
    )


def _check(config: AdaptationConfig, fold: Artifact) -> None:
    """Raises an InputError unless a fold can be adapted to all drifts, before anything is computed."""
    if config.intensities and fold.config.data.dataset == "Folder":
        raise InputError(
            f"--intensities: --run={config.run} was trained on a Folder, which holds one intensity; --exposures "
            "computes others"
        )
    cases.check_sensor(config.drifts, fold.dataset)
    cases.check_pipelines([cases.for_run(drift, fold.config.processing) for drift in config.drifts], fold.dataset)
    for drift in config.drifts:
        pipeline = drifted(config, fold, drift).pipeline
        free_parameters(config.searches.parameters, pipeline)
        ranges.check(pipeline.facts, jax.device_get(pipeline.parameters()))


def _adapted(config: AdaptationConfig, fold: Artifact, drift: Case) -> dict[str, Any]:
    """Returns the adaptation of a fold to a drift, made now or by an earlier call, and prints its tables."""
    file, adapted_run = _file(config, fold, drift), config.output_dir / drift.name / f"fold_{fold.number}"
    under = drifted(config, fold, drift)
    identity = _identity(config.searches, fold, drift, under)

    def analyze() -> Analysis:
        analysis, model = adapt(config.searches, fold, under)
        origin = {"run": str(fold.folder), "drift": drift.name, "settings": flat(config.searches)}
        pipeline = cases.for_run(drift, fold.config.processing).pipeline
        fold.adapted(model, origin, pipeline).write_fold(adapted_run)
        return analysis

    if not (adapted_run / "metrics.json").exists():
        # The model was moved away, or an earlier version has written none.
        file.unlink(missing_ok=True)
    return once(file, drift.name, fold, _flags(config.searches, drift), identity, analyze)


def _identity(settings: AdaptationSettings, fold: Artifact, drift: Case, under: Drifted) -> store.Identity:
    """Collects everything that an adaptation depends on."""
    drifted_data = under.dataset.content_of(np.unique([*under.labeled, *under.unlabeled, *under.samples]).tolist())
    return store.identity(
        _flags(settings, drift),
        data=[fold.dataset.content_of(fold.measured_indices), drifted_data],
        model=[fold.identity, drift.pipeline and drift.pipeline.identity, model_hash(under.model)],
    )


def _flags(settings: AdaptationSettings, drift: Case) -> dict[str, Any]:
    return {**flat(settings), "drift": drift._replace(pipeline=None)._asdict()}


def adapt(settings: AdaptationSettings, fold: Artifact, under: Drifted) -> tuple[Analysis, RawToLogit]:
    """Makes the models of all methods, and measures them on other images than those that they were made by.

    The content is a `results.Adapted`.

    Returns:
        The analysis, and the model of the last method.

    Raises:
        InputError: a search has diverged.
        Interrupted: a signal has asked to stop.
    """
    # Arrays of a fold lie on the devices of all processes, each of which computes by itself here.
    under, own_model = under._replace(model=under.model.on_one_device()), fold.model.on_one_device()
    tried, task = try_all(settings, fold, under), fold.task
    model = list(tried.models.values())[-1]
    batches = whole_batches(under.dataset, under.samples, settings.batch_size)
    own = whole_batches(fold.dataset, fold.measured_indices, settings.batch_size)
    confusions = {
        "undrifted": confusions_of(own_model, task, own),
        "before": confusions_of(under.model, task, batches),
    }
    confusions |= {name: confusions_of(each, task, batches) for name, each in tried.models.items()}
    confusions["after"] = confusions[list(tried.models)[-1]]
    scores = {name: float(task.score_of(confusion.sum(0))) for name, confusion in confusions.items()}
    samples = {name: fold.measured_indices if name == "undrifted" else under.samples for name in confusions}
    kept = {
        name: {
            fold.number: Outcomes(
                samples[name], {name: np.stack(task.outcome(confusion))}, under.dataset.scenes(samples[name])
            )
        }
        for name, confusion in confusions.items()
    }
    lost, searched = scores["undrifted"] - scores["before"], tried.searched
    adapted = Adapted(
        undrifted=scores["undrifted"],
        before=scores["before"],
        after=scores["after"],
        won_back=(scores["after"] - scores["before"]) / lost if lost >= LEAST_DROP else None,
        start=searched.starts[searched.chosen].stops if searched else None,
        starts=[*searched.starts] if searched else [],
        default=jax.device_get(under.pipeline.parameters()),
        parameters={name: np.asarray(value) for name, value in pipeline_of(model).parameters().items()},
        measured=f"{under.measured} {under.dataset.counted}",
        methods={name: scores[name] for name in tried.models},
        refusal=tried.refusal,
        statistics=tried.mended and tried.mended.description,
    )
    group = free_parameters(settings.parameters, under.pipeline)
    tables = [_methods_table(adapted, task.score)]
    figures: dict[str, Figure | Image.Image] = {
        "pictures": _pictures(settings.track_n_images, fold, own_model, under, model)
    }
    if searched:
        tables += [_starts_table(adapted, task.score), _parameters_table(under.pipeline.facts, group, adapted)]
        figures["curves"] = _curves(searched)
    return Analysis(plain(adapted), "\n\n".join(tables), figures, outcomes=kept), model


def _methods_table(adapted: Adapted, score: str) -> str:
    """Formats the score after each baseline and method, how statistics were mixed, and why they were not."""
    rows = [["method", score], ["nothing", f"{adapted.before:.4f}"]]
    rows += [[METHOD_TITLES[name], f"{each:.4f}"] for name, each in adapted.methods.items()]
    lines = [table(rows)]
    if adapted.statistics:
        lines.append(f"Statistics of {adapted.statistics}.")
    if adapted.refusal:
        lines.append(f"Nothing is adapted without labels: {adapted.refusal}; --force adapts all the same.")
    return "\n".join(lines)


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
    stated = dict.fromkeys(
        statistics.stated(adaptation.about, len(adaptation.members), drift.samples, drift.measured or "samples")
        for drift in adaptation.drifts.values()
    )
    return "\n".join([f"{table(rows)}\n\n{_methods_of_drifts(adaptation)}", *stated])


def _methods_of_drifts(adaptation: Adaptation) -> str:
    """Formats the scores of nothing, the baseline and the methods, with a column for each drift."""
    drifts = adaptation.drifts.values()
    rows = [["method", *adaptation.drifts]]
    rows.append(["nothing", *(drift.intervals.before.points if drift.intervals else "-" for drift in drifts)])
    for name in next(iter(drifts)).methods:
        rows.append([METHOD_TITLES[name], *(drift.methods[name].points for drift in drifts)])
    return table(rows)


def _starts_table(adapted: Adapted, score: str) -> str:
    """Formats where the search from each start ended, with a mark at the chosen start."""
    shown = start_titles(adapted.starts)
    rows = [["start", *(title.format(score=score) for title in shown.values())]]
    for start in adapted.starts:
        name = "no search" if start.stops is None else f"{start.stops:+d} stops"
        mark = " *" if start.stops == adapted.start else ""
        rows.append([name + mark, *(f"{getattr(start, each):.4f}" for each in shown)])
    return table(rows)


def _parameters_table(facts: Facts, group: Sequence[str], adapted: Adapted) -> str:
    """Formats how far each parameter of the group has moved, and the values of small parameters."""
    rows = [["parameter", "default", "adapted", "farthest in natural ranges"]]
    for name in group:
        values = (adapted.default[name], adapted.parameters[name])
        cells = [
            " ".join(map(format_value, each.ravel().tolist())) if each.size <= _SHOWN else f"{each.size} values"
            for each in values
        ]
        farthest = np.abs(np.asarray(facts[name].offset(*values))).max()
        rows.append([name, *cells, f"{farthest:.3f}"])
    return table(rows)


def _curves(searched: Searched) -> Figure:
    """Draws the objective of the batches over the steps, with a line for each start."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for stops, one in zip(searched.stops, searched.found, strict=True):
        axes.plot(one.task_loss, linewidth=1, label=f"{stops:+d} stops")
    by_labels = searched.starts[0].certainty is None
    axes.set(xlabel="step", ylabel="task loss of labeled images" if by_labels else "distance of the features")
    axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", title="start")
    return figure


def _pictures(count: int, fold: Artifact, own: RawToLogit, under: Drifted, adapted: RawToLogit) -> Image.Image:
    """Draws measured samples undrifted, under the drift, and after adaptation, as the head sees and judges them.

    The normalizer's new statistics are shown as if the training's had been kept, and the image had changed. Undrifted
    samples are left out unless the drifted data has the same scenes.
    """
    indices = under.samples[varied(under.dataset.labels[under.samples], count)]

    def seen(model: RawToLogit, batch: Batch[np.ndarray]) -> list[tuple[np.ndarray, str]]:
        images = model.processor(jnp.asarray(batch["raw"]))
        shown = np.clip(np.asarray(undone(own.normalizer, model.normalizer(images))), 0, 1)
        return list(map(fold.task.judged, shown, np.asarray(model.logits(images)), batch["target"]))

    drifted = loader.batch_of(under.dataset, indices)
    judged = {"before": seen(under.model, drifted), "after": seen(adapted, drifted)}
    if under.dataset.fingerprint == fold.dataset.fingerprint:
        judged = {"undrifted": seen(own, loader.batch_of(fold.dataset, indices)), **judged}
    pictures = {
        f"{number} {name}: {of_model[number][1]}": of_model[number][0]
        for number in range(len(indices))
        for name, of_model in judged.items()
    }
    return contact_sheet(pictures, columns=len(judged), panel=_PANEL)

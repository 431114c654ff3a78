"""Drift adjustment by adaptation: adapts a trained model to drifted data, without labels or with a few."""

import functools
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image

from r2l_jax.cli import progress
from r2l_jax.cli.commands import closing
from r2l_jax.cli.flags import flat
from r2l_jax.data import loader
from r2l_jax.data.loader import Batch
from r2l_jax.data.splits import varied
from r2l_jax.drift import cases, measure, statistics
from r2l_jax.drift.adjustment.config import NOTHING, AdjustmentConfig, MethodSettings
from r2l_jax.drift.adjustment.drifts import Drifted, drifted, free_parameters
from r2l_jax.drift.adjustment.methods import Searched, try_all
from r2l_jax.drift.cases import CLEAN, Case
from r2l_jax.drift.measure import Model, Outcomes, Samples
from r2l_jax.drift.renderer import grouped
from r2l_jax.drift.search import ranges
from r2l_jax.drift.search.knobs import format_value
from r2l_jax.drift.trained_folds import TrainedFold, folds_of, for_each_fold, ids_of, member_of
from r2l_jax.drift.verdict import change, in_words
from r2l_jax.errors import InputError
from r2l_jax.model.processor_hash import processor_hash
from r2l_jax.model.processors import undone
from r2l_jax.model.raw_to_logit import RawToLogit, pipeline_of
from r2l_jax.names import About
from r2l_jax.results import result, store
from r2l_jax.results.contact_sheet import contact_sheet
from r2l_jax.results.locks import writing_to
from r2l_jax.results.result import SCORE, Cell, Column, Figure, Result, Table, cached
from r2l_jax.training.model_io import Trained
from r2l_jax.training.run import Run

# Tables show the values of parameters with at most this many.
_SHOWN = 4

# How many samples the pictures show, and the longer side of each in pixels, so that the text above stays readable where
# a page shrinks the sheet.
_PICTURES, _PANEL = 5, 256

_CLEAN, _RECOVERED = "clean", "recovered"

# A function that measures a model without a drift.
Clean = Callable[[], Outcomes]


def run(config: AdjustmentConfig) -> Result:
    """Adapts every fold of a run or a group to each drift, and measures how much of the score is recovered.

    Each method is measured beside a baseline, see `methods`; the weights of the head do not change. If the drifted data
    shows the run's scenes, the images to adapt to are drawn from the fold's training scenes, and the scores are
    measured on the test or validation scenes.

    Writes a result to `<run>/adjustment/fold_<k>/<drift>/`, which later calls with the same settings reuse, and one of
    all drifts over all models to `<run or group>/adjustment/`. `<run>/adjustment/<drift>/` is the adapted model as a
    run, which every program takes; for a group, it is a group of links to its members' adapted runs.

    Raises:
        InputError: a folder is not a finished run, the processing has no parameters, a drift does not fit the data, or
            another program is writing to the output folder.
        Interrupted: SIGINT or SIGTERM came; the same call keeps the finished drifts.
    """
    folds = folds_of(config)
    for trained in folds:
        _check(config, trained.fold)
    results = for_each_fold(folds, functools.partial(_adapted_to_all, config))
    with writing_to(config.output_dir):
        _link_members(config, folds)
        found = _over_models(config, folds, results)
        result.write(config.output_dir, found)
    print(f"{found.text()}\n")
    for drift in config.drifts:
        print(f"the model adapted to {drift.name} is the run {config.output_dir / drift.name}")
    print(f"\n{closing(config.output_dir, [config.run], config.output is None)}")
    return found


def _link_members(config: AdjustmentConfig, folds: Sequence[TrainedFold]) -> None:
    """Makes a group of the members' adapted runs, for each drift: a folder of relative links."""
    outputs = {member_of(trained.name): trained.output for trained in folds}
    # The folds of a run alone have no member.
    for member, drift in itertools.product(filter(None, outputs), config.drifts):
        link = config.output_dir / drift.name / member
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.unlink(missing_ok=True)
            link.symlink_to(os.path.relpath(outputs[member] / drift.name, link.parent), target_is_directory=True)


def _check(config: AdjustmentConfig, fold: Trained) -> None:
    """Raises an InputError unless a fold can be adapted to all drifts, before anything is computed."""
    Run([fold]).check_parameters()
    if config.intensities and not fold.config.data.has_intensities:
        raise InputError(
            f"`intensities`: `run={config.run}` was trained on {fold.dataset.name}, which has only one intensity; "
            "`exposures` simulates others"
        )
    cases.check_camera([cases.for_run(drift, fold.config.processing) for drift in config.drifts], fold.dataset)
    for drift in config.drifts:
        pipeline = drifted(config, fold, drift).pipeline
        free_parameters(config.searches.parameters, pipeline)
        ranges.check(pipeline.declarations, jax.device_get(pipeline.parameters()))


def _adapted_to_all(config: AdjustmentConfig, trained: TrainedFold) -> dict[str, Result]:
    """Returns the results of adapting a model, by drift, made now or by an earlier call; prints their tables."""
    fold, samples = trained.fold, Samples.of(trained.fold, config.searches.batch_size)
    fold.task.check_adapts()
    clean = functools.cache(functools.partial(measure.measure, {_CLEAN: Model(fold.model)}, [CLEAN], samples))
    found = {}
    for number, drift in enumerate(config.drifts, 1):
        with progress.part(drift.name, number, len(config.drifts)):
            found[drift.name] = _adapted(config, trained, drift, clean)
    return found


def _adapted(config: AdjustmentConfig, trained: TrainedFold, drift: Case, clean: Clean) -> Result:
    fold, under = trained.fold, drifted(config, trained.fold, drift)
    number = f"fold_{fold.number}"
    folder, adapted_run = trained.output / number / drift.name, trained.output / drift.name / number
    flags = {**flat(config.searches), "drift": drift.identity}
    data = under.dataset.content_of(np.unique([*under.labeled, *under.unlabeled, *under.samples]).tolist())
    processor = [drift.pipeline and drift.pipeline.identity, processor_hash(under.model.processor)]
    inputs = store.identity(
        flags,
        data=[fold.dataset.content_of(fold.measured_indices), data],
        model=[fold.training, fold.identity, *processor],
    )

    def make() -> Result:
        made, model = adapt(config.searches, fold, under, clean)
        origin = {"run": str(fold.folder), "drift": drift.name, "settings": flat(config.searches)}
        pipeline = cases.for_run(drift, fold.config.processing).pipeline
        fold.adapted(model, origin, pipeline).write_fold(adapted_run)
        metadata = {"title": f"Adjustment to {drift.name}, fold {fold.number}", "training": {number: fold.training}}
        return Result({**metadata, **made.metadata, "flags": flags}, made.tables, made.figures, made.outcomes)

    if not (adapted_run / "metrics.json").exists():
        # The model was moved away.
        (folder / result.FILE).unlink(missing_ok=True)
    result.holds(folder, inputs)  # A result of other inputs is removed before its model is replaced.
    found = cached(folder, inputs, make)
    print(f"{trained.name}: {drift.name}\n{found.text()}\n\nresults in {folder}\n")
    return found


def adapt(settings: MethodSettings, fold: Trained, under: Drifted, clean: Clean) -> tuple[Result, RawToLogit]:
    """Adapts by all methods, and measures the models on images that they were not adapted to.

    Returns the result, and the model of the last method.
    """
    tried, score = try_all(settings, fold, under), fold.task.score.name
    models = {NOTHING: under.model, **tried.models}
    samples = Samples(fold.task, under.dataset, under.samples, settings.batch_size)
    outcomes = measure.measure({row: Model(model) for row, model in models.items()}, [CLEAN], samples)
    adapted = models[outcomes.models[-1]]
    rows = [[row, outcomes.score(row)] for row in outcomes.models]
    tables = {"methods": Table(f"{score} after each method", [Column("method"), Column(score, format=SCORE)], rows)}
    figures: dict[str, Figure | Image.Image] = {}
    if searched := tried.searched:
        group = free_parameters(settings.parameters, under.pipeline)
        tables |= {"starts": searched.table, "parameters": _parameters_table(under.pipeline, adapted, group)}
        figures["curves"] = Figure(functools.partial(_draw_curves, searched), (6, 4), "objective of the searches")
    figures["pictures"] = _pictures(fold, under, adapted)
    notes = [f"Statistics of {tried.statistics}."] if tried.statistics else []
    unused = []
    if tried.refusal:
        unused.append(f"The unlabeled images were not used: {tried.refusal}; `force` uses them anyway.")
    if searched and searched.note:
        unused.append(searched.note)
    notes += [*unused, fold.about.state]
    metadata = {"notes": notes, "unused": unused, "measured": under.measured}
    return Result(metadata, tables, figures, measure.packed_blocks([clean(), outcomes])), adapted


def _over_models(
    config: AdjustmentConfig, folds: Sequence[TrainedFold], results: Mapping[str, Mapping[str, Result]]
) -> Result:
    """Combines the scores of all methods under all drifts, with intervals over the members of a group."""
    members = dict(grouped(results, member_of))
    about: About = "recipe" if len(members) > 1 else "model"
    scoring, result_row = folds[0].fold.task.score, config.searches.rows[-1]
    rows: dict[str, list[Cell]] = {name: [name] for name in (_CLEAN, *config.searches.rows, _RECOVERED)}
    verdict, notes, scores = [], list[str](), {}
    for drift in config.drifts:
        of_members = [
            [block for name in names for block in measure.unpacked_blocks(results[name][drift.name].outcomes, scoring)]
            for names in members.values()
        ]
        outcomes = {
            row: np.stack(
                [measure.over_folds([(row, each) for each in blocks if row in each.models]) for blocks in of_members]
            )
            for row in (_CLEAN, *config.searches.rows)
        }
        outcomes[_RECOVERED] = outcomes[result_row] - outcomes[NOTHING]
        for name, each in outcomes.items():
            found = statistics.bounded(each, about, scoring.drop_bounds if name == _RECOVERED else scoring.bounds)
            rows[name].append(found)
            if name == _RECOVERED:
                words = change(found, ("recovers", "loses", "shows no gain"))
                unused = itertools.chain(*(each[drift.name].metadata["unused"] for each in results.values()))
                verdict.append(" ".join([f"Adjustment to {in_words(drift.name)} {words}.", *dict.fromkeys(unused)]))
        before, after = outcomes[NOTHING], outcomes[result_row]
        samples = measure.joined_samples(each for each in of_members[0] if result_row in each.models)
        measured = results[folds[0].name][drift.name].metadata["measured"]
        drawn = statistics.drawn(len(samples), after.shape[1], measured)
        notes.append(statistics.stated(about, len(members), drawn))
        scores[drift.name] = {"before": before.mean(1).tolist(), "after": after.mean(1).tolist()}
    columns = [Column("method"), *(Column(drift.name, format=SCORE) for drift in config.drifts)]
    table = Table(f"{scoring.name} by method", columns, [*rows.values()], f"{_RECOVERED}: {result_row} minus {NOTHING}")
    metadata = {
        "title": "Adjustment",
        "verdict": verdict,
        "notes": [*dict.fromkeys(notes)],
        "training": ids_of(folds),
        "flags": flat(config),
        "score": scoring.name,
        "about": about,
        "members": [name for name in members if name],
        "scores": scores,
    }
    return Result(metadata, {"adjustment": table})


def _parameters_table(pipeline: Any, adapted: RawToLogit, group: Sequence[str]) -> Table:
    """Makes a table of the largest offset of each parameter of a group, with the values of small parameters."""
    ends = [jax.device_get(each.parameters()) for each in (pipeline, pipeline_of(adapted))]
    rows = []
    for name in group:
        values = [np.asarray(end[name]) for end in ends]
        cells = [
            " ".join(map(format_value, each.ravel().tolist())) if each.size <= _SHOWN else f"{each.size} values"
            for each in values
        ]
        rows.append([name, *cells, float(np.abs(np.asarray(pipeline.declarations[name].offset(*values))).max())])
    columns = [*map(Column, ("parameter", "default", "adapted")), Column("largest offset", format=".3f")]
    return Table("Parameters", columns, rows)


def _draw_curves(searched: Searched, axes: Any) -> None:
    """Draws the objective of the batches over the steps, with a line for each start."""
    for start, one in searched.found.items():
        axes.plot(one.task_loss, linewidth=1, label=start)
    axes.set(xlabel="step", ylabel=searched.objective)
    axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", title="start")


def _pictures(fold: Trained, under: Drifted, adapted: RawToLogit) -> Image.Image:
    """Draws measured samples clean, under the drift, and after adaptation, as the head sees and predicts them.

    A change in the normalizer's statistics is shown as the equivalent change of the image. Clean samples are left out
    unless the drifted data has the same scenes.
    """
    indices = under.samples[varied(under.dataset.labels[under.samples], _PICTURES)]

    def seen(model: RawToLogit, batch: Batch[np.ndarray]) -> list[tuple[np.ndarray, str]]:
        images = model.processor(jax.device_put(batch["raw"]))
        shown = np.clip(np.asarray(undone(fold.model.normalizer, model.normalizer(images))), 0, 1)
        pairs = zip(shown, np.asarray(model.logits(images)), batch["target"], strict=True)
        return [fold.task.judged(*each, height=batch["raw"].shape[1]) for each in pairs]

    batch = loader.batch_of(under.dataset, indices)
    judged = {"before": seen(under.model, batch), "after": seen(adapted, batch)}
    if under.dataset.fingerprint == fold.dataset.fingerprint:
        judged = {_CLEAN: seen(fold.model, loader.batch_of(fold.dataset, indices)), **judged}
    pictures = {
        f"image {number + 1}, {name}: {of_model[number][1]}": of_model[number][0]
        for number in range(len(indices))
        for name, of_model in judged.items()
    }
    return contact_sheet(pictures, columns=len(judged), panel=_PANEL)

"""Drift adjustment by adaptation: re-tunes a trained model's processing on a few labeled images of drifted data."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from r2l_jax.drift import cases
from r2l_jax.drift.adjustment.config import STOPS, AdaptationConfig, AdaptationSettings
from r2l_jax.drift.adjustment.drifts import Drifted, drifted, free_parameters
from r2l_jax.drift.analysis import Analysis, once
from r2l_jax.drift.cases import Case
from r2l_jax.drift.results import Adapted, AdaptedOverFolds, PartialStatistic, Start, plain
from r2l_jax.drift.search import ranges
from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.drift.search.knobs import format_value
from r2l_jax.drift.search.measure import LEAST_DROP, Measurer
from r2l_jax.drift.search.ranges import gains
from r2l_jax.drift.search.searcher import Found, Search, Searcher
from r2l_jax.model.model_hash import model_hash
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
from r2l_jax.training.run import TrainedFold, open_runs

# A table shows the values of parameters with at most this many.
_SHOWN = 4


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
        InputError: a folder that is not a finished run, a processing without parameters, a drift that does not fit the
            data, or another program that writes to the output folder.
        Interrupted: SIGINT or SIGTERM came; the same call resumes where this one stopped.
    """
    (run,) = open_runs([config.run], config.data_dir, config.own_pipelines, config.checkpoint)
    run.check_parameters()
    folds = run.folds
    on_every_process(lambda: [_check(config, fold) for fold in folds])
    with writing_to(config.output_dir), StopSignals() as stop:
        results = {
            fold.number: {drift.name: _adapted(config, fold, drift, stop) for drift in config.drifts} for fold in folds
        }
        score = folds[0].task.score
        drifts = {
            drift.name: _over_folds([result[drift.name] for result in results.values()]) for drift in config.drifts
        }
        # This is a `results.Adaptation` whose folds have the table and the identity of their own files as well.
        content = {
            "score": score,
            "drifts": plain(drifts),
            "folds": results,
            "flags": flat(config),
            **environment(),
        }
        on_first_process(lambda: write_json(config.output_dir / "adaptation.json", content))
    if is_first():
        print(f"{_drifts_table(drifts, score)}\n\n{closing(config.output_dir, [config.run], config.output is None)}")
    return content


def _over_folds(results: Sequence[dict[str, Any]]) -> AdaptedOverFolds:
    """Computes the mean and the standard deviation of each number over the folds that have it."""
    names = AdaptedOverFolds.__struct_fields__
    return AdaptedOverFolds(*(PartialStatistic.of([result[name] for result in results]) for name in names))


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
    file = config.output_dir / f"fold_{fold.number}" / drift.name / "adaptation.json"
    under = on_every_process(lambda: drifted(config, fold, drift))
    identity = on_every_process(lambda: _identity(config.searches, fold, drift, under))

    def analyze(unfinished: pathlib.Path) -> Analysis:
        return adapt(config.searches, fold, under, stop.agreed, unfinished)

    return once(file, drift.name, fold, identity, analyze)


def _identity(settings: AdaptationSettings, fold: TrainedFold, drift: Case, under: Drifted) -> store.Identity:
    """Collects everything that an adaptation depends on."""
    drifted_data = under.dataset.content_of([*under.labeled, *under.measured])
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
    raws, targets = on_every_process(lambda: under.dataset.samples(under.labeled))
    found = searcher.run(searches, raws, targets, settings.steps, stop, file)
    # On few images a search may end where it is worse than no adaptation, which is therefore a choice as well.
    starts = [None, *stops]
    ends = [frozen.default, *(one.parameters for one in found)]
    measurer = Measurer(frozen)
    on_labeled, on_measured = (
        measurer.measure_samples(ends, under.dataset, indices, settings.batch_size, title, stop)
        for indices, title in ((under.labeled, "labeled images"), (under.measured, "other images"))
    )
    chosen = int(np.argmin([measured.loss for measured in on_labeled]))
    before, after = on_measured[0], on_measured[chosen]
    ours = fold.dataset, fold.measured_indices
    (undrifted,) = Measurer(own).measure_samples([own.default], *ours, settings.batch_size)
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
    )
    pictures = _pictures(settings.track_n_images, fold, own, under, frozen, ends[chosen])
    tables = [_starts_table(adapted, fold.task.score), _parameters_table(frozen, group, adapted.parameters)]
    return Analysis(plain(adapted), "\n\n".join(tables), {"curves": _curves(found, stops), "pictures": pictures})


def _drifts_table(drifts: Mapping[str, AdaptedOverFolds], score: str) -> str:
    """Formats the score that each drift costs and that adaptation wins back, as means over the folds."""
    rows = [["drift", f"{score} undrifted", "before", "after", "won back"]]
    for name, drift in drifts.items():
        cells = [f"{each.mean:.4f}" for each in (drift.undrifted, drift.before, drift.after)]
        won = drift.won_back.mean
        rows.append([name, *cells, "-" if won is None else f"{won:.0%}"])
    return table(rows)


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
    indices = under.measured[:count]
    raws, _ = under.dataset.samples(indices)
    pictures = {"before": frozen.pipeline(frozen.default)(raws), "after": frozen.pipeline(adapted)(raws)}
    if under.dataset.fingerprint == fold.dataset.fingerprint:
        pictures = {"undrifted": own.pipeline(own.default)(fold.dataset.samples(indices)[0]), **pictures}
    # One by one, since whatever maps over a dict sorts it by name.
    pictures = {name: np.asarray(images) for name, images in pictures.items()}
    return contact_sheet(
        {f"{number} {name}": images[number] for number in range(len(indices)) for name, images in pictures.items()},
        columns=len(pictures),
    )

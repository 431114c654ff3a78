"""Worst cases: which parameters of a processing break a model, and how far from the default they must move."""

import dataclasses
import itertools
import math
import operator
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from matplotlib.axes import Axes
from PIL import Image

import isp
from isp.parameter import MOST_ELEMENTS
from isp.published import ADDITIVE_LAYER, additive_layer_stage
from r2l_jax.data import loader
from r2l_jax.data.loader import Batch
from r2l_jax.drift import shot_groups
from r2l_jax.drift.cases import CLEAN
from r2l_jax.drift.forensics.config import WorstCaseSettings
from r2l_jax.drift.forensics.distances import compared, deviations, distances
from r2l_jax.drift.measure import Model, Samples, measure, packed_blocks, unpacked_blocks
from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.drift.search.knobs import Knob
from r2l_jax.drift.search.ranges import tuned
from r2l_jax.drift.search.searcher import Found, Search, Searcher
from r2l_jax.errors import InputError
from r2l_jax.model.raw_to_logit import RawToLogit, image_size, pipeline_of
from r2l_jax.results.contact_sheet import contact_sheet
from r2l_jax.results.heat_map import heat_map
from r2l_jax.results.result import DROP, SCORE, Cell, Column, Figure, Result, Table, points
from r2l_jax.training.model_io import Trained

# The standard deviation of random starts around the default, in natural ranges: too small to be seen, large enough that
# searches take different paths.
_SPREAD = 0.02

# How far the sweep before the searches moves each knob alone, in natural ranges, and the most samples it measures.
_SWEPT, _SWEPT_SAMPLES = tuple(sign * 0.03 * 2**step for step in range(5) for sign in (-1, 1)), 64

DEFAULT = "default"

_COLUMNS = (
    *(
        Column("drop", format=DROP),
        Column("loss"),
        Column("SSIM", format=".4f"),
        Column("largest change", format=".4f"),
    ),
    *(
        Column("CIEDE2000", format=".1f"),
        Column("CIEDE2000, 95%", format=".1f"),
        Column("range of starts", format=DROP),
    ),
)
_RANGE_OF_STARTS = "range of starts: the spread of the scores over a search's starts, the lowest of which counts"

# The group, the weight and the number of the start of a search.
Key = tuple[str, float, int]


class _Start(NamedTuple):
    """A start at which one knob is moved alone: the knob, its position and all parameters."""

    knob: Knob
    position: float
    parameters: dict[str, np.ndarray]


def drawn(fold: Trained, settings: WorstCaseSettings, seed: int) -> np.ndarray:
    """Returns the training samples that batches are drawn from."""
    return np.random.default_rng(seed).permutation(fold.split.train)[: settings.samples]


def searched(fold: Trained, settings: WorstCaseSettings) -> RawToLogit:
    """Returns the model to search: the fold's, with an additive layer after its pipeline if requested."""
    pipeline = pipeline_of(fold.model)
    if not settings.adv_noise_layer or ADDITIVE_LAYER in pipeline.declarations:
        return fold.model
    if ADDITIVE_LAYER in pipeline.stage_names:
        raise InputError(f"`adv_noise_layer`: {fold.config.processing.flag} already has a stage {ADDITIVE_LAYER}")
    layer = additive_layer_stage(image_size(pipeline, fold.dataset.shape))
    return fold.model.processed_by(pipeline.inserted(layer, after=pipeline.stage_names[-1]))


def searches_of(pipeline: isp.Pipeline, settings: WorstCaseSettings, seed: int) -> dict[Key, Search]:
    """Makes the searches for a pipeline: every group, under every weight, from every start.

    A group is "all" parameters or a single one. By default, the groups are "all" and each parameter that is tuned by
    hand.

    Raises:
        InputError: the pipeline has no parameter of a group's name.
    """
    names, parameters = settings.adv_parameters, tuple(pipeline.parameters())
    known = {"all": parameters, **{name: (name,) for name in parameters}}
    for name in names:
        if name not in known:
            hint = "; give `adv_noise_layer` as well" if name == ADDITIVE_LAYER else ""
            raise InputError(f"`adv_parameters` must be one of {', '.join(known)}, got {name!r}{hint}")
    groups = names or ("all", *tuned(pipeline.declarations))
    return {
        (group, weight, start): Search(known[group], weight, seed=seed + start, spread=_SPREAD if start else 0.0)
        for group, weight, start in itertools.product(groups, settings.adv_aux_weight, range(settings.starts))
    }


def analyze(fold: Trained, settings: WorstCaseSettings, batch_size: int, seed: int) -> Result:
    """Searches for the worst processing of a fold, and measures the model under it on the measured samples.

    Batches are drawn from the fold's training samples. The start that ends worst on the measured samples counts, not
    the mean of the starts.

    The penalty on deviation keeps some searches at the default although a small shift of one value costs points. So the
    second start is the worst point of a sweep that moves each knob alone. That point itself counts if the search from
    it ends at a better score. Only points whose penalty is at most the loss of guessing are used.

    The result has the outcomes of the default and of each worst case.

    `batch_size` is the number of samples in a step of one search, and of those measured at once; `seed` is for samples,
    starts and batches.

    Raises:
        InputError: a search has diverged.
        Interrupted: a signal has asked to stop.
    """
    model, indices, score = searched(fold, settings), drawn(fold, settings, seed), fold.task.score.name
    frozen, samples = Frozen(model, fold.task), Samples.of(fold, batch_size)
    searches = searches_of(frozen.pipeline(frozen.default), settings, seed)
    starts = _swept(fold, frozen, model, searches, settings, batch_size, indices) if settings.starts > 1 else {}
    for key, start in starts.items():
        searches[key] = searches[key]._replace(spread=0.0, turned=(start.knob.name, start.position))
    searcher = Searcher(
        direction="worst", aux_loss=settings.adv_aux_loss, learning_rate=settings.step_size, batch_size=batch_size
    )
    seen = loader.batch_of(fold.dataset, indices)
    ends = searcher.run(frozen, list(searches.values()), seen["raw"], seen["target"], settings.steps)
    tried = list(zip(searches, ends, strict=True))
    tried += [(key, dict(tried)[key]._replace(parameters=start.parameters)) for key, start in starts.items()]
    values = {DEFAULT: frozen.default} | {f"{number}": end.parameters for number, (_, end) in enumerate(tried)}
    outcomes = measure(
        {name: Model(model, each) for name, each in values.items()}, [CLEAN], samples, title="worst cases"
    )
    # Worst first: by the lowest score, then by the greatest loss.
    order = {name: (outcomes.score(name), -outcomes.loss_of(name)) for name in values}
    found: dict[Key, str] = {}
    for number, (key, _) in enumerate(tried):
        found[key] = min(found.get(key, f"{number}"), f"{number}", key=lambda name: order[name])
    worst, spreads, of_groups = dict[str, str](), list[float](), dict[str, str]()
    for group, weight in dict.fromkeys((group, weight) for group, weight, _ in found):
        names = sorted(
            (name for key, name in found.items() if key[:2] == (group, weight)), key=lambda name: order[name]
        )
        title = f"{group}, weight {weight:g}"
        worst[title] = names[0]
        spreads.append(order[names[-1]][0] - order[names[0]][0])
        of_groups[group] = min(of_groups.get(group, title), title, key=lambda title: order[worst[title]])
    away = compared(distances, frozen, [values[name] for name in worst.values()], samples, "distances")
    rows = [
        [
            *(title, order[name][0], order[DEFAULT][0] - order[name][0], -order[name][1], float(each["ssim"].mean())),
            *(float(each["change"].max()), float(each["color"].mean()), float(each["color_95"].mean()), spread),
        ]
        for (title, name), each, spread in zip(worst.items(), away, spreads, strict=True)
    ]
    note = f"default {score} {points(order[DEFAULT][0])}; {_RANGE_OF_STARTS}"
    columns = [Column("worst case"), Column(score, format=SCORE), *_COLUMNS]
    parameters = {title: values[name] for title, name in worst.items()}
    shown = {group: parameters[title] for group, title in of_groups.items()}
    tables = {"worst_case": Table("worst cases", columns, rows, note), "values": _values(frozen, shown)}
    ways = [(key, tried[int(name)][1]) for key, name in found.items()]
    figures: dict[str, Figure | Image.Image] = {name: _curves(ways, name) for name in ("task_loss", "deviation")}
    if settings.adv_track_differences:
        few: Batch = jax.tree.map(lambda leaf: leaf[: settings.track_n_images], seen)
        figures |= {f"worst_{group}": _differences(frozen, values, few) for group, values in shown.items()}
    metadata = {"score": order[DEFAULT][0], "worst": of_groups, "parameters": parameters}
    if np.isin(fold.measured_indices, drawn(fold, settings, seed)).any():
        metadata["notes"] = ["searched on samples that are also measured, so drops are too large for other samples"]
    result = Result(metadata, tables, figures, packed_blocks([outcomes.of_models({DEFAULT: DEFAULT, **worst})]))
    return dataclasses.replace(result, metadata={**metadata, "verdict": verdict([result])})


def by_shot(fold: Trained, by: Sequence[str], worst: Result) -> Result:
    """Scores the samples of each group of shots, under the default and in the worst case of each parameter group.

    Args:
        fold: the trained model.
        by: the fields of shots.
        worst: the worst cases of the same samples, with their outcomes.
    """
    (outcomes,), score = unpacked_blocks(worst.outcomes, fold.task.score), fold.task.score.name
    columns, tables, figures = {DEFAULT: DEFAULT, **worst.metadata["worst"]}, {}, {}
    for field, groups in shot_groups.groups(fold.dataset, fold.measured_indices, by).items():
        title, taken = field.replace("_", " "), {name: np.isin(outcomes.samples, each) for name, each in groups.items()}
        scores = [[outcomes.score(model, CLEAN.name, each) for model in columns.values()] for each in taken.values()]
        rows = [[name, len(groups[name]), *each] for name, each in zip(groups, scores, strict=True)]
        headings = [Column(title), Column("samples"), *(Column(name, format=SCORE) for name in columns)]
        tables[field] = Table(f"{score} by {title}, in the worst case of each group", headings, rows)
        figures[field] = heat_map(scores, [f"{row[0]} ({row[1]})" for row in rows], list(columns), label=score)
    return Result({}, tables, figures)


def verdict(results: Sequence[Result]) -> list[str]:
    """States the points that the worst black level found costs, or else the worst processing."""
    drops: dict[str, list[float]] = {}
    for result in results:
        of_rows = result.tables["worst_case"].numbers("drop")
        for group, title in result.metadata["worst"].items():
            drops.setdefault(group, []).append(of_rows[title])
    is_searched = "black_level" in drops
    group = "black_level" if is_searched else max(drops, key=lambda group: np.median(drops[group]))
    median, *ends = map(points, (np.median(drops[group]), min(drops[group]), max(drops[group])))
    sentence = f"The worst {'black level' if is_searched else 'processing'} that a search found costs "
    if len(results) == 1:
        return [f"{sentence}{median} points."]
    return [f"{sentence}{' to '.join(ends)} points in {len(results)} models ({median} in the median)."]


def _swept(
    fold: Trained,
    frozen: Frozen,
    model: RawToLogit,
    searches: Mapping[Key, Search],
    settings: WorstCaseSettings,
    batch_size: int,
    indices: np.ndarray,
) -> dict[Key, _Start]:
    """Moves each knob of the searched parameters alone, and returns the worst point for each second start.

    It has the greatest loss of all points that raise the loss and whose penalty is at most the loss of guessing.
    """
    parameters = {name for search in searches.values() for name in search.group}
    moved = [(knob, position) for knob in frozen.knobs.values() if knob.parameter in parameters for position in _SWEPT]
    starts = {f"{number}": _Start(*each, frozen.turned({each[0].name: each[1]})) for number, each in enumerate(moved)}
    samples = Samples(fold.task, fold.dataset, indices[:_SWEPT_SAMPLES], batch_size)
    models = {DEFAULT: Model(model, frozen.default)} | {
        name: Model(model, each.parameters) for name, each in starts.items()
    }
    found = measure(models, [CLEAN], samples, title="sweep")
    raised = [name for name in starts if found.loss_of(name) > found.loss_of(DEFAULT)]
    processings = [starts[name].parameters for name in raised]
    away = compared(deviations(settings.adv_aux_loss), frozen, processings, samples, "distances of the sweep")
    prices = {name: float(each["deviation"].mean()) for name, each in zip(raised, away, strict=True)}
    if settings.adv_aux_loss == "l2_sum":
        size = image_size(frozen.pipeline(frozen.default), fold.dataset.shape)
        prices = {name: 3 * math.prod(size) * min(batch_size, len(indices)) * each for name, each in prices.items()}
    begun, most = {}, math.log(max(fold.task.outputs, 2))
    for (group, weight, start), search in searches.items():
        names = [
            name for name in raised if starts[name].knob.parameter in search.group and weight * prices[name] <= most
        ]
        if start == 1 and names:
            begun[group, weight, start] = starts[max(names, key=found.loss_of)]
    return begun


def _values(frozen: Frozen, worst: Mapping[str, Mapping[str, np.ndarray]]) -> Table:
    """Makes a table of the values of small parameters, in the default and in the worst case of each group."""
    rows: list[list[Cell]] = []
    for name, parameter in frozen.declarations.items():
        value = frozen.default[name]
        if value.size <= MOST_ELEMENTS:
            columns = (np.ravel(each[name]).tolist() for each in (frozen.default, *worst.values()))
            rows += map(list, zip(parameter.element_names(name, value.shape), *columns, strict=True))
    columns = [Column(name, format=".3g") for name in ("value", DEFAULT, *worst)]
    return Table("values in the worst case of each group", columns, rows)


def _curves(ways: Sequence[tuple[Key, Found]], name: str) -> Figure:
    """Draws the attribute `name` of searches over the steps: a line for each search, a color for each group."""
    colors = {group: f"C{number}" for number, group in enumerate(dict.fromkeys(key[0] for key, _ in ways))}

    def draw(axes: Axes) -> None:
        for (group, _, _), end in ways:
            axes.plot(getattr(end, name), color=colors[group], linewidth=0.8)
        for group, color in colors.items():
            axes.plot([], color=color, label=group)
        axes.set(xlabel="step", ylabel=name.replace("_", " "))
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")

    return Figure(draw, (4.5, 3), f"{name.replace('_', ' ')} of each search")


def _differences(frozen: Frozen, parameters: dict[str, np.ndarray], samples: Batch[np.ndarray]) -> Image.Image:
    """Draws the default and the worst rendering of samples, with predictions, and their scaled difference."""
    processings = {"default": frozen.default, "worst": parameters}
    images = {name: frozen.images(values, samples) for name, values in processings.items()}
    logits = {name: jax.device_get(frozen.logits(each)) for name, each in images.items()}
    images = jax.device_get(images)
    pictures, height = {}, samples["raw"].shape[1]
    for number, target in enumerate(samples["target"]):
        for name in processings:
            picture, words = frozen.task.judged(
                images[name][number], jax.tree.map(operator.itemgetter(number), logits[name]), target, height
            )
            pictures[f"image {number + 1}, {name}: {words}"] = picture
        difference = images["worst"][number] - images["default"][number]
        # A power of two, so that the factor is short; the few largest differences may be clipped.
        factor = 2.0 ** np.floor(-np.log2(max(2 * np.quantile(abs(difference), 0.99), 1 / 256)))
        pictures[f"image {number + 1}, difference x {factor:g}"] = np.clip(0.5 + factor * difference, 0, 1)
    return contact_sheet(pictures, columns=3, panel=256)

"""Tolerances: how far each number of a processing may move by itself before a model's score falls too far."""

import itertools
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

import isp
from r2l_jax.data import loader
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.drift.analysis import Analysis
from r2l_jax.drift.forensics.tolerance_figures import intervals_figure, map_figure
from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.drift.search.knobs import Knob, format_value, knobs_of
from r2l_jax.drift.search.scored_points import ScoredPoints, point
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.tables import table

# The first step from the default is at most so long, in natural ranges: three per cent of a gain.
_FIRST_STEP = 0.03

# How often the gap between the last position that passes and the first that fails is halved.
_ROUNDS = 5

_PERCENTILES = (5, 95)

# Cells of a map from the default to its border, on each side.
_CELLS = 4

# Of a map, a side with less room than this, in natural ranges, is left out.
_ROOM = 1e-3

# Scores are ratios of counts in float32: so much less is as much.
ROUNDING = 1e-6

# A knob's name, and the limit on this side of its default.
Side = tuple[str, float]


class _End(NamedTuple):
    """An end of a knob's interval.

    Attributes:
        position: in natural ranges from the default.
        resampled: that of each resample.
        at_limit: whether nothing fails up to the knob's limit.
    """

    position: float
    resampled: np.ndarray
    at_limit: bool


def analyse(
    frozen: Frozen,
    dataset: RawDataset,
    indices: np.ndarray,
    batch_size: int,
    tolerance: float,
    pair: tuple[str, str] | None = None,
    seed: int = 0,
    stop: Callable[[], bool] = lambda: False,
    file: pathlib.Path | None = None,
) -> Analysis:
    """Finds the interval of each knob in which the score stays near the default's, with progress bars on stderr.

    Each knob (see `knobs_of`) goes outward from the default to both its limits, every step as long as all before it
    together. Then the gap between the first position that fails and the one before it is halved five times. A position
    passes if its score is no more than the tolerance below the default's. The interval ends where a straight line
    between the scores of the last one that passes and the first one that fails crosses the tolerance, or at the limit,
    if none fails. A score that falls and rises again between two positions is not seen, and what lies beyond the first
    one that fails does not count.

    The interval of each end is a bootstrap over the samples: of 200 resamples, each compared with its own default,
    the 5th to the 95th percentile, from the positions that were measured. Ends at the limit count as the limit.

    Args:
        frozen: the model.
        dataset: where the samples are.
        indices: which of them to take.
        batch_size: samples at once. The numbers do not depend on it.
        tolerance: how far the score may fall, as a fraction: 0.02 is two points.
        pair: the names of two knobs, for a map of the scores while both move: as far as twice their intervals, up to
            their limits.
        seed: of the resamples.
        stop: asked after each batch, and ends the measuring there.
        file: where measured points are kept, each time that some are. The same model goes on from there in the same
            samples and with the same seed, whatever the tolerance and the pair. It stays until somebody removes it.

    Returns:
        `content`: the `score`'s name, its `default`, the `tolerance`, the number of `samples`, the Bayer `pattern` of
        the processing; for each of the `knobs` its `parameter`, its `quantity`, its `value` by default in that
        quantity's unit, the `scale` and the `width` on which it counts, `low` and `high`, between which it is
        tolerated, each with its bootstrap `_interval` and whether it is `_at_limit`, and the `points` measured, as
        pairs of value and score; the number of values of each parameter that no knob moves (`without_knobs`); and the
        `map`, None or its two `knobs`, the `values` of each, the `scores` and what is `tolerated`, a row for each value
        of the first.
        Tables: `tolerances`, a row for each knob. Figures: `tolerances`, and `map`.

    Raises:
        InputError: a pair that are not two of the knobs.
        Interrupted: `stop` said so.
    """
    pipeline = frozen.pipeline(frozen.default)
    # In the order of the stages, which those of a tree are not in.
    knobs = knobs_of(frozen.facts, {name: frozen.default[name] for name in frozen.facts})
    if pair:
        check_pair(pair, knobs)
    batches = list(loader.eval_batches(dataset, indices, batch_size))
    points = ScoredPoints(frozen, knobs, batches, seed, stop, file)
    (default,) = points.at([point({})], "default")
    floor = default - tolerance - ROUNDING
    sides = _sides(points, knobs, floor)
    ends = {side: _end(positions, _scores(points, side, positions), floor) for side, positions in sides.items()}
    content = {
        "score": frozen.task.score,
        "default": float(default[0]),
        "tolerance": tolerance,
        "samples": points.samples,
        "pattern": _pattern(pipeline),
        "knobs": {},
        "without_knobs": _without_knobs(frozen, knobs),
        "map": None,
    }
    for name, knob in knobs.items():
        both = [(name, knob.low), (name, knob.high)]
        measured = {
            (knob.value(position), float(score))
            for side in both
            for position, score in zip(sides[side], _scores(points, side, sides[side])[:, 0], strict=True)
        }
        content["knobs"][name] = _interval(knob, [ends[side] for side in both]) | {
            "points": sorted(map(list, measured))
        }
    figures = {"tolerances": intervals_figure(content)}
    if pair:
        axes = [
            _axis(knobs[name], [ends[name, limit].position for limit in (knobs[name].low, knobs[name].high)])
            for name in pair
        ]
        content["map"] = _map(points, knobs, dict(zip(pair, axes, strict=True)), float(floor[0]))
        figures["map"] = map_figure(content)
    return Analysis(content, _table(content), figures, {"tolerances": _rows(content)})


def _without_knobs(frozen: Frozen, knobs: Mapping[str, Knob]) -> dict[str, int]:
    """Counts the values of each parameter that no knob moves."""
    moved = {knob.parameter for knob in knobs.values()}
    return {name: int(frozen.default[name].size) for name in frozen.facts if name not in moved}


def check_pair(pair: tuple[str, ...], knobs: Iterable[str]) -> None:
    """Raises an InputError unless a pair are two of the knobs."""
    if len(set(pair)) != 2 or not set(pair) <= set(knobs):
        raise InputError(f"--map must be two of {', '.join(knobs)}, got {','.join(pair)!r}")


def _sides(points: ScoredPoints, knobs: Mapping[str, Knob], floor: np.ndarray) -> dict[Side, list[float]]:
    """The measured positions of each side, from the default outward: a sweep, then halved gaps."""
    sides = {(name, limit): _outward(limit) for name, knob in knobs.items() for limit in (knob.low, knob.high)}
    points.at([point({name: position}) for (name, _), each in sides.items() for position in each], "sweep")
    for done in range(_ROUNDS):
        middles = {}
        for side, positions in sides.items():
            first = _first_failing(_scores(points, side, positions), floor)[0]
            if first < len(positions):
                middles[side] = (positions[first - 1] + positions[first]) / 2
        if not middles:
            break
        points.at([point({name: middle}) for (name, _), middle in middles.items()], f"halving {done + 1}/{_ROUNDS}")
        for side, middle in middles.items():
            sides[side] = sorted([*sides[side], middle], key=abs)
    return sides


def _outward(limit: float) -> list[float]:
    """Positions from the default to a limit, of which each lies twice as far as the one before it."""
    halvings = math.ceil(math.log2(max(abs(limit) / _FIRST_STEP, 1)))
    return [0.0, *(limit / 2**halving for halving in range(halvings, -1, -1) if limit)]


def _scores(points: ScoredPoints, side: Side, positions: Sequence[float]) -> np.ndarray:
    """The scores of a side's positions, `(positions, 1 + resamples)`."""
    return points.at([point({side[0]: position}) for position in positions], side[0])


def _first_failing(scores: np.ndarray, floor: np.ndarray) -> np.ndarray:
    """The first position whose score is below the floor, of all samples and of each resample; their number if none."""
    fails = scores < floor
    return np.where(fails.any(0), fails.argmax(0), len(scores))


def _end(positions: Sequence[float], scores: np.ndarray, floor: np.ndarray) -> _End:
    """Where the scores of a side's positions cross the floor."""
    positions, first = np.array(positions), _first_failing(scores, floor)
    ends = np.full(len(floor), positions[-1])
    crossing = np.flatnonzero(first < len(positions))
    # The default itself never fails.
    after = first[crossing]
    before = after - 1
    passes, fails = scores[before, crossing], scores[after, crossing]
    fraction = (passes - floor[crossing]) / (passes - fails)
    ends[crossing] = positions[before] + fraction * (positions[after] - positions[before])
    return _End(float(ends[0]), ends[1:], bool(first[0] == len(positions)))


def _interval(knob: Knob, ends: Sequence[_End]) -> dict[str, Any]:
    """What the content says of a knob, in its unit; of a negative gain, the end at the lower position is the higher."""
    content = {
        "parameter": knob.parameter,
        "quantity": knob.quantity,
        "scale": knob.facts.scale,
        "width": knob.facts.width,
        "value": knob.default,
    }
    for name, end in zip(("low", "high"), sorted(ends, key=lambda end: knob.value(end.position)), strict=True):
        resampled = sorted(knob.value(position) for position in np.percentile(end.resampled, _PERCENTILES))
        content |= {
            name: knob.value(end.position),
            f"{name}_interval": resampled,
            f"{name}_at_limit": end.at_limit,
        }
    return content


def _axis(knob: Knob, ends: Sequence[float]) -> list[float]:
    """The positions of a map's knob, in the order of their values: as far as twice the interval, up to the limits."""
    positions = [0.0]
    for end, limit in zip(ends, (knob.low, knob.high), strict=True):
        if abs(limit) >= _ROOM:
            reach = math.copysign(min(max(2 * abs(end), _ROOM), abs(limit)), limit)
            positions += [reach * cell / _CELLS for cell in range(1, _CELLS + 1)]
    return sorted(positions, key=knob.value)


def _map(
    points: ScoredPoints, knobs: Mapping[str, Knob], axes: Mapping[str, Sequence[float]], floor: float
) -> dict[str, Any]:
    """The scores while two knobs move."""
    cells = [point(dict(zip(axes, positions, strict=True))) for positions in itertools.product(*axes.values())]
    scores = points.at(cells, "map")[:, 0].reshape([len(positions) for positions in axes.values()])
    return {
        "knobs": list(axes),
        "values": [[knobs[name].value(position) for position in positions] for name, positions in axes.items()],
        "scores": scores.tolist(),
        "tolerated": (scores >= floor).tolist(),
    }


def _pattern(pipeline: isp.Pipeline) -> str | None:
    """The Bayer pattern that a pipeline expects; None if it has no stage that depends on one."""
    patterns = [stage.options["pattern"] for stage in pipeline.stages if "pattern" in stage.options]
    return patterns[0] if patterns else None


def _rows(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each knob."""
    rows = []
    for name, knob in content["knobs"].items():
        row = {"knob": name, **{key: knob[key] for key in ("parameter", "quantity", "value")}}
        for end in ("low", "high"):
            row[end] = knob[end]
            row |= {
                f"{end} {percentile}%": value
                for percentile, value in zip(_PERCENTILES, knob[f"{end}_interval"], strict=True)
            }
            row[f"{end} at limit"] = knob[f"{end}_at_limit"]
        rows.append(row)
    return rows


def _table(content: Mapping[str, Any]) -> str:
    """The intervals, each end with its own in brackets."""
    rows = [["tolerated", "of", "value", "low", "", "high", ""]]
    for name, knob in content["knobs"].items():
        cells = [name, knob["quantity"], format_value(knob["value"])]
        for end in ("low", "high"):
            limit = " limit" * knob[f"{end}_at_limit"]
            cells += [format_value(knob[end]) + limit, "[" + " ".join(map(format_value, knob[f"{end}_interval"])) + "]"]
        rows.append(cells)
    left_out = "".join(
        f"\nnot moved: {name}, {size} value" + "s" * (size != 1) for name, size in content["without_knobs"].items()
    )
    return (
        f"{content['score']} {content['default']:.4f} of {content['samples']} samples, which falls by at most "
        f"{100 * content['tolerance']:g} points from low to high\n"
        "[percentiles 5 and 95 of resampled samples]; limit: it was tried no farther\n"
        f"{table(rows)}" + left_out
    )

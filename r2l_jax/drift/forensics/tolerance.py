"""Measures tolerances: how far each knob of a processing may move alone before a model's score falls too far."""

import itertools
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

import isp
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.drift.analysis import Analysis
from r2l_jax.drift.forensics.tolerance_figures import intervals_figure, map_figure
from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.drift.search.knobs import Knob, format_value, knobs_of
from r2l_jax.drift.search.measure import whole_batches
from r2l_jax.drift.search.scored_points import Between, Point, ScoredPoints, point
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.tables import table

# The greatest length of the first step from the default, in natural ranges: three percent of a gain.
_FIRST_STEP = 0.03

# How often the gap between the last position that passes and the first that fails is halved.
_ROUNDS = 5

_PERCENTILES = (5, 95)

# The number of cells of a map from the default to its border, on each side.
_CELLS = 4

# A map leaves out a side on which the knob can move less than this, in natural ranges.
_ROOM = 1e-3

# Scores are float32 ratios of counts; differences below this are rounding.
ROUNDING = 1e-6

# One side of a knob's default: the knob's name, and its limit on that side.
Side = tuple[str, float]


class _Sweep(NamedTuple):
    """The scores of the measured positions on one side.

    Attributes:
        positions: the positions, from the default outward.
        scores: the score of all samples and that of each resample, `(positions, 1 + resamples)`.
        whole: whether each position was measured on all samples.
    """

    positions: np.ndarray
    scores: np.ndarray
    whole: list[bool]


class _End(NamedTuple):
    """The end of a knob's interval on one side.

    Attributes:
        position: the end's distance from the default in natural ranges, with its sign.
        resampled: the position for each resample.
        at_limit: whether all positions up to the knob's limit pass.
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

    Each knob (see `knobs_of`) is swept from the default towards both of its limits, and each position is twice as far
    from the default as the one before it. A position passes if its score is below the default's by at most the
    tolerance. Then the gap between the first position that fails and the position before it is halved five times. The
    interval ends where a straight line between the scores of these two positions crosses the tolerance, or at the limit
    if all positions pass. Positions beyond the first one that fails are ignored.

    All samples are measured at every second position of a sweep, no farther than where each resample fails, and at the
    two positions beside an end: the last one that passes and the first that fails. If these measurements place the end
    elsewhere, the gap in which it lies is halved instead. In between, only the samples are measured whose outcome
    differs between the known positions on both sides: a sample that is lost and found again between these stays unseen
    there, which may move bootstrap intervals, and hides a short range of failures within an interval.

    The uncertainty of each end is a bootstrap interval over the samples: the 5th to the 95th percentile of the ends of
    200 resamples. Each resample uses the measured positions and is compared with its own default. An end at the limit
    counts as the limit.

    Args:
        frozen: the model.
        dataset: the data set of the samples.
        indices: the indices of the samples.
        batch_size: samples at once; the numbers do not depend on it.
        tolerance: how far the score may fall, as a fraction: 0.02 is two points.
        pair: the names of two knobs for a map of the scores while both move. The map reaches to twice their intervals,
            but not beyond their limits.
        seed: the seed of the resamples.
        stop: called after each batch; if it returns True, the measurement ends there.
        file: the file that keeps measured points as the measurement proceeds. A later call goes on from there if the
            model, the samples and the seed are the same; the tolerance and the pair may differ. The file stays.

    Returns:
        The analysis, with these keys in its `content`.

        - `score`: the name of the score; `default`: the score by default; `tolerance`; `samples`: their number;
          `pattern`: the color filter array of the processing.
        - `knobs`: for each knob its `parameter`, its `quantity`, its default `value` in that quantity's unit, and its
          `scale` and `width`. `low` and `high` are the ends of the tolerated interval, `low_interval` and
          `high_interval` their bootstrap intervals, and `low_at_limit` and `high_at_limit` tell whether they are the
          knob's limits. `points` are the pairs of value and score
          at which all samples were measured.
        - `without_knobs`: the number of values of each parameter that no knob moves.
        - `map`: None without a pair. Otherwise its two `knobs`, the `values` of each, and the `scores` and whether they
          are `tolerated`, with a row for each value of the first knob.

        The table `tolerances` has a row for each knob. The figures are `tolerances` and, with a pair, `map`.

    Raises:
        InputError: the pair does not name two knobs.
        Interrupted: `stop` returned True.
    """
    pipeline = frozen.pipeline(frozen.default)
    # `facts` has the order of the stages; `default`, a tree, is sorted by name.
    knobs = knobs_of(frozen.facts, {name: frozen.default[name] for name in frozen.facts})
    if pair:
        check_pair(pair, knobs)
    batches = whole_batches(dataset, indices, batch_size)
    points = ScoredPoints(frozen, knobs, batches, seed, stop, file)
    (default,) = points.at([point({})], "default")
    floor = default - tolerance - ROUNDING
    sweeps = _sweeps(points, knobs, floor)
    ends = {side: _end(sweep, floor) for side, sweep in sweeps.items()}
    content = {
        "score": frozen.task.score,
        "default": float(default[0]),
        "tolerance": tolerance,
        "samples": points.samples,
        "pattern": _pattern(pipeline),
        "knobs": {
            name: _interval(knob, [ends[side] for side in _sides(knob)])
            | {"points": _measured(knob, [sweeps[side] for side in _sides(knob)])}
            for name, knob in knobs.items()
        },
        "without_knobs": _without_knobs(frozen, knobs),
        "map": None,
    }
    figures = {"tolerances": intervals_figure(content)}
    if pair:
        axes = {name: _axis(knobs[name], [ends[side].position for side in _sides(knobs[name])]) for name in pair}
        content["map"] = _map(points, knobs, axes, float(floor[0]))
        figures["map"] = map_figure(content)
    return Analysis(content, _table(content), figures, {"tolerances": _rows(content)})


def _without_knobs(frozen: Frozen, knobs: Mapping[str, Knob]) -> dict[str, int]:
    """Counts the values of each parameter that no knob moves."""
    moved = {knob.parameter for knob in knobs.values()}
    return {name: int(frozen.default[name].size) for name in frozen.facts if name not in moved}


def check_pair(pair: tuple[str, ...], knobs: Iterable[str]) -> None:
    """Raises an InputError unless a pair names two knobs."""
    if len(set(pair)) != 2 or not set(pair) <= set(knobs):
        raise InputError(f"--map must be two of {', '.join(knobs)}, got {','.join(pair)!r}")


def _sides(knob: Knob) -> list[Side]:
    return [(knob.name, knob.low), (knob.name, knob.high)]


def _sweeps(points: ScoredPoints, knobs: Mapping[str, Knob], floor: np.ndarray) -> dict[Side, _Sweep]:
    """Measures each side from the default until all resamples fail, and then halves the gap in which its end lies.

    The two positions beside each end are measured on all samples. If these show that the end lies elsewhere, it is
    looked for there.
    """
    swept = _swept(points, {side: _outward(side[1]) for knob in knobs.values() for side in _sides(knob)}, floor)
    sides = {side: list(positions) for side, positions in swept.items()}
    # A stopped call may have measured more points on all samples than this one needs: these make no difference.
    on_all = {each for side, positions in swept.items() for each in _points(side, _every_second(positions))}
    for number in itertools.count(1):
        halved, whole = [], []
        for side, positions in sides.items():
            first = _first_failing(_scores(points, side, positions), floor)[0]
            if first == len(positions):
                continue
            gap = positions[first - 1 : first + 1]
            rounds = _rounds_left(gap, swept[side])
            if rounds > 1:
                halved.append(_between(side, sum(gap) / 2, *gap))
            else:
                # The last middle is one of the two positions beside the end.
                beside = [sum(gap) / 2] if rounds else gap
                whole += [each for each in _points(side, beside) if each not in on_all]
            if rounds:
                positions.insert(first, sum(gap) / 2)
        if not halved and not whole:
            break
        points.between(halved, f"halving {number}")
        if whole:
            points.at(whole, f"ends {number}")
            on_all |= set(whole)
    return {
        side: _Sweep(np.array(each), _scores(points, side, each), [one in on_all for one in _points(side, each)])
        for side, each in sides.items()
    }


def _rounds_left(gap: Sequence[float], swept: Sequence[float]) -> int:
    """Returns how often the gap between two positions of a side is yet to be halved, to have been `_ROUNDS` times."""
    place = sum(abs(position) <= abs(gap[0]) for position in swept)
    return _ROUNDS - round(math.log2((swept[place] - swept[place - 1]) / (gap[1] - gap[0])))


def _swept(points: ScoredPoints, sides: Mapping[Side, list[float]], floor: np.ndarray) -> dict[Side, list[float]]:
    """Measures the positions of each side from the default outward until all resamples fail, and returns these."""
    whole = {side: _every_second(positions) for side, positions in sides.items()}
    known = dict.fromkeys(sides, 1)
    for number in itertools.count(1):
        going = [
            side
            for side, positions in whole.items()
            if known[side] < len(positions) and not _all_fail(points, side, positions[: known[side]], floor)
        ]
        if not going:
            break
        points.at([point({side[0]: whole[side][known[side]]}) for side in going], f"sweep {number}")
        for side in going:
            known[side] += 1
    measured = {
        side: positions[: positions.index(whole[side][known[side] - 1]) + 1] for side, positions in sides.items()
    }
    skipped = [
        _between(side, positions[place], positions[place - 1], positions[place + 1])
        for side, positions in measured.items()
        for place in range(1, len(positions) - 1)
        if positions[place] not in whole[side]
    ]
    points.between(skipped, "sweep, in between")
    return measured


def _between(side: Side, position: float, inner: float, outer: float) -> Between:
    """Returns a position of a side with the known ones beside it."""
    return Between(*_points(side, (position, inner, outer)))


def _all_fail(points: ScoredPoints, side: Side, positions: Sequence[float], floor: np.ndarray) -> bool:
    """Returns whether all resamples fail at one of these positions of a side, which are known."""
    return bool((_first_failing(_scores(points, side, positions), floor) < len(positions)).all())


def _outward(limit: float) -> list[float]:
    """Returns positions from the default to a limit, each twice as far from the default as the one before it."""
    halvings = math.ceil(math.log2(max(abs(limit) / _FIRST_STEP, 1)))
    return [0.0, *(limit / 2**halving for halving in range(halvings, -1, -1) if limit)]


def _every_second(positions: Sequence[float]) -> list[float]:
    """Returns the default and every second position outward, of which the last one is among them."""
    return [0.0, *positions[:0:-2][::-1]]


def _points(side: Side, positions: Sequence[float]) -> list[Point]:
    name, _ = side
    return [point({name: position}) for position in positions]


def _scores(points: ScoredPoints, side: Side, positions: Sequence[float]) -> np.ndarray:
    """Returns the scores of known positions on a side, `(positions, 1 + resamples)`."""
    return points.known(_points(side, positions))


def _first_failing(scores: np.ndarray, floor: np.ndarray) -> np.ndarray:
    """Finds the first position below the floor, for all samples and for each resample.

    Returns:
        The index of the position, or the number of positions if all of them pass.
    """
    fails = scores < floor
    return np.where(fails.any(0), fails.argmax(0), len(scores))


def _end(sweep: _Sweep, floor: np.ndarray) -> _End:
    """Computes where the scores of a side cross the floor."""
    positions, scores, _ = sweep
    first = _first_failing(scores, floor)
    ends = np.full(len(floor), positions[-1])
    crossing = np.flatnonzero(first < len(positions))
    # Position 0, the default, never fails, so that there is always a position before.
    after = first[crossing]
    before = after - 1
    passes, fails = scores[before, crossing], scores[after, crossing]
    fraction = (passes - floor[crossing]) / (passes - fails)
    ends[crossing] = positions[before] + fraction * (positions[after] - positions[before])
    return _End(float(ends[0]), ends[1:], bool(first[0] == len(positions)))


def _measured(knob: Knob, sweeps: Iterable[_Sweep]) -> list[list[float]]:
    """Returns the pairs of value and score of all positions measured on all samples, sorted by value."""
    # Both sides contain the default, which the set keeps once.
    pairs = {
        (knob.value(position), float(score))
        for positions, scores, whole in sweeps
        for position, score, is_whole in zip(positions, scores[:, 0], whole, strict=True)
        if is_whole
    }
    return [list(pair) for pair in sorted(pairs)]


def _interval(knob: Knob, ends: Sequence[_End]) -> dict[str, Any]:
    """Describes a knob and its interval in the knob's unit."""
    content: dict[str, Any] = {
        "parameter": knob.parameter,
        "quantity": knob.quantity,
        "scale": knob.facts.scale,
        "width": knob.facts.width,
        "value": knob.default,
    }
    # The ends are sorted by value, because the lower position of a negative gain has the higher value.
    for name, end in zip(("low", "high"), sorted(ends, key=lambda end: knob.value(end.position)), strict=True):
        resampled = sorted(knob.value(position) for position in np.percentile(end.resampled, _PERCENTILES))
        content |= {
            name: knob.value(end.position),
            f"{name}_interval": resampled,
            f"{name}_at_limit": end.at_limit,
        }
    return content


def _axis(knob: Knob, ends: Sequence[float]) -> list[float]:
    """Returns the positions of a map's knob, in the order of their values.

    They reach to twice the knob's interval, but not beyond its limits.
    """
    positions = [0.0]
    for end, limit in zip(ends, (knob.low, knob.high), strict=True):
        if abs(limit) >= _ROOM:
            reach = math.copysign(min(max(2 * abs(end), _ROOM), abs(limit)), limit)
            positions += [reach * cell / _CELLS for cell in range(1, _CELLS + 1)]
    return sorted(positions, key=knob.value)


def _map(
    points: ScoredPoints, knobs: Mapping[str, Knob], axes: Mapping[str, Sequence[float]], floor: float
) -> dict[str, Any]:
    """Measures the scores while two knobs move."""
    cells = [point(dict(zip(axes, positions, strict=True))) for positions in itertools.product(*axes.values())]
    scores = points.at(cells, "map")[:, 0].reshape([len(positions) for positions in axes.values()])
    return {
        "knobs": list(axes),
        "values": [[knobs[name].value(position) for position in positions] for name, positions in axes.items()],
        "scores": scores.tolist(),
        "tolerated": (scores >= floor).tolist(),
    }


def _pattern(pipeline: isp.Pipeline) -> str | None:
    """Returns the color filter array that a pipeline expects, or None if no stage depends on a pattern."""
    patterns = [str(stage.options["pattern"]) for stage in pipeline.stages if "pattern" in stage.options]
    return patterns[0] if patterns else None


def _rows(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Makes a row for each knob."""
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
    """Formats the intervals, with the bootstrap interval of each end in brackets."""
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

"""Measures tolerances: how far each knob of a processing may move alone before a model's score falls too far."""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

import isp
from r2l_jax.drift import results, statistics
from r2l_jax.drift.analysis import Analysis, FoldAnalysis
from r2l_jax.drift.forensics.config import ToleranceSettings
from r2l_jax.drift.forensics.tolerance_figures import intervals_figure, map_figure
from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.drift.search.knobs import Knob, format_value, knobs_of
from r2l_jax.drift.search.measure import whole_batches
from r2l_jax.drift.search.scored_points import Between, Point, ScoredPoints, point
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.flags import flat
from r2l_jax.runtime.tables import table
from r2l_jax.training.artifact import Artifact

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


class _Side(NamedTuple):
    """One side of a knob's default: the knob's name, and its limit on that side."""

    name: str
    limit: float

    def outward(self) -> list[float]:
        """Returns positions from the default to the limit, each twice as far from the default as the one before it."""
        halvings = math.ceil(math.log2(max(abs(self.limit) / _FIRST_STEP, 1)))
        return [0.0, *(self.limit / 2**halving for halving in range(halvings, -1, -1) if self.limit)]

    def points(self, positions: Iterable[float]) -> list[Point]:
        """Returns the points of positions."""
        return [point({self.name: position}) for position in positions]


class _End(NamedTuple):
    """The end of a knob's interval on one side.

    Attributes:
        position: the end's distance from the default in natural ranges, with its sign.
        resampled: the position for each resample.
        at_limit: whether all positions up to the knob's limit pass.
        measured: the positions that were measured on all samples, with their scores.
        lost: the outcomes of the samples that are lost at the end, default less end; None at the limit.
    """

    position: float
    resampled: np.ndarray
    at_limit: bool
    measured: dict[float, float]
    lost: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class ToleranceAnalysis(FoldAnalysis):
    """Finds the interval of each knob in which the score stays near the default's, with progress bars on stderr.

    Each knob (see `knobs_of`) is swept from the default towards both of its limits; each position is twice as far from
    the default as the one before it. A position passes if its score is below the default's by at most the tolerance.
    Then the gap between the first position that fails and the position before it is halved five times. The interval
    ends where a straight line between the scores of these two positions crosses the tolerance, or at the limit if all
    positions pass. Positions beyond the first one that fails are ignored.

    All samples are measured at every second position of a sweep, no farther than where each resample fails, and at the
    two positions beside an end: the last one that passes and the first that fails. If these measurements place the end
    elsewhere, the gap in which it lies is halved instead. In between, only the samples are measured whose outcome
    differs between the known positions on both sides: a sample that is lost and found again between these stays unseen
    there, which may move bootstrap intervals, and hides a short range of failures within an interval.

    The uncertainty of each end is a bootstrap interval over the samples: the 5th to the 95th percentile of the ends of
    200 resamples. Each resample uses the measured positions and is compared with its own default. An end at the limit
    counts as the limit.

    Where the score crosses the tolerance, the drop of other samples may well be smaller. So each end has a second
    position, at which failure is shown: the nearest one at which a paired one-sided test at 5% finds the drop to exceed
    the tolerance, known up to a 32nd of its distance from the default. In the test, all but 5% of the resamples lose
    more than the tolerance there. With few samples, the position is far away, or missing. The results also state how
    many samples it takes for a drop of the tolerance to have an interval of 95% that leaves out 0.

    The map of two knobs reaches to twice their intervals, but not beyond their limits. Measured points are kept for
    another tolerance and other maps.

    Attributes:
        settings: how far the score may fall, and the pairs of knobs to map.
        batch_size: samples at once; the numbers do not depend on it.
        seed: the seed of the resamples.
    """

    settings: ToleranceSettings
    batch_size: int
    seed: int
    name = "tolerances"

    @property
    def flags(self) -> dict[str, Any]:
        """The flags that the results depend on."""
        return {**flat(self.settings), "seed": self.seed}

    def check_fold(self, fold: Artifact) -> None:
        """Raises an InputError unless each pair to map is two knobs."""
        knobs = _knobs(Frozen(fold.model, fold.task))
        for pair in self.pairs:
            if len(set(pair)) != 2 or not set(pair) <= set(knobs):
                raise InputError(f"--map must be two of {', '.join(knobs)}, got {','.join(pair)!r}")

    def work(self, fold: Artifact) -> str:
        """Says of how many knobs it finds the tolerance."""
        return f"tolerances of {len(_knobs(Frozen(fold.model, fold.task)))} knobs"

    @property
    def pairs(self) -> list[tuple[str, ...]]:
        """The pairs of knobs to map; one without a partner is left alone."""
        names = self.settings.map
        return [names[place : place + 2] for place in range(0, len(names), 2)]

    def analyze(self, fold: Artifact, done: Mapping[str, Any]) -> Analysis:
        """Measures the intervals of a fold's model on its measured samples; the content is a `results.Tolerances`."""
        frozen, tolerance = Frozen(fold.model, fold.task), self.settings.tolerance / 100
        batches = whole_batches(fold.dataset, fold.measured_indices, self.batch_size)
        knobs = _knobs(frozen)
        scenes = fold.dataset.scenes(fold.measured_indices)
        points = ScoredPoints(frozen, knobs, batches, self.seed, scenes)
        (default,) = points.at([point({})], "default")
        # The last column belongs to the paired test, see `_scores`.
        floor = np.append(default - tolerance - ROUNDING, np.float32(0))
        ends, failing = _ends(points, knobs, floor)
        moved = {knob.parameter for knob in knobs.values()}
        content = results.Tolerances(
            score=frozen.task.score,
            default=float(default[0]),
            tolerance=tolerance,
            samples=points.samples,
            pattern=_pattern(frozen.pipeline(frozen.default)),
            knobs={name: _interval(knob, ends[name], failing[name]) for name, knob in knobs.items()},
            without_knobs={name: int(frozen.default[name].size) for name in frozen.facts if name not in moved},
            maps=[],
            samples_needed=_samples_needed([end for of_knob in ends.values() for end in of_knob], tolerance),
        )
        figures = {"tolerances": intervals_figure(content)}
        for number, pair in enumerate(self.pairs):
            axes = {name: _axis(knobs[name], [end.position for end in ends[name]]) for name in pair}
            content.maps.append(_map(points, knobs, axes, float(floor[0])))
            figures[f"map_{number + 1}" if number else "map"] = map_figure(content, content.maps[-1])
        return Analysis(results.plain(content), _table(content), figures, {"tolerances": _rows(content.knobs)})


def _knobs(frozen: Frozen) -> dict[str, Knob]:
    """Returns the knobs in the order of the stages, which `facts` has; `default`, a tree, is sorted by name."""
    return knobs_of(frozen.facts, {name: frozen.default[name] for name in frozen.facts})


def _scores(points: ScoredPoints, where: Sequence[Point], floor: np.ndarray) -> np.ndarray:
    """Returns the scores at known points on all samples and on each resample, and a bound, in columns like `floor`.

    The bound is the one-sided upper one of 95% of the score less its floor: it is below 0 where the paired test finds
    the drop to exceed the tolerance.
    """
    scores = points.known(where)
    bound = np.percentile(scores[:, 1:] - floor[1:-1], _PERCENTILES[1], axis=1, keepdims=True)
    return np.concatenate([scores, bound], 1)


def _ends(
    points: ScoredPoints, knobs: Mapping[str, Knob], floor: np.ndarray
) -> tuple[dict[str, list[_End]], dict[str, list[float | None]]]:
    """Finds the low and the high end of each knob's interval, and the positions at which failure is shown.

    Each side is swept from the default until all resamples fail, and then the gap in which its end lies is halved. The
    two positions beside each end are measured on all samples. If these show that the end lies elsewhere, it is looked
    for there.
    """
    swept = _swept(
        points, [_Side(name, limit) for name, knob in knobs.items() for limit in (knob.low, knob.high)], floor
    )
    sides = {side: list(positions) for side, positions in swept.items()}
    on_all = {each for side, positions in swept.items() for each in side.points(_every_second(positions))}
    for number in itertools.count(1):
        halved, whole = [], []
        for side, positions in sides.items():
            first = _first_failing(_scores(points, side.points(positions), floor), floor)[0]
            if first == len(positions):
                continue
            gap = positions[first - 1 : first + 1]
            rounds = _rounds_left(gap, swept[side])
            if rounds > 1:
                halved.append(Between(*side.points((sum(gap) / 2, *gap))))
            else:
                # The last middle is one of the two positions beside the end.
                beside = [sum(gap) / 2] if rounds else gap
                whole += [each for each in side.points(beside) if each not in on_all]
            if rounds:
                positions.insert(first, sum(gap) / 2)
        if not halved and not whole:
            break
        points.between(halved, f"halving {number}")
        if whole:
            points.at(whole, f"ends {number}")
            on_all |= set(whole)
    ends: dict[str, list[_End]] = {name: [] for name in knobs}
    for side, positions in sides.items():
        ends[side.name].append(_end(points, side, positions, on_all, floor))
    failing: dict[str, list[float | None]] = {name: [] for name in knobs}
    for side, position in _failing(points, sides, floor).items():
        failing[side.name].append(position)
    return ends, failing


def _failing(
    points: ScoredPoints, sides: Mapping[_Side, Sequence[float]], floor: np.ndarray
) -> dict[_Side, float | None]:
    """Finds the nearest position of each side that fails in the paired test, by halving the gap before it."""
    gaps = {}
    for side, positions in sides.items():
        first = _first_failing(_scores(points, side.points(positions), floor), floor)[-1]
        if first < len(positions):
            gaps[side] = positions[first - 1 : first + 1]
    for number in range(_ROUNDS):
        wide = {side: gap for side, gap in gaps.items() if abs(gap[1] - gap[0]) > abs(gap[1]) / 2**_ROUNDS}
        if not wide:
            break
        middles = {side: sum(gap) / 2 for side, gap in wide.items()}
        points.between(
            [Between(*side.points((middles[side], *gap))) for side, gap in wide.items()], f"paired test {number + 1}"
        )
        for side, (inner, outer) in wide.items():
            fails = _scores(points, side.points([middles[side]]), floor)[0, -1] < 0
            gaps[side] = [inner, middles[side]] if fails else [middles[side], outer]
    return {side: gaps[side][1] if side in gaps else None for side in sides}


def _rounds_left(gap: Sequence[float], swept: Sequence[float]) -> int:
    """Returns how often the gap between two positions of a side is yet to be halved, to have been `_ROUNDS` times."""
    place = sum(abs(position) <= abs(gap[0]) for position in swept)
    return _ROUNDS - round(math.log2((swept[place] - swept[place - 1]) / (gap[1] - gap[0])))


def _swept(points: ScoredPoints, sides: Sequence[_Side], floor: np.ndarray) -> dict[_Side, list[float]]:
    """Measures positions of each side from the default outward until all resamples fail, and returns them."""
    every = {side: side.outward() for side in sides}
    whole = {side: _every_second(positions) for side, positions in every.items()}
    known = dict.fromkeys(sides, 1)

    def all_fail(side: _Side) -> bool:
        scores = _scores(points, side.points(whole[side][: known[side]]), floor)
        return bool((_first_failing(scores, floor) < known[side]).all())

    for number in itertools.count(1):
        going = [side for side in sides if known[side] < len(whole[side]) and not all_fail(side)]
        if not going:
            break
        points.at([point({side.name: whole[side][known[side]]}) for side in going], f"sweep {number}")
        for side in going:
            known[side] += 1
    measured = {side: each[: each.index(whole[side][known[side] - 1]) + 1] for side, each in every.items()}
    skipped = [
        Between(*side.points((position, before, after)))
        for side, positions in measured.items()
        for before, position, after in zip(positions, positions[1:], positions[2:], strict=False)
        if position not in whole[side]
    ]
    points.between(skipped, "sweep, in between")
    return measured


def _every_second(positions: Sequence[float]) -> list[float]:
    """Returns the default and every second position outward, including the last."""
    return [0.0, *positions[:0:-2][::-1]]


def _first_failing(scores: np.ndarray, floor: np.ndarray) -> np.ndarray:
    """Finds the first position below the floor, for all samples, for each resample, and for the paired test.

    Returns:
        The index of the position, or the number of positions if all of them pass.
    """
    fails = scores < floor
    return np.where(fails.any(0), fails.argmax(0), len(scores))


def _end(points: ScoredPoints, side: _Side, positions: Sequence[float], on_all: set[Point], floor: np.ndarray) -> _End:
    """Computes where the scores of a side cross the floor."""
    scores = _scores(points, side.points(positions), floor)
    places, first = np.array(positions), _first_failing(scores, floor)
    ends = np.full(len(floor), positions[-1])
    crossing = np.flatnonzero(first < len(positions))
    # Position 0, the default, never fails, so that there is always a position before.
    after = first[crossing]
    before = after - 1
    passes, fails = scores[before, crossing], scores[after, crossing]
    fraction = (passes - floor[crossing]) / (passes - fails)
    ends[crossing] = places[before] + fraction * (places[after] - places[before])
    at_limit, lost = bool(first[0] == len(positions)), None
    if not at_limit:
        lost = _lost(points, side.points([0.0, *positions[first[0] - 1 : first[0] + 1]]), float(fraction[0]))
    measured = {
        position: float(score)
        for position, score, each in zip(positions, scores[:, 0], side.points(positions), strict=True)
        if each in on_all
    }
    return _End(float(ends[0]), ends[1:-1], at_limit, measured, lost)


def _lost(points: ScoredPoints, where: Sequence[Point], fraction: float) -> np.ndarray:
    """Returns the outcomes lost between the default and an end, one for each scene.

    Args:
        points: the scores.
        where: the default, and the two positions beside the end.
        fraction: how far the end is from the first to the second of these. The same fraction of the samples whose
            outcome changes between the two counts as changed at the end.
    """
    default, outcomes, beyond = points.outcomes(where)
    changing = np.flatnonzero(outcomes != beyond)
    changed = changing[: math.ceil(fraction * len(changing))]
    outcomes[changed] = beyond[changed]
    return points.by_scene(default - outcomes)


def _samples_needed(ends: Sequence[_End], tolerance: float) -> int | None:
    """Computes how many samples it takes to show a drop of the tolerance at every end, None without such ends."""
    of_ends = [end.lost for end in ends if end.lost is not None and len(end.lost) > 1]
    return max((statistics.samples_needed(lost[None], tolerance) for lost in of_ends), default=None)


def _interval(knob: Knob, ends: Sequence[_End], failing: Sequence[float | None]) -> results.Knob:
    """Describes a knob, its interval and its measured points in the knob's unit."""

    def resampled(end: _End) -> tuple[float, float]:
        first, last = sorted(knob.value(position) for position in np.percentile(end.resampled, _PERCENTILES))
        return first, last

    # The ends are sorted by value, because the lower position of a negative gain has the higher value.
    both = sorted(zip(ends, failing, strict=True), key=lambda each: knob.value(each[0].position))
    (low, low_failing), (high, high_failing) = both
    # Both sides contain the default, which the set keeps once.
    points = {(knob.value(position), score) for end in ends for position, score in end.measured.items()}
    return results.Knob(
        parameter=knob.parameter,
        quantity=knob.quantity,
        scale=knob.facts.scale,
        width=knob.facts.width,
        value=knob.default,
        low=knob.value(low.position),
        low_interval=resampled(low),
        low_at_limit=low.at_limit,
        high=knob.value(high.position),
        high_interval=resampled(high),
        high_at_limit=high.at_limit,
        points=sorted(points),
        low_failing=None if low_failing is None else knob.value(low_failing),
        high_failing=None if high_failing is None else knob.value(high_failing),
    )


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
) -> results.KnobMap:
    """Measures the scores while two knobs move."""
    cells = [point(dict(zip(axes, positions, strict=True))) for positions in itertools.product(*axes.values())]
    scores = points.at(cells, "map")[:, 0].reshape([len(positions) for positions in axes.values()])
    first, second = axes
    values = [[knobs[name].value(position) for position in positions] for name, positions in axes.items()]
    return results.KnobMap((first, second), (values[0], values[1]), scores.tolist(), (scores >= floor).tolist())


def _pattern(pipeline: isp.Pipeline) -> str | None:
    """Returns the color filter array that a pipeline expects, or None if no stage depends on a pattern."""
    patterns = [str(stage.options["pattern"]) for stage in pipeline.stages if "pattern" in stage.options]
    return patterns[0] if patterns else None


def _rows(knobs: Mapping[str, results.Knob]) -> list[dict[str, Any]]:
    """Makes a row for each knob."""
    rows = []
    for name, knob in knobs.items():
        row = {"knob": name, "parameter": knob.parameter, "quantity": knob.quantity, "value": knob.value}
        for end, (value, interval, at_limit, failing) in knob.ends.items():
            percentiles = zip(_PERCENTILES, interval, strict=True)
            row |= {end: value, **{f"{end} {percentile}%": resampled for percentile, resampled in percentiles}}
            row |= {f"{end} at limit": at_limit, f"{end} failing": failing}
        rows.append(row)
    return rows


def _table(content: results.Tolerances) -> str:
    """Formats the intervals, with the bootstrap interval of each end in brackets."""
    rows = [["tolerated", "of", "value", "low", "", "high", "", "fails below", "fails above"]]
    for name, knob in content.knobs.items():
        cells = [name, knob.quantity, format_value(knob.value)]
        for value, interval, at_limit, _ in knob.ends.values():
            limit = " limit" if at_limit else ""
            cells += [format_value(value) + limit, f"[{' '.join(map(format_value, interval))}]"]
        failing = (end.failing for end in knob.ends.values())
        rows.append([*cells, *("-" if value is None else format_value(value) for value in failing)])
    left_out = [
        f"not moved: {name}, {size} value{'' if size == 1 else 's'}" for name, size in content.without_knobs.items()
    ]
    heading = (
        f"{content.score} {content.default:.4f} of {content.samples} samples, which falls by at most "
        f"{100 * content.tolerance:g} points from low to high\n"
        "[percentiles 5 and 95 of resampled samples]; limit: it was tried no farther\n"
        "fails: from there, a paired test at 5% finds the drop to exceed the tolerance"
    )
    return "\n".join([heading, table(rows), *left_out, *results.too_few(content)])

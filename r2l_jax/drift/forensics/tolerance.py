"""Measures tolerances: how far each knob of a processing may move alone before a model's score falls too far."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from r2l_jax.data.groups import numbered
from r2l_jax.drift import statistics
from r2l_jax.drift.cases import CLEAN
from r2l_jax.drift.dots import LINEAR
from r2l_jax.drift.forensics.config import ToleranceSettings
from r2l_jax.drift.measure import Model, Samples, measure
from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.drift.search.knobs import Knob, format_value, turned
from r2l_jax.errors import InputError
from r2l_jax.results.heat_map import heat_map
from r2l_jax.results.result import INK, SCORE, Column, Figure, Result, Table
from r2l_jax.training.artifact import Artifact

RESAMPLES = 200

# The greatest length of the first step from the default, in natural ranges: two percent of a gain.
_FIRST_STEP = 0.02

# How often the gap between the last position that passes and the first that fails is halved.
_HALVINGS = 3

_PERCENTILES = (5, 95)

# The number of cells of a map from the default to its border, on each side.
_CELLS = 4

# Differences of scores below this are rounding.
_ROUNDING = 1e-6

# The positions of some knobs by name; all others stand at 0, their default.
Point = tuple[tuple[str, float], ...]


class Side(NamedTuple):
    """One side of a knob's default: the knob's name, and its limit on that side."""

    name: str
    limit: float

    def outward(self) -> list[float]:
        """Returns positions from the default to the limit, each twice as far from the default as the one before it."""
        halvings = math.ceil(math.log2(max(abs(self.limit) / _FIRST_STEP, 1)))
        return [0.0, *(self.limit / 2**halving for halving in range(halvings, -1, -1) if self.limit)]

    def points(self, positions: Iterable[float]) -> list[Point]:
        """Returns the point at each position."""
        return [((self.name, position),) if position else () for position in positions]


class End(NamedTuple):
    """The end of a knob's interval on one side, in positions: distances from the default in natural ranges.

    Attributes:
        position: the end.
        interval: its bootstrap interval, sorted.
        at_limit: whether all positions up to the knob's limit pass.
        failing: the nearest position at which failure is shown, if any.
        samples_needed: the samples needed to show a drop of the tolerance at the end; None at the limit.
    """

    position: float
    interval: tuple[float, float]
    at_limit: bool
    failing: float | None
    samples_needed: float | None


class _Scores:
    """Measures the scores at points of a processing, each once: on all samples, then on each resample of the groups.

    `default` has the scores of the default rendering, and `floor` the least scores that pass.
    """

    def __init__(self, fold: Artifact, tolerance: float, batch_size: int, seed: int):
        self.frozen, self._model = Frozen(fold.model, fold.task), fold.model
        self.knobs, self._samples = self.frozen.knobs, Samples.of(fold, batch_size)
        groups = numbered(fold.dataset.groups_of(fold.measured_indices).tolist())
        count = int(groups.max()) + 1
        # Resamples of one group are all alike.
        self.is_alone = count < 2
        drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), RESAMPLES)[:, groups]
        self._counts = np.concatenate([np.ones((1, len(groups))), drawn])
        self._known: dict[Point, tuple[np.ndarray, np.ndarray]] = {}
        self.measure([()], "default")
        self.default, self._tolerance = self.at([()])[0], tolerance
        self.floor = self.default - tolerance - _ROUNDING

    def measure(self, points: Iterable[Point], title: str) -> None:
        """Measures points that are not known yet, all together."""
        left = [point for point in dict.fromkeys(points) if point not in self._known]
        declarations, default = self.frozen.declarations, self.frozen.default
        models = {
            f"{number}": Model(
                self._model, turned(declarations, default, [(self.knobs[name], position) for name, position in point])
            )
            for number, point in enumerate(left)
        }
        if not models:
            return
        found = measure(models, [CLEAN], self._samples, title=title)
        for name, point in zip(models, left, strict=True):
            self._known[point] = np.asarray(found.scoring(found.at(name), self._counts)), found.by_group(name)

    def at(self, points: Iterable[Point]) -> np.ndarray:
        """Returns the scores at known points `(points, 1 + RESAMPLES)`."""
        return np.stack([self._known[point][0] for point in points])

    def shown(self, points: Iterable[Point]) -> np.ndarray:
        """Tells at which known points failure is shown: on all samples, and on all but 5% of the resamples."""
        fails = self.at(points) < self.floor
        return fails[:, 0] & (fails[:, 1:].mean(1) >= _PERCENTILES[1] / 100) & (not self.is_alone)

    def samples_needed(self, point: Point) -> int:
        """Computes the samples needed to show a drop of the tolerance, from the outcomes at a known point."""
        lost = self._known[()][1] - self._known[point][1]
        if len(lost) < 2:
            return 0
        # Groups of as many samples as these have on average.
        return statistics.samples_needed(lost[None], self._tolerance) * len(self._samples.indices) // len(lost)


def check(fold: Artifact, settings: ToleranceSettings) -> None:
    """Raises an InputError unless each pair to map is two knobs."""
    knobs = Frozen(fold.model, fold.task).knobs
    for pair in _pairs(settings):
        if len(set(pair)) != 2 or not set(pair) <= set(knobs):
            raise InputError(f"`map` must be two of {', '.join(knobs)}, got {','.join(pair)!r}")


def analyze(fold: Artifact, settings: ToleranceSettings, batch_size: int, seed: int) -> Result:
    """Finds the interval of each knob in which the score stays near the default's, with progress bars on stderr.

    Each knob (see `knobs_of`) moves from the default towards both of its limits; each position is twice as far from the
    default as the one before it. A position passes if its score is below the default's by at most the tolerance. Then
    the gap between the first position that fails and the position before it is halved three times. The interval ends
    where a straight line between the scores of these two positions crosses the tolerance, or at the limit if all
    positions pass. Positions beyond the first one that fails are ignored.

    An end is therefore known to 1/32 of the distance that was tried: the gap after doubling is half of that distance,
    three halvings leave a sixteenth of it, and the score crosses the tolerance within 1/32 of the middle of that gap,
    in which the line interpolates. Only an end within the first step, 0.02 natural ranges, is known less well, to a
    sixteenth of that step.

    The uncertainty of each end is a bootstrap interval over the groups of samples: the 5th to the 95th
    percentile of the ends of 200 resamples, each compared with its default. Doubling continues until failure is shown,
    so that few resamples end beyond the measured positions. An end at the limit counts as the limit.

    Where the score crosses the tolerance, the drop on other samples may well be smaller. So each end has a second
    position: the nearest one measured at which all but 5% of the resamples lose more than the tolerance, which is a
    paired one-sided test. The results also state how many samples it takes for the 95% confidence interval of a drop
    of the tolerance to exclude 0.

    The map of two knobs reaches to twice their intervals, but not beyond their limits.
    The numbers do not depend on the `batch_size`; the `seed` is for the resamples.
    """
    tolerance, score, samples = settings.tolerance / 100, fold.task.score.name, len(fold.measured_indices)
    scores = _Scores(fold, tolerance, batch_size, seed)
    ends = _ends(scores)
    needed = [end.samples_needed for both in ends.values() for end in both if end.samples_needed is not None]
    samples_needed = math.ceil(max(needed)) if needed else None
    moved = {knob.parameter for knob in scores.knobs.values()}
    left_out = {name: scores.frozen.default[name].size for name in scores.frozen.declarations if name not in moved}
    metadata = {
        "score": float(scores.default[0]),
        "tolerance": tolerance,
        "samples": samples,
        "samples_needed": samples_needed,
        "tolerated": {name: [scores.knobs[name].value(end.position) for end in both] for name, both in ends.items()},
        "notes": [
            f"default {score} {scores.default[0]:.4f}; in parentheses: 5th and 95th percentiles over resamples",
            *(f"not moved: {name}, {size} value{'' if size == 1 else 's'}" for name, size in left_out.items()),
            *too_few(samples, tolerance, samples_needed),
            *(
                ["all samples are of one group, so no interval is known, and no failure is shown"]
                if scores.is_alone
                else []
            ),
        ],
    }
    tables = _tables(scores.knobs, ends, f"{score} falls by at most {settings.tolerance:g} points")
    figures = {"tolerances": _figure(scores.knobs, ends)}
    for number, pair in enumerate(_pairs(settings)):
        name = f"map_{number + 1}" if number else "map"
        tables[name], figures[name] = _map(scores, pair, ends, score)
    return Result(metadata, tables, figures)


def too_few(samples: int, tolerance: float, needed: int | None) -> list[str]:
    """Returns a line that states how many samples the tolerance takes, or no line if there are enough."""
    if needed is None or needed <= samples:
        return []
    drop = f"a drop of {100 * tolerance:g} points at every end"
    return [f"{samples} samples are too few to show {drop}: that takes {needed}"]


def _pairs(settings: ToleranceSettings) -> list[tuple[str, ...]]:
    """Returns the pairs of knobs to map; a knob without a partner is a tuple of one, which `check` refuses."""
    return [settings.map[place : place + 2] for place in range(0, len(settings.map), 2)]


def _ends(scores: _Scores) -> dict[str, tuple[End, End]]:
    """Finds the ends of each knob's interval, in the order of their values."""
    sides = [Side(name, limit) for name, knob in scores.knobs.items() for limit in (knob.low, knob.high)]
    positions = {side: [0.0] for side in sides}
    for number in itertools.count(1):
        going = [
            side
            for side, each in positions.items()
            if each[-1] != side.limit and not scores.shown(side.points(each))[-1]
        ]
        if not going:
            break
        for side in going:
            positions[side].append(side.outward()[number])
        scores.measure([point for side in going for point in side.points(positions[side][-1:])], f"doubling {number}")
    for number in range(_HALVINGS):
        middles = {}
        for side, each in positions.items():
            first = _first_failing(scores.at(side.points(each)), scores.floor)[0]
            if first < len(each):
                middles[side] = (each[first - 1] + each[first]) / 2
                each.insert(first, middles[side])
        points = [point for side, middle in middles.items() for point in side.points([middle])]
        scores.measure(points, f"halving {number + 1}")
    ends: dict[str, tuple[End, End]] = {}
    for side, other in zip(sides[::2], sides[1::2], strict=True):
        value = scores.knobs[side.name].value
        # The lower position of a negative gain has the higher value.
        low, high = sorted(
            (_end(scores, each, positions[each]) for each in (side, other)), key=lambda end: value(end.position)
        )
        ends[side.name] = low, high
    return ends


def _first_failing(scores: np.ndarray, floor: np.ndarray) -> np.ndarray:
    """Finds the first position below the floor, on all samples and on each resample; their number if all pass."""
    fails = scores < floor
    return np.where(fails.any(0), fails.argmax(0), len(scores))


def _end(scores: _Scores, side: Side, positions: Sequence[float]) -> End:
    """Computes where the scores of a side cross the floor."""
    points, places = side.points(positions), np.array(positions)
    found, floor = scores.at(points), scores.floor
    first = _first_failing(found, floor)
    ends, needed = np.full(len(floor), positions[-1]), None
    crossing = np.flatnonzero(first < len(positions))
    # Position 0, the default, never fails, so that there is always a position before.
    after = first[crossing]
    passes, fails = found[after - 1, crossing], found[after, crossing]
    fraction = (passes - floor[crossing]) / (passes - fails)
    ends[crossing] = places[after - 1] + fraction * (places[after] - places[after - 1])
    is_crossed = bool(first[0] < len(positions))
    if is_crossed:
        inner, outer = (scores.samples_needed(point) for point in points[first[0] - 1 : first[0] + 1])
        needed = inner + float(fraction[0]) * (outer - inner)
    low, high = sorted(np.percentile(ends[1:], _PERCENTILES).tolist())
    failing = next((position for position, shown in zip(positions, scores.shown(points), strict=True) if shown), None)
    return End(float(ends[0]), (low, high), not is_crossed, failing, needed)


def _tables(knobs: Mapping[str, Knob], ends: Mapping[str, tuple[End, End]], words: str) -> dict[str, Table]:
    """Makes the tables of the intervals, in the knobs' units and in natural ranges."""
    rows, distances = [], []
    for name, both in ends.items():
        knob = knobs[name]
        intervals = [(knob.value(end.position), *sorted(map(knob.value, end.interval))) for end in both]
        failing = [None if end.failing is None else knob.value(end.failing) for end in both]
        rows.append([name, knob.quantity, knob.default, *intervals, *failing])
        distances.append([name, *(end.position for end in both), *(end.at_limit for end in both)])
    numbers = [Column(name, format=".3g") for name in ("value", "low", "high", "fails below", "fails above")]
    limits = [Column("low"), Column("high"), Column("low is the limit"), Column("high is the limit")]
    note = f"{words} from low to high, while one knob moves; fails: a paired test at 5% shows a larger drop"
    return {
        "tolerances": Table("tolerances", [Column("knob"), Column("quantity"), *numbers], rows, note),
        "distances": Table(
            "ends of the tolerances, in natural ranges from the default", [Column("knob"), *limits], distances
        ),
    }


def _figure(knobs: Mapping[str, Knob], ends: Mapping[str, tuple[End, End]]) -> Figure:
    """Draws a bar for each knob in natural ranges, with bootstrap intervals as whiskers."""

    def draw(axes: Axes) -> None:
        for row, both in enumerate(ends.values()):
            # The low value of a negative gain lies to the right of the high value.
            left, right = sorted(both, key=lambda end: end.position)
            axes.barh(row, right.position - left.position, 0.6, left.position, color="C0", alpha=0.5)
            for end in both:
                axes.plot(end.interval, [row, row], color=INK, marker="|", linewidth=1, markersize=6)
        axes.axvline(0, color=INK, linewidth=0.8)
        titles = [f"{name} ({knob.quantity}) = {format_value(knob.default)}" for name, knob in knobs.items()]
        axes.set_yticks(range(len(knobs)), titles)
        axes.set(ylim=(len(knobs) - 0.4, -0.6), axisbelow=True, xlabel="natural ranges from the default")
        axes.set_xscale("symlog", linthresh=LINEAR)
        axes.grid(axis="x", alpha=0.3)

    caption = "where a single value may move; whiskers: 5th and 95th percentiles over resamples"
    return Figure(draw, (7, 1 + 0.25 * len(knobs)), caption)


def _map(scores: _Scores, pair: Sequence[str], ends: Mapping[str, tuple[End, End]], score: str) -> tuple[Table, Figure]:
    """Measures the scores while two knobs move."""
    knobs = [scores.knobs[name] for name in pair]
    axes = [_axis(knob, ends[knob.name]) for knob in knobs]
    cells = [
        tuple((name, each) for name, each in zip(pair, cell, strict=True) if each) for cell in itertools.product(*axes)
    ]
    scores.measure(cells, "map")
    found = scores.at(cells)[:, 0].reshape([len(positions) for positions in axes])
    rows, columns = (
        [f"{knob.value(position):.6g}" for position in positions] for knob, positions in zip(knobs, axes, strict=True)
    )
    table = Table(
        f"{score} while {' and '.join(pair)} move",
        [Column(" \\ ".join(pair)), *(Column(value, format=SCORE) for value in columns)],
        [[value, *row] for value, row in zip(rows, found.tolist(), strict=True)],
    )
    framed = [(row, column) for row, column in np.argwhere(found >= scores.floor[0]).tolist()]
    of_rows, of_columns = (f"{knob.name} ({knob.quantity})" for knob in knobs)
    # Four digits fit under a cell; the table has six.
    return table, heat_map(
        found,
        [f"{float(value):.4g}" for value in rows],
        [f"{float(value):.4g}" for value in columns],
        label=score,
        row_title=of_rows,
        column_title=of_columns,
        framed=framed,
        caption="framed: tolerated",
    )


def _axis(knob: Knob, ends: Iterable[End]) -> list[float]:
    """Returns the positions of a map's knob, in the order of their values."""
    positions = [0.0]
    for end, limit in zip(sorted(end.position for end in ends), (knob.low, knob.high), strict=True):
        if limit:
            reach = math.copysign(min(2 * abs(end), abs(limit)), limit)
            positions += [reach * cell / _CELLS for cell in range(1, _CELLS + 1)]
    return sorted(positions, key=knob.value)

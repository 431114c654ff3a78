"""Measures tolerances: how far each knob of a processing may move alone before a model's score falls too far."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from r2l_jax.data.groups import numbered
from r2l_jax.drift import statistics
from r2l_jax.drift.cases import CLEAN
from r2l_jax.drift.dots import LINEAR
from r2l_jax.drift.forensics.config import ToleranceSettings
from r2l_jax.drift.measure import TOGETHER, Model, Samples, measure, ticking
from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.drift.search.knobs import Knob, format_value
from r2l_jax.errors import InputError
from r2l_jax.results.heat_map import heat_map
from r2l_jax.results.result import INK, SCORE, Column, Figure, Result, Table
from r2l_jax.training.model_io import Trained

RESAMPLES = 200

# The number of positions on each side of a knob's default, the first of them in natural ranges, which is two percent of
# a gain, and the number between the last position that passes and the first that fails.
_POSITIONS, _FIRST, _BETWEEN = 5, 0.02, 3

_PERCENTILES = (5, 95)

# The number of cells of a map from the default to its border, on each side.
_CELLS = 4

# Differences of scores below this are rounding.
_ROUNDING = 1e-6


class _Measured(NamedTuple):
    """The measurements at one point: the model with some knobs moved.

    Attributes:
        scores: the score on all samples, then on each resample of their groups.
        by_group: a number for each group whose mean is the score.
    """

    scores: Float[np.ndarray, " resamples"]
    by_group: Float[np.ndarray, " groups"]


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
    samples_needed: int | None


def check(fold: Trained, settings: ToleranceSettings) -> None:
    """Raises an InputError unless each pair to map is two knobs."""
    knobs = Frozen(fold.model, fold.task).knobs
    for pair in _pairs(settings):
        if len(set(pair)) != 2 or not set(pair) <= set(knobs):
            raise InputError(f"`map` must be two of {', '.join(knobs)}, got {','.join(pair)!r}")


def analyze(fold: Trained, settings: ToleranceSettings, batch_size: int, seed: int) -> Result:
    """Finds the interval of each knob in which the score stays near the default's, with progress bars on stderr.

    Each knob (see `knobs_of`) moves alone to five positions on each side of its default, whose distances grow by equal
    factors from 0.02 natural ranges to the limit. A position passes if its score is below the default's by at most the
    tolerance. Then three more positions divide the gap between the first that fails and the one before it. The interval
    ends where a straight line between the scores on both sides of the tolerance crosses it, or at the limit if all
    positions pass. Positions beyond the first one that fails are ignored.

    The uncertainty of each end is a bootstrap interval over the groups of samples: the 5th to the 95th percentile of
    the ends of 200 resamples, each compared with its default. An end at the limit counts as the limit.

    Where the score crosses the tolerance, the drop on other samples may well be smaller. So each end has a second
    position: the nearest one measured at which all but 5% of the resamples lose more than the tolerance, which is a
    paired one-sided test. The results also state how many samples it takes for the 95% confidence interval of a drop
    of the tolerance to exclude 0.

    The map of two knobs reaches to twice their intervals, but not beyond their limits.
    The numbers do not depend on the `batch_size`; the `seed` is for the resamples.
    """
    tolerance, score, samples = settings.tolerance / 100, fold.task.score.name, Samples.of(fold, batch_size)
    frozen, groups = Frozen(fold.model, fold.task), numbered(samples.dataset.groups_of(samples.indices).tolist())
    knobs, count = frozen.knobs, int(groups.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), RESAMPLES)[:, groups]
    weights = np.concatenate([np.ones((1, len(groups))), drawn])

    def measured(points: Sequence[Mapping[str, float]], title: str) -> list[_Measured]:
        return _measured(fold, frozen, points, samples, weights, title)

    sides = [(knob.name, limit) for knob in knobs.values() for limit in (knob.low, knob.high)]
    moves = [(side, position) for side in sides for position in _positions(side[1])]
    default, *found = measured([{}, *({name: position} for (name, _), position in moves)], "tolerances")
    floor = default.scores - tolerance - _ROUNDING
    at = {side: {0.0: default} for side in sides}
    for (side, position), one in zip(moves, found, strict=True):
        at[side][position] = one
    moves = [(side, position) for side in sides for position in _gap(at[side], floor[0])]
    found = measured([{name: position} for (name, _), position in moves], "tolerances, finer")
    for (side, position), one in zip(moves, found, strict=True):
        at[side][position] = one
    found_ends = [
        _end(dict(sorted(at[side].items(), key=lambda item: abs(item[0]))), floor, tolerance, len(groups))
        for side in sides
    ]
    ends = dict[str, tuple[End, End]]()
    for knob, both in zip(knobs.values(), zip(found_ends[::2], found_ends[1::2], strict=True), strict=True):
        # The lower position of a negative gain has the higher value.
        low, high = sorted(both, key=lambda end, knob=knob: knob.value(end.position))
        ends[knob.name] = low, high
    needed = [end.samples_needed for both in ends.values() for end in both if end.samples_needed is not None]
    samples_needed = max(needed) if needed else None
    moved = {knob.parameter for knob in knobs.values()}
    left_out = {name: frozen.default[name].size for name in frozen.declarations if name not in moved}
    metadata = {
        "score": float(default.scores[0]),
        "tolerance": tolerance,
        "samples": len(samples.indices),
        "groups": count,
        "samples_needed": samples_needed,
        "tolerated": {name: [knobs[name].value(end.position) for end in both] for name, both in ends.items()},
        "notes": [
            f"default {score} {default.scores[0]:.4f}; in parentheses: 5th and 95th percentiles over resamples",
            *(f"not moved: {name}, {size} value{'' if size == 1 else 's'}" for name, size in left_out.items()),
            *too_few(len(samples.indices), count, tolerance, samples_needed),
            *(["all samples are of one group, so no interval is known, and no failure is shown"] if count < 2 else []),
        ],
    }
    tables = _tables(knobs, ends, f"{score} falls by at most {settings.tolerance:g} points")
    figures = {"tolerances": _figure(knobs, ends)}
    for number, pair in enumerate(_pairs(settings)):
        name = f"map_{number + 1}" if number else "map"
        axes = {each: _axis(knobs[each], ends[each]) for each in pair}
        cells = [dict(zip(pair, cell, strict=True)) for cell in itertools.product(*axes.values())]
        scores = [one.scores[0] for one in measured(cells, name)]
        found = np.reshape(scores, [len(axis) for axis in axes.values()])
        tables[name], figures[name] = _map([knobs[each] for each in pair], axes, found, floor[0], score)
    return Result(metadata, tables, figures)


def too_few(samples: int, groups: int, tolerance: float, needed: int | None) -> list[str]:
    """Returns a line that states how many samples, and groups of them, the tolerance takes; no line if it has them."""
    if needed is None or needed <= samples:
        return []
    drop = f"a drop of {100 * tolerance:g} points at every end"
    there, takes = (f" of {each} groups" * (groups < samples) for each in (groups, needed * groups // samples))
    return [f"{samples} samples{there} are too few to show {drop}: that takes {needed}{takes}"]


def _pairs(settings: ToleranceSettings) -> list[tuple[str, ...]]:
    """Returns the pairs of knobs to map; a knob without a partner is a tuple of one, which `check` refuses."""
    return [settings.map[place : place + 2] for place in range(0, len(settings.map), 2)]


def _positions(limit: float) -> list[float]:
    """Returns the positions of a knob from its default to a limit, without the default."""
    first = min(_FIRST / max(abs(limit), _FIRST), 0.5)
    return (limit * np.geomspace(first, 1, _POSITIONS)).tolist() if limit else []


def _measured(
    fold: Trained,
    frozen: Frozen,
    points: Sequence[Mapping[str, float]],
    samples: Samples,
    weights: Float[np.ndarray, "resamples samples"],
    title: str,
) -> list[_Measured]:
    """Measures a model with knobs at each of some points, which give the positions of some knobs by name."""
    found = []
    with ticking(title, -(-len(points) // TOGETHER)) as tick:
        # As many as are computed together, so that memory has the images of no more.
        for start in range(0, len(points), TOGETHER):
            turned = (frozen.turned(point) for point in points[start : start + TOGETHER])
            models = {f"{number}": Model(fold.model, values) for number, values in enumerate(turned)}
            outcomes = measure(models, [CLEAN], samples)
            for name in models:
                scores = np.asarray(outcomes.scoring(outcomes.at(name), weights))
                found.append(_Measured(scores, outcomes.by_group(name)))
            tick()
    return found


def _gap(at: Mapping[float, _Measured], floor: float) -> list[float]:
    """Returns positions between the first that fails and the one before it, if any fails."""
    positions = [*at]
    fails = [one.scores[0] < floor for one in at.values()]
    if not any(fails):
        return []
    after = fails.index(True)
    return np.linspace(positions[after - 1], positions[after], _BETWEEN + 2)[1:-1].tolist()


def _end(at: Mapping[float, _Measured], floor: Float[np.ndarray, " resamples"], tolerance: float, samples: int) -> End:
    """Computes where the scores at a side's positions, the default first, cross the least scores that pass."""
    positions, measured = np.array([*at]), [*at.values()]
    found = np.stack([one.scores for one in measured])
    fails = found < floor
    # Position 0, the default, never fails, so that there is always a position before.
    crossing, after = np.flatnonzero(fails.any(0)), fails.argmax(0)[fails.any(0)]
    passed, failed = found[after - 1, crossing], found[after, crossing]
    fraction = (passed - floor[crossing]) / (passed - failed)
    ends = np.full(len(floor), positions[-1])
    ends[crossing] = positions[after - 1] + fraction * (positions[after] - positions[after - 1])
    is_crossed, clean, needed = bool(fails[:, 0].any()), measured[0].by_group, None
    # Resamples of one group are all alike.
    shown = fails[:, 0] & (fails[:, 1:].mean(1) >= _PERCENTILES[1] / 100) & (len(clean) > 1)
    if is_crossed and len(clean) > 1:
        # Between two positions, a share of the samples is as at each.
        lost = [clean - measured[place].by_group for place in (after[0] - 1, after[0])]
        shares = np.repeat([1 - fraction[0], fraction[0]], len(clean))
        groups = statistics.samples_needed(np.concatenate(lost), tolerance, shares)
        # In groups of as many samples as these have on average.
        needed = groups * samples // len(clean)
    low, high = sorted(np.percentile(ends[1:], _PERCENTILES).tolist())
    return End(
        float(ends[0]), (low, high), not is_crossed, float(positions[shown.argmax()]) if shown.any() else None, needed
    )


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


def _map(
    knobs: Sequence[Knob], axes: Mapping[str, Sequence[float]], found: np.ndarray, floor: float, score: str
) -> tuple[Table, Figure]:
    """Shows the scores while two knobs move; scores from the floor are framed."""
    rows, columns = ([f"{knob.value(each):.6g}" for each in axes[knob.name]] for knob in knobs)
    table = Table(
        f"{score} while {' and '.join(axes)} move",
        [Column(" \\ ".join(axes)), *(Column(value, format=SCORE) for value in columns)],
        [[value, *row] for value, row in zip(rows, found.tolist(), strict=True)],
    )
    of_rows, of_columns = (f"{knob.name} ({knob.quantity})" for knob in knobs)
    # Four digits fit under a cell; the table has six.
    return table, heat_map(
        found,
        [f"{float(value):.4g}" for value in rows],
        [f"{float(value):.4g}" for value in columns],
        label=score,
        row_title=of_rows,
        column_title=of_columns,
        framed=[(row, column) for row, column in np.argwhere(found >= floor).tolist()],
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

import dataclasses
import math

import brightness
import numpy as np
import pytest
from brightness import BRIGHT, GAMMA, dark_images
from matplotlib.figure import Figure
from outcomes import of_counts

from r2l_jax.drift.forensics import tolerance
from r2l_jax.drift.forensics.config import ToleranceSettings

INTENSITIES = np.linspace(0.15, 0.4, 20)
PAIRS = ("white_balance", "gamma_correct", "white_balance.red", "white_balance.blue")


def analyze(dataset, allowed=2, pair=()):
    fold = brightness.fold(dataset, [], np.arange(len(dataset)))
    settings = ToleranceSettings(tolerance=float(allowed), map=pair)
    tolerance.check(fold, settings)
    return tolerance.analyze(fold, settings, 16, 0)


@pytest.fixture(scope="module")
def analysis(small_heads):
    # Each sample is five points: two of them may be lost.
    return analyze(dark_images(INTENSITIES), 12, pair=PAIRS)


def of_knob(result, knob, table="tolerances"):
    (row,) = [row for row in result.tables[table].rows if row[0] == knob]
    return row


def ends(result, knob):
    """The low and the high end of a knob, each with its interval."""
    return of_knob(result, knob)[3:5]


# The positions of a gain, each by the same factor farther from the default.
COARSE = [0.02 * (math.log(100) / 0.02) ** (number / 4) for number in range(5)]


def gap_around(position):
    """The two positions around the end at another one: the gap between two coarse ones is in four."""
    inner, outer = max(each for each in COARSE if each <= position), min(each for each in COARSE if each > position)
    grid = np.linspace(inner, outer, 5)
    return max(each for each in grid if each <= position), min(each for each in grid if each > position)


def assert_in_gap(end, expected):
    """An end lies in the same gap as the loss."""
    inner, outer = gap_around(expected)
    assert inner < end < outer


@pytest.mark.shows(
    "forensics --tolerance",
    "forensics.tolerance tolerances.csv: low, high, low low, low high",
    "forensics.tolerance distances.csv: knob, low, high, low is the limit, high is the limit",
    "forensics.tolerance keys: tolerated, score, samples, tolerance",
)
def test_intervals_end_where_the_third_sample_is_lost_or_at_the_limit(analysis):
    third = np.sort(INTENSITIES)[-3]
    for name, value, expected in (
        ("white_balance", 1.0, math.log(BRIGHT / third)),
        ("gamma_correct", GAMMA, math.log(math.log(third) / math.log(BRIGHT))),
    ):
        (low, _, _), (high, first, last) = ends(analysis, name)
        assert_in_gap(math.log(high / value), expected)
        assert first <= high <= last
        assert of_knob(analysis, name, "distances")[1:] == pytest.approx(
            [-math.log(100), math.log(high / value), True, False]
        )
        # Darker, nothing is lost.
        assert low == pytest.approx(value / 100, rel=1e-5)
        assert analysis.metadata["tolerated"][name] == pytest.approx([low, high])
    assert ends(analysis, "black_level") == [pytest.approx((-0.1,) * 3), pytest.approx((0.85,) * 3)]
    assert [analysis.metadata[name] for name in ("score", "samples", "tolerance")] == [1, 20, 0.12]


@pytest.fixture
def measure(monkeypatch):
    """Lets a rule tell which samples are lost: it takes their intensities and the gain of green."""

    def replace(lost):
        def measured(models, cases, samples):
            # As many as are computed together.
            assert len(models) <= 16
            raws = samples.dataset.samples(samples.indices)[0].mean((1, 2)) - 0.1
            gains = [each.values["white_balance"][1] for each in models.values()]
            counted = 1 - np.array([np.broadcast_to(lost(raws, gain), raws.shape) for gain in gains])[:, None]
            return of_counts(models, ["clean"], samples.indices, counted, groups=samples.groups)

        monkeypatch.setattr(tolerance, "measure", measured)

    return replace


@pytest.mark.parametrize("loss", [0.05, 0.37, 0.45, 0.57])
def test_an_end_is_where_a_line_between_two_positions_crosses_the_tolerance(measure, loss):
    """All samples are lost at once, of which two points are tolerated; positions beyond the end are ignored."""
    measure(lambda raws, gain: loss <= np.log(gain) < 2)
    high, *interval = map(math.log, ends(analyze(dark_images([0.2] * 3)), "white_balance")[1])
    inner, outer = gap_around(loss)
    assert high == pytest.approx(inner + 0.02 * (outer - inner), rel=1e-4)
    # Equal samples have equal resamples.
    assert interval == pytest.approx([high] * 2)


@pytest.mark.shows("forensics.tolerance tolerances.csv: fails above, fails below")
def test_failure_is_shown_at_the_nearest_position_where_a_paired_test_finds_it(measure):
    """A loss of 3 of 50 samples may be 1 of 50 in other samples, which is the tolerance; a loss of all may not."""
    measure(lambda raws, gain: np.log(gain) >= np.where(raws > 0.25, 0.5, 0.2))
    found = analyze(dark_images([0.2] * 3 + [0.3] * 47))
    _, (high, first, last) = ends(found, "white_balance")
    assert_in_gap(math.log(high), 0.2)
    assert first < 1.03 * high
    # Some resamples lose none of the three, and tolerate more.
    assert math.log(last) > 0.25
    below, above = of_knob(found, "white_balance")[5:]
    assert below is None
    assert math.log(above) == pytest.approx(min(each for each in COARSE if each > 0.5))


def test_ends_do_not_depend_on_the_resamples(measure):
    """Five of 50 samples are lost by default, so that the least score that passes differs; two more are at the end."""
    measure(lambda raws, gain: np.log(gain) >= np.where(raws > 0.35, -9, np.where(raws > 0.25, 0.5, 0.2)))
    dataset = dark_images([0.2] * 2 + [0.3] * 43 + [0.4] * 5)
    fold = brightness.fold(dataset, [], np.arange(50))
    found = [tolerance.analyze(fold, ToleranceSettings(tolerance=2.0), 16, seed) for seed in range(6)]
    highs = [ends(each, "white_balance")[1] for each in found]
    assert len({high for high, _, _ in highs}) == 1
    assert_in_gap(math.log(highs[0][0]), 0.2)


@pytest.mark.shows("forensics.tolerance keys: samples_needed, notes, groups")
@pytest.mark.parametrize(("groups", "size"), [(480, 1), (120, 4)])
def test_too_few_samples_for_the_tolerance_are_stated(measure, groups, size):
    """At an end, the share of groups that is lost is the tolerance; the samples of a group are equal."""
    measure(lambda raws, gain: np.log(gain) >= 0.5 - raws)
    dataset = dark_images(np.repeat(np.linspace(0.1, 0.4, groups), size))
    found = analyze(dataclasses.replace(dataset, groups=np.repeat(np.arange(groups), size)))
    needed, samples = found.metadata["samples_needed"], groups * size
    assert needed == pytest.approx(size * (1.959964 / 0.02) ** 2 * 0.02 * 0.98 * groups / (groups - 1), rel=0.01)
    there, takes = ("", "") if size == 1 else (f" of {groups} groups", f" of {needed // size} groups")
    line = f"{samples} samples{there} are too few to show a drop of 2 points at every end: that takes {needed}{takes}"
    assert (line in found.metadata["notes"]) == (samples < needed) == (groups == 120)


@pytest.mark.shows("forensics.tolerance tolerances.csv: high low, high high")
def test_resamples_draw_groups_each_compared_with_its_default(measure):
    """Two groups, of which one is lost by default: a resample loses all of its other group, or has none to lose."""
    measure(lambda raws, gain: np.log(gain) >= np.where(raws > 0.5, -9, 0.3))
    dataset = dataclasses.replace(dark_images([0.2] * 10 + [0.9] * 10), groups=np.arange(20) // 10)
    found = analyze(dataset)
    assert found.metadata["score"] == 0.5
    high, first, last = ends(found, "white_balance")[1]
    assert_in_gap(math.log(high), 0.3)
    assert first == pytest.approx(high, rel=0.02)
    # A quarter of the resamples has the lost group alone.
    assert last == pytest.approx(100)
    assert of_knob(found, "white_balance")[5:] == [None, None]


@pytest.mark.shows("forensics --map", "forensics.tolerance map.csv: *")
def test_the_map_of_a_pair_is_that_of_both_knobs(analysis):
    table = analysis.tables["map"]
    gains = np.array([float(row[0]) for row in table.rows])
    gammas = np.array([float(column.name) for column in table.columns[1:]])
    assert (len(gains), len(gammas)) == (9, 9)
    # Twice the interval, in natural ranges.
    assert gains[-1] == pytest.approx(ends(analysis, "white_balance")[1][0] ** 2, rel=1e-4)
    linear = np.multiply.outer(gains, INTENSITIES)
    rendered = np.minimum(linear[:, None], 1) ** (1 / np.reshape(gammas, (-1, 1)))
    scores = np.array([row[1:] for row in table.rows])
    np.testing.assert_allclose(scores, (rendered < BRIGHT ** (1 / GAMMA)).mean(-1), atol=1e-6)


@pytest.mark.shows("forensics.tolerance map_{}.csv: *", "forensics.tolerance figures: map_{}")
def test_both_values_of_one_parameter_move_in_their_map(analysis):
    table = analysis.tables["map_2"]
    reds = np.array([float(row[0]) for row in table.rows])
    blues = np.array([float(column.name) for column in table.columns[1:]])
    of_red, of_blue = (np.minimum(np.multiply.outer(each, INTENSITIES), 1) ** (1 / GAMMA) for each in (reds, blues))
    means = (of_red[:, None] + INTENSITIES ** (1 / GAMMA) + of_blue) / 3
    scores = np.array([row[1:] for row in table.rows])
    np.testing.assert_allclose(scores, (means < BRIGHT ** (1 / GAMMA)).mean(-1), atol=1e-6)
    assert np.ptp(scores, 0).max() > 0.1
    assert np.ptp(scores, 1).max() > 0.1
    cells = Figure().subplots()
    analysis.figures["map_2"].draw(cells)
    np.testing.assert_allclose(cells.images[0].get_array(), scores)


@pytest.mark.shows(
    "forensics.tolerance figures: tolerances, map", "forensics.tolerance tolerances.csv: knob, quantity, value"
)
def test_figures_have_the_numbers_of_the_tables(analysis):
    bars, cells = (Figure().subplots() for _ in range(2))
    analysis.figures["tolerances"].draw(bars)
    rows = analysis.tables["distances"].rows
    found = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in bars.patches]
    np.testing.assert_allclose(found, [row[1:3] for row in rows])
    titles = [title.get_text().split()[0] for title in bars.get_yticklabels()]
    assert titles == [row[0] for row in rows]
    whiskers = [line.get_xdata() for line in bars.lines if len(set(line.get_ydata())) == 1]
    place = titles.index("gamma_correct")
    ends_of_gamma = np.log(np.array([end[1:] for end in ends(analysis, "gamma_correct")]) / GAMMA)
    np.testing.assert_allclose(sorted(map(sorted, whiskers[2 * place : 2 * place + 2])), ends_of_gamma, atol=1e-5)
    analysis.figures["map"].draw(cells)
    scores = np.array([row[1:] for row in analysis.tables["map"].rows])
    np.testing.assert_allclose(cells.images[0].get_array(), scores)
    assert of_knob(analysis, "gamma_correct")[:3] == ["gamma_correct", "gamma", pytest.approx(GAMMA)]

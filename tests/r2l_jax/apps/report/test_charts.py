import math
import re

import pytest
from matplotlib.figure import Figure

from r2l_jax.apps.report.charts import BarChart, Line, LineChart, draw, draw_bars, range_bar, svg


def chart(*lines, **options):
    return LineChart("title", "epoch", "loss", lines, **options)


def drawn(*lines, **options):
    """The axes of a drawn chart."""
    axes = Figure(figsize=(5, 3)).subplots()
    draw(axes, chart(*lines, **options))
    return axes


def ticks(axis, low, high):
    """The texts of the ticks within an axis."""
    return [axis.get_major_formatter()(place) for place in axis.get_major_locator()() if low <= place <= high]


def test_lines_are_in_the_colors_of_the_page_and_named_in_words():
    lines = [Line("a", [1.0, 2.0], [0.5, 0.25], 1), Line("<b>", [1.0, 2.0], [0.5, 0.75], 11, "dashed")]
    text = svg(chart(*lines, levels=[(0.6, 3)]))
    assert all(f"stroke: var(--c{color})" in text for color in (1, 2, 3))
    assert "#" not in text.replace('href="#', "")
    assert 'aria-label="title: loss by epoch. a from 0.5 to 0.25; &lt;b&gt; from 0.5 to 0.75."' in text
    assert svg(chart(*lines, levels=[(0.6, 3)])) == text


def test_ticks_are_at_round_values():
    axes = drawn(Line("a", [1.0, 6.0], [0.031, 0.034]))
    assert ticks(axes.xaxis, 1, 6) == ["1", "2", "3", "4", "5", "6"]
    assert ticks(axes.yaxis, 0.031, 0.034) == ["0.031", "0.032", "0.033", "0.034"]
    found = ticks(drawn(Line("a", [1.0, 2.0], [2.197, 2.199])).yaxis, 2.197, 2.199)
    # Ends that are equal in three digits are told apart on a wider axis.
    assert found == []
    axes = drawn(Line("a", [1.0, 2.0], [2.197, 2.199]))
    assert ticks(axes.yaxis, *axes.get_ylim()) == ["2.19", "2.2"]
    axes = drawn(Line("a", [1.0, 2.0], [2.16, 2.199]))
    assert ticks(axes.yaxis, 2.16, 2.199) == ["2.16", "2.18"]
    found = ticks(drawn(Line("a", [1.0, 2.0], [-1.0, 1.0])).yaxis, -1, 1)
    assert found == ["\N{MINUS SIGN}1", "\N{MINUS SIGN}0.5", "0", "0.5", "1"]


@pytest.mark.parametrize(("low", "high"), [(1e-9, 1.0), (0.4, 0.6), (1.0, 1.0), (5.0, 5000.0)])
def test_logarithmic_axes_have_a_few_ticks_inside(low, high):
    axes = drawn(Line("a", [1.0, 2.0], [low, high]), log_y=True)
    assert axes.get_yscale() == "log"
    assert 1 <= len(ticks(axes.yaxis, *axes.get_ylim())) <= 10


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1.7e308])
def test_values_that_cannot_be_drawn_are_left_out(value):
    (line,) = drawn(Line("a", [1.0, 2.0, 3.0], [1.0, value, 2.0])).lines
    assert line.get_xdata().tolist() == [1.0, 3.0]
    assert svg(chart(Line("a", [1.0], [value]))) is None


def test_values_that_have_no_logarithm_are_left_out():
    axes = drawn(Line("a", [1.0, 2.0, 3.0], [0.0, 1.0, 2.0]), log_y=True, levels=[(0.0, 0)])
    assert [line.get_ydata().tolist() for line in axes.lines] == [[1.0, 2.0]]


def test_single_points_and_constants_are_drawn():
    for ys in ([0.0], [5.0, 5.0], [-1.0], [0.0, 5e-324], [1.0, 1.0 + 2**-52]):
        assert "var(--c0)" in svg(chart(Line("a", [float(x) for x in range(len(ys))], ys)))


def test_bands_levels_and_the_least_range_widen_the_axis():
    line = Line("a", [1.0, 2.0], [1.0, 2.0], spread=[0.5, 1.0])
    axes = drawn(line, levels=[(5.0, 0)], y_range=(-3.0, 1.0))
    low, high = axes.get_ylim()
    assert -4 < low < -3 < 5 < high < 6
    assert axes.get_xlim() == (1.0, 2.0)
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (0.5, 3.0)


def test_chance_is_a_dashed_line():
    lines = drawn(Line("a", [1.0, 2.0], [0.5, 0.75]), chance=0.25).lines
    assert [(line.get_linestyle(), list(line.get_ydata())) for line in lines] == [
        ("-", [0.5, 0.75]),
        ("--", [0.25, 0.25]),
    ]
    found = chart(Line("a", [1.0, 2.0], [0.5, 0.75]), chance=0.25)
    assert ">chance</text>" in svg(found)
    assert found.alternative.endswith("a from 0.5 to 0.75; a guess scores 0.25.")


def test_long_lines_have_no_marks():
    for length, mark in ((40, "o"), (41, "")):
        xs = [float(x) for x in range(length)]
        assert drawn(Line("a", xs, xs)).lines[0].get_marker() == mark


def test_the_legend_names_each_look_once():
    lines = [Line("a", [1.0], [1.0]), Line("a", [1.0], [2.0]), Line("b", [1.0], [2.0], color=1)]
    assert [line.name for line in chart(*lines).legend] == ["a", "b"]
    assert chart(*lines[:2]).legend == []


def test_the_alternative_text_tells_where_lines_begin_and_end():
    lines = [Line(f"run {number}", [1.0, 2.0], [0.5, number / 10]) for number in range(10)]
    text = chart(*lines).alternative
    assert text.startswith("title: loss by epoch. run 0 from 0.5 to 0; run 1 from 0.5 to 0.1; ")
    assert text.endswith("; 2 more lines.")


def test_bars_of_ranges_are_symmetric_and_keep_their_order():
    bar = range_bar(-0.5, 0.5, [(-1.0, -0.1), (0.1, 1.0)], 2.0, 0.02, "text")
    assert bar.low + bar.high == pytest.approx(1)
    ((outer, inner), (right_inner, right_outer)) = bar.whiskers
    assert 0 < outer < bar.low < inner < 0.5 < right_inner < bar.high < right_outer < 1
    full = range_bar(-9.0, math.inf, [], 2.0, 0.02, "text")
    assert (full.low, full.high) == (0.0, 0.5)


@pytest.mark.parametrize("xs", [[1.0, 1000.0], [0.0, 100000.0]])
def test_no_text_is_cut_at_the_edges(xs):
    text = svg(chart(Line("a", xs, [-0.00123, 0.00121])))
    # The rotated label of the vertical axis is of another direction.
    places = re.findall(r'<text style="([^"]*)" x="([0-9.]+)" y="[0-9.]+">([^<]+)</text>', text)
    ends = {}
    for style, x, words in places:
        # A digit of 12 units is about 7 wide.
        width, anchor = 7 * len(words), re.search("text-anchor: (\\w+)", style)[1]
        left = float(x) - {"start": 0, "middle": width / 2, "end": width}[anchor]
        ends[words] = left, left + width
    assert f"{xs[-1]:.0f}" in ends
    assert {words: each for words, each in ends.items() if each[0] < 0 or each[1] > 360} == {}


def test_both_axes_have_labels_and_scores_are_in_points():
    lines = [Line("a", [1.0, 2.0], [0.5, 0.75])]
    text = svg(LineChart("noise", "severity", "accuracy", lines, chance=0.25, in_points=True))
    texts = {*re.findall(">([^<]+)</text>", text)}
    assert texts == {"1", "2", "severity", "40", "60", "accuracy, points", "chance"}
    assert 'aria-label="noise: accuracy, points by severity. a from 50 to 75; a guess scores 25."' in text
    assert ">loss</text>" in svg(chart(*lines))


def test_bars_stand_below_each_other_from_zero_in_points():
    scores = {"first": {"defocus": 0.9, "flicker": 0.25}, "second": {"defocus": 0.5}}
    bars = BarChart("Drift of the sensor", "accuracy", scores, {"first": 0.95, "second": 0.75}, 0.125)
    axes = Figure().subplots()
    draw_bars(axes, bars)
    found = {(round(bar.get_y() + bar.get_height() / 2, 3), bar.get_width()) for bar in axes.patches}
    assert found == {(-0.2, 90), (0.8, 25), (0.2, 50)}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["defocus", "flicker"]
    assert [line.get_xdata()[0] for line in axes.lines] == [95, 75, 12.5]
    text = svg(bars)
    assert (
        'aria-label="Drift of the sensor: accuracy, points of the lowest of 2 runs. defocus 50.0; flicker 25.0."'
        in text
    )
    assert [line.name for line in bars.legend] == ["first", "second"]

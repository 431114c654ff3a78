import math

import pytest

from r2l_jax.apps.report.charts import Line, LineChart, drawn, range_bar


def chart(*lines, **options):
    return LineChart("title", "epoch", "loss", lines, **options)


def corners(line):
    return [tuple(map(float, corner.split(","))) for corner in line.path.split()]


def test_points_are_placed_between_the_axes():
    drawing = drawn(chart(Line("a", [1.0, 2.0, 3.0], [0.0, 10.0, 5.0])))
    first, second, third = corners(drawing.lines[0])
    assert (first[0], third[0]) == (drawing.left, drawing.right)
    assert second[0] == pytest.approx((drawing.left + drawing.right) / 2)
    # The vertical axis points downwards in pictures.
    assert drawing.top < second[1] < third[1] < first[1] < drawing.bottom
    assert third[1] == pytest.approx((first[1] + second[1]) / 2, abs=0.02)


def test_ticks_are_at_round_values():
    drawing = drawn(chart(Line("a", [1.0, 6.0], [0.031, 0.034])))
    assert [tick.text for tick in drawing.x_ticks] == ["1", "2", "3", "4", "5", "6"]
    assert [tick.text for tick in drawing.y_ticks] == ["0.031", "0.032", "0.033", "0.034"]


@pytest.mark.parametrize(("low", "high"), [(1e-9, 1.0), (0.4, 0.6), (1.0, 1.0), (5.0, 5000.0)])
def test_logarithmic_axes_have_ticks_inside(low, high):
    drawing = drawn(chart(Line("a", [1.0, 2.0], [low, high]), log_y=True))
    places = [tick.place for tick in drawing.y_ticks]
    assert 1 <= len(places) <= 8
    assert all(drawing.top <= place <= drawing.bottom for place in places)
    assert places == sorted(places, reverse=True)


def test_equal_distances_on_a_logarithmic_axis_are_equal_ratios():
    drawing = drawn(chart(Line("a", [0.01, 0.1, 1.0], [1.0, 2.0, 4.0]), log_x=True, log_y=True))
    (x0, y0), (x1, y1), (x2, y2) = corners(drawing.lines[0])
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.02)
    assert y1 - y0 == pytest.approx(y2 - y1, abs=0.02)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1.7e308])
def test_values_that_cannot_be_drawn_are_left_out(value):
    drawing = drawn(chart(Line("a", [1.0, 2.0, 3.0], [1.0, value, 2.0])))
    assert len(corners(drawing.lines[0])) == 2
    assert drawn(chart(Line("a", [1.0], [value]))) is None


def test_values_that_have_no_logarithm_are_left_out():
    drawing = drawn(chart(Line("a", [1.0, 2.0, 3.0], [0.0, 1.0, 2.0], spread=[0.5, 2.0, 0.5]), log_y=True))
    assert len(corners(drawing.lines[0])) == 2
    assert drawing.lines[0].band


def test_single_points_and_constants_are_drawn():
    for ys in ([0.0], [5.0, 5.0], [-1.0], [0.0, 5e-324], [1.0, 1.0 + 2**-52]):
        drawing = drawn(chart(Line("a", [float(x) for x in range(len(ys))], ys)))
        assert all(drawing.top <= y <= drawing.bottom for _, y in corners(drawing.lines[0]))
        assert len(drawing.y_ticks) < 12


def test_long_lines_have_no_marks():
    for length, marks in ((40, 40), (41, 0)):
        xs = [float(x) for x in range(length)]
        assert len(drawn(chart(Line("a", xs, xs))).lines[0].marks) == marks


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
    assert 0 < outer < bar.low < inner < bar.middle == 0.5 < right_inner < bar.high < right_outer < 1
    full = range_bar(-9.0, math.inf, [], 2.0, 0.02, "text")
    assert (full.low, full.high) == (0.0, 0.5)

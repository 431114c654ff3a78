import numpy as np
import pytest
from matplotlib.figure import Figure

from r2l_jax.runtime.heat_map import heat_map


def drawn(values, **options):
    """The axes of a heat map, its numbers and its scale of colors."""
    rows, columns = ([f"number {number}" for number in range(size)] for size in np.shape(values))
    made = heat_map(values, rows, columns, label="label", **options)
    axes = Figure(made.size).subplots()
    made.draw(axes)
    return axes, [text.get_text() for text in axes.texts], axes.images[0].norm


@pytest.mark.parametrize("logarithmic", [False, True])
def test_colors_go_from_the_least_value_to_the_greatest(logarithmic):
    values = np.array([[1e-4, 1e-2], [1e-3, 1.0]])
    _, texts, norm = drawn(values, number=".1g", logarithmic=logarithmic)
    assert texts == ["0.0001", "0.01", "0.001", "1"]
    expected = [[0, 0.5], [0.25, 1]] if logarithmic else (values - 1e-4) / (1 - 1e-4)
    np.testing.assert_allclose(norm(values), expected, atol=1e-12)
    _, texts, norm = drawn(np.full((1, 2), 0.3), logarithmic=logarithmic)
    assert texts == ["0.300"] * 2
    # One value has the middle of the colors.
    assert float(norm(0.3)) == pytest.approx(0.5)


@pytest.mark.parametrize("values", [[[0.0, 1e-3, 1e-2]], [[0.0, 0.0, 0.0]]])
def test_zeros_have_no_color_among_orders_of_magnitude(values):
    axes, texts, norm = drawn(values, number=".2g", logarithmic=True)
    assert texts[0] == "0"
    assert np.ma.getmaskarray(norm(np.array(values)))[0].tolist() == [value == 0 for value in values[0]]
    assert axes.texts[0].get_color() == "black"


def test_two_digits_of_whole_numbers_end_in_no_point():
    _, texts, _ = drawn([[19.8, 6.56, 0.02]], number="#.2g")
    assert texts == ["20", "6.6", "0.020"]


def test_frames_and_titles_are_of_their_cells():
    made = heat_map(np.eye(2), ["a", "b"], ["x.y.z", "c"], label="", framed=[(0, 1)])
    axes = Figure(made.size).subplots()
    made.draw(axes)
    assert [frame.get_xy() for frame in axes.patches] == [(0.5, -0.5)]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["x\ny\nz", "c"]

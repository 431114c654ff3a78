import numpy as np
import pytest
from matplotlib.figure import Figure

from r2l_jax.results.heat_map import heat_map


def drawn_axes(values, **options):
    """The axes of a heat map."""
    rows, columns = ([f"number {number}" for number in range(size)] for size in np.shape(values))
    made = heat_map(values, rows, columns, label="label", **options)
    axes = Figure(made.size).subplots()
    made.draw(axes)
    return axes


def drawn(values, **options):
    """The numbers of a heat map and its scale of colors."""
    axes = drawn_axes(values, **options)
    return [text.get_text() for text in axes.texts], axes.images[0].norm


@pytest.mark.parametrize("logarithmic", [False, True])
def test_colors_go_from_the_least_value_to_the_greatest(logarithmic):
    values = np.array([[1e-4, 1e-2], [1e-3, 1.0]])
    texts, norm = drawn(values, number=".1g", logarithmic=logarithmic)
    assert texts == ["0.0001", "0.01", "0.001", "1"]
    expected = [[0, 0.5], [0.25, 1]] if logarithmic else (values - 1e-4) / (1 - 1e-4)
    np.testing.assert_allclose(norm(values), expected, atol=1e-12)
    texts, norm = drawn(np.full((1, 2), 0.3), logarithmic=logarithmic)
    assert texts == ["0.300"] * 2
    # One value has the middle of the colors.
    assert float(norm(0.3)) == pytest.approx(0.5)


def test_neighbors_have_one_frame_and_axes_have_titles():
    axes = drawn_axes(np.zeros((2, 3)), framed=[(0, 0), (0, 1), (1, 2)], row_title="target", column_title="prediction")
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("target", "prediction")
    sides = {tuple(sorted(map(tuple, side.tolist()))) for side in axes.collections[0].get_segments()}
    assert len(sides) == 6 + 4
    assert ((0.5, -0.5), (0.5, 0.5)) not in sides
    assert ((1.5, -0.5), (1.5, 0.5)) in sides
    assert axes.get_xlim() == (-0.5, 2.5)

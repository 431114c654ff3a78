import numpy as np
import pytest
from matplotlib.figure import Figure

from r2l_jax.runtime.heat_map import heat_map


def drawn(values, **options):
    """The numbers of a heat map and its scale of colors."""
    rows, columns = ([f"number {number}" for number in range(size)] for size in np.shape(values))
    made = heat_map(values, rows, columns, label="label", **options)
    axes = Figure(made.size).subplots()
    made.draw(axes)
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

import numpy as np
import pytest
from matplotlib.figure import Figure

from r2l_jax.drift.dots import Row, dots


@pytest.mark.parametrize("factor", [1.0, 100.0])
def test_a_row_has_the_ends_of_its_interval_its_estimate_and_its_models(factor):
    """Intervals need not be symmetric: they may be clipped, or medians with their ranges."""
    rows = [Row("first", [0.1, 0.4], (0.2, -0.1, 0.9)), Row("second", [0.6], (0.6, 0.5, 0.6))]
    axes = Figure().subplots()
    dots({"models": rows}, "drop", factor=factor).draw(axes)
    bars = [(bar.get_x(), bar.get_x() + bar.get_width(), bar.get_y() + bar.get_height() / 2) for bar in axes.patches]
    np.testing.assert_allclose(bars, [(-0.1 * factor, 0.9 * factor, 0), (0.5 * factor, 0.6 * factor, 1)], atol=1e-9)
    estimates = [line.get_xdata() for line in axes.lines if line.get_linewidth() == 2]
    np.testing.assert_allclose(estimates, [[0.2 * factor] * 2, [0.6 * factor] * 2])
    models = [line.get_xdata() for line in axes.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(np.concatenate(models), np.multiply(factor, [0.1, 0.4, 0.6]))
    said = [text.get_text() for text in axes.texts]
    assert said == (["0.2", "0.6"] if factor == 1 else ["20.0", "60.0"])

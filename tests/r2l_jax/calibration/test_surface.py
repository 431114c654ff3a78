import numpy as np
import pytest

from r2l_jax.calibration.surface import smooth_surface


@pytest.mark.parametrize("shape", [(40, 60), (2, 9), (1, 1)])
def test_polynomials_are_their_own_surface(shape):
    rows, cols = np.indices(shape) / 60
    values = (1 - 0.3 * rows + 0.2 * cols - 0.5 * (rows - 0.3) ** 2 * (cols - 0.4) ** 2).astype(np.float32)
    good = np.ones(shape, bool)
    if values.size > 100:
        values[5, 6], good[5, 6] = 9, False
    surface = smooth_surface(values, good)
    np.testing.assert_allclose(surface[good], values[good], atol=2e-5)

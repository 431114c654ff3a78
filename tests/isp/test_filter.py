import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from isp import filter as isp_filter

RNG = np.random.default_rng(0)
SCIPY_MODES = {"zero": "constant", "mirror": "mirror", "symmetric": "reflect"}


@pytest.mark.parametrize(
    ("border", "shape"), [("zero", (3, 3)), ("mirror", (5, 5)), ("symmetric", (1, 5)), ("mirror", (7, 3))]
)
def test_correlate_agrees_with_scipy(border, shape):
    planes, kernel = RNG.random((2, 3, 12, 9), np.float32), RNG.normal(size=shape).astype(np.float32)
    expected = ndimage.correlate(planes.astype(np.float64), kernel[None, None], mode=SCIPY_MODES[border])
    found = isp_filter.correlate(jnp.array(planes), jnp.array(kernel), border)
    np.testing.assert_allclose(found, expected, atol=3e-6)


def test_refuses_even_sides():
    with pytest.raises(ValueError, match="a kernel must have odd sides, got 4x3"):
        isp_filter.correlate(jnp.ones((8, 8)), jnp.ones((4, 3)), "zero")

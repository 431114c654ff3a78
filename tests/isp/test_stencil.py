import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from isp import stencil

SCIPY_MODES = {"zero": "constant", "mirror": "mirror", "symmetric": "reflect"}
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("border", SCIPY_MODES)
@pytest.mark.parametrize("shape", [(3, 3), (5, 5), (1, 5), (7, 3)])
def test_correlate_agrees_with_scipy(border, shape):
    image = RNG.random((2, 3, 12, 9), np.float32)
    kernel = RNG.normal(size=shape).astype(np.float32)
    expected = ndimage.correlate(image.astype(np.float64), kernel[None, None], mode=SCIPY_MODES[border])
    np.testing.assert_allclose(stencil.correlate(jnp.array(image), jnp.array(kernel), border), expected, atol=3e-6)


def test_channels_are_mixed_by_out_then_in():
    image = RNG.random((4, 6, 2), np.float32)
    kernel = RNG.normal(size=(3, 2, 3, 3)).astype(np.float32)
    result = stencil.correlate_channels(jnp.array(image), jnp.array(kernel), "mirror")
    for out in range(3):
        expected = sum(
            ndimage.correlate(image[..., c].astype(np.float64), kernel[out, c], mode="mirror") for c in range(2)
        )
        np.testing.assert_allclose(result[..., out], expected, atol=2e-6)

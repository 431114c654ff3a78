import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
import scipy_warps

from r2l_jax.drift.warps import elastic_warp

IMAGE = np.load(pathlib.Path(__file__).with_name("corruptions") / "corruptions.npz")["image"].astype(np.float32)


@pytest.mark.parametrize(("sigma", "amplitude"), [(0.0, 0.0), (0.0, 3.0), (2.5, 30.0), (11.0, 200.0)])
def test_elastic_warp_is_that_of_scipy(sigma, amplitude):
    # Amplitudes that reach beyond the border, the last one several times across the image.
    rng = np.random.default_rng(0)
    images, shifts = IMAGE[None, :40, :56].repeat(2, 0), rng.uniform(-4, 4, (2, 3, 2)).astype(np.float32)
    noise = rng.uniform(-1, 1, (2, 2, 40, 56)).astype(np.float32)
    expected = [scipy_warps.warp(*one, sigma, amplitude) for one in zip(images, shifts, noise, strict=True)]
    # Positions are rounded to some 1e-5 of a pixel.
    arrays = map(jnp.asarray, (images, shifts, noise))
    np.testing.assert_allclose(elastic_warp(*arrays, sigma, amplitude), expected, atol=1e-5)

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isp import color
from isp._engine import curves, xla


@pytest.mark.parametrize("low", [0.0, 1e-5])
@pytest.mark.parametrize("replaces_luma", [False, True])
@pytest.mark.parametrize("formulation", [contextlib.nullcontext, xla.plain], ids=["fast", "plain"])
def test_a_clipped_power_is_its_functions_with_the_gradients_of_all(low, replaces_luma, formulation):
    rng = np.random.default_rng(0)
    ends = np.float32([-1, 0, low, np.nextafter(np.float32(low), 1, dtype=np.float32), 0.5, 1, 1.5, 3])
    rgb, weight = rng.permutation(np.tile(ends, 12)).reshape(2, 4, 4, 3), rng.normal(size=(2, 4, 4, 3))
    old_luma = np.ones((2, 4, 4), np.float32)
    lumas = (old_luma, old_luma + rng.choice(np.float32([-0.5, 0, 0.5]), (2, 4, 4))) if replaces_luma else None

    def at_once(rgb, gamma, lumas):
        images = jnp.stack(curves.clipped_power(tuple(rgb[..., k] for k in range(3)), gamma, low, lumas), -1)
        return (images * weight).sum(), images

    def one_by_one(rgb, gamma, lumas):
        old, new = lumas or (0, 0)
        images = color.gamma_correct(jnp.clip(rgb + jnp.expand_dims(new - old, -1), low, 1), gamma)
        return (images * weight).sum(), images

    with formulation():
        results = [
            jax.jit(jax.value_and_grad(each, (0, 1, 2), has_aux=True))(rgb, jnp.float32(2.2), lumas)
            for each in (at_once, one_by_one)
        ]
    ((_, images), gradients), ((_, expected), expected_gradients) = results
    np.testing.assert_allclose(images, expected, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5), gradients, expected_gradients)

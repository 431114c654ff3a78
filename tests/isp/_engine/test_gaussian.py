import jax
import jax.numpy as jnp
import numpy as np
import pytest
import variants

from isp._engine import gaussian, xla

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("sigma", variants.quick(1, [1.3, 0.4]))
def test_derivatives_are_those_of_the_plain_formulation(sigma):
    with jax.enable_x64(True):
        plane, weights = jnp.array(RNG.normal(size=(2, 2, 7, 6)))

        def loss(plane, sigma):
            (smoothed,) = gaussian.smooth((plane,), sigma, 5)
            return (weights * smoothed**2).sum()

        def of_gradients(plane, sigma):
            of_plane, of_sigma = jax.grad(loss, (0, 1))(plane, sigma)
            return of_sigma + (weights * of_plane**2).sum()

        for function in (loss, of_gradients):
            fast = jax.jit(jax.grad(function, (0, 1)))(plane, sigma)
            with xla.plain():
                plain = jax.jit(jax.grad(function, (0, 1)))(plane, sigma)
            np.testing.assert_allclose(fast[0], plain[0], rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(fast[1], plain[1], rtol=1e-9)


def test_a_whole_number_is_a_sigma():
    plane = jnp.array(RNG.random((5, 6)), jnp.float32)

    def at_a_pixel(plane, sigma):
        return gaussian.smooth((plane,), sigma, 5)[0][2, 3]

    by_whole, by_float = (jax.jit(jax.grad(at_a_pixel), static_argnums=1)(plane, sigma) for sigma in (1, 1.0))
    np.testing.assert_array_equal(by_whole, by_float)

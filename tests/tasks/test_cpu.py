import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasks._cpu import each_pixel_times, summed_products


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize(("first", "second"), [(3, 8), (8, 3), (4, 4), (1, 1)])
def test_summed_products(first, second):
    x, y = normal(0, 2, 5, 6, first), normal(1, 2, 5, 6, second)
    expected = np.einsum("bhwi,bhwo->io", np.asarray(x, float), np.asarray(y, float))
    np.testing.assert_allclose(jax.jit(summed_products)(x, y), expected, atol=1e-5)


@pytest.mark.parametrize("outputs", [2, 7])
def test_each_pixel_times_with_its_gradients(outputs):
    x, matrix, weights = normal(0, 2, 3, 5, 4), normal(1, 4, outputs), normal(2, 2, 3, 5, outputs)
    y, pull = jax.vjp(each_pixel_times, x, matrix)
    np.testing.assert_allclose(y, np.einsum("bhwi,io->bhwo", x, matrix), atol=1e-5)
    x_gradient, matrix_gradient = jax.jit(pull)(weights)
    np.testing.assert_allclose(x_gradient, np.einsum("bhwo,io->bhwi", weights, matrix), atol=1e-5)
    np.testing.assert_allclose(matrix_gradient, np.einsum("bhwi,bhwo->io", x, weights), atol=1e-5)


def test_gradients_have_the_precision_of_the_images():
    x, matrix = normal(0, 2, 3, 5, 4).astype(jnp.bfloat16), normal(1, 4, 2).astype(jnp.bfloat16)
    gradients = jax.grad(lambda x, matrix: each_pixel_times(x, matrix).sum().astype(float), (0, 1))(x, matrix)
    assert [gradient.dtype for gradient in gradients] == [jnp.bfloat16, jnp.bfloat16]

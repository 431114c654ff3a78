import jax
import numpy as np
import pytest

from tasks._cpu import each_pixel_times


@pytest.mark.parametrize("outputs", [2, 7])
def test_each_pixel_times_with_its_gradients(outputs):
    rng = np.random.default_rng(0)
    x, matrix, weights = (rng.normal(size=size) for size in ((2, 3, 5, 4), (4, outputs), (2, 3, 5, outputs)))
    y, pull = jax.vjp(each_pixel_times, np.float32(x), np.float32(matrix))
    np.testing.assert_allclose(y, np.einsum("bhwi,io->bhwo", x, matrix), atol=1e-5)
    x_gradient, matrix_gradient = jax.jit(pull)(np.float32(weights))
    np.testing.assert_allclose(x_gradient, np.einsum("bhwo,io->bhwi", weights, matrix), atol=1e-5)
    np.testing.assert_allclose(matrix_gradient, np.einsum("bhwi,bhwo->io", x, weights), atol=1e-5)

import jax
import numpy as np
import pytest

from isp._engine.derivatives import with_gradient

X = np.array([1.0, 2.0, 3.0], np.float32)


def power(exponent, x):
    assert isinstance(x, jax.Array)
    return x**exponent


def power_forward(exponent, x):
    assert isinstance(x, jax.Array)
    return x**exponent, {"x": x, "nothing": None}


def power_backward(exponent, residuals, gradient):
    assert isinstance(residuals["x"], jax.Array)
    assert isinstance(gradient, jax.Array)
    # Ten times the true derivative, to tell it from one that JAX finds by itself.
    return (10 * exponent * residuals["x"] ** (exponent - 1) * gradient,)


written_out = with_gradient(power, power_forward, power_backward, static_argnums=(0,))


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
def test_the_written_out_derivative_is_used(transform):
    np.testing.assert_array_equal(transform(lambda x: written_out(3, x))(X), X**3)
    gradient = transform(jax.grad(lambda x: written_out(3, x).sum()))(X)
    np.testing.assert_array_equal(gradient, 30 * X**2)


def test_numpy_arrays_become_jax_arrays():
    np.testing.assert_array_equal(written_out(3, X), X**3)
    _, pull_back = jax.vjp(lambda x: written_out(3, x), X)
    np.testing.assert_array_equal(pull_back(X)[0], 30 * X**3)


def test_forward_mode_is_refused():
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda x: written_out(3, x), (X,), (X,))

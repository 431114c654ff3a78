import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tasks._cpu import each_pixel_times
from tasks.layers import BatchNorm, Conv, max_pool, mixing_of, relu


@pytest.mark.parametrize(
    ("size", "kernel", "stride"),
    [((8, 7), 1, 2), ((1, 1), 3, 1), ((7, 8), 3, 1), ((2, 5), 3, 2), ((8, 7), 3, 2), ((7, 8), 7, 2)],
)
def test_convolution(size, kernel, stride):
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    conv = Conv(3, 5, kernel, stride=stride, rngs=nnx.Rngs(0))
    padded = np.pad(x, ((0, 0), (kernel // 2, kernel // 2), (kernel // 2, kernel // 2), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), (1, 2))[:, ::stride, ::stride]
    expected = np.einsum("bhwcij,ijco->bhwo", windows, conv.kernel[...])
    # Up to 147 products, whose sizes add up to less than 10, round by 10 * sqrt(147) * 2**-24.
    np.testing.assert_allclose(nnx.jit(conv)(x), expected, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (7, 8), (8, 7)])
def test_max_pool(size):
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)

    def stock(x):
        return nnx.max_pool(x, (3, 3), (2, 2), [(1, 1), (1, 1)])

    np.testing.assert_array_equal(jax.jit(max_pool)(x), jax.jit(stock)(x))
    gradient, expected = (jax.jit(jax.grad(lambda x, pool=pool: (pool(x) ** 2).sum()))(x) for pool in (max_pool, stock))
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


def test_max_pool_gives_the_gradient_to_the_first_of_equal_maxima():
    x = jnp.zeros((1, 4, 4, 1))
    gradient = jax.jit(jax.grad(lambda x: max_pool(x).sum()))(x)[0, :, :, 0]
    # The first pixels of the four windows inside the image are (0, 0), (0, 1), (1, 0) and (1, 1).
    np.testing.assert_array_equal(gradient, [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    assert jnp.isnan(max_pool(x.at[0, 1, 1, 0].set(jnp.nan))).all()


def plain_batch_norm(x, scale, bias):
    return (x - x.mean((0, 1, 2))) / jnp.sqrt(x.var((0, 1, 2)) + 1e-5) * scale + bias


@pytest.mark.parametrize(("affine", "height"), [(True, 8), (False, 3)])
def test_gradients_of_batch_norm_agree_with_its_formula(affine, height):
    rng = np.random.default_rng(0)
    with jax.enable_x64():
        x, weight = 3 + rng.normal(size=(2, 3, height, 4, 5))
        graph, state = nnx.split(BatchNorm(5, affine=affine, rngs=nnx.Rngs(0)))
        state = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), state)
        scale, bias = (state[name][...] if affine else default for name, default in (("scale", 1.0), ("bias", 0.0)))

        def through(state, x):
            return (nnx.merge(graph, state, copy=True)(x) ** 2 * weight).sum()

        def through_formula(x, scale, bias):
            return (plain_batch_norm(x, scale, bias) ** 2 * weight).sum()

        for_state, for_x = jax.jit(jax.grad(through, argnums=(0, 1)))(state, x)
        expected = jax.jit(jax.grad(through_formula, argnums=(0, 1, 2)))(x, scale, bias)
        np.testing.assert_allclose(for_x, expected[0], rtol=1e-9, atol=1e-9)
        for name, gradient in zip(("scale", "bias") if affine else (), expected[1:], strict=affine):
            np.testing.assert_allclose(for_state[name][...], gradient, rtol=1e-9)


def test_relu_and_its_gradient():
    x = jnp.array([-jnp.inf, -1.0, 0.0, 2.0, jnp.inf, jnp.nan])
    np.testing.assert_array_equal(relu(x), nnx.relu(x))
    np.testing.assert_array_equal(jax.grad(lambda x: (3 * relu(x)).sum())(x), [0, 0, 0, 3, 3, 0])


def test_the_running_statistics_follow_pytorch_and_stay_in_evaluation():
    x = 3 + 2 * jax.random.normal(jax.random.key(0), (2, 3, 4, 5))
    norm = BatchNorm(5, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(norm(x, use_running_average=True), x / np.sqrt(1 + 1e-5), rtol=1e-6)
    np.testing.assert_array_equal(norm.mean[...], 0)
    pixels = np.asarray(x, float).reshape(-1, 5)
    np.testing.assert_allclose(norm(x), (x - pixels.mean(0)) / np.sqrt(pixels.var(0) + 1e-5), atol=1e-5)
    mean, var = 0.1 * pixels.mean(0), 0.9 + 0.1 * pixels.var(0, ddof=1)
    norm.eval()
    np.testing.assert_allclose(norm(x), (x - mean) / np.sqrt(var + 1e-5), atol=1e-5)
    np.testing.assert_allclose(norm.mean[...], mean, rtol=1e-5)
    np.testing.assert_allclose(norm.var[...], var, rtol=1e-5)


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_statistics_are_mixed_with_the_unbiased_variance_of_images(share):
    # Of four values a channel, the biased variance would be a quarter less.
    norm, values = BatchNorm(2, rngs=nnx.Rngs(0)), np.random.default_rng(0).normal(3, 2, (2, 1, 2, 2))
    norm.eval()
    norm.mixing = mixing_of(jnp.asarray(share), norm.mean[...], norm.var[...])
    norm(jnp.asarray(values, jnp.float32))
    pixels = values.reshape(-1, 2)
    np.testing.assert_allclose(norm.mean[...], share * pixels.mean(0), rtol=1e-5)
    np.testing.assert_allclose(norm.var[...], 1 - share + share * pixels.var(0, ddof=1), rtol=1e-5)


def test_batch_norm_of_bfloat16_sums_in_float32():
    # The mean of bfloat16 values would be off by a tenth of their deviation.
    x = (30 + jax.random.normal(jax.random.key(0), (4, 16, 16, 3))).astype(jnp.bfloat16)
    weights = jax.random.normal(jax.random.key(1), x.shape)

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def results(x):
        norm = BatchNorm(3, rngs=nnx.Rngs(0))
        y = norm(x)
        return (y.astype(jnp.float32) * weights).sum(), (y, norm.mean[...], norm.var[...])

    gradient, (y, *running) = results(x)
    expected_gradient, (expected, *expected_running) = results(x.astype(jnp.float32))
    for found, exact in ((y, expected), (gradient, expected_gradient)):
        assert found.dtype == jnp.bfloat16
        np.testing.assert_allclose(found.astype(np.float32), exact, rtol=2**-7, atol=2**-5)
    np.testing.assert_allclose(running, expected_running, rtol=1e-5)
    assert running[0].dtype == jnp.float32


@pytest.mark.parametrize("outputs", [2, 7])
def test_each_pixel_times_with_its_gradients(outputs):
    rng = np.random.default_rng(0)
    x, matrix, weights = (rng.normal(size=size) for size in ((2, 3, 5, 4), (4, outputs), (2, 3, 5, outputs)))
    y, pull = jax.vjp(each_pixel_times, np.float32(x), np.float32(matrix))
    np.testing.assert_allclose(y, np.einsum("bhwi,io->bhwo", x, matrix), atol=1e-5)
    x_gradient, matrix_gradient = jax.jit(pull)(np.float32(weights))
    np.testing.assert_allclose(x_gradient, np.einsum("bhwo,io->bhwi", weights, matrix), atol=1e-5)
    np.testing.assert_allclose(matrix_gradient, np.einsum("bhwi,bhwo->io", x, weights), atol=1e-5)

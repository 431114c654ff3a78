import jax
import jax.numpy as jnp
import numpy as np
import pytest
import variants
from flax import nnx

from tasks import winograd
from tasks.layers import Conv

RNG = np.random.default_rng(0)

# A large batch, and its kernel.
LARGE = (32, 64, 64, 128), (3, 3, 128, 128)


def plain(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), [(1, 1), (1, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
    )


def with_gradients(convolve, x, kernel, gradient):
    image, back = jax.vjp(convolve, x, kernel)
    return image, back(gradient)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


@pytest.mark.parametrize("size", variants.quick(1, [(7, 9), (8, 12), (4, 4), (1, 2), (5, 16)]))
def test_images_and_gradients_are_those_of_the_plain_formula(size):
    x, kernel, gradient = normal(2, *size, 5), normal(3, 3, 5, 7), normal(2, *size, 7)
    (image, gradients), (expected, expected_gradients) = (
        jax.jit(with_gradients, static_argnums=0)(convolve, x, kernel, gradient)
        for convolve in (winograd.convolve, plain)
    )
    for one, other in zip((image, *gradients), (expected, *expected_gradients), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(other).max())


@pytest.mark.cpu
@pytest.mark.parametrize(
    ("x", "kernel", "dtype", "expected"),
    [
        (*LARGE, "float32", True),
        (*LARGE, "bfloat16", False),
        (("B", *LARGE[0][1:]), LARGE[1], "float32", False),
        ((32, 16, 16, 128), LARGE[1], "float32", False),
        ((32, 128, 128, 64), (3, 3, 64, 64), "float32", False),
        ((32, 2, 2, 2048), (3, 3, 2048, 2048), "float32", False),
        (LARGE[0], (5, 5, 128, 128), "float32", False),
    ],
)
def test_large_batches_of_many_channels_in_float32_are_filtered(x, kernel, dtype, expected, monkeypatch, unchecked):
    shape = jax.export.symbolic_shape(",".join(map(str, x)))
    arrays = jax.ShapeDtypeStruct(shape, dtype), jax.ShapeDtypeStruct(kernel, dtype)
    assert winograd.is_faster(*arrays) == expected
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    assert not winograd.is_faster(*arrays)


@pytest.mark.cpu
def test_a_layer_filters_where_that_is_faster():
    def convolutions(stride):
        conv = nnx.eval_shape(lambda: Conv(128, 128, 3, stride=stride, rngs=nnx.Rngs(0)))
        graph, state = nnx.split(conv)
        x = jax.ShapeDtypeStruct(LARGE[0], "float32")
        return str(jax.make_jaxpr(lambda state, x: nnx.merge(graph, state)(x))(state, x)).count("conv_general")

    assert (convolutions(stride=1), convolutions(stride=2)) == (0, 1)

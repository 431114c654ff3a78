import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isp._kernels import tiling

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("batch", [6, 7])
def test_each_image_equals_the_whole_batch(monkeypatch, batch):
    monkeypatch.setattr(tiling, "_PIXELS_AT_ONCE", 2 * 4 * 5)  # Two images of 4x5.
    images = jnp.array(RNG.random((batch, 4, 5), np.float32))

    def results_and_gradients(each):
        def process(gain, images):
            return each(lambda images: jnp.stack([gain * images, images**2], -1), images)

        results, transpose = jax.vjp(process, jnp.float32(3), images)
        return results, *transpose(results)

    found = results_and_gradients(tiling.each_image)
    expected = results_and_gradients(lambda function, images: function(images))
    for ours, theirs, rtol in zip(found, expected, (1e-6, 1e-5, 1e-5), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=rtol)


def neighbors_and_sites(parameters, images):
    """Adds the pixels one row and two columns away, with factors that repeat after two rows."""
    padded = jnp.pad(images, ((0, 0), (1, 1), (2, 2), (0, 0)), "reflect")
    rows, cols = images.shape[1:3]
    factors = jnp.resize(parameters["factors"], (rows,))[:, None, None]
    return factors * images**2 + parameters["share"] * (padded[:, :rows, :cols] + padded[:, 2:, 4:])


@pytest.mark.cpu
@pytest.mark.parametrize("shape", [(2, 23, 31, 3), (1, 48, 10, 1)])
def test_patches_equal_the_whole(monkeypatch, shape):
    # Squares and shares of small multiples of 1/16 are exact, so their sums are the same in any order.
    images = jnp.array(RNG.integers(0, 16, shape) / 16, np.float32)
    weights = RNG.normal(size=shape).astype(np.float32)
    parameters = {"factors": jnp.array([0.5, 2.0]), "share": jnp.float32(0.25)}

    def results_and_gradients(function):
        results, transpose = jax.vjp(function, parameters, images)
        return results, transpose(weights)

    expected = results_and_gradients(neighbors_and_sites)
    monkeypatch.setattr(tiling, "_LARGE", 100)
    monkeypatch.setattr(tiling, "_PATCH", (8, 12))
    program = jax.jit(lambda p, x: tiling.by_patches(neighbors_and_sites, p, x, 2, 2))
    assert "while" in program.lower(parameters, images).as_text()
    found = results_and_gradients(program)
    np.testing.assert_array_equal(found[0], expected[0])
    for ours, theirs in zip(jax.tree.leaves(found[1]), jax.tree.leaves(expected[1]), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)

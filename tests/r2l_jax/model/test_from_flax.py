import jax
import numpy as np
import pytest
from flax import nnx

from r2l_jax import from_flax

IMAGES = np.random.default_rng(0).random((2, 6, 8, 3), np.float32)


class Sums(nnx.Module):
    """Sums each channel, so that the size of the images matters."""

    def __call__(self, images):
        return images.sum((1, 2))


@pytest.mark.shows("r2l_jax.from_flax(module, mean, std, size)")
@pytest.mark.parametrize(("size", "sides"), [(None, (6, 8)), (4, (4, 4)), ((3, 5), (3, 5))])
def test_images_are_resized_and_normalized_for_the_module(size, sides):
    mean, std = (0.1, 0.2, 0.3), (0.5, 1.0, 2.0)
    resized = jax.image.resize(IMAGES, (2, *sides, 3), "linear")
    wanted = ((np.asarray(resized) - np.array(mean)) / np.array(std)).sum((1, 2))
    np.testing.assert_allclose(from_flax(Sums(), mean, std, size)(IMAGES), wanted, rtol=1e-4)

import brightness
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.model import processors
from r2l_jax.model.processors import Standardize
from r2l_jax.model.raw_to_logit import RawToLogit
from tasks.layers import BatchNorm


def divergence(mean, var, known_mean, known_var):
    """The Kullback-Leibler divergence of two normal distributions, in float64."""
    return np.log(np.sqrt(known_var / var)) + (var + (mean - known_mean) ** 2) / (2 * known_var) - 0.5


def test_the_distance_is_the_divergence_of_all_images_from_the_training_averaged_over_the_channels():
    """The means of the images are apart, which adds to the variance of all: 1 to both channels."""
    moments = jnp.array([[[0.0, 1.0], [2.0, 3.0]], [[1.0, 2.0], [3.0, 2.0]]])
    found = processors.distance(moments, (jnp.array([0.0, 2.0]), jnp.array([1.0, 3.0])))
    # Mean 1 and variance 3 instead of 0 and 1 in the first channel, and no difference in the second one.
    assert float(found) == pytest.approx((3 - np.log(3)) / 4, rel=1e-4)
    assert divergence(1.0, 3.0, 0.0, 1.0) == pytest.approx((3 - np.log(3)) / 2)


class Head(nnx.Module):
    """A batch norm behind a layer that turns the mean and the scale of the channels into others."""

    def __init__(self):
        self.norm = BatchNorm(2, rngs=nnx.Rngs(0))
        self.norm.mean[...], self.norm.var[...] = jnp.array([0.2, -0.4]), jnp.array([1.5, 0.3])

    def __call__(self, images):
        return self.norm(images @ MIXED).mean((1, 2))


MIXED = np.float32([[1.0, 0.5], [-0.5, 0.25], [0.25, 0.5]])


def test_the_feature_distance_is_the_mean_over_the_layers_as_each_sees_images_of_known_statistics():
    dataset = brightness.images(np.linspace(0.1, 0.8, 6), np.zeros(6, np.int32))
    known = np.array([0.6, 0.5, 0.7]), np.array([0.2, 0.3, 0.1])
    processor = brightness.model(dataset).processor
    model = RawToLogit(processor, Standardize(*map(jnp.array, known)), Head())
    model.eval()
    raws, _ = dataset.samples(np.arange(6))
    images = np.asarray(processor(raws), np.float64)
    seen = (images - images.mean((0, 1, 2))) / images.std((0, 1, 2))
    features = seen @ MIXED.astype(np.float64)
    of_images = divergence(images.mean((0, 1, 2)), images.var((0, 1, 2)), known[0], known[1] ** 2)
    of_features = divergence(
        features.mean((0, 1, 2)), features.var((0, 1, 2)), np.array([0.2, -0.4]), np.array([1.5, 0.3])
    )
    expected = (of_images.mean() + of_features.mean()) / 2
    assert abs(of_images.mean() - of_features.mean()) > 0.1
    frozen = Frozen(model, brightness.frozen(dataset).task)
    found = jax.jit(lambda frozen, images: frozen.distance(images))(frozen, jnp.asarray(images, jnp.float32))
    assert float(found) == pytest.approx(expected, rel=2e-3)

"""The normalization statistics of a model: observed on images, and mixed with statistics of new images."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from r2l_jax.model.processors import OwnNormalization, Standardize
from tasks.layers import EPSILON, BatchNorm, mixing_of

# Mean and variance by channel, `(C,)` each.
Statistics = tuple[Array, Array]


def layers_of(normalizer: nnx.Module, head: nnx.Module) -> dict[str, BatchNorm | Standardize]:
    """Returns the layers that normalize with training statistics, by name, the image normalizer first."""
    found = {}
    for part, module in (("normalizer", normalizer), ("head", head)):
        for path, layer in nnx.iter_modules(module):
            if isinstance(layer, BatchNorm | Standardize):
                found[".".join([part, *map(str, path)])] = layer
    return found


def statistics_of(layer: BatchNorm | Standardize) -> Statistics:
    """Returns the mean and the variance of the images or features that a layer normalizes, by channel."""
    if isinstance(layer, OwnNormalization):
        return layer.known_mean[...], layer.known_var[...]
    return layer.mean[...], jnp.square(layer.std[...]) if isinstance(layer, Standardize) else layer.var[...]


def undone(normalizer: BatchNorm | Standardize, images: Float[Array, "batch height width 3"]) -> Array:
    """Undoes the normalization of images."""
    if isinstance(normalizer, Standardize):
        return images * normalizer.std[...] + normalizer.mean[...]
    return images * jnp.sqrt(normalizer.var[...] + normalizer.epsilon) + normalizer.mean[...]


def observed(
    normalizer: nnx.Module,
    head: nnx.Module,
    images: Float[Array, "batch height width 3"],
    share: Array | float,
    known: Mapping[str, Statistics] | None = None,
) -> tuple[Any, dict[str, Array]]:
    """Computes the logits of images, and by layer the mean and the variance of each image by channel, `(2, B, C)`.

    Each layer mixes its statistics with the statistics of the images, normalizes by the mixture, and keeps it. The
    model is in evaluation mode. `share` is the weight of the images in each mixture, from 0 to 1. `known` has
    statistics by layer (see `tasks.layers.mix`) that replace the layers' in the mixture.
    """
    layers = layers_of(normalizer, head)
    for name, layer in layers.items():
        layer.mixing = mixing_of(jnp.asarray(share), *(statistics_of(layer) if known is None else known[name]))
    logits = head(normalizer(images))
    moments = {}
    for name, layer in layers.items():
        assert layer.mixing is not None
        moments[name] = layer.mixing[...]
        del layer.mixing
    return logits, moments


def distance(moments: Float[Array, "2 batch channels"], statistics: Statistics) -> Float[Array, ""]:
    """Computes how far images are from the statistics of a layer, 0 if they have the same mean and variance.

    This is the Kullback-Leibler divergence between normal distributions, averaged over the channels.
    """
    means, variances = moments
    mean = means.mean(0)
    var = variances.mean(0) + jnp.square(means - mean).mean(0) + EPSILON
    known = statistics[1] + EPSILON
    ratio = var / known
    return (ratio + jnp.square(mean - statistics[0]) / known - 1 - jnp.log(ratio)).mean() / 2

"""Processors other than the pipelines of `isp`, and the normalization of their images.

Like an `isp.Pipeline`, a processor can be called and traced, and has the names of its stages.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

import isp
import tasks
from isp.metering import Part
from tasks.layers import EPSILON, BatchNorm, Mixing, mix, mixing_of

Mosaics = Float[Array, "batch height width"]
Images = Float[Array, "batch rows cols 3"]
Perturbations = Mapping[str, Array] | None


class Standardize(nnx.Module):
    """Subtracts a constant mean from each channel, and divides it by a constant standard deviation.

    `mixing` is as for `tasks.layers.BatchNorm`.
    """

    mixing: Mixing | None = None

    def __init__(self, mean: Float[Array, "3"], std: Float[Array, "3"]):
        self.mean = nnx.BatchStat(mean)
        self.std = nnx.BatchStat(std)

    def __call__(self, images: Images) -> Images:
        """Normalizes images."""
        if self.mixing is not None:
            self.mean[...], var = mix(self.mixing, images, self.mean[...], jnp.square(self.std[...]))
            self.std[...] = jnp.sqrt(var)
        return (images - self.mean[...]) / self.std[...]


class OwnNormalization(Standardize):
    """The normalization of a head that has its own, whose numbers need not be statistics of any images.

    It also knows the (running) statistics of the images that the model processes, which have no effect in training.
    Given the statistics of other images, it first gives each channel the brightness and the contrast that the known
    images have, and then normalizes.
    """

    def __init__(self, mean: Float[Array, "3"], std: Float[Array, "3"]):
        super().__init__(mean, std)
        self.known_mean, self.known_var = nnx.BatchStat(jnp.zeros(3)), nnx.BatchStat(jnp.ones(3))
        self.use_running_average = False

    def __call__(self, images: Images) -> Images:
        """Normalizes images; updates the known statistics after `train()`."""
        known = self.known_mean[...], self.known_var[...]
        if self.mixing is not None:
            self.known_mean[...], self.known_var[...] = mix(self.mixing, images, *known)
            gain = jnp.sqrt((self.known_var[...] + EPSILON) / (known[1] + EPSILON))
            self.mean[...] = self.known_mean[...] - gain * (known[0] - self.mean[...])
            self.std[...] *= gain
        elif not self.use_running_average:
            mixing = mixing_of(jnp.array(1 - 0.9), *known)  # the momentum of the batch norms
            self.known_mean[...], self.known_var[...] = mix(mixing, jax.lax.stop_gradient(images), *known)
        return (images - self.mean[...]) / self.std[...]


class NeuralProcessor(nnx.Module):
    """A U-Net++ in place of an image signal processor: turns raw images `(B, H, W)` into images `(B, H / 2, W / 2, 3)`.

    The stage `demosaic` turns the raw image into RGB at half size and normalizes it. The stage `rgb` is a U-Net++ of
    depth 3 on a ResNet-34 with three output channels, as in the program published with Oala et al. (TMLR 2023).
    """

    stage_names = ("demosaic", "rgb")

    @staticmethod
    def multiple(pattern: str) -> int:
        """Returns the number that must divide raw image sides: the network halves the half size three times."""
        return 8 * isp.demosaic.bin_side(pattern)

    def __init__(self, pattern: str, normalizer: Standardize, rngs: nnx.Rngs):
        self.pattern = pattern
        self.normalizer = normalizer
        self.network = tasks.unet(
            "unetplusplus", encoder="resnet34", depth=3, decoder_channels=(256, 128, 64), classes=3, rngs=rngs
        )

    def __call__(self, raw: Mosaics | Part) -> Images:
        """Computes the images."""
        images, _ = self.trace(raw)
        return images

    def trace(self, raw: Mosaics | Part, perturbations: Perturbations = None) -> tuple[Images, dict[str, Images]]:
        """Computes the images, and the image after each stage."""
        perturbations, raw = perturbations or {}, raw.raw if isinstance(raw, Part) else raw
        mosaic = self.normalizer(isp.demosaic.binned(raw, self.pattern)) + perturbations.get("demosaic", 0)
        rgb = self.network(mosaic) + perturbations.get("rgb", 0)
        return rgb, {"demosaic": mosaic, "rgb": rgb}


class Unprocessed(nnx.Module):
    """Leaves images `(B, H, W, 3)` unchanged; its only stage is `rgb`."""

    stage_names = ("rgb",)

    def __call__(self, images: Images) -> Images:
        """Returns the images."""
        return images

    def trace(self, images: Images, perturbations: Perturbations = None) -> tuple[Images, dict[str, Images]]:
        """Returns the images, and the images after the only stage (see `isp.Pipeline.trace`)."""
        images = images + (perturbations or {}).get("rgb", 0)
        return images, {"rgb": images}


Processor = isp.Pipeline | NeuralProcessor | Unprocessed


def half_size(camera: isp.Camera | None) -> isp.Pipeline | Unprocessed:
    """Makes a processor with one RGB pixel for each 2x2 tile; without a camera, one that keeps processed images."""
    if camera is None:
        return Unprocessed()
    return isp.Pipeline([isp.stages.binned(camera.pattern, name="demosaic")])


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
    normalizer: nnx.Module, head: nnx.Module, images: Images, share: Any, known: Mapping[str, Statistics] | None = None
) -> tuple[Any, dict[str, Array]]:
    """Computes the logits of images, and by layer the mean and the variance of each image by channel, `(2, B, C)`.

    In evaluation mode, each layer mixes its statistics, or those that are `known` (see `tasks.layers.mix`), with the
    statistics of the images, whose weight from 0 to 1 is `share`, normalizes by the mixture, and keeps it.
    """
    layers = layers_of(normalizer, head)
    for name, layer in layers.items():
        layer.mixing = mixing_of(jnp.asarray(share), *(statistics_of(layer) if known is None else known[name]))
    logits, moments = head(normalizer(images)), {}
    for name, layer in layers.items():
        assert layer.mixing is not None
        moments[name] = layer.mixing[...]
        del layer.mixing
    return logits, moments


def distance(moments: Float[Array, "2 batch channels"], statistics: Statistics) -> Float[Array, ""]:
    """Computes how far images are from the statistics of a layer, 0 if they have the same mean and variance.

    This is the Kullback-Leibler divergence between normal distributions, averaged over the channels.
    """
    (means, variances), known = moments, statistics[1] + EPSILON
    mean = means.mean(0)
    ratio = (variances.mean(0) + jnp.square(means - mean).mean(0) + EPSILON) / known
    return (ratio + jnp.square(mean - statistics[0]) / known - 1 - jnp.log(ratio)).mean() / 2

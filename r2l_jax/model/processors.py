"""Processors other than the pipelines of `isp`, and the normalization with constant statistics.

Like an `isp.Pipeline`, a processor can be called and traced, and has the names of its stages.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

import isp
import tasks
from isp.metering import Part
from tasks.layers import EPSILON, Mixing, mix, mixing_of

Images = Float[Array, "batch height width 3"]

# As in the batch norms.
_MOMENTUM = 0.9


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

    It also knows the statistics `known_mean` and `known_var` of the images that the model processes (running statistics
    in training, where they have no effect). Given the statistics of other images, it first changes the brightness and
    the contrast of each channel to those of the known images, and then normalizes.
    """

    def __init__(self, mean: Float[Array, "3"], std: Float[Array, "3"]):
        super().__init__(mean, std)
        self.known_mean, self.known_var = nnx.BatchStat(jnp.zeros(3)), nnx.BatchStat(jnp.ones(3))
        self.use_running_average = False

    def __call__(self, images: Images) -> Images:
        """Normalizes images; updates the known statistics after `train()`."""
        known = self.known_mean[...], self.known_var[...]
        if self.mixing is not None:
            self._know(*mix(self.mixing, images, *known))
            gain = jnp.sqrt((self.known_var[...] + EPSILON) / (known[1] + EPSILON))
            self.mean[...] = self.known_mean[...] - gain * (known[0] - self.mean[...])
            self.std[...] *= gain
        elif not self.use_running_average:
            self._know(*mix(mixing_of(jnp.array(1 - _MOMENTUM), *known), jax.lax.stop_gradient(images), *known))
        return (images - self.mean[...]) / self.std[...]

    def _know(self, mean: Float[Array, "3"], var: Float[Array, "3"]) -> None:
        self.known_mean[...], self.known_var[...] = mean, var


class NeuralProcessor(nnx.Module):
    """A U-Net++ in place of an image signal processor: turns raw images `(B, H, W)` into images `(B, H / 2, W / 2, 3)`.

    The stage `demosaic` turns the raw image into RGB at half size and normalizes it. The stage `rgb` is a U-Net++ of
    depth 3 on a ResNet-34 with three output channels, as in the program published with Oala et al. (TMLR 2023). The
    batch norm that follows it in that program is the normalization of `RawToLogit` here.
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

    def __call__(self, raw: Float[Array, "batch height width"] | Part) -> Float[Array, "batch rows cols 3"]:
        """Computes the images."""
        images, _ = self.trace(raw)
        return images

    def trace(
        self, raw: Float[Array, "batch height width"] | Part, perturbations: Mapping[str, Array] | None = None
    ) -> tuple[Float[Array, "batch rows cols 3"], dict[str, Float[Array, "batch rows cols 3"]]]:
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

    def trace(
        self, images: Images, perturbations: Mapping[str, Array] | None = None
    ) -> tuple[Images, dict[str, Images]]:
        """Returns the images, and the images after the only stage (see `isp.Pipeline.trace`)."""
        images = images + (perturbations or {}).get("rgb", 0)
        return images, {"rgb": images}


Processor = isp.Pipeline | NeuralProcessor | Unprocessed


def half_size(camera: isp.Camera | None) -> isp.Pipeline | Unprocessed:
    """Makes a processor with one RGB pixel for each 2x2 tile; without a camera, one that keeps processed images."""
    if camera is None:
        return Unprocessed()
    return isp.Pipeline([isp.Stage("demosaic", isp.demosaic.binned, options={"pattern": camera.pattern})])

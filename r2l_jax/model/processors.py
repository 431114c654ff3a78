"""Processors beside the pipelines of `isp`: a learned network, and none where images are processed already.

They have what training uses of an `isp.Pipeline`: a call, a trace, and the names of its stages.
"""

from collections.abc import Mapping

from flax import nnx
from jaxtyping import Array, Float

import isp
import tasks
from r2l_jax.model.raw_to_logit import Standardize

Images = Float[Array, "batch height width 3"]


class NeuralProcessor(nnx.Module):
    """A U-Net++ in place of an image signal processor: mosaics `(B, H, W)` to images `(B, H / 2, W / 2, 3)`.

    The mosaic is brought to RGB at half size and normalised (stage `demosaic`), and a U-Net++ of depth 3 on a ResNet-34
    makes three channels of it (stage `rgb`), as in the program published with Oala et al. (TMLR 2023). The batch norm
    that follows there is the normalisation of `RawToLogit`.

    Attributes:
        pattern: the Bayer pattern.
        normalizer: what the mosaic at half size is normalised by.
        network: the U-Net++.
    """

    stage_names = ("demosaic", "rgb")

    # Height and width of a mosaic must be multiples of it: half size, halved three times.
    MULTIPLE = 16

    def __init__(self, pattern: str, normalizer: Standardize, rngs: nnx.Rngs):
        self.pattern = pattern
        self.normalizer = normalizer
        self.network = tasks.unet(
            "unetplusplus", encoder="resnet34", depth=3, decoder_channels=(256, 128, 64), classes=3, rngs=rngs
        )

    def __call__(self, raw: Float[Array, "batch height width"]) -> Float[Array, "batch rows cols 3"]:
        """Computes the images."""
        images, _ = self.trace(raw)
        return images

    def trace(
        self, raw: Float[Array, "batch height width"], perturbations: Mapping[str, Array] | None = None
    ) -> tuple[Float[Array, "batch rows cols 3"], dict[str, Float[Array, "batch rows cols 3"]]]:
        """The images, and those after each stage; see `isp.Pipeline.trace`."""
        perturbations = perturbations or {}
        mosaic = self.normalizer(isp.bayer.half_size(raw, self.pattern)) + perturbations.get("demosaic", 0)
        rgb = self.network(mosaic) + perturbations.get("rgb", 0)
        return rgb, {"demosaic": mosaic, "rgb": rgb}


class Unprocessed(nnx.Module):
    """Images `(B, H, W, 3)` as they are (stage `rgb`)."""

    stage_names = ("rgb",)

    def __call__(self, images: Images) -> Images:
        """Returns the images."""
        return images

    def trace(
        self, images: Images, perturbations: Mapping[str, Array] | None = None
    ) -> tuple[Images, dict[str, Images]]:
        """The images, and those after the only stage; see `isp.Pipeline.trace`."""
        images = images + (perturbations or {}).get("rgb", 0)
        return images, {"rgb": images}


def half_size(camera: isp.Camera | None) -> nnx.Module:
    """Makes what takes one RGB pixel from each 2x2 tile of a camera's mosaic; without a camera, images as they are."""
    if camera is None:
        return Unprocessed()
    return isp.Pipeline([isp.Stage("demosaic", isp.bayer.half_size, options={"pattern": camera.pattern})])

"""U-Net and U-Net++ on residual networks, in the topology of segmentation_models_pytorch 0.6.

O. Ronneberger et al., "U-Net: convolutional networks for biomedical image segmentation" (2015); Z. Zhou et al.,
"UNet++: a nested U-Net architecture for medical image segmentation" (2018). Attributes have the names of
segmentation_models_pytorch, so that `load_torch_state` finds them.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from tasks.layers import BatchNorm, Conv, at_least_float32, relu
from tasks.resnet import DEPTH, NETWORKS, ResNetTrunk


def upsample(x: Float[Array, "batch height width channels"]) -> Float[Array, "batch rows cols channels"]:
    """Doubles the resolution: each pixel becomes a square of two by two equal pixels."""
    return jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)


class DecoderBlock(nnx.Module):
    """Doubles the resolution, appends features of that resolution with `skips` channels, and convolves twice by 3x3."""

    def __init__(self, inputs: int, skips: int, outputs: int, *, rngs: nnx.Rngs):
        self.conv1 = _conv_and_norm(inputs + skips, outputs, rngs)
        self.conv2 = _conv_and_norm(outputs, outputs, rngs)

    def __call__(
        self, x: Float[Array, "batch height width inputs"], skips: Sequence[Float[Array, "batch rows cols _"]]
    ) -> Float[Array, "batch rows cols outputs"]:
        """Decodes images `(B, H, W, inputs)` and features of twice the height and width to `(B, 2 H, 2 W, outputs)`."""
        x = jnp.concatenate([upsample(x), *skips], -1)
        for conv, norm in (self.conv1, self.conv2):
            x = relu(norm(conv(x)))
        return x


def _conv_and_norm(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.List:
    he_uniform = nnx.initializers.variance_scaling(2.0, "fan_in", "uniform")
    return nnx.List([Conv(inputs, outputs, 3, kernel_init=he_uniform, rngs=rngs), BatchNorm(outputs, rngs=rngs)])


class UnetDecoder(nnx.Module):
    """Decodes features with one block per stage of the encoder.

    Each block but the last appends the encoder's features of its resolution. `features` and `outputs` are numbers of
    channels, from the coarsest to the finest: those of the encoder, and of each block.
    """

    def __init__(self, features: Sequence[int], outputs: Sequence[int], *, rngs: nnx.Rngs):
        skips = (*features[1:], 0)
        inputs = (features[0], *outputs[:-1])
        self.blocks = nnx.List(
            [DecoderBlock(*channels, rngs=rngs) for channels in zip(inputs, skips, outputs, strict=True)]
        )

    def __call__(self, features: Sequence[Float[Array, "batch _ _ _"]]) -> Float[Array, "batch height width outputs"]:
        """Decodes features, from the coarsest to the finest, to twice the resolution of the finest."""
        x, *skips = features
        for index, block in enumerate(self.blocks):
            x = block(x, skips[index : index + 1])
        return x


class UnetPlusPlusDecoder(nnx.Module):
    """Decodes features with U-Net's blocks and additional blocks between them.

    The blocks form chains. Each chain starts at the features of one resolution, and carries them step by step to the
    finer ones. `x_{start}_{layer}` is the block of the chain that starts at the features `start` (0 is the coarsest)
    which upsamples to the resolution of skip `layer`. It appends the results of all chains that start finer, and the
    skip. Arguments are as for `UnetDecoder`; `outputs` has the channels of the first chain's blocks.
    """

    def __init__(self, features: Sequence[int], outputs: Sequence[int], *, rngs: nnx.Rngs):
        skips = (*features[1:], 0)
        blocks = {}
        for layer, skip in enumerate(skips):
            # At the resolution of the output there are no features to append, so only the first chain reaches it.
            for start in range(layer + 1 if skip else 1):
                inputs = features[layer] if start or not layer else outputs[layer - 1]
                width = skip if start else outputs[layer]
                blocks[f"x_{start}_{layer}"] = DecoderBlock(inputs, skip * (layer + 1 - start), width, rngs=rngs)
        self.blocks = nnx.Dict(blocks)

    def __call__(self, features: Sequence[Float[Array, "batch _ _ _"]]) -> Float[Array, "batch height width outputs"]:
        """Decodes features, from the coarsest to the finest, to twice the resolution of the finest."""
        coarse = [features[0]]
        for layer, skip in enumerate(features[1:]):
            fine = [skip]
            for start in reversed(range(layer + 1)):
                fine.insert(0, self.blocks[f"x_{start}_{layer}"](coarse[start], fine))
            coarse = fine
        return self.blocks[f"x_0_{len(features) - 1}"](coarse[0], [])


class SegmentationConv(Conv):
    """Convolves with a 3x3 kernel and adds a bias.

    The weights start as in segmentation_models_pytorch (X. Glorot and Y. Bengio, "Understanding the difficulty of
    training deep feedforward neural networks", 2010).
    """

    def __init__(self, inputs: int, classes: int, *, rngs: nnx.Rngs):
        glorot_uniform = nnx.initializers.variance_scaling(1.0, "fan_avg", "uniform")
        super().__init__(inputs, classes, 3, kernel_init=glorot_uniform, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros(classes))

    def __call__(self, x: Float[Array, "batch height width inputs"]) -> Float[Array, "batch height width classes"]:
        """Convolves images `(B, H, W, inputs)` to logits `(B, H, W, classes)`."""
        return super().__call__(x) + self.bias[...].astype(x.dtype)


NAMES = {"unet": UnetDecoder, "unetplusplus": UnetPlusPlusDecoder}


class Unet(nnx.Module):
    """Segments images `(B, H, W, inputs)`: an encoder, a decoder and a convolution that returns logits.

    `train()`, the initial mode, normalizes with the statistics of the batch, and `eval()` with the running ones.
    """

    def __init__(
        self,
        encoder: ResNetTrunk,
        decoder: UnetDecoder | UnetPlusPlusDecoder,
        segmentation_conv: SegmentationConv,
    ):
        self.encoder = encoder
        self.decoder = decoder
        self.segmentation_head = nnx.List([segmentation_conv])

    def __call__(self, x: Float[Array, "batch height width inputs"]) -> Float[Array, "batch height width classes"]:
        """Computes logits `(B, H, W, classes)` of images whose height and width are multiples of `2**depth`."""
        multiple = 2 ** len(self.encoder.channels)
        if x.shape[1] % multiple or x.shape[2] % multiple:
            raise ValueError(f"height and width must be multiples of {multiple}, got shape {x.shape}")
        x = self.decoder(self.encoder.features(x)[::-1])
        for layer in self.segmentation_head:
            x = layer(x)
        return at_least_float32(x)


def unet(
    name: str,
    *,
    encoder: str = "resnet34",
    classes: int = 1,
    depth: int = 5,
    decoder_channels: Sequence[int] | None = None,
    inputs: int = 3,
    dtype: DTypeLike | None = None,
    rngs: nnx.Rngs,
) -> Unet:
    """Builds a U-Net or U-Net++ with random weights, drawn as segmentation_models_pytorch draws them.

    The network maps images `(B, H, W, inputs)` to logits `(B, H, W, classes)`. Height and width are multiples of
    `2**depth`.

    Args:
        name: "unet" or "unetplusplus".
        encoder: "resnet18", "resnet34" or "resnet50".
        classes: The number of logits of each pixel.
        depth: The number of stages of the encoder to use, 1 to 5. Each halves the resolution.
        decoder_channels: The number of channels of each block of the decoder, from the coarsest to the finest. If None,
            the first `depth` of 256, 128, 64, 32 and 16.
        inputs: The number of channels of the images.
        dtype: The precision of the convolutions; None keeps the images' precision. Logits are at least float32.
        rngs: Its `params` stream draws the weights.
    """
    if name not in NAMES:
        raise ValueError(f"name must be one of {', '.join(NAMES)}, got {name!r}")
    if encoder not in NETWORKS:
        raise ValueError(f"encoder must be one of {', '.join(NETWORKS)}, got {encoder!r}")
    if not 1 <= depth <= DEPTH:
        raise ValueError(f"depth must be from 1 to {DEPTH}, got {depth}")
    if decoder_channels is None:
        decoder_channels = (256, 128, 64, 32, 16)[:depth]
    if len(decoder_channels) != depth:
        raise ValueError(f"decoder_channels must be {depth} numbers, one for each stage, got {tuple(decoder_channels)}")
    trunk = ResNetTrunk(*NETWORKS[encoder], inputs=inputs, depth=depth, dtype=dtype, rngs=rngs)
    decoder = NAMES[name](trunk.channels[::-1], decoder_channels, rngs=rngs)
    return Unet(trunk, decoder, SegmentationConv(decoder_channels[-1], classes, rngs=rngs))

"""U-Net and U-Net++ on residual networks, in the topology of segmentation_models_pytorch 0.6.

U-Net is of Ronneberger et al. 2015, "U-Net: convolutional networks for biomedical image segmentation", and U-Net++ of
Zhou et al. 2018, "UNet++: a nested U-Net architecture for medical image segmentation". Attributes have
segmentation_models_pytorch's names, which is what `load_torch_state` goes by.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from tasks.layers import BatchNorm, Conv, relu
from tasks.resnet import NETWORKS, BasicBlock, Bottleneck, ResNetTrunk

_MAX_DEPTH = 5


def upsample(x: Float[Array, "batch height width channels"]) -> Float[Array, "batch rows cols channels"]:
    """Doubles the resolution: each pixel becomes a square of two by two that are equal to it."""
    return jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)


class Encoder(ResNetTrunk):
    """The first `depth` stages of a residual network.

    Its weights may come with those of all the stages and of the classifier, as segmentation_models_pytorch's and
    torchvision's do.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        counts: tuple[int, ...],
        *,
        inputs: int,
        depth: int,
        rngs: nnx.Rngs,
    ):
        super().__init__(block, counts, inputs=inputs, depth=depth, rngs=rngs)
        self.unused_tensors = ("fc.", *(f"layer{stage}." for stage in range(depth, _MAX_DEPTH)))


class DecoderBlock(nnx.Module):
    """Doubles the resolution, joins the features of that resolution, and convolves twice, by 3x3."""

    def __init__(self, inputs: int, skips: int, outputs: int, *, rngs: nnx.Rngs):
        self.conv1 = _conv_and_norm(inputs + skips, outputs, rngs)
        self.conv2 = _conv_and_norm(outputs, outputs, rngs)

    def __call__(
        self, x: Float[Array, "batch height width inputs"], skips: Sequence[Float[Array, "batch rows cols _"]]
    ) -> Float[Array, "batch rows cols outputs"]:
        """Applies the block; `skips` have twice the height and width of `x`."""
        x = jnp.concatenate([upsample(x), *skips], -1)
        for conv, norm in (self.conv1, self.conv2):
            x = relu(norm(conv(x)))
        return x


def _conv_and_norm(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.List:
    he_uniform = nnx.initializers.variance_scaling(2.0, "fan_in", "uniform")
    return nnx.List([Conv(inputs, outputs, 3, kernel_init=he_uniform, rngs=rngs), BatchNorm(outputs, rngs=rngs)])


class UnetDecoder(nnx.Module):
    """One block for each stage of the encoder; each joins the features of its resolution, and the last none."""

    def __init__(self, features: Sequence[int], outputs: Sequence[int], *, rngs: nnx.Rngs):
        skips = (*features[1:], 0)
        inputs = (features[0], *outputs[:-1])
        self.blocks = nnx.List(
            [DecoderBlock(*channels, rngs=rngs) for channels in zip(inputs, skips, outputs, strict=True)]
        )

    def __call__(self, features: Sequence[Float[Array, "batch _ _ _"]]) -> Float[Array, "batch height width outputs"]:
        """Decodes features, the coarsest first, to twice the resolution of the last."""
        x, *skips = features
        for index, block in enumerate(self.blocks):
            x = block(x, skips[index : index + 1])
        return x


class UnetPlusPlusDecoder(nnx.Module):
    """U-Net's blocks, and more that carry the features of each resolution step by step to those of the finer ones.

    `x_start_layer` is the block that upsamples to the resolution of skip `layer` what began as the features `start`,
    the coarsest of which are 0. It joins all that began finer, and the skip.
    """

    def __init__(self, features: Sequence[int], outputs: Sequence[int], *, rngs: nnx.Rngs):
        skips = (*features[1:], 0)
        blocks = {}
        for layer, skip in enumerate(skips):
            # At the resolution of the output there is nothing to join, so only the first chain of blocks goes there.
            for start in range(layer + 1 if skip else 1):
                inputs = features[layer] if start or not layer else outputs[layer - 1]
                width = skip if start else outputs[layer]
                blocks[f"x_{start}_{layer}"] = DecoderBlock(inputs, skip * (layer + 1 - start), width, rngs=rngs)
        self.blocks = nnx.Dict(blocks)

    def __call__(self, features: Sequence[Float[Array, "batch _ _ _"]]) -> Float[Array, "batch height width outputs"]:
        """Decodes features, the coarsest first, to twice the resolution of the last."""
        coarse = [features[0]]
        for layer, skip in enumerate(features[1:]):
            fine = [skip]
            for start in reversed(range(layer + 1)):
                fine.insert(0, self.blocks[f"x_{start}_{layer}"](coarse[start], fine))
            coarse = fine
        return self.blocks[f"x_0_{len(features) - 1}"](coarse[0], [])


class SegmentationConv(Conv):
    """A 3x3 convolution with bias, whose weights start out as in segmentation_models_pytorch (Glorot & Bengio 2010)."""

    def __init__(self, inputs: int, classes: int, *, rngs: nnx.Rngs):
        glorot_uniform = nnx.initializers.variance_scaling(1.0, "fan_avg", "uniform")
        super().__init__(inputs, classes, 3, kernel_init=glorot_uniform, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros(classes))

    def __call__(self, x: Float[Array, "batch height width inputs"]) -> Float[Array, "batch height width classes"]:
        """Convolves and adds the bias."""
        return super().__call__(x) + self.bias[...]


NAMES = {"unet": UnetDecoder, "unetplusplus": UnetPlusPlusDecoder}


class Unet(nnx.Module):
    """An encoder, a decoder and a last convolution, `(B, H, W, inputs)` to logits `(B, H, W, classes)`.

    `train()` and `eval()` choose between the statistics of the batch and the running ones; it starts in training mode.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: UnetDecoder | UnetPlusPlusDecoder,
        segmentation_conv: SegmentationConv,
    ):
        self.encoder = encoder
        self.decoder = decoder
        self.segmentation_head = nnx.List([segmentation_conv])

    def __call__(self, x: Float[Array, "batch height width inputs"]) -> Float[Array, "batch height width classes"]:
        """Computes the logits.

        Raises:
            ValueError: if height or width is no multiple of `2**depth`.
        """
        multiple = 2 ** len(self.encoder.channels)
        if x.shape[1] % multiple or x.shape[2] % multiple:
            raise ValueError(f"height and width must be multiples of {multiple}, got shape {x.shape}")
        x = self.decoder(self.encoder.features(x)[::-1])
        for layer in self.segmentation_head:
            x = layer(x)
        return x


def unet(
    name: str,
    *,
    encoder: str = "resnet34",
    classes: int = 1,
    depth: int = 5,
    decoder_channels: Sequence[int] | None = None,
    inputs: int = 3,
    rngs: nnx.Rngs,
) -> Unet:
    """Builds a U-Net or U-Net++ with random weights, drawn as segmentation_models_pytorch draws them.

    It takes images `(B, H, W, inputs)`, height and width multiples of `2**depth`, to logits `(B, H, W, classes)`.

    Args:
        name: `unet` or `unetplusplus`.
        encoder: `resnet18`, `resnet34` or `resnet50`.
        classes: number of logits of each pixel.
        depth: how many stages of the encoder to use, 1 to 5. Each halves the resolution.
        decoder_channels: of each block of the decoder, the coarsest first, as many as `depth`. The first ones of 256,
            128, 64, 32 and 16 if left out.
        inputs: number of the images' channels.
        rngs: its `params` stream draws the weights.

    Raises:
        ValueError: if there is no network or encoder of that name, or no such depth, or if the number of
            `decoder_channels` is not `depth`.
    """
    if name not in NAMES:
        raise ValueError(f"name must be one of {', '.join(NAMES)}, got {name!r}")
    if encoder not in NETWORKS:
        raise ValueError(f"encoder must be one of {', '.join(NETWORKS)}, got {encoder!r}")
    if not 1 <= depth <= _MAX_DEPTH:
        raise ValueError(f"depth must be 1 to {_MAX_DEPTH}, got {depth}")
    if decoder_channels is None:
        decoder_channels = (256, 128, 64, 32, 16)[:depth]
    if len(decoder_channels) != depth:
        raise ValueError(f"decoder_channels must be {depth}, as many as depth, got {tuple(decoder_channels)}")
    trunk = Encoder(*NETWORKS[encoder], inputs=inputs, depth=depth, rngs=rngs)
    decoder = NAMES[name](trunk.channels[::-1], decoder_channels, rngs=rngs)
    return Unet(trunk, decoder, SegmentationConv(decoder_channels[-1], classes, rngs=rngs))

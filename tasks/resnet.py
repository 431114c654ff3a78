"""Residual networks in torchvision's topology.

K. He et al., "Deep residual learning for image recognition", CVPR (2016). Attributes have torchvision's names, so that
`load_torch_state` finds them.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from tasks.layers import BatchNorm, Conv, at_least_float32, max_pool, relu


class BasicBlock(nnx.Module):
    """Applies two 3x3 convolutions of `width` channels, the first with the stride, and a shortcut around them."""

    expansion = 1

    def __init__(self, inputs: int, width: int, *, stride: int, rngs: nnx.Rngs):
        self.conv1 = Conv(inputs, width, 3, stride=stride, rngs=rngs)
        self.bn1 = BatchNorm(width, rngs=rngs)
        self.conv2 = Conv(width, width, 3, rngs=rngs)
        self.bn2 = BatchNorm(width, rngs=rngs)
        self.downsample = nnx.List(_downsample(inputs, width, stride=stride, rngs=rngs))

    def __call__(self, x: Float[Array, "batch height width inputs"]) -> Float[Array, "batch rows cols outputs"]:
        """Applies the block to images `(B, H, W, inputs)`."""
        y = relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        for layer in self.downsample:
            x = layer(x)
        return relu(x + y)


class Bottleneck(nnx.Module):
    """Applies a 3x3 convolution between 1x1 convolutions that narrow and widen, and a shortcut around them.

    The 3x3 convolution has the stride, as in torchvision; in the paper, the first convolution has it. `width` is its
    number of channels, a quarter of the output channels.
    """

    expansion = 4

    def __init__(self, inputs: int, width: int, *, stride: int, rngs: nnx.Rngs):
        outputs = self.expansion * width
        self.conv1 = Conv(inputs, width, 1, rngs=rngs)
        self.bn1 = BatchNorm(width, rngs=rngs)
        self.conv2 = Conv(width, width, 3, stride=stride, rngs=rngs)
        self.bn2 = BatchNorm(width, rngs=rngs)
        self.conv3 = Conv(width, outputs, 1, rngs=rngs)
        self.bn3 = BatchNorm(outputs, rngs=rngs)
        self.downsample = nnx.List(_downsample(inputs, outputs, stride=stride, rngs=rngs))

    def __call__(self, x: Float[Array, "batch height width inputs"]) -> Float[Array, "batch rows cols outputs"]:
        """Applies the block to images `(B, H, W, inputs)`."""
        y = relu(self.bn1(self.conv1(x)))
        y = relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        for layer in self.downsample:
            x = layer(x)
        return relu(x + y)


def _downsample(inputs: int, outputs: int, *, stride: int, rngs: nnx.Rngs) -> list[nnx.Module]:
    """Makes the layers that give a shortcut the output's shape: no layer, or a 1x1 convolution and batch norm."""
    if stride == 1 and inputs == outputs:
        return []
    return [Conv(inputs, outputs, 1, stride=stride, rngs=rngs), BatchNorm(outputs, rngs=rngs)]


# The kind of block, and the numbers of blocks in `layer1` to `layer4`.
NETWORKS = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
}


# The number of stages, each of which halves the resolution.
DEPTH = 5


class ResNetTrunk(nnx.Module):
    """Computes features at several resolutions: a residual network without its classifier.

    The stages are `conv1` with `bn1`, then `layer1` to `layer4`, which have `counts` blocks. The first `depth` stages
    are used; `load_torch_state` ignores weights of the others and of a classifier. The attribute `channels` lists the
    number of channels of each stage's features. Features and all intermediate results have the precision `dtype`; None
    takes the images' precision. The `params` stream of `rngs` draws the weights.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        counts: tuple[int, ...],
        *,
        inputs: int = 3,
        depth: int = DEPTH,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        self.dtype = None if dtype is None else jnp.dtype(dtype)
        self.conv1 = Conv(inputs, 64, 7, stride=2, rngs=rngs)
        self.bn1 = BatchNorm(64, rngs=rngs)
        channels = [64]
        for stage, count in enumerate(counts[: depth - 1]):
            width = 64 * 2**stage
            outputs = block.expansion * width
            layer = []
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                layer.append(block(outputs if index else channels[-1], width, stride=stride, rngs=rngs))
            setattr(self, f"layer{stage + 1}", nnx.List(layer))
            channels.append(outputs)
        self.channels = tuple(channels)
        self.unused_tensors = ("fc.", *(f"layer{stage}." for stage in range(depth, DEPTH)))

    def features(self, x: Float[Array, "batch height width inputs"]) -> list[Float[Array, "batch _ _ _"]]:
        """Computes the features of each stage, from the finest to the coarsest.

        The first stage has `ceil(H / 2)` by `ceil(W / 2)` pixels, and each next one half as many rows and columns,
        rounded up. The max pool belongs to the second stage.
        """
        x = x if self.dtype is None else x.astype(self.dtype)
        x = relu(self.bn1(self.conv1(x)))
        features = [x]
        for stage in range(1, len(self.channels)):
            if stage == 1:
                x = max_pool(x)
            for block in getattr(self, f"layer{stage}"):
                x = block(x)
            features.append(x)
        return features


class ResNet(ResNetTrunk):
    """Classifies images `(B, H, W, 3)`: a residual network that returns logits `(B, num_classes)`.

    `train()`, the initial mode, normalizes with the statistics of the batch, and `eval()` with the running ones. Logits
    are at least float32, whatever the precision `dtype` of the convolutions.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        counts: tuple[int, ...],
        num_classes: int,
        *,
        dtype: DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        super().__init__(block, counts, dtype=dtype, rngs=rngs)
        channels = self.channels[-1]
        bound = channels**-0.5
        uniform = functools.partial(jax.random.uniform, minval=-bound, maxval=bound)
        self.unused_tensors = ()
        self.fc = nnx.Linear(channels, num_classes, kernel_init=uniform, bias_init=uniform, rngs=rngs)

    def __call__(self, x: Float[Array, "batch height width 3"]) -> Float[Array, "batch classes"]:
        """Computes the logits `(B, num_classes)` of images `(B, H, W, 3)`."""
        return self.fc(at_least_float32(self.features(x)[-1]).mean((1, 2)))


def resnet(name: str, *, num_classes: int, dtype: DTypeLike | None = None, rngs: nnx.Rngs) -> ResNet:
    """Builds a ResNet ("resnet18", "resnet34" or "resnet50") with random weights, drawn as torchvision draws them.

    `dtype` is the precision of the convolutions; None takes the images' precision. Logits are at least float32. The
    `params` stream of `rngs` draws the weights.
    """
    if name not in NETWORKS:
        raise ValueError(f"name must be one of {', '.join(NETWORKS)}, got {name!r}")
    block, counts = NETWORKS[name]
    return ResNet(block, counts, num_classes, dtype=dtype, rngs=rngs)

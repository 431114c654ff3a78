"""Residual networks (He et al. 2016, "Deep residual learning for image recognition") in torchvision's topology.

Attributes have torchvision's names, which is what `load_torch_state` goes by.
"""

import functools

import jax
from flax import nnx
from jaxtyping import Array, Float

from tasks.layers import BatchNorm, Conv, max_pool, relu


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions and a shortcut around them."""

    expansion = 1

    def __init__(self, inputs: int, width: int, *, stride: int, rngs: nnx.Rngs):
        self.conv1 = Conv(inputs, width, 3, stride=stride, rngs=rngs)
        self.bn1 = BatchNorm(width, rngs=rngs)
        self.conv2 = Conv(width, width, 3, rngs=rngs)
        self.bn2 = BatchNorm(width, rngs=rngs)
        self.downsample = nnx.List(_downsample(inputs, width, stride=stride, rngs=rngs))

    def __call__(self, x: Float[Array, "batch height width inputs"]) -> Float[Array, "batch rows cols outputs"]:
        """Applies the block."""
        y = relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        for layer in self.downsample:
            x = layer(x)
        return relu(x + y)


class Bottleneck(nnx.Module):
    """A 3x3 convolution between two 1x1 ones that narrow and widen again, and a shortcut around them.

    The stride is in the 3x3 convolution, as torchvision has it; the paper has it in the first.
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
        """Applies the block."""
        y = relu(self.bn1(self.conv1(x)))
        y = relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        for layer in self.downsample:
            x = layer(x)
        return relu(x + y)


def _downsample(inputs: int, outputs: int, *, stride: int, rngs: nnx.Rngs) -> list[nnx.Module]:
    """What a shortcut needs to have the shape of the block's output: nothing, or a 1x1 convolution and batch norm."""
    if stride == 1 and inputs == outputs:
        return []
    return [Conv(inputs, outputs, 1, stride=stride, rngs=rngs), BatchNorm(outputs, rngs=rngs)]


# Kind of block, and how many of them each of `layer1` to `layer4` has.
NETWORKS = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
}


class ResNetTrunk(nnx.Module):
    """A residual network less its classifier: images `(B, H, W, inputs)` to features of several resolutions.

    It has the first `depth` of five stages: `conv1` and `bn1`, and `layer1` to `layer4` of so many blocks as `counts`
    says. Each halves the resolution. `channels` says how many channels each stage's features have.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        counts: tuple[int, ...],
        *,
        inputs: int = 3,
        depth: int = 5,
        rngs: nnx.Rngs,
    ):
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

    def features(self, x: Float[Array, "batch height width inputs"]) -> list[Float[Array, "batch _ _ _"]]:
        """Computes each stage's features, `ceil(H / 2)` by `ceil(W / 2)` pixels and half as many from one to the next.

        The max pool belongs to the second stage.
        """
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
    """A residual network, `(B, H, W, 3)` to logits `(B, num_classes)`.

    `train()` and `eval()` choose between the statistics of the batch and the running ones; it starts in training mode.
    """

    def __init__(
        self, block: type[BasicBlock] | type[Bottleneck], counts: tuple[int, ...], num_classes: int, *, rngs: nnx.Rngs
    ):
        super().__init__(block, counts, rngs=rngs)
        channels = self.channels[-1]
        bound = channels**-0.5
        uniform = functools.partial(jax.random.uniform, minval=-bound, maxval=bound)
        self.fc = nnx.Linear(channels, num_classes, kernel_init=uniform, bias_init=uniform, rngs=rngs)

    def __call__(self, x: Float[Array, "batch height width 3"]) -> Float[Array, "batch classes"]:
        """Computes the logits."""
        return self.fc(self.features(x)[-1].mean((1, 2)))


def resnet(name: str, *, num_classes: int, rngs: nnx.Rngs) -> ResNet:
    """Builds a ResNet with random weights, drawn as torchvision draws them.

    Args:
        name: `resnet18`, `resnet34` or `resnet50`.
        num_classes: number of logits.
        rngs: its `params` stream draws the weights.

    Raises:
        ValueError: if there is no network of that name.
    """
    if name not in NETWORKS:
        raise ValueError(f"name must be one of {', '.join(NETWORKS)}, got {name!r}")
    block, counts = NETWORKS[name]
    return ResNet(block, counts, num_classes, rngs=rngs)

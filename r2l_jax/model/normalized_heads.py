"""Heads with their own normalization: trained Flax networks, and frozen PyTorch and ONNX networks."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from r2l_jax.errors import InputError
from r2l_jax.model.host_networks import HostNetwork, OnnxNetwork, TorchNetwork, logits_of

Three = Sequence[float]
Size = int | tuple[int, int] | None
_BLACK, _WHITE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

# The outputs that stand for each class.
Groups = tuple[tuple[int, ...], ...]


class NormalizedHead(nnx.Module):
    """A head with its own normalization, which takes images in [0, 1] from any data set."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], core: nnx.Module):
        self.mean, self.std, self.core = mean, std, core

    def __call__(self, images: Float[Array | np.ndarray, "batch height width 3"]) -> Float[Array, "batch ..."]:
        """Computes the logits of images."""
        return self.core((images - jnp.array(self.mean)) / jnp.array(self.std))


class FittedHead(nnx.Module):
    """A network fitted to the data: it takes images of one `size`, from which masks are resized back, if given.

    `groups` are the outputs of each class, whose probabilities add up, or only the outputs of the object to segment.
    """

    def __init__(self, network: nnx.Module, size: tuple[int, int] | None = None, groups: Groups | None = None):
        self.network, self.size, self.groups = network, size, groups

    def __call__(self, images: Float[Array | np.ndarray, "batch height width 3"]) -> Float[Array, "batch ..."]:
        """Computes the logits of the classes, or the logit of the object against everything else."""
        logits = self.network(images if self.size is None else resized(images, self.size))
        logits = resized(logits, images.shape[1:3]) if self.size is not None and logits.ndim > 2 else logits
        return logits if self.groups is None else _joined(logits, self.groups)


def _joined(logits: Array | np.ndarray, groups: Groups) -> Array:
    every = {output for group in groups for output in group}
    if max(every) >= logits.shape[-1]:
        raise InputError(f"`class_outputs` must name outputs from 0 to {logits.shape[-1] - 1}, got {max(every)}")
    is_object = len(groups) == 1
    if is_object:
        groups = (*groups, tuple(sorted({*range(logits.shape[-1])} - every)))
    joined = [jax.nn.logsumexp(logits[..., np.array(group)], -1) for group in groups]
    return (joined[0] - joined[1])[..., None] if is_object else jnp.stack(joined, -1)


class FrozenHead(nnx.Module):
    """A frozen network as a head: turns normalized images into logits `(B, C)` or `(B, H, W, C)`."""

    def __init__(self, network: HostNetwork):
        self.network = network

    def __call__(self, images: Float[Array | np.ndarray, "batch height width 3"]) -> Float[Array, "batch ..."]:
        """Computes the logits of normalized images."""
        logits = logits_of(self.network, jnp.moveaxis(images, -1, 1))
        return logits if logits.ndim == 2 else jnp.moveaxis(logits, 1, -1)


def from_torch(module: Any, mean: Three = _BLACK, std: Three = _WHITE, size: Size = None) -> NormalizedHead:
    """Makes a head from a trained `torch.nn.Module`, whose parameters stay frozen.

    The head takes images `(B, H, W, 3)` in [0, 1]. `mean` and `std` normalize them as in the module's training. They
    are resized to `size`, a side or a height and width; None keeps their size. The module, on any PyTorch device,
    takes images `(B, 3, H, W)` and returns logits `(B, C)`, or `(B, C, H, W)` for segmentation.
    It is set to evaluation mode, and must not change afterwards: runs recognize it by its weights, code and attributes.
    The head has only first derivatives with respect to its images, in reverse mode (`jax.grad`, `jax.vjp`).

    Example:
        ::

            module = torchvision.models.resnet18(weights="IMAGENET1K_V1")
            head = r2l_jax.from_torch(module, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), size=224)
            gradient = jax.grad(lambda images: head(images)[:, 281].sum())(images)
    """
    return from_flax(FrozenHead(TorchNetwork(module)), mean, std, size)


def from_onnx(file: str, mean: Three = _BLACK, std: Three = _WHITE, size: Size = None) -> NormalizedHead:
    """Makes a head from an ONNX network, which onnxruntime computes. It has no derivatives.

    Its only input is a batch `(B, 3, H, W)` or `(B, H, W, 3)`; its first output has the logits `(B, C)`, or pixel
    logits in the layout of its input. See `from_torch`; `size` defaults to the size that the file requires, if any.
    """
    network = OnnxNetwork(file)
    return from_flax(FrozenHead(network), mean, std, network.size if size is None else size)


def from_flax(module: nnx.Module, mean: Three = _BLACK, std: Three = _WHITE, size: Size = None) -> NormalizedHead:
    """Makes a head from a Flax network that was trained with its own normalization; see `from_torch`.

    The network turns images `(B, H, W, 3)` into logits `(B, C)` or `(B, H, W, C)`.
    """
    means, stds = tuple(map(float, mean)), tuple(map(float, std))
    if len(means) != 3 or len(stds) != 3 or not np.isfinite([*means, *stds]).all() or min(stds) <= 0:
        raise InputError(f"mean and std must be three numbers each, and std positive, got {means} and {stds}")
    if size is None:
        return NormalizedHead(means, stds, module)
    sides = (size, size) if isinstance(size, int) else size
    if len(sides) != 2 or min(sides) < 1:
        raise InputError(f"size must be a number of pixels, or a height and a width, got {size}")
    return NormalizedHead(means, stds, FittedHead(module, sides))


def resized(images: Array | np.ndarray, sides: tuple[int, ...]) -> Array:
    """Resizes images `(B, H, W, C)` to a height and width by antialiased bilinear interpolation."""
    if images.shape[1:3] == tuple(sides):
        return jnp.asarray(images)
    return jax.image.resize(images, (len(images), *sides, images.shape[-1]), "linear")


def weights_of(head: nnx.Module) -> str | None:
    """Returns the hashes of a head's networks outside of JAX; None if all weights are variables of the head."""
    return "+".join(network.identity for network in _frozen(head)) or None


def has_gradient(head: nnx.Module) -> bool:
    """Returns whether a head has a gradient with respect to its images."""
    return not any(isinstance(network, OnnxNetwork) for network in _frozen(head))


def _frozen(head: nnx.Module) -> list[HostNetwork]:
    networks = (getattr(module, "network", None) for _, module in nnx.iter_modules(head))
    return [network for network in networks if isinstance(network, HostNetwork)]

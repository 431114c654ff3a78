"""Heads with a normalization of their own, and those of PyTorch, whose logits and gradients PyTorch computes.

The rest of a model stays in JAX. `jax.jit`, `jax.grad` and `jax.vmap` work: images mapped over by `vmap`, such as those
of searches that run together, reach the network in one call. On a GPU, images pass through the memory of the host.
"""

import collections
import hashlib
import importlib
import logging
import math
import threading
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from r2l_jax.runtime.errors import InputError, warn
from r2l_jax.runtime.named_code import in_one_line

# JAX would also log the traceback of each error that a network raises.
logging.getLogger("jax._src.callback").setLevel(logging.CRITICAL)

# So many results of a network are kept for their gradients: one for each device of this process.
_KEPT = 8


class NormalizedHead(nnx.Module):
    """A head with a normalization of its own, which takes images in [0, 1] of any data.

    Attributes:
        mean: subtracted from each channel.
        std: divides each channel.
        core: turns normalized images into logits.
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], core: nnx.Module):
        self.mean, self.std, self.core = mean, std, core

    def __call__(self, images: Float[Array | np.ndarray, "batch height width 3"]) -> Float[Array, "batch ..."]:
        """Computes the logits of images."""
        return self.core((images - jnp.array(self.mean)) / jnp.array(self.std))


class Resized(nnx.Module):
    """A network that takes images of one size. Its masks are resized to the size that the images had.

    Attributes:
        network: the network.
        size: the height and width that it takes.
    """

    def __init__(self, network: nnx.Module, size: tuple[int, int]):
        self.network, self.size = network, size

    def __call__(self, images: Float[Array | np.ndarray, "batch height width 3"]) -> Float[Array, "batch ..."]:
        """Computes the logits of images, by antialiased bilinear interpolation."""
        logits = self.network(_resized(images, self.size))
        return logits if logits.ndim == 2 else _resized(logits, images.shape[1:3])


class FrozenHead(nnx.Module):
    """A frozen network as a head: turns normalized images into logits `(B, C)` or `(B, H, W, C)`.

    Attributes:
        network: the network.
    """

    def __init__(self, network: "TorchNetwork"):
        self.network = network

    def __call__(self, images: Float[Array | np.ndarray, "batch height width 3"]) -> Float[Array, "batch ..."]:
        """Computes the logits of normalized images."""
        logits = _logits(self.network, jnp.moveaxis(images, -1, 1))
        return logits if logits.ndim == 2 else jnp.moveaxis(logits, 1, -1)


def from_torch(
    module: Any,
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    std: Sequence[float] = (1.0, 1.0, 1.0),
    size: int | tuple[int, int] | None = None,
) -> NormalizedHead:
    """Makes a head of a trained `torch.nn.Module`. Its parameters stay as they are.

    The module takes images `(B, 3, H, W)` and returns logits `(B, C)`, or `(B, C, H, W)` for segmentation. It is set to
    evaluation, and must not change any more.

    The head has first derivatives for its images, in reverse mode (`jax.grad`, `jax.vjp`), and no others.

    Args:
        module: the module, on any of PyTorch's devices.
        mean: the mean that the module's own normalization subtracts from images in [0, 1].
        std: the standard deviation by which it divides them.
        size: the side, or the height and width, to which images are resized for the module; None leaves their size.

    Returns:
        A function of images `(B, H, W, 3)` in [0, 1].

    Raises:
        InputError: `module` is not a PyTorch module, or a number is out of range.

    Example:
        ::

            module = torchvision.models.resnet18(weights="IMAGENET1K_V1")
            head = r2l_jax.from_torch(module, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), size=224)
            gradient = jax.grad(lambda images: head(images)[:, 281].sum())(images)
    """
    return from_flax(FrozenHead(TorchNetwork(module)), mean, std, size)


def from_flax(
    module: nnx.Module,
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    std: Sequence[float] = (1.0, 1.0, 1.0),
    size: int | tuple[int, int] | None = None,
) -> NormalizedHead:
    """Makes a head of a Flax network that has been trained with a normalization of its own.

    Args:
        module: turns images `(B, H, W, 3)` into logits `(B, C)` or `(B, H, W, C)`.
        mean: the mean that the network's own normalization subtracts from images in [0, 1].
        std: the standard deviation by which it divides them.
        size: the side, or the height and width, to which images are resized for the network; None leaves their size.

    Returns:
        A function of images `(B, H, W, 3)` in [0, 1].

    Raises:
        InputError: a number is out of range.
    """
    means, stds = tuple(map(float, mean)), tuple(map(float, std))
    for name, values in (("mean", means), ("std", stds)):
        if len(values) != 3 or not all(map(math.isfinite, values)) or (name == "std" and min(values) <= 0):
            wanted = "three positive numbers" if name == "std" else "three numbers"
            raise InputError(f"{name} must be {wanted}, got {', '.join(map('{:g}'.format, values))}")
    if size is None:
        return NormalizedHead(means, stds, module)
    sides = (size, size) if isinstance(size, int) else size
    if len(sides) != 2 or min(sides) < 1:
        raise InputError(f"size must be a number of pixels, or a height and a width, got {size}")
    return NormalizedHead(means, stds, Resized(module, sides))


def _resized(images: Array | np.ndarray, sides: tuple[int, ...]) -> Array:
    if images.shape[1:3] == tuple(sides):
        return jnp.asarray(images)
    return jax.image.resize(images, (len(images), *sides, images.shape[-1]), "linear")


def weights_of(head: nnx.Module) -> str | None:
    """Returns the hash of the weights that a head does not hold as variables; None if it holds all."""
    found = [module.network.identity for _, module in nnx.iter_modules(head) if isinstance(module, FrozenHead)]
    return found[0] if found else None


class TorchNetwork:
    """A trained PyTorch module, computed on arrays. Equal weights make equal networks.

    Attributes:
        identity: the hash of the module's layers and weights.
    """

    def __init__(self, module: Any):
        torch = import_torch()
        if not isinstance(module, torch.nn.Module):
            raise InputError(f"expected a torch.nn.Module, got {type(module).__name__}")
        if any(each.training for each in module.modules()):
            warn(f"the module {type(module).__name__} was in training mode; it is set to evaluation")
        self._module = module.eval().requires_grad_(False)
        first = next((each for each in module.state_dict().values() if each.is_floating_point()), torch.zeros(()))
        self._place = {"device": first.device, "dtype": first.dtype}
        self.identity = _hash(module)
        self._shapes: dict[tuple[int, ...], tuple[int, ...]] = {}
        self._kept: collections.deque = collections.deque(maxlen=_KEPT)
        self._lock = threading.Lock()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TorchNetwork) and self.identity == other.identity

    def __hash__(self) -> int:
        return hash(self.identity)

    def shape(self, images: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape of the logits of images of a shape, by a trial with a single black image.

        Raises:
            InputError: the module does not take such images, or does not return logits for them.
        """
        if images[1:] not in self._shapes:
            with import_torch().no_grad():
                self._shapes[images[1:]] = tuple(self._computed(import_torch().zeros(1, *images[1:])).shape[1:])
        return (images[0], *self._shapes[images[1:]])

    def logits(self, images: jax.Array | np.ndarray) -> np.ndarray:
        """Computes the logits `(N, C, ...)` of images `(N, 3, H, W)`."""
        with import_torch().no_grad():
            return _array(self._computed(_tensor(images)))

    def kept_logits(self, images: jax.Array | np.ndarray) -> np.ndarray:
        """Computes the logits, and keeps what the gradient needs."""
        # A copy, since JAX uses the memory of the images again.
        leaf = _tensor(images).clone().requires_grad_(True)
        with import_torch().enable_grad():
            logits = self._computed(leaf)
        with self._lock:
            self._kept.append((leaf, logits))
        return _array(logits)

    def gradient(self, images: jax.Array | np.ndarray, cotangent: jax.Array | np.ndarray) -> np.ndarray:
        """Computes the gradient of the logits' product with a cotangent, for the images."""
        torch, wanted = import_torch(), _tensor(images)
        leaf, logits = self._taken(wanted) or (None, None)
        if leaf is None:
            leaf = wanted.clone().requires_grad_(True)
            with torch.enable_grad():
                logits = self._computed(leaf)
        (gradient,) = torch.autograd.grad(logits, leaf, _tensor(cotangent), allow_unused=True)
        return np.zeros(leaf.shape, np.float32) if gradient is None else _array(gradient)

    def _taken(self, images: Any) -> tuple[Any, Any] | None:
        """Takes the kept logits of these images, if there are any, out of those that are kept."""
        equal = import_torch().equal
        with self._lock:
            for place in reversed(range(len(self._kept))):
                if self._kept[place][0].shape == images.shape and equal(self._kept[place][0], images):
                    found = self._kept[place]
                    # Earlier ones are of calls whose gradient was not asked for.
                    self._kept.clear()
                    return found
        return None

    def _computed(self, images: Any) -> Any:
        """Computes the logits of a tensor, as a tensor of float32 on the CPU."""
        torch, name = import_torch(), type(self._module).__name__
        try:
            with warnings.catch_warnings(action="ignore"):
                logits = self._module(images.to(**self._place))
        except Exception as error:  # Modules may raise anything for images of a size or channels that they do not take.
            shape = ", ".join(map(str, images.shape[1:]))
            raise InputError(f"{name} does not take images (B, {shape}): {in_one_line(error):.300}") from error
        if not isinstance(logits, torch.Tensor) or logits.ndim not in (2, 4) or len(logits) != len(images):
            got = f"shape {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else f"a {type(logits).__name__}"
            raise InputError(
                f"{name} must return a tensor of logits (B, C) or (B, C, H, W), got {got} for {len(images)} images"
            )
        logits = logits.to("cpu", torch.float32)
        if logits.isnan().any() and images.isfinite().all():
            raise InputError(f"{name} returns logits that are not numbers (NaN)")
        return logits


def import_torch() -> Any:
    """Imports PyTorch.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module("torch")
    except ImportError:
        raise InputError("a head of PyTorch needs the package torch: pip install 'r2l_jax[torch]'") from None


def _hash(module: Any) -> str:
    torch, digest = import_torch(), hashlib.sha256(repr(module).encode())
    for name, tensor in module.state_dict().items():
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _tensor(array: jax.Array | np.ndarray) -> Any:
    """Returns an array as a tensor, which shares its memory."""
    return import_torch().from_dlpack(array)


def _array(tensor: Any) -> np.ndarray:
    return tensor.detach().cpu().contiguous().numpy()


def _call(function: Any, shape: tuple[int, ...], images: Array, *others: Array) -> Array:
    """Calls a function of NumPy arrays. Axes that `vmap` adds become part of the batch."""

    def folded(images: jax.Array, *others: jax.Array) -> np.ndarray:
        added = images.ndim - 4
        arrays = [array.reshape(-1, *array.shape[added + 1 :]) if added else array for array in (images, *others)]
        return function(*arrays).reshape(*images.shape[:added], *shape)

    result = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.pure_callback(folded, result, images, *others, vmap_method="broadcast_all")


def _logits_forward(network: TorchNetwork, images: Array) -> tuple[Array, Array]:
    return _kept_logits(network, images), images


def _logits_backward(network: TorchNetwork, images: Array, cotangent: Array) -> tuple[Array]:
    return (_gradient(network, images, cotangent),)


def _refuse(network: TorchNetwork, *arguments: Any) -> Any:
    raise InputError("a head of PyTorch has first derivatives for its images, and no second ones")


def _plain(network: TorchNetwork, images: Array) -> Array:
    return _call(network.logits, network.shape(images.shape), images)


def _with_graph(network: TorchNetwork, images: Array) -> Array:
    return _call(network.kept_logits, network.shape(images.shape), images)


def _pulled_back(network: TorchNetwork, images: Array, cotangent: Array) -> Array:
    return _call(network.gradient, images.shape, images, cotangent)


_logits = jax.custom_vjp(_plain, nondiff_argnums=(0,))
_logits.defvjp(_logits_forward, _logits_backward)
_kept_logits = jax.custom_vjp(_with_graph, nondiff_argnums=(0,))
_kept_logits.defvjp(_refuse, _refuse)
_gradient = jax.custom_vjp(_pulled_back, nondiff_argnums=(0,))
_gradient.defvjp(_refuse, _refuse)

"""Heads: those with their own normalization, which may be networks from outside JAX, and heads by name.

- `<file>.py:<function>`: the head of a user's Python file, made by a function `make(classes, rngs)`, which may omit
  either argument. It returns a Flax NNX module, which turns normalized images `(B, H, W, 3)` into logits `(B, C)`, or
  `(B, H, W, 1)` for segmentation, and which is trained; or a trained `torch.nn.Module`, which is frozen; or one of
  these with its own normalization, from `r2l_jax.from_flax` or `r2l_jax.from_torch`.
- `<file>.onnx`: a frozen network without gradients, which takes images in [0, 1].
"""

import contextlib
import dataclasses
import functools
import hashlib
import inspect
import pathlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import nnx
from jaxtyping import Array, Float

import tasks
from r2l_jax import named_code
from r2l_jax.errors import InputError
from r2l_jax.model.host_networks import HostNetwork, OnnxNetwork, TorchNetwork, import_torch, logits_of
from r2l_jax.model.settings import NetworkSettings
from r2l_jax.named_code import Source

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


# A class and its outputs in --class_outputs; names may contain commas.
_PAIR = re.compile(r"([^:]+):(\d+(?:\+\d+)*)(?:,|$)")


@dataclasses.dataclass(frozen=True)
class NamedHead:
    """A head by name; calling it makes the head, and `identity` distinguishes it from others of this name.

    `make` takes `classes`, `rngs`, both or neither; `groups` are the outputs of each class, by default itself.
    """

    name: str = dataclasses.field(compare=False)
    make: Callable[..., Any] = dataclasses.field(compare=False)
    identity: tuple[Any, ...]
    source: Source | None = dataclasses.field(default=None, compare=False)
    groups: tuple[tuple[int, ...], ...] | None = dataclasses.field(default=None, compare=False)

    def __call__(self, classes: int, rngs: nnx.Rngs) -> nnx.Module:
        """Makes the head, with this many logits for each image or pixel."""
        return self.frozen(classes) or self._made(classes, rngs)

    def frozen(self, classes: int) -> NormalizedHead | None:
        """Returns the head if it is frozen, and None if it can be trained. It is made only once."""
        head = made_once(self, classes)
        return head if isinstance(head, NormalizedHead) and weights_of(head) else None

    def weights(self, classes: int) -> str | None:
        """Returns the hash of a frozen head's weights; None for a head that can be trained."""
        head = self.frozen(classes)
        return None if head is None else weights_of(head)

    def check(self, head: nnx.Module, images: tuple[int, ...], logits: Any) -> None:
        """Raises an InputError unless the made head, which may be abstract, makes logits of this shape from images."""
        named = f"`classifier_network={self.name}`"
        with self._naming(f"{named} rejects images of shape {images}: "):
            given = jax.ShapeDtypeStruct(images, jnp.float32)
            found = nnx.eval_shape(lambda head, images: head(images), head, given)
        if (shapes := jax.tree.map(lambda each: getattr(each, "shape", None), found)) != logits:
            got = shapes if isinstance(shapes, tuple) else type(found).__name__
            raise InputError(f"{named} must return logits of shape {logits} for images of shape {images}, got {got}")

    @contextlib.contextmanager
    def _naming(self, what: str) -> Iterator[None]:
        """Turns errors of the user's code, which may raise anything, into one line that names the head."""
        try:
            yield
        except InputError as error:
            raise InputError(f"`classifier_network={self.name}`: {error}") from None
        except (Exception, SystemExit) as error:
            file = self.source.file if self.source else ""
            raise InputError(f"{what}{named_code.in_one_line(error, file)}") from error

    def _made(self, classes: int, rngs: nnx.Rngs) -> nnx.Module:
        """Calls the function, and makes a head of what it returns."""
        known, named = inspect.signature(self.make).parameters, f"`classifier_network={self.name}`"
        offered = {"rngs": rngs} if self.groups else {"classes": classes, "rngs": rngs}
        arguments = {name: value for name, value in offered.items() if name in known}
        with self._naming(f"{named} raised "):
            made = self.make(**arguments)
        if "torch" in sys.modules and isinstance(made, import_torch().nn.Module):
            made = from_torch(made)
        if not isinstance(made, nnx.Module):
            wanted = "a flax.nnx.Module, a torch.nn.Module or the result of r2l_jax.from_flax or from_torch"
            raise InputError(f"{named} must return {wanted}, got {type(made).__name__}")
        for path, variable in nnx.to_flat_state(nnx.state(made)):
            if (kind := getattr(variable[...], "dtype", "no array")) != jnp.float32:
                raise InputError(
                    f"{named} must have only float32 variables, and no random state such as for dropout, got {kind} "
                    f"for {'.'.join(map(str, path))}"
                )
        if weights_of(made) and jax.device_count() > 1:
            # Devices that share a batch would wait for each other while one of them calls the network.
            raise InputError(
                f"{named} is not a JAX network and needs a single device, found {jax.device_count()}: select one, for "
                "example with CUDA_VISIBLE_DEVICES=0 or JAX_NUM_CPU_DEVICES=1"
            )
        if self.groups and isinstance(made, NormalizedHead):
            return NormalizedHead(made.mean, made.std, FittedHead(made.core, groups=self.groups))
        return FittedHead(made, groups=self.groups) if self.groups else made


def find_head(network: NetworkSettings, classes: tuple[str, ...]) -> NamedHead | None:
    """Finds the head that the settings name for the data's classes or object. Runs a user's file.

    None stands for the known networks.
    """
    name = network.classifier_network
    if not network.has_custom_head:
        return None
    if name.endswith(".onnx"):
        try:
            content = pathlib.Path(name).read_bytes()
        except OSError as error:
            raise InputError(f"`classifier_network={name}`: {error.strerror}") from None
        identity, source = ("onnx", hashlib.sha256(content).hexdigest()), None
        make = functools.partial(from_onnx, name)
    else:
        source, make = named_code.load(name, "classifier_network", "head")
        identity = source.identity
    groups = outputs_of(network.class_outputs, classes) if network.class_outputs else None
    return NamedHead(name, make, (*identity, groups) if groups else identity, source, groups)


def outputs_of(given: str, classes: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Returns the numbers of the outputs of each class, which --class_outputs gives as in `cat:281+282,dog:207`."""
    if not re.fullmatch(f"({_PAIR.pattern})+", given):
        raise InputError(f"`class_outputs` must be pairs such as cat:281,dog:207+208, got {given!r:.80}")
    found = [(name, tuple(map(int, places.split("+")))) for name, places in _PAIR.findall(given)]
    every = [output for _, places in found for output in places]
    if sorted(name for name, _ in found) != sorted(classes):
        raise InputError(f"`class_outputs` must name each class of the data once ({', '.join(classes)}), got {given}")
    if len(set(every)) < len(every):
        raise InputError(f"`class_outputs` must name each output once, got {given}")
    return tuple(dict(found)[name] for name in classes)


@functools.cache
def made_once(named: NamedHead, classes: int) -> nnx.Module:
    """Makes a head once: a PyTorch head with its weights, a Flax head with shapes in place of arrays."""
    return nnx.eval_shape(lambda: named._made(classes, nnx.Rngs(0)))


def load_weights(head: nnx.Module, network: str, file: str | None = None) -> None:
    """Replaces weights and running statistics of a head's residual network with torchvision's ("IMAGENET1K_V1").

    The `network` (`resnet18`, `resnet34` or `resnet50`) is all of a ResNet except its last layer, `fc`, or the encoder
    of a U-Net; the rest of the head stays, and may be abstract. `file` is a safetensors file with torchvision's names;
    None downloads one (see `hub.weights_file`), in all processes together.
    """
    if file:
        path, source = pathlib.Path(file), f"`pretrained_weights={file}`"
    else:
        # Imported here, because the download libraries would make every training start later.
        from r2l_jax.data.fetch import hub

        path = hub.weights_file(network)
        source = f"`classifier_pretrained`: {path}"
    try:
        state = safetensors.numpy.load_file(path)
        # Files may have a classifier for ImageNet's classes, which is not used.
        tasks.load_torch_state(getattr(head, "encoder", head), state, keep=("fc.",))
    except OSError as error:
        raise InputError(f"{source}: {error.strerror or error}") from None
    except safetensors.SafetensorError as error:
        raise InputError(f"{source} must be a safetensors file (not a PyTorch .pth): {error}") from None
    except ValueError as error:
        _, *misfits = str(error).splitlines()
        # The last one names a tensor that the network does not have, if any.
        shown = "; ".join(dict.fromkeys([misfits[0], misfits[-1]]))
        raise InputError(
            f"{source} does not contain the weights of a {network}: {len(misfits)} tensors do not fit, such as {shown}"
        ) from None

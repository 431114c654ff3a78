"""Heads by name, other than the known ResNets and U-Nets.

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
import safetensors.numpy
from flax import nnx

import tasks
from r2l_jax import named_code
from r2l_jax.errors import InputError
from r2l_jax.model.host_networks import import_torch
from r2l_jax.model.normalized_heads import FittedHead, NormalizedHead, from_onnx, from_torch, weights_of
from r2l_jax.model.settings import NetworkSettings
from r2l_jax.named_code import Source

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


# Files may have a classifier for ImageNet's classes, which is not used.
_CLASSIFIER = ("fc.",)


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
        tasks.load_torch_state(getattr(head, "encoder", head), state, keep=_CLASSIFIER)
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

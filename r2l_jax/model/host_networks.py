"""Frozen PyTorch, ONNX and NumPy networks, which compute outside of JAX as part of a JAX model: of logits, or of boxes.

`jax.jit` and `jax.vmap` work, and for PyTorch `jax.grad`. Images mapped over by `vmap`, such as the images of parallel
searches, reach the network in one call. On a GPU, images pass through host memory.
"""

import abc
import collections
import contextlib
import hashlib
import importlib
import inspect
import logging
import pathlib
import secrets
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from r2l_jax.devices.memory import let_callbacks_read
from r2l_jax.errors import InputError, warn
from r2l_jax.named_code import in_one_line

# What a network states of each object that it detects.
_OF_OBJECTS = ("boxes", "scores", "labels")

# Functions are only given to controls, of which forensics needs gradients.
_WITHOUT = "; the tolerances of forensics (`analyses=tolerances`) work without them"

_FOR_EXAMPLE = "as predict_log_proba of scikit-learn does"

# JAX would also log the traceback of each error that a network raises.
logging.getLogger("jax._src.callback").setLevel(logging.CRITICAL)


class HostNetwork(abc.ABC):
    """A frozen network that computes outside of JAX. Stored results know it by its `identity`, a hash."""

    identity: str

    def __init__(self):
        let_callbacks_read()
        self._shapes: dict[tuple[int, ...], jax.ShapeDtypeStruct] = {}

    def shape(self, image: tuple[int, ...]) -> jax.ShapeDtypeStruct:
        """Returns the shape of the logits of an image of a shape `(3, H, W)`, found with a black one."""
        if image not in self._shapes:
            logits = self.logits(np.zeros((1, *image), np.float32))
            if logits.shape[1] > 1 and logits.min() >= 0 and np.allclose(logits.sum(1), 1, atol=1e-3):
                warn(f"the network seems to return probabilities, not logits: return their logarithms, {_FOR_EXAMPLE}")
            self._shapes[image] = jax.ShapeDtypeStruct(logits.shape[1:], jnp.float32)
        return self._shapes[image]

    @abc.abstractmethod
    def logits(self, images: jax.Array | np.ndarray) -> np.ndarray:
        """Computes the logits `(N, C, ...)` of images `(N, 3, H, W)`."""

    @abc.abstractmethod
    def detections(self, images: np.ndarray) -> list[np.ndarray]:
        """Detects objects in images `(N, 3, H, W)`: for each image, x1, y1, x2, y2, score and label `(K, 6)`."""


class OnnxNetwork(HostNetwork):
    """A network in an ONNX file, computed by onnxruntime, without gradients.

    `size` is the height and width that the file requires; None if it accepts any.
    """

    def __init__(self, file: str):
        super().__init__()
        try:
            onnxruntime = importlib.import_module("onnxruntime")
        except ImportError:
            raise InputError(f"{file} needs the package onnxruntime: pip install onnxruntime") from None
        try:
            content = pathlib.Path(file).read_bytes()
        except OSError as error:
            raise InputError(f"{file}: {error.strerror}") from None
        self.identity, self._file = hashlib.sha256(content).hexdigest(), file
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # Anything that it would log, it also raises.
        try:
            self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has many kinds of errors.
            raise InputError(f"{file} cannot be read as ONNX: {in_one_line(error):.200}") from None
        inputs = self._session.get_inputs()
        shape = inputs[0].shape if len(inputs) == 1 else []
        if len(shape) != 4 or 3 not in (shape[1], shape[3]) or inputs[0].type != "tensor(float)":
            found = ", ".join(f"{each.type} {each.shape}" for each in inputs)
            raise InputError(f"{file} must take one float32 batch (B, 3, H, W) or (B, H, W, 3), got {found}")
        self._last = shape[1] != 3  # whether channels are last
        height, width = shape[1:3] if self._last else shape[2:]
        self.size = (height, width) if isinstance(height, int) and isinstance(width, int) else None
        self._batch = shape[0] if isinstance(shape[0], int) else None

    def logits(self, images: jax.Array | np.ndarray) -> np.ndarray:
        """Computes the logits of images, in batches of the size that the file requires."""
        array = np.asarray(images)
        array = np.ascontiguousarray(np.moveaxis(array, 1, -1)) if self._last else array
        size = self._batch or len(array)
        filled = np.concatenate([array, np.repeat(array[-1:], -len(array) % size, 0)])
        parts = [self._computed(filled[start : start + size]) for start in range(0, len(filled), size)]
        logits = np.concatenate(parts)[: len(array)]
        if np.isnan(logits).any() and np.isfinite(array).all():
            raise InputError(f"{self._file} returns NaN logits for finite images")
        return np.moveaxis(logits, -1, 1) if self._last and logits.ndim == 4 else logits

    def detections(self, images: np.ndarray) -> list[np.ndarray]:
        """Detects objects in each image, with the outputs boxes, scores and labels, whatever their order."""
        names = [each.name for each in self._session.get_outputs()]
        if lacking := ", ".join(name for name in _OF_OBJECTS if name not in names):
            raise InputError(
                f"{self._file} must have the outputs {', '.join(_OF_OBJECTS)} for detection, lacks {lacking}"
            )
        array = np.ascontiguousarray(np.moveaxis(images, 1, -1)) if self._last else images
        found = []
        for image in array:
            outputs = self._run(np.repeat(image[None], self._batch or 1, 0), list(_OF_OBJECTS))
            # Files of torchvision's detectors have no batch axis, since images differ in their numbers of objects.
            outputs = [each[0] if each.ndim > rank else each for each, rank in zip(outputs, (2, 1, 1), strict=True)]
            found.append(_joined(outputs, self._file))
        return found

    def _run(self, array: np.ndarray, names: list[str] | None) -> list[np.ndarray]:
        try:
            return list(map(np.asarray, self._session.run(names, {self._session.get_inputs()[0].name: array})))
        except Exception as error:  # onnxruntime has many kinds of errors.
            shape = ", ".join(map(str, array.shape[1:]))
            raise InputError(f"{self._file} rejects images of shape (B, {shape}): {in_one_line(error):.200}") from None

    def _computed(self, array: np.ndarray) -> np.ndarray:
        logits = self._run(array, None)[0]
        if logits.ndim not in (2, 4) or len(logits) != len(array):
            found = f"{logits.shape} for {len(array)} images"
            raise InputError(f"{self._file} must return logits (B, C) or of rank 4, got shape {found}")
        return np.asarray(logits, np.float32)


class NumpyNetwork(HostNetwork):
    """A function of NumPy images `(B, H, W, 3)` that returns logits, without gradients."""

    def __init__(self, function: Callable[[np.ndarray], Any]):
        super().__init__()
        self.identity, self._function = secrets.token_hex(), function

    def logits(self, images: jax.Array | np.ndarray) -> np.ndarray:
        """Computes the logits of images `(N, 3, H, W)`."""
        array = np.moveaxis(np.array(images), 1, -1)
        logits = np.asarray(self._function(array))
        if logits.dtype.kind not in "fiu" or logits.ndim not in (2, 4) or len(logits) != len(array):
            got = f"{logits.dtype} of shape {logits.shape} for {len(array)} images"
            raise InputError(f"the network must return logits (B, C) or (B, H, W, C), {_FOR_EXAMPLE}, got {got}")
        logits = logits.astype(np.float32, copy=False)
        return logits if logits.ndim == 2 else np.moveaxis(logits, -1, 1)

    def detections(self, images: np.ndarray) -> list[np.ndarray]:
        """Raises an InputError: a function of logits detects nothing."""
        raise InputError("a function of images must return logits; to detect objects, use from_torch or from_onnx")


class TorchNetwork(HostNetwork):
    """A trained PyTorch module, computed on arrays. It has gradients with respect to the images.

    As torchvision's detectors do, one that detects objects takes a list of images `(3, H, W)`, and returns a dict with
    `boxes (K, 4)`, `scores (K,)` and `labels (K,)` for each. In training mode, it also takes a list of dicts with the
    true `boxes` and `labels`, and returns a dict of losses.
    """

    def __init__(self, module: Any):
        super().__init__()
        torch = import_torch()
        if not isinstance(module, torch.nn.Module):
            raise InputError(f"expected a torch.nn.Module, got {type(module).__name__}")
        if any(each.training for each in module.modules()):
            warn(f"the module {type(module).__name__} was in training mode; switched to evaluation mode")
        self._module = module.eval().requires_grad_(False)
        first = next((each for each in module.state_dict().values() if each.is_floating_point()), torch.zeros(()))
        self._place = {"device": first.device, "dtype": first.dtype}
        self.identity = _hash(module)
        # The images and the logits of the latest call whose gradient was asked for.
        self._kept: collections.deque = collections.deque(maxlen=1)
        # Held while the module is in training mode, since JAX may call it in several threads.
        self._mode = threading.RLock()

    def logits(self, images: jax.Array | np.ndarray) -> np.ndarray:
        """Computes the logits `(N, C, ...)` of images `(N, 3, H, W)`."""
        with import_torch().no_grad():
            return _array(self._computed(_tensor(images)))

    def kept_logits(self, images: jax.Array | np.ndarray) -> np.ndarray:
        """Computes the logits, and keeps what the gradient needs."""
        leaf, logits = self._followed(_tensor(images))
        if not logits.requires_grad:
            raise InputError(_without_gradient(type(self._module).__name__, "logits"))
        self._kept.append((leaf, logits))
        return _array(logits)

    def _followed(self, images: Any) -> tuple[Any, Any]:
        """Computes the logits of a copy of images, since JAX reuses their memory; returns both, for the gradient."""
        leaf = images.clone().requires_grad_(True)
        with import_torch().enable_grad():
            return leaf, self._computed(leaf)

    def gradient(self, images: jax.Array | np.ndarray, cotangent: jax.Array | np.ndarray) -> np.ndarray:
        """Computes the vector-Jacobian product of a cotangent of the logits, for the images."""
        torch, wanted, kept = import_torch(), _tensor(images), None
        with contextlib.suppress(IndexError):
            kept = self._kept.pop()
        if kept is None or kept[0].shape != wanted.shape or not torch.equal(kept[0], wanted):
            kept = self._followed(wanted)
        leaf, logits = kept
        (gradient,) = torch.autograd.grad(logits, leaf, _tensor(cotangent), allow_unused=True)
        return np.zeros(leaf.shape, np.float32) if gradient is None else _array(gradient)

    def detections(self, images: np.ndarray) -> list[np.ndarray]:
        """Detects objects in each image."""
        torch, name = import_torch(), type(self._module).__name__
        with torch.no_grad(), self._mode:
            given = list(torch.tensor(images, **self._place))
            found = self._called(f"a list of images of shape {images.shape[1:]}", given)
        if not isinstance(found, list | tuple) or len(found) != len(images):
            raise InputError(f"{name} must return a list with a dict for each of {len(images)} images")
        for each in found:
            if not isinstance(each, Mapping) or not all(isinstance(each.get(key), torch.Tensor) for key in _OF_OBJECTS):
                got = ", ".join(map(str, each)) if isinstance(each, Mapping) else f"a {type(each).__name__}"
                wanted = f"a dict of {', '.join(_OF_OBJECTS)} for each image"
                raise InputError(f"{name} must return {wanted}, got {got}")
        return [_joined([_array(each[key]) for key in _OF_OBJECTS], name) for each in found]

    def losses(self, images: np.ndarray, targets: Sequence[tuple[np.ndarray, np.ndarray]], gradient: bool) -> Any:
        """Computes the sum of a detector's losses for each image, and its `gradient` for the image, or else 0.

        Batch norm and dropout stay frozen, and losses that draw samples draw the same ones each time. `targets` are the
        true boxes `(K, 4)` and labels `(K,)` of each image.
        """
        torch = import_torch()
        losses, gradients = np.zeros(len(images), np.float32), np.zeros(images.shape, np.float32)
        device, given = self._place["device"], f"images and targets of shape {images.shape[1:]}"
        with self._mode, self._in_training(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            for number, (image, (boxes, labels)) in enumerate(zip(images, targets, strict=True)):
                torch.manual_seed(0)
                leaf = torch.tensor(image, requires_grad=gradient)
                target = {"boxes": torch.tensor(boxes, **self._place), "labels": torch.tensor(labels, device=device)}
                with torch.set_grad_enabled(gradient):
                    found = self._called(given, [leaf.to(**self._place, copy=True)], [target])
                    loss = _sum_of(found, type(self._module).__name__)
                losses[number] = loss.item()
                if gradient and loss.requires_grad:
                    (of_leaf,) = torch.autograd.grad(loss, leaf, allow_unused=True)
                    gradients[number] = 0 if of_leaf is None else _array(of_leaf)
                elif gradient and len(boxes):
                    raise InputError(_without_gradient(type(self._module).__name__, "losses"))
        return losses, gradients

    @contextlib.contextmanager
    def _in_training(self) -> Iterator[None]:
        """Switches the module to training mode, without its batch norm and dropout."""
        nn = import_torch().nn.modules
        self._module.train()
        for each in self._module.modules():
            if isinstance(each, nn.batchnorm._NormBase | nn.dropout._DropoutNd):
                each.eval()
        try:
            yield
        finally:
            self._module.eval()

    def _called(self, given: str, *arguments: Any) -> Any:
        """Calls the module, which may raise anything, with arguments that `given` describes."""
        try:
            with warnings.catch_warnings(action="ignore"):
                return self._module(*arguments)
        except Exception as error:
            raise InputError(f"{type(self._module).__name__} rejects {given}: {in_one_line(error):.300}") from error

    def _computed(self, images: Any) -> Any:
        """Computes the logits of a tensor, as a tensor of float32 on the CPU."""
        torch, name = import_torch(), type(self._module).__name__
        # A copy, since the module may change its images in place: a leaf of a gradient, or the memory of JAX.
        copy = images.to(**self._place, copy=True)
        logits = self._called(f"images of shape (B, {', '.join(map(str, images.shape[1:]))})", copy)
        if not isinstance(logits, torch.Tensor) or logits.ndim not in (2, 4) or len(logits) != len(images):
            got = f"shape {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else f"a {type(logits).__name__}"
            raise InputError(
                f"{name} must return a tensor of logits (B, C) or (B, C, H, W), got {got} for {len(images)} images"
            )
        logits = logits.to("cpu", torch.float32)
        if logits.isnan().any() and images.isfinite().all():
            raise InputError(f"{name} returns NaN logits for finite images")
        return logits


def import_torch() -> Any:
    """Imports PyTorch, or raises an InputError that names the package."""
    try:
        return importlib.import_module("torch")
    except ImportError:
        raise InputError("a PyTorch head needs the package torch: pip install 'r2l_jax[torch]'") from None


def _sum_of(losses: Any, name: str) -> Any:
    """Sums the losses of a module, which must be finite."""
    torch = import_torch()
    if not isinstance(losses, Mapping) or not all(isinstance(each, torch.Tensor) for each in losses.values()):
        raise InputError(f"{name} must return a dict of losses in training mode, for a list of images and targets")
    total = sum(each.sum() for each in losses.values())
    if not losses or not torch.isfinite(total):
        raise InputError(f"{name} must return finite losses, got {', '.join(map(str, losses)) or 'none'}")
    return total


def _without_gradient(name: str, what: str) -> str:
    return (
        f"{name} must return {what} with a gradient for its images; torch.no_grad, detach or NumPy in its forward "
        "method may stop the gradient"
    )


def _joined(parts: Sequence[np.ndarray], name: str) -> np.ndarray:
    """Joins boxes `(K, 4)`, scores `(K,)` and labels `(K,)` as `(K, 6)`."""
    boxes, scores, labels = parts
    if boxes.shape != (len(scores), 4) or scores.shape != labels.shape or scores.ndim != 1:
        shapes = ", ".join(str(each.shape) for each in parts)
        raise InputError(f"{name} must return boxes (K, 4), scores (K,) and labels (K,) of an image, got {shapes}")
    found = np.column_stack([boxes, scores, labels]).astype(np.float32)
    if not np.isfinite(found).all():
        raise InputError(f"{name} must return finite boxes and scores, got NaN or infinity")
    return found


def _hash(module: Any) -> str:
    """Hashes a module's layers and weights, the code of its classes, and the plain values and arrays that it reads.

    Not hashed are other objects, functions that the code calls, and hooks. PyTorch's own classes count by name alone.
    """
    torch = import_torch()
    own, codes, unknown = vars(torch.nn.Module()).keys(), dict[type, Any](), set[str]()
    digest = hashlib.sha256(repr(module).encode())
    for name, tensor in (module.state_dict() | dict(module.named_buffers())).items():
        digest.update(f"\n{name} {_described(tensor)}".encode())
    for name, each in module.named_modules():
        for kind in type(each).__mro__[:-1]:
            if kind not in codes and not kind.__module__.startswith("torch."):
                held = {key: value for key, value in vars(kind).items() if callable(value) or not key.startswith("__")}
                codes[kind] = _code(held, kind.__qualname__, unknown)
        attributes = {key: value for key, value in vars(each).items() if key not in own}
        code = [codes.get(kind) for kind in type(each).__mro__]
        digest.update(f"\n{name} {code} {_code(attributes, type(each).__qualname__, unknown)}".encode())
    if unknown:
        warn(f"the source of {', '.join(sorted(unknown))} is not available: stored results ignore changes of its code")
    return digest.hexdigest()


def _code(attributes: dict[str, Any], owner: str, unknown: set[str]) -> list[Any]:
    """Describes attributes; adds the owner to `unknown` if the source of a function among them is not available."""
    found = []
    for name, value in sorted(attributes.items()):
        held = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        function = inspect.unwrap(held) if callable(held) else None
        if not inspect.isfunction(function) or function.__module__.startswith("torch."):
            found.append((name, _described(value)))
            continue
        try:
            outer = inspect.getclosurevars(function)
            read = [outer.globals, outer.nonlocals, function.__defaults__, function.__kwdefaults__]
            found.append((name, inspect.getsource(function), *map(_described, read)))
        except (OSError, TypeError, ValueError):
            unknown.add(owner)
    return found


def _described(value: Any) -> Any:
    """Describes plain values, tensors, arrays and collections of them; functions by name, and others by their type."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return value
    torch = import_torch()
    if isinstance(value, torch.Tensor):
        content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
        return str(value.dtype), tuple(value.shape), hashlib.sha256(content).hexdigest()
    if isinstance(value, np.generic | np.ndarray) and value.dtype.kind in "biufc":
        return str(value.dtype), value.shape, hashlib.sha256(value.tobytes()).hexdigest()
    if isinstance(value, Mapping):
        return sorted((repr(key), _described(each)) for key, each in value.items() if isinstance(key, int | str))
    if isinstance(value, list | tuple):
        return [_described(each) for each in value]
    if isinstance(value, set | frozenset):
        return sorted(repr(_described(each)) for each in value)
    return getattr(value, "__qualname__", type(value).__qualname__)


def _tensor(array: jax.Array | np.ndarray) -> Any:
    """Returns an array as a tensor, which shares its memory."""
    return import_torch().from_dlpack(array)


def _array(tensor: Any) -> np.ndarray:
    return tensor.detach().cpu().contiguous().numpy()


def with_gradient(network: HostNetwork) -> TorchNetwork:
    """Returns a network that has gradients; raises an InputError for others."""
    if not isinstance(network, TorchNetwork):
        kind, hint = ("an ONNX network", "") if isinstance(network, OnnxNetwork) else ("a NumPy function", _WITHOUT)
        raise InputError(f"the head must have gradients, got {kind}, which has none{hint}")
    return network


def of_images(function: Callable[..., Any], shapes: Any, *arrays: tuple[Array, int]) -> Any:
    """Calls a function of NumPy arrays `(B, ...)`, each given with its number of axes for one image.

    `shapes` are the shapes and types that the function returns for one image, a tree; it returns arrays with a row for
    each. Axes that `vmap` adds become part of the batch.
    """
    ranks = [rank for _, rank in arrays]

    def called(*given: jax.Array) -> Any:
        lead = given[0].shape[: given[0].ndim - ranks[0]]
        pairs = zip(given, ranks, strict=True)
        flat = [each.reshape(-1, *each.shape[each.ndim - rank :]) if len(lead) > 1 else each for each, rank in pairs]
        return jax.tree.map(lambda each: each.reshape(*lead, *each.shape[1:]), function(*flat))

    count = len(arrays[0][0])
    result = jax.tree.map(lambda each: jax.ShapeDtypeStruct((count, *each.shape), each.dtype), shapes)
    return jax.pure_callback(called, result, *(array for array, _ in arrays), vmap_method="broadcast_all")


def _plain(network: HostNetwork, images: Float[Array, "batch 3 height width"]) -> Float[Array, "batch classes ..."]:
    return of_images(network.logits, network.shape(images.shape[1:]), (images, 3))


def _forward(network: HostNetwork, images: Array) -> tuple[Array, Array]:
    kept_logits = with_gradient(network).kept_logits
    return of_images(kept_logits, network.shape(images.shape[1:]), (images, 3)), images


def _backward(network: TorchNetwork, images: Array, cotangent: Array) -> tuple[Array]:
    shape = jax.ShapeDtypeStruct(images.shape[1:], jnp.float32)
    return (of_images(network.gradient, shape, (images, 3), (cotangent, cotangent.ndim - 1)),)


_logits = jax.custom_vjp(_plain, nondiff_argnums=(0,))
_logits.defvjp(_forward, _backward)


def logits_of(network: HostNetwork, images: Float[Array, "batch 3 height width"]) -> Float[Array, "batch classes ..."]:
    """Computes the logits `(B, C)` or `(B, C, H, W)` of normalized images, with a gradient for the images."""
    return _logits(network, images)

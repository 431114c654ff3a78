"""Loading of pretrained PyTorch weights into the networks here."""

from collections.abc import Hashable, Mapping

import jax.numpy as jnp
import numpy as np
from flax import nnx

# PyTorch's names for the last part of a variable's path.
_TORCH_NAMES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}

# From PyTorch's order of axes to the order here, by the number of axes: (out, in) -> (in, out), and
# (out, in, row, col) -> (row, col, in, out).
_AXES = {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}


def _torch_name(path: tuple[Hashable, ...]) -> str:
    return ".".join([*map(str, path[:-1]), _TORCH_NAMES[str(path[-1])]])


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in np.argsort(_AXES[len(shape)]))


def _unused_tensors(head: nnx.Module) -> tuple[str, ...]:
    return tuple(
        ".".join([*map(str, path), name])
        for path, module in nnx.iter_modules(head)
        for name in getattr(module, "unused_tensors", ())
    )


def load_torch_state(head: nnx.Module, state: Mapping[str, np.ndarray], keep: tuple[str, ...] = ()) -> None:
    """Copies a PyTorch state dict into a network, in place.

    The name of a tensor is the attribute path of its variable: `layer1.0.conv1.weight` belongs to
    `head.layer1[0].conv1.kernel`. The weights of a norm are its `scale`, and running statistics are its `mean` and
    `var`.

    Two kinds of tensors are ignored: `num_batches_tracked`, which no network here uses, and tensors that the PyTorch
    counterpart of a module holds but does not use. Modules list their name prefixes in `unused_tensors`.

    Args:
        head: The network, such as one from `tasks.resnet`. If it is abstract (`nnx.eval_shape`), no weights have to be
            drawn first.
        state: Tensors by the names of torchvision or segmentation_models_pytorch, with axes in PyTorch's order. They
            are cast to the types of the network.
        keep: Name prefixes, such as "fc.". Variables with such a name keep their values, and such tensors are ignored.
    """
    variables = dict(nnx.to_flat_state(nnx.state(head)))
    paths = {name: path for path in variables if not (name := _torch_name(path)).startswith(keep)}
    unused = _unused_tensors(head) + keep
    state = {
        name: tensor
        for name, tensor in state.items()
        if not name.endswith("num_batches_tracked") and not name.startswith(unused)
    }
    problems = []
    for name, path in paths.items():
        expected = _torch_shape(variables[path].shape)
        if name not in state:
            problems.append(f"{name}: missing, expected shape {expected}")
        elif state[name].shape != expected:
            problems.append(f"{name}: got shape {state[name].shape}, expected {expected}")
    for name, tensor in state.items():
        if name not in paths:
            problems.append(f"{name}: got shape {tensor.shape}, expected no such tensor")
    if problems:
        raise ValueError("state does not fit the network:\n" + "\n".join(problems))
    arrays = [
        (path, jnp.asarray(state[name].transpose(_AXES[state[name].ndim]), variables[path].dtype))
        for name, path in paths.items()
    ]
    nnx.update(head, nnx.from_flat_state(arrays))

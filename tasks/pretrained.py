"""Weights that PyTorch models were trained to, for the networks here."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from flax import nnx

# What PyTorch calls the last part of a variable's path.
_TORCH_NAMES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}

# From PyTorch's axis order to the one here: (out, in) -> (in, out), and (out, in, row, col) -> (row, col, in, out).
_AXES = {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}


def _torch_name(path: tuple[str | int, ...]) -> str:
    return ".".join([*map(str, path[:-1]), _TORCH_NAMES[path[-1]]])


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

    A tensor belongs to the variable whose attribute path is its name: `layer1.0.conv1.weight` to
    `head.layer1[0].conv1.kernel`. The weights of a norm are its `scale`, running statistics its `mean` and `var`.
    `num_batches_tracked` is ignored, since no network here uses it. So is what a module of the network lists, by the
    beginnings of names, in `unused_tensors`: what PyTorch's counterpart holds but does not use.

    Args:
        head: the network, for example of `tasks.resnet`; an abstract one (`nnx.eval_shape`) saves drawing weights.
        state: tensors by the names of torchvision or of segmentation_models_pytorch, axes in PyTorch's order. They are
            cast to the network's dtype.
        keep: beginnings of names, as "fc.": what the network has by such a name stays as it is, and what the state has
            is ignored.

    Raises:
        ValueError: if tensors are missing, left over or of the wrong shape; it names them all, and `head` is unchanged.
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

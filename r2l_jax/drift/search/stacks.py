"""Runs many computations of one shape as one: stacked along a first axis, and shared among devices."""

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import numpy as np

from r2l_jax.devices import compiler
from r2l_jax.devices.placement import shardings

PyTree = Any


def stack(trees: Sequence[PyTree]) -> PyTree:
    """Returns a stack of pytrees on the host: arrays of shape `(devices, of each device, ...)`.

    If the number of pytrees is not a multiple of the devices, copies of the last one pad the stack.
    """
    devices = jax.device_count()
    filled = [*trees, *[trees[-1]] * (-len(trees) % devices)]
    return jax.tree.map(lambda *leaves: np.stack(leaves).reshape(devices, -1, *np.shape(leaves[0])), *filled)


def unstack(tree: PyTree, count: int) -> list[PyTree]:
    """Returns the first `count` pytrees of a stack, on the host."""
    whole = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), jax.device_get(tree))
    return [jax.tree.map(lambda leaf, place=place: np.asarray(leaf[place]), whole) for place in range(count)]


def placed(stacked: PyTree, shared: PyTree) -> tuple[PyTree, PyTree]:
    """Moves a stack to the devices, with the arguments that its computations share."""
    split, everywhere = shardings()
    return jax.device_put(stacked, split), jax.device_put(shared, everywhere)


@functools.cache
def mapped(function: Callable[..., PyTree], donates: bool = False) -> Callable[..., PyTree]:
    """Compiles a function of one pytree for stacks of them, once for each structure and shape of its arguments.

    Each device computes its part of the stack at once (`jax.vmap`), and the devices run in parallel (`jax.pmap`). The
    function must be defined in a module: compiled versions of it are kept forever, and serve all models, drifts and
    members of a group.

    Args:
        function: takes static options, two pytrees of its arguments, and the pytree of shared arguments.
        donates: whether a call consumes the first of the two stacks.

    Returns:
        A function of the options, the two stacks and the shared arguments, see `placed`.
    """

    def of_device(options: Hashable, carried: PyTree, stacked: PyTree, shared: PyTree) -> PyTree:
        return jax.vmap(functools.partial(function, options), in_axes=(0, 0, None))(carried, stacked, shared)

    return jax.jit(
        # Named as the axis of `shardings`, since JAX compiles a function that calls the host for only one mesh.
        jax.pmap(of_device, "data", in_axes=(None, 0, 0, None), static_broadcasted_argnums=0),
        static_argnums=0,
        donate_argnums=1 if donates else (),
        out_shardings=shardings().split,
        compiler_options=compiler.options(),
    )

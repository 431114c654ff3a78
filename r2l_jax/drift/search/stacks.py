"""Runs many computations of one shape as one: stacked along a first axis, and shared among devices."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from r2l_jax.runtime import compiler

PyTree = Any

# The name of the axis of the devices.
_AXIS = "devices"


class Stacks:
    """Stacks pytrees, and compiles functions of one of them for all of a stack.

    A stack is shared out equally among the devices. A device works on its part together (`jax.vmap`), and the devices
    run side by side (`jax.shard_map`, as `jax.pmap` does). A single pytree is a stack of one. Where numbers do not
    divide, stacks are filled up with copies of the last pytree, whose results are dropped.
    """

    def __init__(self):
        self._devices = jax.local_devices()
        self._compiled: dict[Any, jax.stages.Compiled] = {}

    def stack(self, trees: Sequence[PyTree]) -> PyTree:
        """Returns a stack on the host: arrays of shape `(devices, of each device, ...)`."""
        devices = len(self._devices)
        filled = [*trees, *[trees[-1]] * (-len(trees) % devices)]
        return jax.tree.map(lambda *leaves: np.stack(leaves).reshape(devices, -1, *leaves[0].shape), *filled)

    def unstack(self, tree: PyTree, count: int) -> list[PyTree]:
        """Returns the results of a stack of this many pytrees, on the host."""
        whole = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), jax.device_get(tree))
        return [jax.tree.map(lambda leaf, place=place: np.asarray(leaf[place]), whole) for place in range(count)]

    def compile(
        self, function: Callable, stacked: tuple[PyTree, ...], shared: tuple[PyTree, ...], donated: tuple[int, ...] = ()
    ) -> jax.stages.Compiled:
        """Compiles a function of one pytree for a stack, once for each shape of its arguments.

        Args:
            function: takes the arguments of one, then the shared ones.
            stacked: stacked arguments, as `stack` makes them.
            shared: the shared arguments.
            donated: the numbers of the arguments that a call consumes.
        """
        known = (function, tuple((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves((stacked, shared))))
        if known not in self._compiled:
            # `jax.pmap` computes in this way as well, but JAX 0.10 keeps for good what it was used for: the function,
            # the model that it refers to, and the compiled code.
            mesh = Mesh(np.array(self._devices), (_AXIS,))
            specs = (PartitionSpec(_AXIS),) * len(stacked) + (PartitionSpec(),) * len(shared)
            mapped = jax.shard_map(
                _of_device(function, len(stacked), len(shared)),
                mesh=mesh,
                in_specs=specs,
                out_specs=PartitionSpec(_AXIS),
                check_vma=False,
            )
            shardings = tuple(NamedSharding(mesh, spec) for spec in specs)
            jitted = jax.jit(
                mapped, in_shardings=shardings, donate_argnums=donated, compiler_options=compiler.options()
            )
            self._compiled[known] = jitted.lower(*stacked, *shared).compile()
        return self._compiled[known]


def _of_device(function: Callable, stacked: int, shared: int) -> Callable:
    """Makes a function of a device's part of a stack, in which the axis of the devices has length 1."""
    mapped = jax.vmap(function, in_axes=(0,) * stacked + (None,) * shared)

    def of_device(*args: PyTree) -> PyTree:
        parts = jax.tree.map(lambda leaf: leaf[0], args[:stacked])
        return jax.tree.map(lambda leaf: leaf[None], mapped(*parts, *args[stacked:]))

    return of_device

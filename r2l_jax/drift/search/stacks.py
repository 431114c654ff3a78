"""Many computations of one shape as one: stacked along a first axis, of which each device takes a part."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from r2l_jax.runtime import compiler

PyTree = Any


class Stacks:
    """Stacks pytrees, and compiles functions of one of them for all of a stack.

    The stack is split over the devices (`jax.pmap`), and a device works on its part together (`jax.vmap`). A single one
    is a stack of one. A number that the devices do not divide is filled up, and what fills it up is dropped again.

    Args:
        devices: which devices share a stack; all of this process if left out.
    """

    def __init__(self, devices: Sequence[jax.Device] | None = None):
        self.devices = list(devices or jax.local_devices())
        self._compiled = {}

    def stack(self, trees: Sequence[PyTree]) -> PyTree:
        """Trees as one, on the host, `(devices, of each device, ...)`; the last is repeated to fill it up."""
        devices = len(self.devices)
        padded = [*trees, *[trees[-1]] * (-len(trees) % devices)]
        return jax.tree.map(lambda *leaves: np.stack(leaves).reshape(devices, -1, *leaves[0].shape), *padded)

    def unstack(self, tree: PyTree, count: int) -> list[PyTree]:
        """Undoes `stack`, on the host."""
        flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), jax.device_get(tree))
        return [jax.tree.map(lambda leaf, index=index: np.asarray(leaf[index]), flat) for index in range(count)]

    def compile(
        self, function: Callable, stacked: tuple[PyTree, ...], shared: tuple[PyTree, ...], donated: tuple[int, ...] = ()
    ) -> jax.stages.Compiled:
        """A function of one, compiled for a stack, once for each shape.

        Args:
            function: of the arguments of one, then of those that all share.
            stacked: arguments as `stack` makes them; those of the call may be others of their shapes.
            shared: the arguments that all share.
            donated: the numbers of the arguments that a call consumes.
        """
        known = (function, tuple((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves((stacked, shared))))
        if known not in self._compiled:
            axes = (0,) * len(stacked) + (None,) * len(shared)
            mapped = jax.pmap(
                jax.vmap(function, in_axes=axes), in_axes=axes, devices=self.devices, donate_argnums=donated
            )
            self._compiled[known] = mapped.lower(*stacked, *shared).compile(compiler_options=compiler.options())
        return self._compiled[known]

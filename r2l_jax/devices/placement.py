"""Devices: placing arrays on them, and limiting how far they work ahead."""

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

PyTree = Any
Begun = TypeVar("Begun")

# For programs that process several pictures in threads: only one picture at a time has to fit in device memory, and the
# first one compiles the functions that the others wait for.
one_picture_at_a_time = threading.Lock()


class Shardings(NamedTuple):
    """The placements of arrays on all devices: an equal part of the first axis on each, or the whole array."""

    split: NamedSharding
    everywhere: NamedSharding


def shardings() -> Shardings:
    """Returns the placements of arrays on the devices."""
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    return Shardings(NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec()))


def to_devices(arrays: PyTree, sharding: NamedSharding) -> PyTree:
    """Moves NumPy arrays to the devices: this process's part of each for `Shardings.split`, else the whole array."""
    placed = jax.tree.map(lambda array: jax.make_array_from_process_local_data(sharding, array), arrays)
    # On CPUs, JAX runs a call whose arguments are not ready in another thread, which cannot keep its memory.
    return jax.block_until_ready(placed) if jax.default_backend() == "cpu" else placed


class OneAhead:
    """Keeps the devices at most one call ahead of the host, since JAX returns before a result is computed.

    Otherwise, the results of many calls would fill the devices' memory, and a stop request would take effect late.
    """

    def __init__(self):
        self._previous: Any = None

    def begun(self, result: Begun) -> Begun:
        """Waits for the previous call, and returns the arrays of this one, which no later call may donate."""
        jax.block_until_ready(self._previous)
        self._previous = result
        return result


def each_on_devices(function: Callable[[Any], Begun], batches: Iterable[PyTree]) -> Iterator[Begun]:
    """Yields a function's results for batches of NumPy arrays, which it gets on the devices, split among them.

    While the devices compute one result, the host loads and moves the next batch, but no more.
    """
    ahead = OneAhead()
    for batch in batches:
        yield ahead.begun(function(to_devices(batch, shardings().split)))

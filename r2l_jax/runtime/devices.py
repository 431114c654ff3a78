"""The devices of all processes: how arrays lie on them, and how far they work ahead."""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

Begun = TypeVar("Begun")


class Shardings(NamedTuple):
    """Over all devices of all processes: batches split along their first axis, or the same everywhere."""

    split: NamedSharding
    everywhere: NamedSharding


def shardings() -> Shardings:
    """The two ways in which arrays lie on the devices."""
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    return Shardings(NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec()))


def to_devices(batch: Mapping[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """Moves this process's part of a batch to the devices: a part if it is split, the whole if it is everywhere."""
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}


class OneAhead:
    """Keeps the devices at most one piece of work ahead of the host.

    JAX returns from a call before its result is computed. Without a limit, the results of many calls would fill the
    devices' memory, progress bars would run ahead of the work, and a request to stop would be met late. With this one,
    the devices work on one piece while the host prepares the next.
    """

    def __init__(self):
        self._previous: Any = None

    def begun(self, result: Begun) -> Begun:
        """Waits until the piece of work before this one is done, and returns this one's result, perhaps unfinished.

        Args:
            result: arrays of the piece of work that has just been begun, which no later call consumes.
        """
        jax.block_until_ready(self._previous)
        self._previous = result
        return result

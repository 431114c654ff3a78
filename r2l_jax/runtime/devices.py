"""The devices of all processes, and how arrays lie on them."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec


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

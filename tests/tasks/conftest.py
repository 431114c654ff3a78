import zlib

import numpy as np
import pytest
from flax import nnx

TORCH_NAMES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def draw(name, shape):
    """Draws the tensor of a PyTorch name as in the networks that gave the golden values."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("running_var"):
        return 1 + 0.2 * rng.random(shape)
    if name.endswith(("running_mean", "bias")):
        return 0.05 * rng.standard_normal(shape)
    if len(shape) == 1:
        return 1 + 0.1 * rng.standard_normal(shape)
    return rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))


@pytest.fixture(scope="session")
def torch_state():
    """Returns a function that draws a state dict for a head.

    It derives names and shapes without the loader that is tested.
    """

    def state_of(head):
        state = {}
        for path, variable in nnx.to_flat_state(nnx.state(head)):
            name = ".".join([*map(str, path[:-1]), TORCH_NAMES[path[-1]]])
            rows_and_columns, channels = variable.shape[:-2], variable.shape[-2:]
            state[name] = draw(name, channels[::-1] + rows_and_columns)
        return state

    return state_of

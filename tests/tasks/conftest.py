import zlib

import jax
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


@pytest.fixture(scope="session")
def assert_close():
    """Returns a function that compares norms, since single values may be near zero."""

    def compare(actual, expected, tolerance):
        assert np.linalg.norm(np.asarray(actual) - expected) <= tolerance * np.linalg.norm(expected)

    return compare


@pytest.fixture(scope="session")
def call_once():
    """Returns a function that compiles a function of a head and arrays, and calls it."""

    def call(function, head, *arrays):
        graphdef, state = nnx.split(head)
        return jax.jit(lambda state, *arrays: function(nnx.merge(graphdef, state), *arrays))(state, *arrays)

    return call

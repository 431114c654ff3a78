import jax
import numpy as np
import pytest
from flax import nnx

import tasks


class Head(nnx.Module):
    """Has one of each kind of variable."""

    def __init__(self, rngs):
        self.blocks = nnx.List([nnx.Conv(2, 3, (1, 5), rngs=rngs), nnx.BatchNorm(3, rngs=rngs)])
        self.fc = nnx.Linear(3, 4, rngs=rngs)


def tensors(head):
    """Returns the variables by the names of their tensors, with axes in PyTorch's order."""
    conv, norm = head.blocks
    return {
        "blocks.0.weight": conv.kernel[...].transpose(3, 2, 0, 1),
        "blocks.0.bias": conv.bias[...],
        "blocks.1.weight": norm.scale[...],
        "blocks.1.bias": norm.bias[...],
        "blocks.1.running_mean": norm.mean[...],
        "blocks.1.running_var": norm.var[...],
        "fc.weight": head.fc.kernel[...].T,
        "fc.bias": head.fc.bias[...],
    }


@pytest.fixture
def head():
    return Head(nnx.Rngs(0))


@pytest.fixture
def state(head):
    rng = np.random.default_rng(0)
    state = {name: rng.standard_normal(tensor.shape) for name, tensor in tensors(head).items()}
    return state | {"blocks.1.num_batches_tracked": np.zeros(())}


def test_each_tensor_finds_its_variable(head, state):
    tasks.load_torch_state(head, state)
    for name, tensor in tensors(head).items():
        assert tensor.dtype == np.float32
        np.testing.assert_allclose(tensor, state[name], rtol=1e-6)


def test_every_mismatch_is_named_and_nothing_changes(head, state):
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(head)))
    del state["fc.bias"]
    state["blocks.0.weight"] = state["blocks.0.weight"][:, :1]
    state["fc.extra"] = np.zeros((7, 8))
    with pytest.raises(ValueError, match="state does not fit the network") as error:
        tasks.load_torch_state(head, state)
    assert sorted(str(error.value).splitlines()[1:]) == [
        "blocks.0.weight: got shape (3, 1, 1, 5), expected (3, 2, 1, 5)",
        "fc.bias: missing, expected shape (4,)",
        "fc.extra: got shape (7, 8), expected no such tensor",
    ]
    jax.tree.map(np.testing.assert_array_equal, before, nnx.to_pure_dict(nnx.state(head)))

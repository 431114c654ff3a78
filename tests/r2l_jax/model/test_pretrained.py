import jax
import numpy as np
import pytest
import safetensors.numpy
import small_runs
from flax import nnx

from r2l_jax.data.fetch import hub
from r2l_jax.model import heads

PARTS = ("weight", "bias", "running_mean", "running_var")
SHAPES = {"conv1.weight": (8, 3, 3, 3), **{f"bn1.{part}": (8,) for part in PARTS}}
RNG = np.random.default_rng(0)
STATE = {name: RNG.standard_normal(shape, np.float32) for name, shape in SHAPES.items()}


@pytest.fixture
def head():
    return small_runs.SmallHead(8, 2, nnx.Rngs(0))


class Segmenter(nnx.Module):
    """Stands for a U-Net."""

    def __init__(self, rngs):
        self.encoder, self.last = small_runs.SmallHead(8, 2, rngs), nnx.Conv(8, 1, (3, 3), rngs=rngs)


def arrays_of(module):
    return {".".join(map(str, path)): each[...] for path, each in nnx.to_flat_state(nnx.state(module))}


def check_trunk(head, state=STATE):
    np.testing.assert_array_equal(head.conv1.kernel[...], state["conv1.weight"].transpose(2, 3, 1, 0))
    for part, name in zip(("scale", "bias", "mean", "var"), PARTS, strict=True):
        np.testing.assert_array_equal(getattr(head.bn1, part)[...], state[f"bn1.{name}"])
        assert getattr(head.bn1, part)[...].dtype == np.float32


@pytest.mark.parametrize(
    ("dtype", "more"),
    [
        (np.float16, {"bn1.num_batches_tracked": np.array(7)}),
        (np.float64, {"fc.weight": np.ones((1000, 8)), "fc.bias": np.ones(1000)}),
    ],
)
def test_files_of_any_precision_with_or_without_unused_tensors(head, tmp_path, dtype, more):
    state = {name: tensor.astype(dtype) for name, tensor in STATE.items()}
    safetensors.numpy.save_file(state | more, tmp_path / "x.safetensors")
    before = arrays_of(head.fc)
    heads.load_weights(head, "resnet18", str(tmp_path / "x.safetensors"))
    check_trunk(head, {name: tensor.astype(np.float32) for name, tensor in state.items()})
    jax.tree.map(np.testing.assert_array_equal, arrays_of(head.fc), before)


def test_a_unet_gets_its_encoder_from_the_hub_and_the_rest_stays_abstract(tmp_path, monkeypatch):
    file = tmp_path / "resnet18.safetensors"
    safetensors.numpy.save_file(STATE, file)
    monkeypatch.setattr(hub, "weights_file", lambda network: {"resnet18": file}[network])
    head = nnx.eval_shape(lambda: Segmenter(nnx.Rngs(0)))
    heads.load_weights(head, "resnet18")
    check_trunk(head.encoder)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(nnx.state(head.last)))

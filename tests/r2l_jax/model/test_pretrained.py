import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

import tasks
from r2l_jax.data.fetch import hub
from r2l_jax.model import pretrained
from r2l_jax.runtime.errors import InputError
from tasks.layers import BatchNorm, Conv

RNG = np.random.default_rng(0)


LAST = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
AXES = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}


def variables_of(head):
    """Returns a network's variables by PyTorch's names."""
    flat = nnx.to_flat_state(nnx.state(head))
    return {".".join([*map(str, path[:-1]), LAST[path[-1]]]): variable for path, variable in flat}


def arrays_of(head):
    """Returns a network's arrays by PyTorch's names, with PyTorch's axes."""
    return {name: np.asarray(each[...]).transpose(AXES[each.ndim]) for name, each in variables_of(head).items()}


def abstract(make):
    return nnx.eval_shape(lambda: make(nnx.Rngs(0)))


def write(file, network):
    """Writes random weights of a ResNet with a thousand classes, and returns the tensors."""
    variables = variables_of(abstract(lambda rngs: tasks.resnet(network, num_classes=1000, rngs=rngs)))
    shapes = {name: [each.shape[axis] for axis in AXES[each.ndim]] for name, each in variables.items()}
    state = {name: RNG.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    safetensors.numpy.save_file(state, file)
    return state


def check_trunk(head, state):
    trunk = {name: tensor for name, tensor in arrays_of(head).items() if not name.startswith("fc.")}
    assert trunk.keys() == {name for name in state if not name.startswith("fc.") and "num_batches" not in name}
    for name, tensor in trunk.items():
        assert tensor.dtype == np.float32
        np.testing.assert_array_equal(tensor, state[name], err_msg=name)


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory):
    file = tmp_path_factory.mktemp("resnet18") / "resnet18.safetensors"
    return file, write(file, "resnet18")


def test_a_resnet_keeps_its_classifier(resnet18):
    file, state = resnet18
    head = abstract(lambda rngs: tasks.resnet("resnet18", num_classes=5, rngs=rngs))
    head.fc = nnx.Linear(512, 5, rngs=nnx.Rngs(1))
    before = arrays_of(head.fc)
    pretrained.load_weights(head, "resnet18", str(file))
    check_trunk(head, state)
    jax.tree.map(np.testing.assert_array_equal, arrays_of(head.fc), before)


def test_a_unet_gets_its_encoder(resnet18):
    file, state = resnet18
    head = abstract(lambda rngs: tasks.unet("unetplusplus", encoder="resnet18", rngs=rngs))
    pretrained.load_weights(head, "resnet18", str(file))
    check_trunk(head.encoder, state)
    rest = jax.tree.leaves((nnx.state(head.decoder), nnx.state(head.segmentation_head)))
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in rest)


class SmallHead(nnx.Module):
    """Stands for a ResNet-18."""

    def __init__(self, rngs):
        self.conv1 = Conv(3, 4, 3, rngs=rngs)
        self.bn1 = BatchNorm(4, rngs=rngs)
        self.fc = nnx.Linear(4, 2, rngs=rngs)


PARTS = ("weight", "bias", "running_mean", "running_var")
SHAPES = {"conv1.weight": (4, 3, 3, 3), **{f"bn1.{part}": (4,) for part in PARTS}}
STATE = {name: RNG.standard_normal(shape, np.float32) for name, shape in SHAPES.items()}


@pytest.fixture
def head():
    return SmallHead(nnx.Rngs(0))


@pytest.mark.parametrize(
    ("dtype", "more"),
    [
        (np.float16, {}),
        (np.float32, {"bn1.num_batches_tracked": np.array(7)}),
        (np.float64, {"fc.weight": np.ones((1000, 4)), "fc.bias": np.ones(1000)}),
    ],
)
def test_files_of_any_precision_with_or_without_unused_tensors(head, tmp_path, dtype, more):
    state = {name: tensor.astype(dtype) for name, tensor in STATE.items()}
    safetensors.numpy.save_file(state | more, tmp_path / "x.safetensors")
    before = arrays_of(head.fc)
    pretrained.load_weights(head, "resnet18", str(tmp_path / "x.safetensors"))
    check_trunk(head, {name: tensor.astype(np.float32) for name, tensor in state.items()})
    jax.tree.map(np.testing.assert_array_equal, arrays_of(head.fc), before)


@pytest.mark.parametrize(
    ("prefix", "more", "misfits"),
    [
        ("", {"conv2.weight": np.ones(3)}, r"1 tensors .* conv2.weight: got shape \(3,\), expected no such tensor$"),
        ("module.", {}, r"10 tensors .* bn1.bias: missing, .*; module.[a-z1.]*: got .*"),
    ],
)
def test_tensors_that_do_not_fit_are_named(head, tmp_path, prefix, more, misfits):
    file, before = tmp_path / "x.safetensors", arrays_of(head)
    safetensors.numpy.save_file({f"{prefix}{name}": tensor for name, tensor in STATE.items()} | more, file)
    message = rf"^--pretrained_weights={file} does not hold the weights of a resnet18: {misfits}"
    with pytest.raises(InputError, match=message) as caught:
        pretrained.load_weights(head, "resnet18", str(file))
    assert "\n" not in str(caught.value)
    jax.tree.map(np.testing.assert_array_equal, arrays_of(head), before)


CONTENT = safetensors.numpy.save(STATE)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.safetensors", None, r": No such file or directory"),
        ("x.safetensors", CONTENT[:-1], r" is not a safetensors file.*header"),
        ("x.pth", b"PK\x03\x04 anything", r" is not a safetensors file, which PyTorch's .pth is not either"),
    ],
)
def test_unusable_files_are_refused(head, tmp_path, name, content, message):
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=f"^--pretrained_weights={file}{message}") as caught:
        pretrained.load_weights(head, "resnet18", str(file))
    assert "\n" not in str(caught.value)


def test_without_a_file_the_weights_come_from_the_hub(head, tmp_path, monkeypatch):
    file = tmp_path / "resnet18.safetensors"
    file.write_bytes(CONTENT)
    monkeypatch.setattr(hub, "weights_file", lambda network: {"resnet18": file}[network])
    pretrained.load_weights(head, "resnet18")
    check_trunk(head, STATE)
    head = abstract(lambda rngs: tasks.resnet("resnet18", num_classes=5, rngs=rngs))
    message = rf"^--classifier_pretrained: {file} does not hold the weights of a resnet18: \d+ tensors"
    with pytest.raises(InputError, match=message):
        pretrained.load_weights(head, "resnet18")

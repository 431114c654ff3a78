"""Heads of the user's own files, in Flax: trained, found again and used as ours."""

import custom_code
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_runs import metrics, model

from r2l_jax.cli.flags import build, replace
from r2l_jax.errors import InputError
from r2l_jax.model.heads import FittedHead, find_head, outputs_of
from r2l_jax.model.settings import NetworkSettings
from r2l_jax.model.tasks import make_task
from r2l_jax.training import train
from r2l_jax.training.plan import Plan
from r2l_jax.training.run import load

CODE = """
from flax import nnx

class Net(nnx.Module):
    def __init__(self, classes, rngs):
        self.conv = nnx.Conv(3, 8, (3, 3), strides=2, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.last = nnx.Linear(8, classes, rngs=rngs)

    def __call__(self, images):
        return self.last(nnx.relu(self.norm(self.conv(images))).mean((1, 2)))

def make(classes, rngs):
    return Net(classes, rngs)

def segment(classes, rngs):
    return nnx.Conv(3, classes, (3, 3), rngs=rngs)
"""


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    return custom_code.write(tmp_path_factory.mktemp("own") / "my_head.py", CODE)


@pytest.fixture(scope="module")
def trained(base, head):
    """A run with this head."""
    config = replace(base, run_name="custom_head", epochs=1, classifier_network=head, save_locally=True)
    train.run(config)
    return config


def found(name, **settings):
    return find_head(build(NetworkSettings, classifier_network=name, **settings), tuple("abcde"))


@pytest.fixture
def moved(tmp_path):
    return custom_code.write(tmp_path / "a.py", CODE)


@pytest.fixture
def other(tmp_path):
    return custom_code.write(tmp_path / "b.py", f"{CODE}\n")


@pytest.mark.shows("r2l_jax.load(code)")
def test_it_is_trained_and_loaded_with_the_same_file_alone(trained, moved, other):
    arrays, raws = model(trained), np.random.default_rng(0).random((3, 32, 32), np.float32)
    # The batch norm has moved from its start, and so has the scale that is learned with it.
    assert (arrays["head.norm.mean"] != 0).all()
    assert (arrays["head.norm.scale"] != 1).any()
    run, file = (load(trained.run_dir / name, code=moved) for name in ("", "fold_0/model.safetensors"))
    np.testing.assert_array_equal(file.predict(raws), run.predict(raws))
    assert (file.identity, run.config.model.classifier_network) == (run.identity, moved)
    with pytest.raises(InputError, match=r"pass `code=.*my_head.py:make`; `code=.*b.py:make` has different content$"):
        load(trained.run_dir, code=other)


def test_training_goes_on_with_the_same_file_wherever_it_is_and_with_no_other(trained, moved, other):
    before = metrics(trained)["history"]
    train.run(replace(trained, classifier_network=moved))
    assert metrics(trained)["history"] == before
    with pytest.raises(InputError, match=r"different run \(head was 'make of a file of SHA-256 .*, is 'make of a file"):
        train.run(replace(trained, classifier_network=other))


@pytest.mark.parametrize(("classes", "outputs"), [(("cell",), 1), (("road", "car", "tree"), 3)])
def test_it_segments(head, classes, outputs):
    file, shape = head.removesuffix(":make"), (1, 34, 38, 3)  # a size that a U-Net++ does not take
    task = make_task("segmentation", classes, NetworkSettings(classifier_network=f"{file}:segment"))
    assert (task.multiple, task.logits_shape(shape)) == (1, (1, 34, 38, outputs))
    assert task.make_head(nnx.Rngs(0))(np.zeros(shape, np.float32)).shape == (1, 34, 38, outputs)


NETWORKS = """
import numpy as np

WEIGHTS = np.random.default_rng(0).normal(size=(3, 3, 1, 1)).astype(np.float32)

def by_torch():
    import torch

    net = torch.nn.Conv2d(3, 3, 1, bias=False)
    net.weight.data = torch.tensor(WEIGHTS)
    return net
"""


def by_onnx(file, weights):
    import onnx

    given, made = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["B", 3, "H", "W"])
        for name in ("images", "logits")
    )
    nodes = [onnx.helper.make_node("Conv", ["images", "weights"], ["logits"])]
    graph = onnx.helper.make_graph(nodes, "net", [given], [made], [onnx.numpy_helper.from_array(weights, "weights")])
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), file)
    return str(file)


@pytest.mark.parametrize("framework", ["torch", "onnx"])
def test_networks_of_other_frameworks_have_a_channel_for_each_class_of_pixels(tmp_path, framework):
    pytest.importorskip(framework)
    weights = np.random.default_rng(0).normal(size=(3, 3, 1, 1)).astype(np.float32)
    if framework == "torch":
        name = f"{custom_code.write(tmp_path / 'net.py', NETWORKS).removesuffix(':make')}:by_torch"
    else:
        name = by_onnx(tmp_path / "net.onnx", weights)
    images = np.random.default_rng(1).random((2, 6, 10, 3), np.float32)
    logits = images @ weights[..., 0, 0].T
    task = make_task("segmentation", ("road", "car", "tree"), NetworkSettings(classifier_network=name))
    head = task.make_head(nnx.Rngs(0))
    np.testing.assert_allclose(head(images), logits, atol=1e-5)
    task.custom.check(head, images.shape, task.logits_shape(images.shape))
    # Outputs may have another order, and several may be of one class.
    settings = NetworkSettings(classifier_network=name, class_outputs="road:2,car:0+1")
    joined = make_task("segmentation", ("road", "car"), settings).make_head(nnx.Rngs(0))(images)
    expected = np.stack([logits[..., 2], np.log(np.exp(logits[..., 0]) + np.exp(logits[..., 1]))], -1)
    np.testing.assert_allclose(joined, expected, atol=1e-5)
    four = make_task("segmentation", tuple("abcd"), NetworkSettings(classifier_network=name))
    with pytest.raises(InputError, match=r"must return logits of shape \(2, 6, 10, 4\) for .*, got \(2, 6, 10, 3\)"):
        four.custom.check(four.make_head(nnx.Rngs(0)), images.shape, four.logits_shape(images.shape))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def make(): return 1", "must return a flax.nnx.Module, a torch.nn.Module or the result of .*, got int"),
        ("def make(classes):\n    raise KeyError('x')", "raised KeyError: 'x' \\(line 2\\)"),
        (
            "from flax import nnx\ndef make(rngs): return nnx.Dropout(0.5, rngs=rngs)",
            "must have only float32 variables, .*, got uint32 for rngs.count",
        ),
        (
            "from flax import nnx\ndef make(rngs): return nnx.Conv(3, 5, (3, 3), rngs=rngs)",
            r"must return logits of shape \(2, 5\) for images of shape \(2, 32, 32, 3\), got \(2, 32, 32, 5\)",
        ),
        (
            "from flax import nnx\ndef make(rngs): return nnx.Linear(4, 5, rngs=rngs)",
            r"rejects images of shape \(2, 32, 32, 3\): TypeError",
        ),
    ],
)
def test_errors_in_one_line(base, tmp_path, code, message):
    name = custom_code.write(tmp_path / "my_head.py", code)
    with pytest.raises(InputError, match=f"`classifier_network={name}`:? ?{message}") as error:
        Plan(replace(base, classifier_network=name))
    assert "\n" not in str(error.value)


def test_the_order_of_the_classes_counts():
    assert outputs_of("tench, Tinca:0,crane:1+3", ("crane", "tench, Tinca")) == ((1, 3), (0,))


MEANS = """
from flax import nnx

class Means(nnx.Module):
    def __call__(self, images):
        return images.mean((1, 2))

def make():
    return Means()
"""


@pytest.mark.shows("train --class_outputs")
def test_the_outputs_of_a_head_are_those_of_the_classes(tmp_path):
    name, images = (
        custom_code.write(tmp_path / "a.py", MEANS),
        np.random.default_rng(0).random((2, 4, 4, 3), np.float32),
    )
    one, other = (
        find_head(build(NetworkSettings, classifier_network=name, class_outputs=classes), ("a", "b"))
        for classes in ("a:2,b:0", "b:2,a:0")
    )
    assert one != other
    for head, places in ((one, [2, 0]), (other, [0, 2])):
        logits = head(2, nnx.Rngs(0))(images)
        # Two means of 16 terms round by up to 16 * 2**-24 each.
        np.testing.assert_allclose(logits, images.mean((1, 2))[:, places], rtol=2e-6)


class Fixed(nnx.Module):
    """Returns the logarithms of its images' channels, which stand for probabilities."""

    def __call__(self, images):
        return jnp.log(images).reshape(len(images), -1)


def test_probabilities_of_joined_outputs_add_up():
    images = jnp.array(np.random.default_rng(0).random((2, 1, 2, 3), np.float32))
    chances = images.reshape(2, 6)
    logits = FittedHead(Fixed(), groups=((5,), (0, 2)))(images)
    wanted = np.stack([chances[:, 5], chances[:, 0] + chances[:, 2]], 1)
    np.testing.assert_allclose(nnx.softmax(logits), wanted / wanted.sum(1, keepdims=True), rtol=1e-5)
    # An object is looked for among everything else.
    (logit,) = FittedHead(Fixed(), groups=((1, 4),))(images).T
    wanted = (chances[:, 1] + chances[:, 4]) / chances.sum(1)
    np.testing.assert_allclose(nnx.sigmoid(logit), wanted, rtol=1e-5)
    with pytest.raises(InputError, match="`class_outputs` must name outputs from 0 to 5, got 6"):
        FittedHead(Fixed(), groups=((6,), (0,)))(images)

"""Compares with torchvision, whose results are in heads.npz (computed in float64, rounded to float32)."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import tasks
from tasks import winograd
from tasks.resnet import BasicBlock, Bottleneck

GOLDEN = np.load(pathlib.Path(__file__).with_name("heads.npz"))
NAMES = ("resnet18", "resnet34", "resnet50")


@pytest.fixture(scope="module", params=NAMES)
def golden(request, torch_state):
    """Returns the name of a network, and the network with the weights of the golden values."""
    head = nnx.eval_shape(lambda: tasks.resnet(request.param, num_classes=9, rngs=nnx.Rngs(0)))
    tasks.load_torch_state(head, torch_state(head))
    return request.param, head


def evaluate(name, head, dtype, call_once):
    """Computes the logits, and the gradient of their weighted sum for the input."""
    head.eval()
    graphdef, state = nnx.split(head)
    head = nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf.astype(dtype), state))

    def logits_and_gradient(head, image):
        def weighted(image):
            logits = head(image)
            return (logits * GOLDEN[f"{name}.weight"]).sum(), logits

        gradient, logits = jax.grad(weighted, has_aux=True)(image)
        return logits, gradient

    return call_once(logits_and_gradient, head, GOLDEN["input"].astype(dtype))


# Without ResNet-34, which has the blocks of ResNet-18. ResNet-50 has other blocks, and takes several times as long.
@pytest.mark.parametrize("golden", ["resnet18", pytest.param("resnet50", marks=pytest.mark.slow)], indirect=True)
def test_evaluation_and_its_input_gradient(golden, assert_close, call_once):
    name, head = golden
    logits, gradient = evaluate(name, head, np.float32, call_once)
    assert_close(logits, GOLDEN[f"{name}.eval"], 1e-5)
    # In float32, two pixels in one window of the max pool tie, and rounding decides which of them gets the gradient. So
    # the difference is either 1e-6 or as large as 1.3e-2. The next test avoids this in float64.
    assert_close(gradient, GOLDEN[f"{name}.input_grad"], 2e-2)


@pytest.mark.slow
@pytest.mark.parametrize("golden", ["resnet18"], indirect=True)
def test_evaluation_and_its_input_gradient_in_float64(golden, assert_close, call_once):
    name, head = golden
    with jax.enable_x64(True):
        logits, gradient = evaluate(name, head, np.float64, call_once)
    assert_close(logits, GOLDEN[f"{name}.eval"], 1e-6)
    assert_close(gradient, GOLDEN[f"{name}.input_grad"], 1e-6)


@pytest.mark.parametrize("golden", ["resnet18", pytest.param("resnet50", marks=pytest.mark.slow)], indirect=True)
def test_training(golden, assert_close, call_once):
    name, head = golden
    head.train()
    # Batch norm over as few as eight values amplifies rounding from layer to layer. In float64, the difference is 3e-8.
    assert_close(call_once(lambda head, image: head(image), head, GOLDEN["input"]), GOLDEN[f"{name}.train"], 2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("golden", ["resnet18"], indirect=True)
def test_filtered_convolutions_agree_as_closely(golden, assert_close, call_once, monkeypatch):
    for least in ("_FEWEST_CHANNELS", "_FEWEST_TILES", "_FEWEST_PRODUCTS"):
        monkeypatch.setattr(winograd, least, 0)
    test_evaluation_and_its_input_gradient(golden, assert_close, call_once)
    test_training(golden, assert_close, call_once)


def test_the_kernels_of_blocks_start_with_the_variance_of_their_outputs():
    """As in torchvision: the fan-out counts, which differs from the fan-in."""
    block = Bottleneck(256, 128, stride=2, rngs=nnx.Rngs(0))
    fan_outs = {block.conv1: 128, block.conv2: 9 * 128, block.conv3: 512, block.downsample[0]: 512}
    for conv, fan_out in fan_outs.items():
        np.testing.assert_allclose(conv.kernel[...].std(), np.sqrt(2 / fan_out), rtol=0.02)
    first = BasicBlock(16, 64, stride=1, rngs=nnx.Rngs(0)).conv1
    np.testing.assert_allclose(first.kernel[...].std(), np.sqrt(2 / (9 * 64)), rtol=0.05)


def test_the_three_by_three_convolution_of_a_bottleneck_has_the_stride():
    block = Bottleneck(1, 1, stride=2, rngs=nnx.Rngs(0))
    block.eval()
    for conv, weight in ((block.conv1, 1), (block.conv2, np.reshape(np.arange(9.0), (3, 3, 1, 1))), (block.conv3, 1)):
        conv.kernel[...] = jnp.broadcast_to(jnp.float32(weight), conv.kernel.shape)
    block.downsample[0].kernel[...] *= 0
    # With a stride in the first convolution, none of the results would see a pixel of an odd row and column.
    image = jnp.zeros((1, 4, 6, 1)).at[0, 1, 3].set(1)
    expected = np.zeros((2, 3))
    expected[:2, 1:] = [[8, 6], [2, 0]]
    np.testing.assert_allclose(block(image)[0, ..., 0], expected, rtol=1e-4)


@pytest.mark.slow
def test_weights_start_as_in_torchvision():
    head = tasks.resnet("resnet18", num_classes=9, rngs=nnx.Rngs(0))
    fan_outs = {head.conv1: 7 * 7 * 64, head.layer4[1].conv2: 3 * 3 * 512, head.layer2[0].downsample[0]: 128}
    for conv, fan_out in fan_outs.items():
        np.testing.assert_allclose(conv.kernel[...].std(), np.sqrt(2 / fan_out), rtol=0.05)
    for weights in (head.fc.kernel[...], head.fc.bias[...]):
        assert jnp.abs(weights).max() <= 512**-0.5
    assert jnp.abs(head.fc.kernel[...]).max() > 0.99 * 512**-0.5


def test_parameter_counts_equal_torchvision():
    counts = {"resnet18": 11_689_512, "resnet34": 21_797_672, "resnet50": 25_557_032}
    for name, count in counts.items():
        head = nnx.eval_shape(lambda name=name: tasks.resnet(name, num_classes=1000, rngs=nnx.Rngs(0)))
        assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(head, nnx.Param))) == count


def test_refuses_unknown_names():
    with pytest.raises(ValueError, match="name must be one of resnet18, resnet34, resnet50, got 'resnet19'"):
        tasks.resnet("resnet19", num_classes=9, rngs=nnx.Rngs(0))

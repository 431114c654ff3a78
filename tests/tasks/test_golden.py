"""Compares with results of torchvision and segmentation_models_pytorch in float64."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import variants
from flax import nnx

import tasks

HEADS, UNETS = (np.load(pathlib.Path(__file__).with_name(f"{name}.npz")) for name in ("heads", "unet"))


def resnet(name):
    return lambda: tasks.resnet(name, num_classes=9, rngs=nnx.Rngs(0))


def unet(name, **options):
    return lambda: tasks.unet(name, **options, rngs=nnx.Rngs(0))


def assert_close(actual, expected, tolerance):
    """Compares norms, since single values may be near zero."""
    assert np.linalg.norm(np.asarray(actual) - expected) <= tolerance * np.linalg.norm(expected)


@nnx.jit
def logits(head, image):
    return head(image)


SMALL_UNET = unet("unetplusplus", classes=3, depth=3, decoder_channels=(256, 128, 64))
# Golden values, a network, and how closely it agrees in training: batch norm over as few as eight values amplifies
# rounding from layer to layer. The first two have the blocks of the others, but those of ResNet-50.
NETWORKS = {
    "unetplusplus_resnet34_depth3": (UNETS, SMALL_UNET, 1e-4),
    "resnet18": (HEADS, resnet("resnet18"), 2e-4),
    "resnet50": (HEADS, resnet("resnet50"), 2e-4),
    "unet_resnet34": (UNETS, unet("unet"), 1e-4),
    "unetplusplus_resnet34": (UNETS, unet("unetplusplus"), 1e-4),
}


@pytest.fixture(scope="module", params=variants.quick(2, NETWORKS))
def golden(request, torch_state):
    """Returns the golden values of a network, the network with their weights, and the tolerance in training."""
    values, make, tolerance = NETWORKS[request.param]
    head = nnx.eval_shape(make)
    tasks.load_torch_state(head, torch_state(head))
    prefix = f"{request.param}."
    golden = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
    return golden | {"input": values["input"]}, head, tolerance


def test_evaluation_and_training(golden):
    values, head, tolerance = golden
    head = nnx.clone(head)
    head.eval()
    assert_close(logits(head, values["input"]), values["eval"], 1e-5)
    head.train()
    assert_close(logits(head, values["input"]), values["train"], tolerance)


@pytest.mark.parametrize("golden", variants.quick(1, NETWORKS), indirect=True)
def test_input_gradient_in_float64(golden):
    # In float32, two pixels in one window of the max pool tie, and the gradient may go to either.
    values, head, _ = golden
    head.eval()

    @jax.jit
    def with_gradient(state, image, weight):
        logits, gradient_of = jax.vjp(lambda image: nnx.merge(graphdef, state)(image), image)
        return logits, *gradient_of(weight)

    with jax.enable_x64(True):
        graphdef, state = nnx.split(head)
        state, *arrays = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), (state, values["input"], values["weight"]))
        found, gradient = with_gradient(state, *arrays)
    assert_close(found, values["eval"], 1e-6)
    assert_close(gradient, values["input_grad"], 1e-6)

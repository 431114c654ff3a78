import re

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import tasks
from tasks.resnet import BasicBlock, Bottleneck, ResNet


def test_the_kernels_of_blocks_start_with_the_variance_of_their_outputs():
    """As in torchvision: the fan-out counts, which differs from the fan-in."""
    block = Bottleneck(256, 128, stride=2, rngs=nnx.Rngs(0))
    fan_outs = {block.conv1: 128, block.conv2: 9 * 128, block.conv3: 512, block.downsample[0]: 512}
    for conv, fan_out in fan_outs.items():
        np.testing.assert_allclose(conv.kernel[...].std(), np.sqrt(2 / fan_out), rtol=0.02)
    first = BasicBlock(16, 64, stride=1, rngs=nnx.Rngs(0)).conv1
    np.testing.assert_allclose(first.kernel[...].std(), np.sqrt(2 / (9 * 64)), rtol=0.05)


def test_the_first_and_last_weights_start_as_in_torchvision():
    head = ResNet(BasicBlock, (1,), 90, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(head.conv1.kernel[...].std(), np.sqrt(2 / (7 * 7 * 64)), rtol=0.05)
    for weights in (head.fc.kernel[...], head.fc.bias[...]):
        assert 0.95 * 64**-0.5 < jnp.abs(weights).max() <= 64**-0.5


def test_all_convolutions_are_in_bfloat16_and_parameters_and_logits_in_float32():
    head = nnx.eval_shape(lambda: tasks.resnet("resnet18", num_classes=3, dtype="bfloat16", rngs=nnx.Rngs(0)))
    graph, state = nnx.split(head)
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {np.dtype("float32")}

    def loss(state, images):
        logits = nnx.merge(graph, state)(images)
        return logits.sum(), logits

    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    gradients, logits = jax.eval_shape(jax.grad(loss, has_aux=True), state, images)
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(gradients)} == {np.dtype("float32")}
    text = jax.jit(jax.grad(loss, has_aux=True)).lower(state, images).as_text()
    results = re.findall(r"stablehlo\.convolution.*-> tensor<[0-9x]+x(\w+)>", text)
    assert len(results) > 20
    assert set(results) == {"bf16"}


def test_logits_are_near_those_of_float32():
    def logits(dtype=None):
        head = ResNet(BasicBlock, (1, 1), 3, dtype=dtype, rngs=nnx.Rngs(0))
        head.eval()
        return nnx.jit(lambda head: head(images))(head)

    images = jax.random.normal(jax.random.key(0), (4, 32, 32, 3))
    expected = logits()
    assert jnp.abs(logits(dtype="bfloat16") - expected).max() < 0.05 * expected.std()

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import tasks


def abstract(network="unet", encoder="resnet18", **options):
    return nnx.eval_shape(lambda: tasks.unet(network, encoder=encoder, **options, rngs=nnx.Rngs(0)))


@pytest.mark.parametrize(("network", "classes"), [("unetplusplus", 1), ("unetplusplus", 4), ("unet", 4)])
def test_every_parameter_has_a_finite_gradient(torch_state, network, classes):
    head = abstract(network, encoder="resnet18", classes=classes, depth=2, inputs=4, decoder_channels=(16, 8))
    tasks.load_torch_state(head, torch_state(head))
    image = jnp.asarray(np.random.default_rng(0).random((2, 16, 24, 4), np.float32))
    graph, parameters, rest = nnx.split(head, nnx.Param, ...)

    def loss(parameters):
        logits = nnx.merge(graph, parameters, rest, copy=True)(image)
        assert logits.shape == (2, 16, 24, classes)
        if classes == 1:
            return tasks.losses.dice(logits, image[..., :1] > 0.5)
        return tasks.losses.class_loss(tasks.losses.class_sums(logits, (4 * image[..., 0]).astype(int)).sum(0))

    leaves = jax.tree.leaves(jax.jit(jax.grad(loss))(parameters))
    assert all(np.isfinite(leaf).all() and leaf.any() for leaf in leaves)


@pytest.mark.parametrize("network", ["unet", "unetplusplus"])
def test_shapes(network):
    head = abstract(network, "resnet50", classes=2, depth=3, inputs=4)
    image = jax.ShapeDtypeStruct((2, 8, 24, 4), jnp.float32)
    assert nnx.eval_shape(lambda head, image: head(image), head, image).shape == (2, 8, 24, 2)
    image = jax.ShapeDtypeStruct((1, 12, 16, 4), jnp.float32)
    with pytest.raises(ValueError, match=r"height and width must be multiples of 8, got shape \(1, 12, "):
        nnx.eval_shape(lambda head, image: head(image), head, image)


def test_weights_start_as_in_segmentation_models_pytorch():
    head = nnx.jit(lambda: tasks.unet("unet", classes=2, depth=1, decoder_channels=(64,), rngs=nnx.Rngs(0)))()
    last = head.segmentation_head[0]
    for conv, variance in ((head.decoder.blocks[0].conv2[0], 2 / (9 * 64)), (last, 2 / (9 * (64 + 2)))):
        weights = np.asarray(conv.kernel[...])
        np.testing.assert_allclose(weights.var(), variance, rtol=0.1)
        np.testing.assert_allclose(np.abs(weights).max(), np.sqrt(3 * variance), rtol=0.02)
    assert not last.bias[...].any()
    np.testing.assert_allclose(np.std(head.encoder.conv1.kernel[...]), np.sqrt(2 / (7 * 7 * 64)), rtol=0.05)


def test_tensors_of_unused_stages_are_ignored(torch_state):
    head = abstract(depth=2)
    state = torch_state(head)
    unused = {"encoder.layer2.0.conv1.weight", "encoder.layer4.1.bn2.running_var", "encoder.fc.bias"}
    tasks.load_torch_state(head, state | {name: np.zeros(3) for name in unused})
    for name in ("encoder.layer1.2.conv1.weight", "fc.bias"):
        with pytest.raises(ValueError, match=f"\n{name}: got shape .*, expected no such tensor"):
            tasks.load_torch_state(head, state | {name: np.zeros(3)})

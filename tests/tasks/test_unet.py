import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import tasks
from tasks.unet import upsample


def abstract(network="unet", encoder="resnet18", **options):
    return nnx.eval_shape(lambda: tasks.unet(network, encoder=encoder, **options, rngs=nnx.Rngs(0)))


def test_a_step_compiles_once_and_its_gradients_are_finite(torch_state):
    head = abstract("unetplusplus", encoder="resnet18", depth=2, inputs=4, decoder_channels=(16, 8))
    tasks.load_torch_state(head, torch_state(head))
    traces = []

    @nnx.jit
    def gradients(head, image, target):
        traces.append(None)
        return nnx.grad(lambda head: tasks.losses.dice(head(image), target))(head)

    rng = np.random.default_rng(0)
    for _ in range(2):
        image = rng.random((2, 16, 24, 4), np.float32)
        grads = jax.device_get(gradients(head, image, image[..., :1] > 0.5))
        assert all(np.isfinite(leaf).all() and leaf.any() for leaf in jax.tree.leaves(grads))
    assert len(traces) == 1


def test_upsample():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 4, 5), np.float32)
    weight = rng.standard_normal((2, 6, 8, 5), np.float32)
    y, gradient_of = jax.vjp(jax.jit(upsample), x)
    np.testing.assert_array_equal(y, np.kron(x, np.ones((1, 2, 2, 1), np.float32)))
    (gradient,) = gradient_of(weight)
    np.testing.assert_allclose(gradient, weight.reshape(2, 3, 2, 4, 2, 5).sum((2, 4)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("network", ["unet", "unetplusplus"])
@pytest.mark.parametrize("depth", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_shapes(network, depth):
    head = abstract(network, "resnet50", classes=2, depth=depth, inputs=4)
    image = jax.ShapeDtypeStruct((2, 2**depth, 3 * 2**depth, 4), jnp.float32)
    assert nnx.eval_shape(lambda head, image: head(image), head, image).shape == (2, 2**depth, 3 * 2**depth, 2)


def test_parameter_counts_equal_segmentation_models_pytorch():
    for network, count in {"unet": 24_436_369, "unetplusplus": 26_078_609}.items():
        head = abstract(network, "resnet34")
        assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(head, nnx.Param))) == count


def test_weights_start_as_in_segmentation_models_pytorch():
    head = nnx.jit(lambda: tasks.unet("unet", classes=2, depth=1, decoder_channels=(64,), rngs=nnx.Rngs(0)))()
    last = head.segmentation_head[0]
    inputs, fans = 64, 64 + 2
    for conv, variance in ((head.decoder.blocks[0].conv2[0], 2 / (9 * inputs)), (last, 2 / (9 * fans))):
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
    np.testing.assert_allclose(head.encoder.bn1.mean[...], state["encoder.bn1.running_mean"], rtol=1e-6)
    for name in ("encoder.layer1.2.conv1.weight", "layer3.0.conv1.weight", "fc.bias"):
        with pytest.raises(ValueError, match=f"\n{name}: got shape .*, expected no such tensor"):
            tasks.load_torch_state(head, state | {name: np.zeros(3)})


@pytest.mark.parametrize("size", [(7, 8), (8, 10)])
def test_refuses_sizes_that_are_not_multiples(size):
    image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    with pytest.raises(ValueError, match=r"height and width must be multiples of 4, got shape \(1, "):
        nnx.eval_shape(lambda head, image: head(image), abstract(depth=2), image)

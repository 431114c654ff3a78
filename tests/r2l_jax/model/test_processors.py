import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import isp
import tasks
from r2l_jax.model import processors
from r2l_jax.model.processors import Standardize

RAW = jnp.asarray(np.random.default_rng(0).random((1, 32, 48), np.float32))
MEAN, STD = jnp.array((0.2, 0.5, 0.4)), jnp.array((0.1, 0.3, 0.2))


@pytest.fixture(scope="module")
def neural():
    processor = processors.NeuralProcessor("GRBG", Standardize(MEAN, STD), nnx.Rngs(0))
    processor.eval()
    return processor


def test_the_network_is_the_published_one(neural):
    shapes = jax.tree.map(jnp.shape, nnx.to_pure_dict(nnx.state(neural.network)))
    published = nnx.eval_shape(
        lambda: tasks.unet("unetplusplus", depth=3, decoder_channels=(256, 128, 64), classes=3, rngs=nnx.Rngs(0))
    )
    assert shapes == jax.tree.map(jnp.shape, nnx.to_pure_dict(nnx.state(published)))


def test_the_network_gets_the_normalized_mosaic_at_half_size(neural):
    images, stages = neural.trace(RAW)
    assert tuple(stages) == neural.stage_names
    mosaic = (isp.demosaic.binned(RAW, "GRBG") - MEAN) / STD
    np.testing.assert_allclose(stages["demosaic"], mosaic, rtol=1e-6)
    assert images.shape == (1, 16, 24, 3)
    for result in (stages["rgb"], neural(RAW), neural.network(mosaic)):
        np.testing.assert_array_equal(result, images)

    for stage, before in stages.items():
        shifted, after = neural.trace(RAW, {stage: jnp.full_like(before, 0.25)})
        np.testing.assert_array_equal(after[stage], before + 0.25)
        assert (shifted != images).any()

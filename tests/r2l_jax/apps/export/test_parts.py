import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import isp
from r2l_jax.apps.export.parts import parts_of
from r2l_jax.model.processors import Standardize
from r2l_jax.model.raw_to_logit import RawToLogit
from tasks.resnet import BasicBlock, ResNet


def test_a_head_of_bfloat16_is_exported_in_float32():
    def model(dtype):
        head = ResNet(BasicBlock, (1,), 3, dtype=dtype, rngs=nnx.Rngs(0))
        model = RawToLogit(isp.parametrized(isp.CAMERAS["drone"]), Standardize(jnp.zeros(3), jnp.ones(3)), head)
        model.eval()
        return model

    half = model(jnp.bfloat16)
    images = jax.random.uniform(jax.random.key(0), (2, 16, 16, 3))
    exported, expected = (jax.jit(parts_of(each, (16, 16))["head"])(images) for each in (half, model(None)))
    np.testing.assert_array_equal(exported, expected)
    assert not np.array_equal(half.logits(images), expected)

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import isp
from r2l_jax.apps.export import onnx_files, stablehlo
from r2l_jax.apps.export.export import LIMIT
from r2l_jax.apps.export.parts import parts_of
from r2l_jax.cli.flags import build
from r2l_jax.config import TrainConfig
from r2l_jax.model.processors import Standardize
from r2l_jax.model.raw_to_logit import Architecture, RawToLogit, unknown_statistics
from r2l_jax.model.tasks import make_task
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "classes", "flags"),
    [
        ("segmentation", ("a",), {}),
        ("segmentation", ("a", "b", "c"), {}),
        ("classification", ("a", "b", "c"), {"processing_mode": "neural_network"}),
    ],
)
def test_networks_become_onnx_and_stablehlo(task, classes, flags, tmp_path):
    pytest.importorskip("jax2onnx")
    config = build(TrainConfig, **flags, smp_encoder="resnet18")
    found = make_task(task, classes, config.model)
    architecture = Architecture(config.processing, found, isp.CAMERAS["drone"], (64, 64))
    made = architecture.model(nnx.Rngs(0), unknown_statistics())
    made.eval()
    part = parts_of(made, (64, 64))["whole"]
    raw = np.random.default_rng(0).random((2, 64, 64), np.float32)
    expected = np.asarray(part(raw))
    assert expected.shape == found.logits_shape((2, 64, 64, 3))
    onnx_files.write(part, tmp_path / "whole.onnx")
    np.testing.assert_allclose(onnx_files.run(part, tmp_path / "whole.onnx", raw), expected, atol=LIMIT)
    stablehlo.write(part, tmp_path / "whole.stablehlo", gradient=False)
    np.testing.assert_allclose(stablehlo.run(part, tmp_path / "whole.stablehlo", raw), expected, atol=LIMIT)

import numpy as np
import pytest
from flax import nnx

import isp
from r2l_jax.apps.export import onnx_files, stablehlo
from r2l_jax.apps.export.export import LIMIT
from r2l_jax.apps.export.parts import parts_of
from r2l_jax.config import TrainConfig
from r2l_jax.model.build import Architecture, unknown_statistics
from r2l_jax.model.tasks import make_task
from r2l_jax.runtime.flags import build


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "flags"), [("segmentation", {}), ("classification", {"processing_mode": "neural_network"})]
)
def test_networks_become_onnx_and_stablehlo(task, flags, tmp_path):
    pytest.importorskip("jax2onnx")
    config = build(TrainConfig, **flags, smp_encoder="resnet18")
    found = make_task(task, ("a", "b", "c"), config.model)
    architecture = Architecture.of(config.processing, found, isp.CAMERAS["drone"], (64, 64))
    made = architecture.model(nnx.Rngs(0), unknown_statistics())
    made.eval()
    part = parts_of(made, (64, 64))["whole"]
    raw = np.random.default_rng(0).random((2, 64, 64), np.float32)
    expected = np.asarray(part(raw))
    onnx_files.write(part, tmp_path / "whole.onnx")
    np.testing.assert_allclose(onnx_files.run(part, tmp_path / "whole.onnx", raw), expected, atol=LIMIT)
    stablehlo.write(part, tmp_path / "whole.stablehlo", gradient=False)
    np.testing.assert_allclose(stablehlo.run(part, tmp_path / "whole.stablehlo", raw), expected, atol=LIMIT)

import custom_code
import numpy as np
import pytest

import isp
from r2l_jax.apps.lab.engine import Engine
from r2l_jax.apps.lab.saving import pipeline_file
from r2l_jax.pipelines import find_pipeline

CAMERA = isp.CAMERAS["microscopy"]
OWN = "import isp\n\n\ndef make(camera):\n    return isp.parametrized(camera).without('sharpening')\n"


@pytest.mark.parametrize(
    ("name", "half_size", "auto"),
    [
        ("full", True, ("white_balance",)),
        ("menon2007.unsharp_masking.median_denoising", True, ("exposure", "white_balance")),
        ("own", False, ("exposure",)),
    ],
)
def test_a_saved_pipeline_has_the_same_stages_and_values(tmp_path, name, half_size, auto):
    named = find_pipeline(custom_code.write(tmp_path / "own.py", OWN) if name == "own" else name).metered(auto)
    named = named.half_sized() if half_size else named
    pipeline = named(CAMERA)
    engine = Engine(pipeline)
    values = engine.values(np.random.default_rng(0).uniform(*engine.limits).astype(np.float32))
    with np.printoptions(legacy="1.13"):  # as colour-demosaicing sets it
        saved = find_pipeline(custom_code.write(tmp_path / "my_isp.py", pipeline_file(named, CAMERA, values)))
    assert saved(CAMERA).stages == pipeline.stages
    # Values are those of the file, whatever the camera.
    for parameter, value in saved(isp.CAMERAS["drone"]).parameters().items():
        np.testing.assert_array_equal(value, values[parameter])

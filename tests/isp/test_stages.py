import jax.numpy as jnp
import numpy as np
import pytest

import isp

CAMERA = isp.CAMERAS["drone"]
RAW = np.random.default_rng(0).random((8, 8), np.float32)


@pytest.mark.parametrize(("pattern", "image"), [("RGGB", RAW), (None, np.stack([RAW, RAW.T, 1 - RAW], -1))])
def test_lens_shading_starts_without_effect_and_has_a_range(pattern, image):
    stage = isp.stages.lens_shading(pattern)
    assert isp.stages.lens_shading(pattern) == stage
    (values,) = isp.Pipeline([stage]).parameters().values()
    assert stage.parameters["shading"].has_range
    np.testing.assert_array_equal(stage.function(jnp.array(image), values, **stage.options), image)


@pytest.mark.parametrize(("mode", "white"), [("clip", 1), ("desaturate", 1), (None, CAMERA.white_balance)])
def test_white_balance_handles_highlights(mode, white):
    stages = [isp.Stage("demosaic", isp.demosaic.malvar2004), isp.stages.white_balance(CAMERA, mode)]
    np.testing.assert_allclose(isp.Pipeline(stages)(jnp.ones((4, 4)))[0, 0], white, rtol=1e-6)


def test_refuses_gains_at_which_no_color_saturates(unchecked):
    for make in (isp.stages.white_balance, isp.stages.mosaic_white_balance):
        with pytest.raises(ValueError, match=r"white_balance must have positive gains, .*, got \(-0.6567, "):
            make(isp.CAMERAS["microscopy"])

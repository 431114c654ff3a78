import jax.numpy as jnp
import numpy as np
import pytest

import isp

CAMERA = isp.CAMERAS["drone"]
RAW = np.random.default_rng(0).random((8, 8), np.float32)
IMAGES = {"mosaic": jnp.array(RAW), "image": jnp.stack([RAW, RAW.T, 1 - RAW], -1)}
# Stages that `isp.full` does not have, each with the kind of image that it takes.
MAKERS = {
    "lens_shading of mosaics": (lambda: isp.stages.lens_shading("RGGB"), "mosaic"),
    "lens_shading": (isp.stages.lens_shading, "image"),
    "white_balance": (lambda: isp.stages.white_balance(CAMERA), "image"),
    "white_balance, desaturated": (lambda: isp.stages.white_balance(CAMERA, "desaturate"), "image"),
    "white_balance alone": (lambda: isp.stages.white_balance(isp.CAMERAS["microscopy"], None), "image"),
}


@pytest.mark.parametrize("name", MAKERS)
def test_stages_work_alone_and_their_parameters_have_ranges(name):
    make, kind = MAKERS[name]
    stage = make()
    assert make() == stage
    values = isp.Pipeline([stage]).parameters()
    assert all(parameter.has_range for parameter in stage.parameters.values())
    image = stage.function(IMAGES[kind], *values.values(), **stage.options)
    assert image.shape == IMAGES[kind].shape
    assert np.isfinite(image).all()


@pytest.mark.parametrize(("mode", "white"), [("clip", 1), ("desaturate", 1), (None, CAMERA.white_balance)])
def test_white_balance_handles_highlights(mode, white):
    stages = [isp.Stage("demosaic", isp.demosaic.malvar2004), isp.stages.white_balance(CAMERA, mode)]
    np.testing.assert_allclose(isp.Pipeline(stages)(jnp.ones((4, 4)))[0, 0], white, rtol=1e-6)


def test_refuses(unchecked):
    microscope = isp.CAMERAS["microscopy"]
    for make in (isp.stages.white_balance, isp.stages.mosaic_white_balance):
        with pytest.raises(ValueError, match=r"white_balance must have positive gains, .*, got \(-0.6567, "):
            make(microscope)
    with pytest.raises(ValueError, match="segments must be at least 1, got 0"):
        isp.stages.curve(0)

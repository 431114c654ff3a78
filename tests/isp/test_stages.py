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


@pytest.mark.shows("isp.stages.local_tone_map(strength, detail)")
def test_a_stage_has_the_settings_and_defaults_of_its_function():
    """The names of parameters are fixed, since run folders hold them."""
    stages = isp.stages
    sharpened = stages.unsharp_masking(amount=0.5, name="sharpening")
    assert (sharpened.name, sharpened.function) == ("sharpening", isp.sharpen.unsharp_masking)
    assert {name: each.value for name, each in sharpened.parameters.items()} == {"radius": 1.0, "amount": 0.5}
    assert sharpened.options == {"size": 9}  # Four standard deviations to each side.
    assert stages.chroma_denoising(2.0, size=7).options == {"size": 7}
    assert list(stages.chroma_denoising(2.0).parameters) == ["chroma_sigma"]
    smooth = stages.tv_bregman(isotropic=False)
    assert smooth.parameters["weight"].value == 100
    assert smooth.options == {"eps": 1e-3, "max_iterations": 100, "isotropic": False}
    tone = stages.local_tone_map(0.2).parameters
    assert {name: each.value for name, each in tone.items()} == {"tone_strength": 0.2, "tone_detail": 1.0}
    with pytest.raises(TypeError, match="'weights'"):
        stages.tv_bregman(weights=5.0)


def test_all_pipelines_declare_a_functions_parameters_alike():
    made = [make() for algorithms in isp.ALGORITHMS.values() for make in algorithms.values()]
    for pipeline in (isp.full(CAMERA), isp.parametrized(CAMERA), isp.static(CAMERA)):
        made += pipeline.stages
    found = {}
    for stage in made:
        known = found.setdefault(stage.function, stage.parameters)
        assert list(known.items()) == list(stage.parameters.items()), stage.name
    assert len(found) < len(made)

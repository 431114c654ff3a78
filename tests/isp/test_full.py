import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import isp as oracle

import isp

CAMERA = isp.CAMERAS["drone"]
XTRANS = "GBGGRG/RGRBGB/GBGGRG/GRGGBG/BGBRGR/GRGGBG"
RNG = np.random.default_rng(0)
# Two mosaics with a black and a saturated part.
RAW = RNG.uniform(0.05, 0.6, (2, 24, 32)).astype(np.float32)
RAW[:, :6, :6], RAW[:, -6:, -6:] = 0, 1
LEAST_IS_RED = dataclasses.replace(CAMERA, pattern="GBRG", white_balance=(1, 1.25, 2))


@pytest.mark.parametrize("camera", [*isp.CAMERAS.values(), LEAST_IS_RED])
def test_saturated_parts_are_white_and_black_ones_black(camera):
    white, black = isp.full(camera)(jnp.array([1.0, 0.0])[:, None, None] * jnp.ones_like(RAW))
    np.testing.assert_allclose(white, 1, atol=1e-3)
    assert black.max() < 0.05


def clipping_images(camera):
    """A pipeline whose images, not mosaics, become white where they are saturated."""
    balance = isp.stages.white_balance(camera, "clip")
    plain = isp.static(camera, "normalized", "none", "none").without("color_correct")
    return plain.replaced("black_level", isp.stages.black_level(camera)).replaced("white_balance", balance)


def with_white_square(camera, light):
    """A gray card under a light, whose middle is saturated."""
    black = np.asarray(isp.cfa.black_levels(np.array(camera.black_level), camera.pattern, 48, 48))
    gray = np.broadcast_to(light / np.float32(camera.white_balance), (48, 48, 3))
    raw = black + np.asarray(isp.cfa.mosaic(gray, camera.pattern)) * (1 - black)
    raw[12:36, 12:36] = 1
    return raw


@pytest.mark.parametrize("make", [isp.full, clipping_images])
@pytest.mark.parametrize("pattern", ["RGGB", XTRANS])
def test_saturated_parts_stay_white_behind_a_metering_that_darkens(make, pattern):
    black = np.full(isp.cfa.black_level_shape(pattern), 0.1)
    camera = dataclasses.replace(CAMERA, pattern=pattern, black_level=black)
    image, stages = isp.metered(make(camera), camera).trace(with_white_square(camera, 0.9))
    assert stages["auto_exposure"][0, 1] < 0.5 * 0.9
    np.testing.assert_allclose(image[20:28, 20:28], 1, atol=1e-3)
    # Only the saturated part and its border are spared.
    elsewhere = isp.metered(isp.static(camera, "normalized"), camera).trace(with_white_square(camera, 0.9))[1]
    balanced, expected = stages["auto_white_balance"], elsewhere["auto_white_balance"]
    np.testing.assert_allclose(balanced[:9], expected[:9], rtol=1e-5)
    np.testing.assert_allclose(balanced[:, 39:], expected[:, 39:], rtol=1e-5)


@pytest.mark.shows("isp.full.full(half_size)", "isp.published.parametrized(half_size)")
@pytest.mark.parametrize("make", [isp.full, isp.parametrized])
def test_half_the_size_turns_each_tile_into_a_pixel_and_has_the_other_stages(make):
    camera = dataclasses.replace(CAMERA, pattern="GBRG", black_level=(0.02, 0.04, 0.06, 0.08))
    whole, (rgb, images) = make(camera).stage_names, make(camera, half_size=True).trace(RAW)
    assert tuple(images) == whole
    assert rgb.shape == (2, 12, 16, 3)
    before = images.get("white_balance", RAW - oracle.black_levels(camera.black_level, 24, 32))
    np.testing.assert_allclose(images["demosaic"], oracle.binned(np.float64(before), "GBRG"), atol=1e-6)
    gains = 1 if "white_balance" in whole else camera.white_balance
    expected = images["demosaic"] * np.array(gains) @ np.transpose(camera.color_matrix)
    np.testing.assert_allclose(images["color_correct"], expected, atol=2e-6)


def test_metering_does_not_turn_noise_into_defects():
    """At a hundredth of the light, metering multiplies the noise by 60, but a stuck site is still repaired."""
    noise, black = RNG.normal(0, 0.004, (64, 64)), CAMERA.black_level[0]
    raw = (black + 0.003 + noise).astype(np.float32)
    raw[32, 32] = 0.8
    stages = isp.metered(isp.full(CAMERA), CAMERA).trace(raw)[1]
    assert np.std(stages["auto_exposure"][:16]) > 20 * np.std(raw[:16])
    assert np.argwhere(stages["defects"] != raw).tolist() == [[32, 32]]


def test_a_picture_comes_back_in_its_colors():
    camera = dataclasses.replace(CAMERA, black_level=(0,) * 4, pattern="GBRG")
    color = np.float32([0.2, 0.5, 0.4])
    module = isp.full(camera).with_values({"saturation": 1.0, "tone_strength": 0.0, "contrast": 1.0})
    picture = jnp.broadcast_to(color ** (2.2 / 2.4), (*RAW.shape, 3))
    raw = isp.unprocess(picture, camera, gamma=2.2)
    expected = isp.tone.srgb(picture**2.2)
    np.testing.assert_allclose(module(raw), expected, atol=1e-4)


def test_parameters_that_differ_from_the_camera_do_not_claim_to_start_from_it():
    def fields(camera):
        return {parameter.camera for parameter in isp.full(camera).declarations.values() if parameter.camera}

    assert fields(CAMERA) == {"black_level", "white_balance", "color_matrix"}
    assert fields(isp.CAMERAS["microscopy"]) == {"black_level"}


def test_every_parameter_has_a_range_and_a_finite_gradient_that_is_not_zero():
    module = isp.full(CAMERA)
    assert all(parameter.has_range for parameter in module.declarations.values())
    weight = RNG.standard_normal((*RAW.shape, 3)).astype(np.float32)
    gradients = jax.jit(jax.value_and_grad(lambda p, raw: (module.with_values(p)(raw) * weight).sum(), (0, 1)))
    spoiled = RAW.copy()
    spoiled[0, 12, 16], spoiled[1, 0, 0], spoiled[1, 20, 30] = np.nan, np.inf, -np.inf
    for raw in (RAW, spoiled, 0 * RAW, 0 * RAW + 0.5, 0 * RAW + 1):
        found = gradients(module.parameters(), raw)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
        assert raw is not RAW or all(np.any(gradient) for gradient in found[1][0].values())

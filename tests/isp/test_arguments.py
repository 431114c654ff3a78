"""Stages hand their settings to their functions."""

import inspect

import inventory
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import isp as oracle

import isp

DRONE = isp.CAMERAS["drone"]
IMAGE = jnp.array(np.random.default_rng(0).uniform(0.05, 0.95, (12, 16, 3)).astype(np.float32))
# A corner is saturated.
MOSAIC = IMAGE[..., 1].at[:4, :4].set(1)
OTHER_KERNEL = np.float32([[0, 0, 0], [0, 1, 1], [0, 0, 0]])
QUAD = "RRGG/RRGG/GGBB/GGBB"
SLOPE = np.float32([1, 2, 3, 4, 3, 2, 1])

# Values other than the defaults, by the makers' arguments.
OTHERS = {
    **{"pattern": "GRBG", "rescale": False, "clip": False, "border": "mirror", "refine": False, "size": 5},
    **{"keep_fraction": 0.15, "softness": 0.7, "weight": 0.5, "eps": 0.3, "max_iterations": 1, "isotropic": False},
    **{"sigma": 0.9, "sigma_spatial": 1.5, "sigma_color": 0.05, "bins": 8, "centered": True, "strength": 0.6},
    **{"patch_size": 3, "patch_distance": 2, "power": 2.0, "share": 0.3, "threshold": 0.3, "target": 0.4},
    **{"radius": 0.6, "amount": 1.7, "highlights": "desaturate", "neutral": np.float32([1.5, 1.0, 2.0])},
    **{"detail": 1.6, "smoothness": 0.5, "cell": 2, "floor": 0.1, "name": "other", "gamma": 1.5, "pivot": 0.2},
    **{"low": 0.4, "high": 0.6, "sharpening_filter": OTHER_KERNEL, "segments": 6},
    "coefficients": np.float32([[0.3, 0.1, 0.1], [0.1, 0.2, 0.1], [0.2, 0.1, 0.3]]),
}
# The names of settings in the functions of stages, where they differ from those in the makers.
NAMES = {"highlights": "mode", "sharpening_filter": "kernel", "segments": "rises"}
# What else a setting changes. A window reaches 4 standard deviations to each side, as in SciPy, and that of the
# bilateral filter 3. A threshold is soft up to twice its value. The target of an exposure is the level of a gray card,
# which depends on the camera's gains.
GRAY = 1 / np.array(DRONE.white_balance)
FOLLOWING = {
    **{f"{name}(radius)": {"size": 5} for name in ("unsharp_masking", "unsharp_masking_vertical")},
    **{f"{name}(sigma)": {"size": 9} for name in ("gaussian_denoising", "chroma_denoising")},
    **{"bilateral(sigma_spatial)": {"size": 11}, "defects(threshold)": {"softness": 0.3}},
    **{"auto_exposure(power)": {"target": 0.18 * (GRAY**2).mean() ** 0.5}, "curve(segments)": {"rises": np.zeros(6)}},
}


def handed(make, settings):
    """The arguments that the function of a stage gets, and the name of the stage."""
    needed = {"camera": DRONE} if "camera" in inspect.signature(make).parameters else {}
    stage = make(**needed, **settings)
    values = [each.value for each in stage.parameters.values()]
    got = inspect.signature(stage.function).bind(None, *values, **stage.options).arguments
    return {"name": stage.name, **dict(list(got.items())[1:])}


@pytest.mark.shows(
    "isp.stages.auto_exposure(power, share, target)",
    "isp.stages.auto_white_balance(neutral, power, share)",
    "isp.stages.bilateral(bins, centered, name, sigma_color, sigma_spatial, size)",
    "isp.stages.bilinear(name, pattern)",
    "isp.stages.binned(name, pattern)",
    "isp.stages.black_level(rescale)",
    "isp.stages.chroma_denoising(name, sigma, size)",
    "isp.stages.clipped(high, low, name)",
    "isp.stages.contrast(amount, name, pivot)",
    "isp.stages.curve(segments)",
    "isp.stages.defects(pattern, threshold)",
    "isp.stages.fft_denoising(keep_fraction, name, softness)",
    "isp.stages.gamma_correct(gamma, name)",
    "isp.stages.gaussian_denoising(name, sigma, size)",
    "isp.stages.lens_shading(coefficients, pattern)",
    "isp.stages.local_tone_map(cell, detail, floor, name, size, smoothness, strength)",
    "isp.stages.malvar2004(border, name, pattern)",
    "isp.stages.median_denoising(name, size)",
    "isp.stages.menon2007(name, pattern, refine)",
    "isp.stages.mosaic_white_balance(clip)",
    "isp.stages.nlm_denoising(centered, name, patch_distance, patch_size, strength)",
    "isp.stages.normalized(name, pattern)",
    "isp.stages.saturation(amount, name)",
    "isp.stages.sharpening_filter(name, sharpening_filter)",
    "isp.stages.spread(name, pattern)",
    "isp.stages.srgb(name)",
    "isp.stages.tv_bregman(eps, isotropic, max_iterations, name, weight)",
    "isp.stages.tv_chambolle(eps, max_iterations, name, weight)",
    "isp.stages.unchanged(name)",
    "isp.stages.unsharp_masking(amount, name, radius, size)",
    "isp.stages.unsharp_masking_vertical(amount, name, radius, size)",
    "isp.stages.white_balance(highlights)",
)
def test_a_stage_hands_each_setting_to_its_function_and_nothing_else_changes(request):
    for maker in request.node.get_closest_marker("shows").args:
        facts = [fact.removeprefix("isp.stages.") for fact in inventory.expanded(maker)]
        make = getattr(isp.stages, facts[0].split("(")[0])
        settings = {fact: fact[:-1].split("(")[1] for fact in facts}
        before = handed(make, {})
        for fact, setting in settings.items():
            expected = before | {NAMES.get(setting, setting): OTHERS[setting]} | FOLLOWING.get(fact, {})
            np.testing.assert_equal(handed(make, {setting: OTHERS[setting]}), expected, err_msg=fact)
        others = {setting: OTHERS[setting] for setting in settings.values()}
        known = {NAMES.get(name, name): value for name, value in others.items() if name != "segments"}
        together = handed(make, others)
        np.testing.assert_equal({name: together[name] for name in known}, known, err_msg=maker)


@pytest.mark.shows("isp.stages.clipped(low, high)", "isp.stages.white_balance(highlights)")
@pytest.mark.shows("isp.stages.normalized(pattern)")
def test_stages_of_functions_that_are_not_public_compute_what_they_say():
    def compute(stage, image):
        return stage.function(image, *(jnp.asarray(each.value) for each in stage.parameters.values()), **stage.options)

    np.testing.assert_array_equal(compute(isp.stages.clipped("clip", 0.4, 0.6), IMAGE), np.clip(IMAGE, 0.4, 0.6))
    gains = np.array(DRONE.white_balance)
    rise = np.clip((IMAGE.max(-1, keepdims=True) - 0.8) / 0.2, 0, 1)
    clipped = np.minimum(IMAGE * gains, 1)
    faded = clipped + rise**2 * (3 - 2 * rise) * (1 - clipped)
    for highlights, expected in ((None, IMAGE * gains), ("clip", clipped), ("desaturate", faded)):
        balanced = compute(isp.stages.white_balance(DRONE, highlights), IMAGE)
        np.testing.assert_allclose(balanced, expected, atol=1e-6)
    expected = oracle.normalized(np.float64(MOSAIC), [np.outer(SLOPE, SLOPE)] * 3, QUAD)
    np.testing.assert_allclose(compute(isp.stages.normalized(QUAD), MOSAIC), expected, rtol=1e-5)

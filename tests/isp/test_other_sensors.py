"""Pipelines on sensors other than Bayer."""

import jax
import numpy as np
import pytest
import variants

import isp

QUAD = "RRGG/RRGG/GGBB/GGBB"
XTRANS = "GBGGRG/RGRBGB/GBGGRG/GRGGBG/BGBRGR/GRGGBG"
MATRIX = ((1.5, -0.3, -0.2), (-0.2, 1.7, -0.5), (0.0, -0.3, 1.3))
RAW = np.random.default_rng(0).uniform(0.1, 0.9, (2, 12, 24)).astype(np.float32)


def camera(pattern):
    levels = [0.0625, 0.07, 0.065][: isp.cfa.black_level_shape(pattern)[0]]
    calibration = () if pattern == "MONO" else ((2.0, 1.0, 1.5), MATRIX)
    return isp.Camera(levels, *calibration, pattern=pattern)


@pytest.mark.parametrize("pattern", variants.quick(1, [XTRANS, "MONO", QUAD]))
def test_a_gray_scene_is_rendered_gray_at_its_brightness(pattern):
    """By the inverse of the pipelines, whose filters change nothing where there is nothing to filter."""
    own = camera(pattern)
    raw = isp.unprocess(np.full((24, 36, 3), 0.5, np.float32), own)
    for pipeline in (
        isp.parametrized(own),
        isp.parametrized(own, half_size=True),
        isp.static(own, "normalized"),
        isp.static(own, "binned", "none", "median_denoising"),
    ):
        np.testing.assert_allclose(pipeline(raw)[3:-3, 3:-3], 0.5, atol=2e-6)


@pytest.mark.parametrize("pattern", variants.quick(1, [XTRANS, "MONO", QUAD]))
def test_the_full_pipeline_renders_a_gray_scene_gray_and_repairs_a_defect(pattern):
    own, size = camera(pattern), (26, 40)  # Which no tile of more than two sites divides.
    levels = isp.cfa.black_levels(np.float32(own.black_level), pattern=pattern, height=size[0], width=size[1])
    light = isp.unprocess(np.full((*size, 3), 0.4, np.float32), own) - levels
    raw = np.array(levels + (1 - levels) * light)
    whole = np.asarray(isp.full(own)(raw))
    assert np.ptp(whole) < 1e-5
    raw[12, 12] = 1.0
    np.testing.assert_allclose(isp.full(own)(raw), whole, atol=1e-5)


def test_colors_have_no_stage_where_there_are_no_filters():
    assert "color_correct" not in isp.parametrized(camera("MONO")).stage_names
    # Also of a camera that was read from a file.
    assert "color_correct" not in isp.full(isp.Camera.from_json(camera("MONO").to_json())).stage_names
    assert "white_balance" not in isp.static(camera("MONO"), "normalized").parameters()


@pytest.mark.parametrize("pattern", variants.quick(1, [XTRANS, "MONO", QUAD]))
def test_every_parameter_has_a_gradient_that_agrees_with_central_differences(pattern):
    pipeline, rng = isp.parametrized(camera(pattern)), np.random.default_rng(1)
    raw, weights = 0.3 + 0.05 * RAW, rng.random((2, 12, 24, 3), np.float32)  # Far from the limits of the clip.
    slopes = jax.jit(jax.grad(lambda values: (pipeline.with_values(values)(raw) * weights).sum()))
    values = pipeline.parameters()
    for name, gradient in slopes(values).items():
        step = 1e-3 * rng.standard_normal(gradient.shape).astype(np.float32)
        above, below = (pipeline.with_values(values | {name: values[name] + sign * step})(raw) for sign in (1, -1))
        # Images are subtracted before they are summed: the sums of 1,728 terms would round by more than they differ.
        change = (np.asarray(above - below, np.float64) * weights).sum() / 2
        np.testing.assert_allclose((gradient * step).sum(), change, rtol=1e-2, atol=5e-5, err_msg=name)

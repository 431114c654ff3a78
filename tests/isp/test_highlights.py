import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from isp import color, highlights

GAINS = np.float32([1.0, 2.0, 1.5])  # The least is that of red.
RAW_RGB = np.random.default_rng(0).random((2, 4, 6, 3), np.float32)
RGB = RAW_RGB * GAINS


@pytest.mark.parametrize("gains", [(2.0, 1.0, 1.5), (1.2, 1.4, 0.7), (0.7, 1.4, 1.2)])
@pytest.mark.parametrize("mode", highlights.MODES)
def test_saturated_pixels_become_white_at_the_least_gain(mode, gains):
    gains = jnp.array(gains)
    saturated = jnp.ones((2, 3, 3)) * gains
    np.testing.assert_array_equal(color.highlights(saturated, gains, mode), gains.min())


@pytest.mark.parametrize("mode", highlights.MODES)
def test_pixels_below_the_highlights_stay(mode):
    dark = RGB * 0.39  # No channel reaches 0.8 of its level, nor the level of white.
    np.testing.assert_array_equal(color.highlights(dark, GAINS, mode), dark)
    np.testing.assert_array_equal(color.highlights(-dark, GAINS, mode), -dark)


def test_clip_is_a_minimum():
    np.testing.assert_array_equal(color.highlights(RGB, GAINS), np.minimum(RGB, 1))


def test_desaturate_fades_with_the_fullest_channel():
    levels = RAW_RGB.max(-1, keepdims=True).astype(np.float64)
    rise = np.clip((levels - 0.8) / 0.2, 0, 1)
    fade = rise**2 * (3 - 2 * rise)
    clipped = np.minimum(RGB, 1)
    np.testing.assert_allclose(color.highlights(RGB, GAINS, "desaturate"), clipped + fade * (1 - clipped), atol=1e-6)


def test_desaturate_takes_a_saturated_color_to_white_without_a_jump():
    level = np.linspace(0.5, 1, 501, dtype=np.float32)
    ramp = np.stack([level * 0.1, level * 2, level * 0.3], -1)[None]  # Only green saturates.
    faded = np.asarray(color.highlights(ramp, GAINS, "desaturate"))
    np.testing.assert_array_equal(faded[0, -1], 1)
    assert np.abs(np.diff(faded, axis=1)).max() < 0.02
    assert (np.diff(faded, axis=1) >= -1e-6).all()


@pytest.mark.parametrize("mode", highlights.MODES)
def test_gradients_agree_with_finite_differences(mode):
    with jax.enable_x64(True):
        arguments = jnp.array(RGB, jnp.float64), jnp.array(GAINS, jnp.float64)
        check_grads(lambda rgb, gains: color.highlights(rgb, gains, mode), arguments, 1, eps=1e-7)


@pytest.mark.parametrize("mode", highlights.MODES)
def test_vmap_equals_batch_axes_and_precision_is_kept(mode):
    def apply(rgb):
        return color.highlights(rgb, GAINS.astype(rgb.dtype), mode)

    np.testing.assert_array_equal(jax.vmap(apply)(RGB), apply(RGB))
    assert apply(RGB).dtype == jnp.float32
    with jax.enable_x64(True):
        assert apply(jnp.array(RGB, jnp.float64)).dtype == jnp.float64


def test_refuses(unchecked):
    with pytest.raises(ValueError, match="mode must be one of clip, desaturate, got 'blend'"):
        color.highlights(RGB, GAINS, "blend")
    with pytest.raises(ValueError, match=r"start must be in \[0, 1\), got 1"):
        color.highlights(RGB, GAINS, "desaturate", start=1)
    with pytest.raises(ValueError, match=r"rgb must be \(..., H, W, 3\), channels last, got shape \(2, 4, 6\)"):
        color.highlights(RGB[..., 0], GAINS)

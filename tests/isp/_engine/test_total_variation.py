import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import variants

from isp.denoise import tv_bregman, tv_chambolle

RNG = np.random.default_rng(0)
NOISE = RNG.random((13, 18, 3))
STEP = np.where(np.arange(18) < 7, 0.2, 0.9)[:, None] * np.ones((13, 18, 3))
IMAGES = {
    "noise": NOISE,
    "step": STEP,
    "noisy step": STEP + 0.05 * RNG.normal(size=STEP.shape),
    "constant": np.full((13, 18, 3), 0.3),
    "red only": NOISE * [1.0, 0, 0] + [0, 0.4, 0.7],
    "blue only": NOISE * [0, 0, 1.0] + [0.4, 0.7, 0],
    "out of range": 10 * NOISE - 5,
}
FUNCTIONS = [tv_chambolle, tv_bregman, functools.partial(tv_bregman, isotropic=False)]
COTANGENT, DIRECTION = RNG.normal(size=(2, *NOISE.shape))


@functools.cache
def differentiated(function):
    """Compiles a scalar of the result and its gradients for image and weight, once for all tests."""
    return jax.jit(jax.value_and_grad(lambda rgb, weight: jnp.sum(COTANGENT * function(rgb, weight)), (0, 1)))


def agrees(result, expected, dtype):
    assert result.dtype == dtype
    scale = max(1, np.abs(expected).max())
    np.testing.assert_allclose(result, expected, atol=scale * (1e-12 if dtype == np.float64 else 2e-6), rtol=0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("image", IMAGES)
def test_chambolle_agrees_with_scikit_image(image, dtype):
    from skimage.restoration import denoise_tv_chambolle

    rgb = IMAGES[image].astype(dtype)
    with jax.enable_x64(dtype == np.float64):
        for weight in (0.001, 0.01, 0.1, 1.0):
            expected = denoise_tv_chambolle(rgb.astype(np.float64), weight, 2e-4, 200, channel_axis=-1)
            agrees(tv_chambolle(rgb, weight), expected, dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("isotropic", [True, False])
@pytest.mark.parametrize("image", IMAGES)
def test_bregman_agrees_with_scikit_image(image, isotropic, dtype):
    from skimage.restoration import denoise_tv_bregman

    rgb = IMAGES[image].astype(dtype)
    with jax.enable_x64(dtype == np.float64):
        for weight in (0.5, 5.0, 100.0, 1e4):
            expected = denoise_tv_bregman(rgb.astype(np.float64), weight, 100, 1e-3, isotropic, channel_axis=-1)
            agrees(tv_bregman(rgb, weight, isotropic=isotropic), expected, dtype)


@pytest.mark.parametrize(("eps", "max_iterations"), [(1e-9, 1), (1e-9, 7), (0.1, 30)])
def test_both_stop_when_scikit_image_does(eps, max_iterations):
    from skimage.restoration import denoise_tv_bregman, denoise_tv_chambolle

    with jax.enable_x64(True):
        expected = denoise_tv_chambolle(NOISE, 0.1, eps, max_iterations, channel_axis=-1)
        agrees(tv_chambolle(NOISE, 0.1, eps, max_iterations), expected, np.float64)
        expected = denoise_tv_bregman(NOISE, 5.0, max_iterations, eps, channel_axis=-1)
        agrees(tv_bregman(NOISE, 5.0, eps, max_iterations), expected, np.float64)


def test_both_agree_with_scikit_image_on_the_smallest_image():
    from skimage.restoration import denoise_tv_bregman, denoise_tv_chambolle

    rgb = NOISE[:2, :2]
    with jax.enable_x64(True):
        agrees(tv_chambolle(rgb, 0.1), denoise_tv_chambolle(rgb, 0.1, channel_axis=-1), np.float64)
        agrees(tv_bregman(rgb, 5.0), denoise_tv_bregman(rgb, 5.0, channel_axis=-1), np.float64)


def test_chambolle_keeps_the_mean_of_each_channel():
    np.testing.assert_allclose(tv_chambolle(jnp.asarray(NOISE), 0.3).mean((0, 1)), NOISE.mean((0, 1)), atol=1e-6)


@pytest.mark.parametrize("weight", variants.quick(1, [0.05, 20.0]))
@pytest.mark.parametrize("function", FUNCTIONS)
def test_gradients_agree_with_finite_differences(function, weight):
    h = 1e-6
    with jax.enable_x64(True):

        def value(*arguments):
            return differentiated(function)(*arguments)[0]

        _, (by_rgb, by_weight) = differentiated(function)(NOISE, weight)
        along = (value(NOISE + h * DIRECTION, weight) - value(NOISE - h * DIRECTION, weight)) / (2 * h)
        np.testing.assert_allclose(jnp.sum(by_rgb * DIRECTION), along, rtol=1e-6)
        # A large weight hardly moves the value, so a smaller step would vanish in rounding.
        h = 1e-5 * weight
        np.testing.assert_allclose(
            by_weight, (value(NOISE, weight + h) - value(NOISE, weight - h)) / (2 * h), rtol=1e-6
        )


@pytest.mark.parametrize("function", FUNCTIONS)
def test_gradients_are_finite_where_the_image_is_flat(function):
    with jax.enable_x64(True):
        for rgb in (STEP, IMAGES["constant"], 0 * NOISE):
            assert all(np.isfinite(gradient).all() for gradient in differentiated(function)(rgb, 1.0)[1])


@pytest.mark.parametrize("function", [tv_chambolle, pytest.param(tv_bregman, marks=pytest.mark.slow)])
def test_a_batch_equals_its_images_one_by_one(function):
    rgb = np.stack([IMAGES[name] for name in ("noise", "constant", "noisy step", "out of range")])
    with jax.enable_x64(True):
        result = function(rgb.reshape(2, 2, *rgb.shape[1:]), 0.1).reshape(rgb.shape)
        values, gradients = jax.vmap(differentiated(function), (0, None))(rgb, 0.1)
        for i, image in enumerate(rgb):
            value, expected = differentiated(function)(image, 0.1)
            np.testing.assert_allclose(jnp.sum(COTANGENT * result[i]), value, rtol=1e-12)
            np.testing.assert_allclose(values[i], value, rtol=1e-12)
            for gradient, one in zip(gradients, expected, strict=True):
                np.testing.assert_allclose(gradient[i], one, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("function", [tv_chambolle, tv_bregman])
def test_an_empty_batch_stays_empty(function):
    assert function(np.zeros((0, 4, 4, 3), np.float32)).shape == (0, 4, 4, 3)


@pytest.mark.parametrize("function", [tv_chambolle, tv_bregman])
@pytest.mark.parametrize(
    ("rgb", "arguments", "message"),
    [
        (NOISE[..., :2], {}, r"rgb must be \(..., H, W, 3\), channels last, got shape \(13, 18, 2\)"),
        (NOISE.astype(np.uint8), {}, "rgb must be floating point with white at 1, got uint8"),
        (NOISE, {"weight": -1.0}, "weight must be positive, got -1.0"),
        (NOISE, {"weight": jnp.array(0.0)}, "weight must be positive, got 0.0"),
        (NOISE, {"eps": 0.0}, "eps must be positive, got 0.0"),
        (NOISE, {"eps": float("nan")}, "eps must be positive, got nan"),
        (NOISE, {"max_iterations": 0}, "max_iterations must be at least 1, got 0"),
    ],
)
def test_refuses(function, rgb, arguments, message, unchecked):
    with pytest.raises(ValueError, match=message):
        function(rgb, **arguments)


def test_bregman_refuses_images_without_a_second_row_or_column():
    with pytest.raises(ValueError, match=r"rgb must have a height and width of at least 2, got shape \(1, 18, 3\)"):
        tv_bregman(NOISE[:1].astype(np.float32))

import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jax.test_util import check_grads

from tasks import losses

# Results of DiceLoss(mode="binary", from_logits=True) of segmentation_models_pytorch, and of an SSIM in PyTorch.
GOLDEN = np.load(pathlib.Path(__file__).with_name("losses.npz"))

dice, ssim = jax.jit(losses.dice), jax.jit(losses.ssim)
dice_and_gradient = jax.jit(jax.value_and_grad(losses.dice))


# Of a classification.
LOGITS, CLASSES = 5 * np.random.default_rng(0).standard_normal((20, 9)).astype(np.float32), np.arange(20) % 9


def test_cross_entropy():
    actual = losses.cross_entropy(jnp.asarray(LOGITS), jnp.asarray(CLASSES))
    probabilities = scipy.special.softmax(LOGITS.astype(float), -1)
    np.testing.assert_allclose(actual, -np.log(probabilities[np.arange(20), CLASSES]), rtol=2e-6, atol=1e-6)


def test_cross_entropy_of_large_logits_is_finite():
    logits = jnp.array([[1e4, -1e4], [1e4, -1e4]])
    np.testing.assert_allclose(losses.cross_entropy(logits, jnp.array([0, 1])), [0, 2e4])
    gradient = jax.grad(lambda logits: losses.cross_entropy(logits, jnp.array([0, 1])).sum())(logits)
    np.testing.assert_allclose(gradient, [[0, 0], [1, -1]])


def test_a_loss_with_guesses_is_that_of_a_mixture_and_bounded():
    mixture = 0.9 * scipy.special.softmax(LOGITS.astype(float), -1) + 0.1 / 9
    actual = losses.cross_entropy(jnp.asarray(LOGITS), jnp.asarray(CLASSES), guessed=0.1)
    np.testing.assert_allclose(actual, -np.log(mixture[np.arange(20), CLASSES]), rtol=1e-5)
    hopeless = jnp.array([[40.0, 0.0, 0.0]])
    np.testing.assert_allclose(losses.cross_entropy(hopeless, jnp.array([1]), guessed=0.1), np.log(30), rtol=1e-5)


def test_dice_and_ssim_agree_with_pytorch():
    for name, function, first, second in (("dice", dice, "logits", "target"), ("ssim", ssim, "image_a", "image_b")):
        actual = function(jnp.asarray(GOLDEN[first]), jnp.asarray(GOLDEN[second]))
        np.testing.assert_allclose(actual, GOLDEN[name], rtol=1e-6)


def test_dice_in_closed_form():
    targets = jnp.asarray(np.arange(32).reshape(2, 4, 4, 1) < 12, jnp.float32)
    np.testing.assert_allclose(dice(200 * targets - 100, targets), 0, atol=1e-6)
    np.testing.assert_allclose(dice(100 - 200 * targets, targets), 1, atol=1e-6)
    # Every pixel is predicted by half, so the score is 2 * (12 / 2) / (12 + 32 / 2).
    np.testing.assert_allclose(dice(jnp.zeros_like(targets), targets), 1 - 12 / 28, rtol=1e-6)
    np.testing.assert_array_equal(dice(jnp.ones_like(targets), jnp.zeros_like(targets)), 0)


def test_dice_ignores_padding_and_counts_by_weight():
    logits, targets = (jnp.asarray(GOLDEN[name]) for name in ("logits", "target"))
    padded = [jnp.concatenate([array, array[:2]]) for array in (logits, targets)]
    value, gradient = dice_and_gradient(*padded, jnp.array([1.0, 1, 1, 0, 0]))
    expected, expected_gradient = dice_and_gradient(logits, targets)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient[:3], expected_gradient, rtol=1e-5, atol=1e-9)
    assert not gradient[3:].any()
    twice = dice(*(jnp.concatenate([array, array[:1]]) for array in (logits, targets)))
    np.testing.assert_allclose(dice(logits, targets, jnp.array([2.0, 1, 1])), twice, rtol=1e-6)


def test_the_gradient_of_dice_is_finite():
    for logit, set_pixels, weight in itertools.product((-1e4, -100.0, 0.0, 100.0, 1e4), (0, 5), (0.0, 1.0)):
        targets = jnp.asarray(np.arange(16).reshape(1, 4, 4) < set_pixels, jnp.float32)
        _, gradient = dice_and_gradient(jnp.full((1, 4, 4), logit), targets, jnp.array([weight]))
        assert np.isfinite(gradient).all(), (logit, set_pixels, weight)


def test_the_gradient_of_dice_for_a_large_logit_does_not_vanish():
    _, gradient = dice_and_gradient(jnp.full((1, 1, 2), 30.0), jnp.array([[[1.0, 0]]]))
    # 1 - 2 p / (p + q + 1) at p = q = 1, times the slope of the sigmoid.
    np.testing.assert_allclose(gradient[0, 0], np.exp(-30) * np.array([-4 / 9, 2 / 9]), rtol=1e-4)


def test_ssim_of_each_image_and_its_gradient():
    image_a, image_b = (jnp.asarray(GOLDEN[name]) for name in ("image_a", "image_b"))
    np.testing.assert_allclose(jax.vmap(ssim)(image_a, image_b).mean(), GOLDEN["ssim"], rtol=1e-6)
    np.testing.assert_allclose(ssim(image_a, image_a), 1, rtol=1e-6)
    with jax.enable_x64():
        small = (jnp.asarray(image[0, :6, :5], float) for image in (GOLDEN["image_a"], GOLDEN["image_b"]))
        check_grads(ssim, tuple(small), order=1, modes=["rev"])
    # For equal flat images, variances are 0, or less by rounding.
    flat = jnp.full((16, 16, 3), 0.3)
    np.testing.assert_allclose(jax.grad(ssim)(flat, flat), 0, atol=1e-6)

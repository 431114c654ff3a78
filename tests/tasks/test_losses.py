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
        # Sums of 3,072 pixels and means of 11,520 round by up to 107 * 2**-24 of their size.
        np.testing.assert_allclose(actual, GOLDEN[name], rtol=1e-5)


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
    # Sums of 3,072 pixels or more, in another order, round by up to 55 * 2**-24 of their size.
    np.testing.assert_allclose(value, expected, rtol=5e-6)
    np.testing.assert_allclose(gradient[:3], expected_gradient, rtol=1e-5, atol=1e-9)
    assert not gradient[3:].any()
    twice = dice(*(jnp.concatenate([array, array[:1]]) for array in (logits, targets)))
    np.testing.assert_allclose(dice(logits, targets, jnp.array([2.0, 1, 1])), twice, rtol=5e-6)


def test_the_gradient_of_dice_is_finite():
    for logit, set_pixels, weight in itertools.product((-1e4, -100.0, 0.0, 100.0, 1e4), (0, 5), (0.0, 1.0)):
        targets = jnp.asarray(np.arange(16).reshape(1, 4, 4) < set_pixels, jnp.float32)
        _, gradient = dice_and_gradient(jnp.full((1, 4, 4), logit), targets, jnp.array([weight]))
        assert np.isfinite(gradient).all(), (logit, set_pixels, weight)


def test_the_gradient_of_dice_for_a_large_logit_does_not_vanish():
    _, gradient = dice_and_gradient(jnp.full((1, 1, 2), 30.0), jnp.array([[[1.0, 0]]]))
    # 1 - 2 p / (p + q + 1) at p = q = 1, times the slope of the sigmoid.
    np.testing.assert_allclose(gradient[0, 0], np.exp(-30) * np.array([-4 / 9, 2 / 9]), rtol=1e-4)


# Three images of four classes, of which the last one never occurs, with ignored pixels.
PIXEL_LOGITS = 3 * np.random.default_rng(1).standard_normal((3, 5, 6, 4)).astype(np.float32)
PIXELS = np.random.default_rng(2).choice([0, 1, 2, 255], (3, 5, 6), p=[0.6, 0.1, 0.1, 0.2]).astype(np.uint8)


def expected_of_classes(logits, targets):
    """Computes the multiclass Dice loss of segmentation_models_pytorch, plus PyTorch's cross-entropy, without 255."""
    counted = targets.ravel() != 255
    found = scipy.special.softmax(logits.reshape(-1, 4).astype(float)[counted], -1)
    true = np.eye(4)[targets.ravel()[counted]]
    scores = 2 * (found * true).sum(0) / np.maximum((found + true).sum(0), 1e-7)
    dice = ((1 - scores) * (true.sum(0) > 0)).mean()
    return dice - np.log(found[true > 0]).mean()


def of_classes(logits, targets, weights=(1, 1, 1)):
    sums = losses.class_sums(jnp.asarray(logits), jnp.asarray(targets))
    return losses.class_loss(jnp.einsum("b,b...->...", jnp.array(weights, float), sums))


def test_the_loss_of_classes_in_closed_form():
    np.testing.assert_allclose(of_classes(PIXEL_LOGITS, PIXELS), expected_of_classes(PIXEL_LOGITS, PIXELS), rtol=1e-5)
    each = losses.class_loss(losses.class_sums(jnp.asarray(PIXEL_LOGITS), jnp.asarray(PIXELS)))
    alone = [expected_of_classes(*image) for image in zip(PIXEL_LOGITS, PIXELS, strict=True)]
    np.testing.assert_allclose(each, alone, rtol=1e-5)
    # All classes are equally probable: each of the three that occur covers a third of 90 pixels, so its score is
    # 2 * (30 / 4) / (30 + 90 / 4), and the fourth contributes 0.
    thirds = np.arange(90).reshape(3, 5, 6) % 3
    expected = 3 / 4 * (1 - 2 / 7) + np.log(4)
    # A sum of 90 pixels rounds by up to 90 * 2**-24 of its size.
    np.testing.assert_allclose(of_classes(np.zeros_like(PIXEL_LOGITS), thirds), expected, rtol=1e-5)


def test_the_loss_of_classes_counts_images_by_weight_and_no_ignored_pixel():
    twice = expected_of_classes(*(np.concatenate([array, array[:1]]) for array in (PIXEL_LOGITS, PIXELS)))
    np.testing.assert_allclose(of_classes(PIXEL_LOGITS, PIXELS, (2, 1, 1)), twice, rtol=1e-5)
    others = expected_of_classes(PIXEL_LOGITS[1:], PIXELS[1:])
    np.testing.assert_allclose(of_classes(PIXEL_LOGITS, PIXELS, (0, 1, 1)), others, rtol=1e-5)
    gradient = np.asarray(jax.grad(of_classes)(jnp.asarray(PIXEL_LOGITS), jnp.asarray(PIXELS)))
    np.testing.assert_array_equal(gradient.any(-1), PIXELS != 255)
    np.testing.assert_array_equal(of_classes(PIXEL_LOGITS, np.full_like(PIXELS, 255)), 0)


def test_the_gradient_of_the_loss_of_classes():
    with jax.enable_x64():
        logits = jnp.asarray(PIXEL_LOGITS, float)
        check_grads(lambda logits: of_classes(logits, PIXELS), (logits,), order=1, modes=["rev"])
    for scale, targets in itertools.product((1e4, 1e38), (PIXELS, np.full_like(PIXELS, 255))):
        gradient = jax.grad(of_classes)(scale * jnp.sign(PIXEL_LOGITS), targets)
        assert np.isfinite(gradient).all(), scale


def test_ssim_of_each_image_and_its_gradient():
    image_a, image_b = (jnp.asarray(GOLDEN[name]) for name in ("image_a", "image_b"))
    np.testing.assert_allclose(jax.vmap(ssim)(image_a, image_b).mean(), GOLDEN["ssim"], rtol=1e-5)
    np.testing.assert_allclose(ssim(image_a, image_a), 1, rtol=1e-5)
    with jax.enable_x64():
        small = (jnp.asarray(image[0, :6, :5], float) for image in (GOLDEN["image_a"], GOLDEN["image_b"]))
        check_grads(ssim, tuple(small), order=1, modes=["rev"])
    # For equal flat images, variances are 0, or less by rounding.
    flat = jnp.full((16, 16, 3), 0.3)
    np.testing.assert_allclose(jax.grad(ssim)(flat, flat), 0, atol=1e-6)

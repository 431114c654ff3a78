import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2l_jax.model.augment import NOISE_STD, augment, augment_masks, sample_keys

KEY = jax.random.key(0)
IMAGES = jnp.array(np.random.default_rng(0).random((64, 6, 6, 3), np.float32))


KEYS, MANY = (sample_keys(KEY, jnp.arange(count)) for count in (64, 4096))


def seen(results, images, orientations):
    """Returns the numbers of the orientations that turn images into results."""
    found = zip(np.asarray(results), np.asarray(images), strict=True)
    return {[np.array_equal(each, result) for each in orientations(image)].index(True) for result, image in found}


def test_weak_draws_each_of_the_eight_orientations():
    def turned(image):
        return [np.rot90(flipped, turns) for flipped in (image, image[::-1]) for turns in range(4)]

    assert seen(augment(IMAGES, KEYS, "weak"), IMAGES, turned) == set(range(8))


@pytest.mark.parametrize("augmentation", ["none", "weak"])
def test_masks_turn_with_their_images(augmentation):
    images, masks = augment(IMAGES, KEYS, augmentation), augment_masks(IMAGES[..., 0], KEYS, augmentation)
    np.testing.assert_array_equal(images[..., 0], masks)
    # Indices of classes are moved, never mixed.
    indices = (4 * IMAGES[..., 0]).astype(jnp.uint8) * 85
    turned = augment_masks(indices, KEYS, augmentation)
    assert turned.dtype == np.uint8
    np.testing.assert_array_equal(turned, (4 * masks).astype(jnp.uint8) * 85)


@pytest.mark.parametrize("augmentation", ["weak", "strong"])
def test_a_sample_is_changed_by_its_index_and_the_epoch_wherever_it_stands(augmentation):
    order = jnp.asarray(np.random.default_rng(0).permutation(64))
    whole = np.asarray(augment(IMAGES, KEYS, augmentation))
    part = augment(IMAGES[order[:16]], sample_keys(KEY, order[:16]), augmentation)
    np.testing.assert_array_equal(part, whole[order[:16]])
    same = jnp.broadcast_to(IMAGES[0], IMAGES.shape)
    assert len({image.tobytes() for image in np.asarray(augment(same, KEYS, augmentation))}) >= 8
    next_epoch = augment(IMAGES, sample_keys(jax.random.key(1), jnp.arange(64)), augmentation)
    assert (whole != next_epoch).any((1, 2, 3)).sum() > 32


def test_strong_adds_noise_or_smoothing_to_half_of_the_images_each():
    images = jnp.ones((4096, 4, 4, 3))
    changed = np.asarray(augment(images, MANY, "strong")) - 1
    noisy = np.abs(changed).max((1, 2, 3)) > 0
    assert 0.47 < noisy.mean() < 0.53
    # Some noise is halved by the smoothing; the strongest is not.
    assert np.quantile(changed[noisy].std((1, 2, 3)), 0.9) == pytest.approx(NOISE_STD, rel=0.2)


def test_strong_smooths_as_torchvision_adjust_sharpness_does():
    """Smooths a unit impulse: it keeps 1/2 + 5/26, and each neighbor gets 1/26."""
    impulse = jnp.zeros((512, 5, 5, 3)).at[:, 2, 2].set(1.0)
    results = np.asarray(augment(impulse, MANY[:512], "strong"))
    peaks = results[:, 2, 2, 0]
    smoothed = peaks < 0.9
    assert 0.4 < smoothed.mean() < 0.6
    np.testing.assert_allclose(peaks[smoothed], 0.5 + 5 / 26, atol=5 * NOISE_STD)
    np.testing.assert_allclose(results[smoothed][:, 1, 2, 0], 1 / 26, atol=5 * NOISE_STD)
    np.testing.assert_allclose(peaks[~smoothed], 1, atol=5 * NOISE_STD)

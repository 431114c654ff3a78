import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from r2l_jax.model import adaptation, processors
from r2l_jax.model.processors import OwnNormalization, Standardize, Unprocessed
from r2l_jax.model.raw_to_logit import RawToLogit
from r2l_jax.model.tasks.classification import Classification
from tasks.layers import BatchNorm

TASK = Classification(("dark", "bright"), "ResNet18")
RNG = np.random.default_rng(0)
LEVELS = np.repeat([0.2, 0.6], 32)[:, None, None, None]
IMAGES = (LEVELS + 0.05 * RNG.standard_normal((64, 8, 8, 3))).astype(np.float32)


class Head(nnx.Module):
    """Takes images for bright that are above their normalizer's mean."""

    def __init__(self):
        self.norm, self.sureness = BatchNorm(3, affine=False, rngs=nnx.Rngs(0)), 8

    def __call__(self, images):
        mean = self.norm(images).mean((1, 2, 3))
        return self.sureness * jnp.stack([-mean, mean], -1)


def model_of(images, normalizer=None):
    """A model whose statistics are those of images."""
    mean, var = images.mean((0, 1, 2)), images.var((0, 1, 2))
    model = RawToLogit(Unprocessed(), normalizer or BatchNorm(3, affine=False, rngs=nnx.Rngs(0)), Head())
    if isinstance(model.normalizer, BatchNorm):
        model.normalizer.mean[...], model.normalizer.var[...] = mean, var
    model.eval()
    return model


def correct(model, images):
    return (np.asarray(model(jnp.asarray(images))).argmax(-1) == (LEVELS.ravel() > 0.4)).mean()


FIXED = Standardize(jnp.array(IMAGES.mean((0, 1, 2))), jnp.array(IMAGES.std((0, 1, 2))))


@pytest.mark.parametrize("normalizer", [None, FIXED], ids=["learned", "fixed"])
def test_statistics_of_darker_images_bring_the_score_back(normalizer):
    model, dark = model_of(IMAGES, normalizer), IMAGES / 4
    assert correct(model, IMAGES) == 1
    assert correct(model, dark) == 0.5
    found = adaptation.adapt(model, dark, TASK, 1.0)
    assert found.refusal is None
    assert found.share == 1
    # The baseline replaces them without a choice.
    for other in (found.model, adaptation.replaced(model, dark, TASK)):
        assert correct(other, dark) == 1
        mean, var = processors.statistics_of(other.normalizer)
        np.testing.assert_allclose(mean, dark.mean((0, 1, 2)), rtol=1e-3)
        np.testing.assert_allclose(var, dark.var((0, 1, 2)), rtol=2e-3)
    # The model itself stays.
    np.testing.assert_allclose(model.normalizer.mean[...], IMAGES.mean((0, 1, 2)), rtol=1e-6)


def test_a_model_of_many_cameras_takes_dark_images_as_it_took_clean_ones():
    model, dark = model_of(IMAGES), IMAGES / 2
    # Its training had brighter images as well.
    model.normalizer.mean[...], model.normalizer.var[...] = jnp.full(3, 0.55), jnp.full(3, 0.3)
    before, clean = model(jnp.asarray(IMAGES)), adaptation.known_of(model, IMAGES, TASK)
    assert set(clean) == {"normalizer", "head.norm"}
    for images in (IMAGES, dark):
        found = adaptation.adapt(model, images, TASK, 0.0, clean=clean).model
        np.testing.assert_allclose(found(jnp.asarray(images)), before, atol=0.02)
        without = adaptation.adapt(model, images, TASK, 0.0).model
        assert np.abs(np.asarray(without(jnp.asarray(images)) - before)).max() > 1


@pytest.fixture
def own():
    """The constants of a head, which are far from the statistics of the images that it takes."""
    normalizer = OwnNormalization(jnp.array([0.6, 0.5, 0.4]), jnp.array([0.2, 0.3, 0.4]))
    normalizer.known_mean[...], normalizer.known_var[...] = IMAGES.mean((0, 1, 2)), IMAGES.var((0, 1, 2))
    return normalizer


def test_a_normalization_that_comes_with_the_head_is_adapted_by_what_it_knows_of_images(own):
    model, dark = model_of(IMAGES, own), IMAGES / 4
    wanted = (IMAGES - np.float32([0.6, 0.5, 0.4])) / np.float32([0.2, 0.3, 0.4])
    np.testing.assert_allclose(model.normalizer(jnp.asarray(IMAGES)), wanted, atol=1e-5)
    found = adaptation.adapt(model, dark, TASK, 1.0).model
    # Dark images reach the head as the known ones did, not as images of the mean and deviation of the constants.
    np.testing.assert_allclose(found.normalizer(jnp.asarray(dark)), wanted, atol=0.01)
    # What it knows now is the dark images, which another adaptation starts from.
    again = adaptation.replaced(found, IMAGES, TASK)
    np.testing.assert_allclose(again.normalizer(jnp.asarray(IMAGES)), wanted, atol=0.01)


def test_in_training_it_follows_the_images_without_an_effect(own):
    images = jnp.asarray(IMAGES / 2)
    own.train()
    before = own(images)
    for _ in range(60):
        after = own(images)
    np.testing.assert_array_equal(before, after)
    np.testing.assert_allclose(own.known_mean[...], images.mean((0, 1, 2)), rtol=0.01)
    np.testing.assert_allclose(own.known_var[...], images.var((0, 1, 2), ddof=1), rtol=0.05)
    own.eval()
    known = own.known_mean[...]
    own(images * 2)
    np.testing.assert_array_equal(own.known_mean[...], known)


def test_images_of_one_class_are_refused():
    found = adaptation.adapt(model_of(IMAGES), IMAGES[32:], TASK, 1.0)
    assert found.mutual_information < found.needed == 0.55
    assert "not a mixture of the training classes" in str(found.refusal)


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [([[1, 0], [0, 1]], 1), ([[0.5, 0.5]] * 2, 0), ([[0.9, 0.1]] * 3, 0), ([[1, 0, 0], [0, 1, 0], [0, 0, 1]], 1)],
)
def test_mutual_information_is_what_single_predictions_resolve(probabilities, expected):
    assert adaptation.mutual_information(jnp.array(probabilities, float)) == pytest.approx(expected, abs=1e-6)


def chosen(*means):
    """The number for layers of these means of images, of which the training's are 0 and the variances 1.25."""
    moments = {f"{layer}": np.stack([each, np.ones_like(each)]) for layer, each in enumerate(means)}
    known = {name: (np.zeros(each.shape[-1]), np.full(each.shape[-1], 1.25)) for name, each in moments.items()}
    return adaptation.pseudo_images(moments, known)


@pytest.mark.parametrize(("shift", "images", "expected"), [(0, 64, np.inf), (3, 64, 0), (3, 8, 0)])
def test_pseudo_images_of_the_training_count_where_it_foretells_new_images(shift, images, expected):
    means = 0.5 * np.random.default_rng(1).standard_normal((images, 32))
    assert chosen(means + shift) == expected
    # A drift of one layer outweighs another layer that sees none, however many channels that has.
    assert chosen(means + shift, np.tile(means, 9)) == expected


def test_each_image_is_foretold_by_the_others_alone():
    means = 0.5 + 0.7 * np.random.default_rng(0).standard_normal((3, 16))
    costs = {}
    for number in (0.0, *(2.0**power for power in range(11))):
        each = []
        for place in range(3):
            others = np.delete(means, place, 0)
            # The two others count as two images, and so many pseudo-images of the training as `number`.
            mean = others.sum(0) / (2 + number)
            var = (2 * (1 + others.var(0)) + number * 1.25) / (2 + number)
            each.append(np.log(var) + (1 + (means[place] - mean) ** 2) / var)
        costs[number] = np.mean(each)
    assert chosen(means) == min(costs, key=costs.__getitem__) > 0

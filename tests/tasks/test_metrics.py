"""Compares metrics with scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

from tasks import metrics

CLASSES = 6


def samples(batch=50):
    """Draws classes; 3 is never predicted, 4 is never true, and 5 is neither."""
    rng = np.random.default_rng(0)
    return rng.choice([0, 1, 2, 4], batch), rng.choice([0, 1, 2, 3], batch)


def confusion(predictions, targets, weights=None):
    weights = None if weights is None else jnp.asarray(weights, jnp.float32)
    return metrics.confusion_matrix(jnp.asarray(predictions), jnp.asarray(targets), CLASSES, weights)


@pytest.mark.parametrize("weights", [None, np.array([1, 0, 2, 1, 0])])
def test_confusion_matrix_of_samples_and_of_pixels(weights):
    predictions, targets = samples()
    each = None if weights is None else np.repeat(weights, 10)
    expected = sklearn.metrics.confusion_matrix(targets, predictions, labels=range(CLASSES), sample_weight=each)
    np.testing.assert_array_equal(confusion(predictions, targets, each), expected)
    predictions, targets = (classes.reshape(5, 2, 5) for classes in (predictions, targets))
    np.testing.assert_array_equal(confusion(predictions, targets, weights), expected)


@pytest.mark.parametrize("name", ["precision", "recall", "f1", "iou", "accuracy"])
def test_metrics_agree_with_scikit_learn(name):
    predictions, targets = samples()
    reference = getattr(sklearn.metrics, {"iou": "jaccard_score"}.get(name, f"{name}_score"))
    of_classes = {} if name == "accuracy" else {"labels": range(CLASSES), "average": None, "zero_division": 0}
    metric = getattr(metrics, name)
    found = metric(confusion(predictions, targets))
    np.testing.assert_allclose(found, reference(targets, predictions, **of_classes), rtol=1e-6)
    assert not metric(jnp.zeros((CLASSES, CLASSES))).any()
    several = jnp.stack([confusion(predictions, targets), confusion(targets, predictions)])
    np.testing.assert_allclose(jax.vmap(metric)(several)[0], found, rtol=1e-6)


def test_unknown_classes_are_not_counted():
    np.testing.assert_array_equal(confusion([0, -1, 0, CLASSES], [-1, 0, CLASSES, 0]), np.zeros((CLASSES, CLASSES)))


def test_iou_of_images_is_that_of_each_image_by_itself():
    predictions, targets = np.random.default_rng(0).integers(0, 2, (2, 5, 4, 6))
    targets[0] = 0
    flat = (targets.reshape(5, -1), predictions.reshape(5, -1))
    expected = [sklearn.metrics.jaccard_score(*pair) for pair in zip(*flat, strict=True)]
    of_images = metrics.iou_of_images(jnp.asarray(predictions), jnp.asarray(targets, bool))
    np.testing.assert_allclose(of_images, expected, rtol=1e-6)
    assert expected[0] == 0
    np.testing.assert_array_equal(metrics.iou_of_images(*[jnp.zeros((2, 3, 3), bool)] * 2), 1)

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


@pytest.mark.parametrize("weighted", [False, True])
def test_confusion_matrix(weighted):
    predictions, targets = samples()
    weights = np.arange(50) % 3 if weighted else None
    expected = sklearn.metrics.confusion_matrix(targets, predictions, labels=range(CLASSES), sample_weight=weights)
    np.testing.assert_array_equal(confusion(predictions, targets, weights), expected)


def test_padding_is_not_counted():
    predictions, targets = samples()
    padded = [np.concatenate([classes, np.zeros(14, int)]) for classes in (predictions, targets)]
    np.testing.assert_array_equal(confusion(*padded, np.arange(64) < 50), confusion(predictions, targets))


@pytest.mark.parametrize("weighted", [False, True])
def test_confusion_matrix_of_pixels(weighted):
    predictions, targets = (classes.reshape(5, 2, 5) for classes in samples())
    weights = np.array([1, 0, 2, 1, 0]) if weighted else None
    each = None if weights is None else np.repeat(weights, 10)
    expected = confusion(predictions.ravel(), targets.ravel(), each)
    np.testing.assert_array_equal(confusion(predictions, targets, weights), expected)


def test_unknown_classes_are_not_counted():
    np.testing.assert_array_equal(confusion([0, -1, 0, CLASSES], [-1, 0, CLASSES, 0]), np.zeros((CLASSES, CLASSES)))


def test_batches_add_up():
    predictions, targets = samples()
    total = confusion(predictions[:30], targets[:30]) + confusion(predictions[30:], targets[30:])
    np.testing.assert_array_equal(total, confusion(predictions, targets))


@pytest.mark.parametrize("name", ["precision", "recall", "f1"])
def test_metrics_of_each_class(name):
    predictions, targets = samples()
    reference = getattr(sklearn.metrics, f"{name}_score")
    expected = reference(targets, predictions, labels=range(CLASSES), average=None, zero_division=0)
    np.testing.assert_allclose(getattr(metrics, name)(confusion(predictions, targets)), expected, rtol=1e-6)


def test_iou_of_each_class():
    predictions, targets = samples()
    reference = sklearn.metrics.jaccard_score
    expected = reference(targets, predictions, labels=range(CLASSES), average=None, zero_division=0)
    np.testing.assert_allclose(metrics.iou(confusion(predictions, targets)), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int32])
def test_iou_of_a_binary_segmentation(dtype):
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.standard_normal((4, 8, 6, 1)), jnp.float32)
    masks = rng.random(logits.shape) < 0.3
    counts = [
        metrics.confusion_matrix(logits[part] > 0, jnp.asarray(masks[part].astype(dtype)), 2)
        for part in (slice(3), slice(3, 4))
    ]
    found = np.asarray(logits) > 0
    expected = [(a & b).sum() / (a | b).sum() for a, b in ((~found, ~masks), (found, masks))]
    np.testing.assert_allclose(metrics.iou(counts[0] + counts[1]), expected, rtol=1e-6)


def test_iou_of_empty_masks():
    empty, full = jnp.zeros((2, 4, 4), bool), jnp.ones((2, 4, 4), bool)
    for prediction, target, expected in ((empty, empty, [1, 0]), (full, empty, [0, 0]), (full, full, [0, 1])):
        np.testing.assert_array_equal(metrics.iou(metrics.confusion_matrix(prediction, target, 2)), expected)


def test_iou_of_images_is_that_of_each_image_by_itself():
    predictions, targets = np.random.default_rng(0).integers(0, 2, (2, 5, 4, 6))
    targets[0] = 0
    flat = (targets.reshape(5, -1), predictions.reshape(5, -1))
    expected = [sklearn.metrics.jaccard_score(*pair) for pair in zip(*flat, strict=True)]
    of_images = metrics.iou_of_images(jnp.asarray(predictions), jnp.asarray(targets, bool))
    np.testing.assert_allclose(of_images, expected, rtol=1e-6)
    assert expected[0] == 0


def test_an_image_without_the_object_that_predicts_none_is_right():
    np.testing.assert_array_equal(metrics.iou_of_images(*[jnp.zeros((2, 3, 3), bool)] * 2), 1)


def test_accuracy():
    predictions, targets = samples()
    expected = sklearn.metrics.accuracy_score(targets, predictions)
    np.testing.assert_allclose(metrics.accuracy(confusion(predictions, targets)), expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["accuracy", "precision", "recall", "f1", "iou"])
def test_no_samples_give_zero(name):
    assert not getattr(metrics, name)(jnp.zeros((CLASSES, CLASSES))).any()


def test_vmap():
    predictions, targets = (jnp.asarray(classes).reshape(5, 10) for classes in samples())
    each = jax.vmap(lambda p, t: metrics.f1(metrics.confusion_matrix(p, t, CLASSES)))(predictions, targets)
    np.testing.assert_allclose(each[3], metrics.f1(confusion(predictions[3], targets[3])), rtol=1e-6)

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


@pytest.mark.parametrize(
    ("name", "reference", "labels"),
    [
        ("balanced_accuracy", sklearn.metrics.recall_score, [0, 1, 2, 3]),  # of classes that are present
        ("macro_f1", sklearn.metrics.f1_score, [0, 1, 2, 3, 4]),  # of classes that are present or predicted
        ("mean_iou", sklearn.metrics.jaccard_score, [0, 1, 2, 3, 4]),
    ],
)
def test_means_over_classes_skip_absent_ones(name, reference, labels):
    predictions, targets = samples()
    expected = reference(targets, predictions, labels=labels, average="macro", zero_division=0)
    metric = getattr(metrics, name)
    assert float(metric(confusion(predictions, targets))) == pytest.approx(expected, rel=1e-6)
    several = np.stack([confusion(predictions, targets), np.zeros((CLASSES, CLASSES))])
    np.testing.assert_allclose(metric(several), [expected, 0], rtol=1e-6)
    np.testing.assert_allclose(metric(metrics.counts(several)), [expected, 0], rtol=1e-6)

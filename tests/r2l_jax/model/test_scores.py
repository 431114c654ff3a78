"""Compares scores with scikit-learn, also for weighted samples."""

import custom_code
import numpy as np
import pytest
import sklearn.metrics

import tasks
from r2l_jax.errors import InputError
from r2l_jax.model import scores

CLASSES = ("a", "b", "c", "d")
RANDOM = np.random.default_rng(0)
TARGET, PREDICTED = RANDOM.integers(0, 3, 60), RANDOM.integers(0, 4, 60)
# Probabilities with ties.
PROBABILITY = np.round(RANDOM.random(60) * 0.6 + 0.3 * (TARGET == 1), 1).astype(np.float32)
OUTCOME = {"target": TARGET.astype(np.uint8), "predicted": PREDICTED.astype(np.uint8), "probability": PROBABILITY}
WEIGHTS = RANDOM.choice([0, 0.5, 1, 2], (3, 60))
KNOWN = ("accuracy", "balanced_accuracy", "macro_f1", "mean_iou", "iou", "auroc")


def macro(function, labels):
    return lambda weights: function(
        TARGET, PREDICTED, labels=labels, average="macro", zero_division=0, sample_weight=weights
    )


REFERENCES = {
    "accuracy": lambda weights: sklearn.metrics.accuracy_score(TARGET, PREDICTED, sample_weight=weights),
    "balanced_accuracy": macro(sklearn.metrics.recall_score, [0, 1, 2]),
    "macro_f1": macro(sklearn.metrics.f1_score, range(4)),
    "mean_iou": macro(sklearn.metrics.jaccard_score, range(4)),
    "iou:c": macro(sklearn.metrics.jaccard_score, [2]),
    "auroc:b": lambda weights: sklearn.metrics.roc_auc_score(TARGET == 1, PROBABILITY, sample_weight=weights),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_scores_of_weighted_samples_agree_with_scikit_learn(name):
    score = scores.find_score(name, CLASSES, KNOWN)
    np.testing.assert_allclose(score(OUTCOME, WEIGHTS), [REFERENCES[name](each) for each in WEIGHTS], rtol=1e-12)
    assert score(OUTCOME, np.zeros(60)) == 0
    # Groups of unequal sizes, whose numbers are not in order; one is alone in having a class.
    groups = np.array([7, 2, 9, 4, 30])[RANDOM.permutation(np.repeat(np.arange(5), [2, 5, 13, 18, 22]))]
    left = [REFERENCES[name](WEIGHTS[1] * (groups != group)) for group in (2, 4, 7, 9, 30)]
    np.testing.assert_allclose(score.without_each(OUTCOME, WEIGHTS[1], groups), left, rtol=1e-12)
    assert scores.recorded_score(score.name, score.classes) == score


def test_confusion_matrices_score_as_the_samples_that_they_count():
    confusion = np.zeros((60, 4, 4), np.float32)
    confusion[np.arange(60), TARGET, PREDICTED] = 1
    for name in REFERENCES.keys() - {"auroc:b"}:
        score = scores.find_score(name, CLASSES, KNOWN)
        np.testing.assert_allclose(score({"confusion": confusion}, WEIGHTS), score(OUTCOME, WEIGHTS), rtol=1e-12)
    for outcome in ({"confusion": confusion}, OUTCOME):
        expected = sklearn.metrics.confusion_matrix(TARGET, PREDICTED, labels=range(4), sample_weight=WEIGHTS[0])
        np.testing.assert_allclose(scores.confusion_of(outcome, WEIGHTS[0], 4), expected)


def test_the_mean_iou_of_images_counts_images_without_object_as_right():
    masks, found = np.random.default_rng(0).integers(0, 2, (2, 5, 24))
    masks[:2], found[0] = 0, 0
    each = [sklearn.metrics.jaccard_score(*pair, zero_division=1) for pair in zip(masks, found, strict=True)]
    assert (each[0], each[1]) == (1, 0)
    confusion = np.stack(
        [sklearn.metrics.confusion_matrix(*pair, labels=[0, 1]) for pair in zip(masks, found, strict=True)]
    )
    weights = np.array([[1, 1, 1, 1, 1], [2, 0, 1, 1, 3]])
    score = scores.MeanIou("tile_iou")
    expected = [np.average(each, weights=row) for row in weights]
    np.testing.assert_allclose(score({"confusion": confusion / np.float32(24)}, weights), expected)


@pytest.mark.parametrize(
    ("name", "both", "first", "second"),
    [
        ("map", 0.475, 0.5, 0.45),
        ("map:a", 0.5, 0.5, 0),
        ("map:b", 0.45, 0, 0.45),
        ("map50", 0.75, 1, 0.5),
        ("map50:a", 1, 1, 0),
        ("map50:b", 0.5, 0, 0.5),
    ],
)
def test_average_precision_is_of_all_classes_or_one_and_of_all_thresholds_or_the_first(name, both, first, second):
    """The box of a overlaps by 0.72, beyond 5 of 10 thresholds, and that of b by 0.92, beyond 9, after a wrong one."""
    images = [
        ([[0, 0, 72, 10, 0.9, 0]], [[0, 0, 100, 10, 0, 0]]),
        ([[0, 0, 92, 10, 0.5, 1], [200, 200, 210, 210, 0.8, 1]], [[0, 0, 100, 10, 1, 0]]),
    ]
    each = [tasks.detection.match(np.array(found, float), np.array(there, float), 2, 4) for found, there in images]
    outcome = {part: np.stack([of_image[part] for of_image in each]) for part in each[0]} | {"index": np.arange(2)}
    score = scores.find_score(name, ("a", "b"), ("map", "map50"))
    np.testing.assert_allclose(score(outcome, np.array([[1, 1], [1, 0], [0, 2]])), [both, first, second])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "recall",
            "must be one of accuracy, balanced_accuracy, macro_f1, mean_iou, iou, auroc, or a function in a file",
        ),
        ("iou:z", "with a class of a, b, c, d"),
        ("accuracy:a", "got accuracy:a"),
        ("auroc", "`score=auroc` is for two classes: name one of a, b, c, d, as auroc:a"),
    ],
)
def test_unknown_scores_are_refused(name, message):
    with pytest.raises(InputError, match=message):
        scores.find_score(name, CLASSES, KNOWN)


OWN = """
def make(classes):
    def cost(outcome, weights):
        wrong = (outcome["predicted"] != outcome["target"]) * (1.0 + (outcome["target"] == classes.index("c")))
        return 1 - weights @ wrong / weights.sum(-1)
    return cost
"""


def test_a_score_of_ones_own_is_a_function_of_outcomes_and_weights(tmp_path):
    score = scores.find_score(custom_code.write(tmp_path / "cost.py", OWN), CLASSES, KNOWN)
    assert (score.name, score.bounds[0]) == ("cost.make", -np.inf)
    costs = (TARGET != PREDICTED) * np.where(TARGET == 2, 2, 1)
    expected = [1 - np.average(costs, weights=each) for each in WEIGHTS]
    np.testing.assert_allclose(score(OUTCOME, WEIGHTS), expected)
    groups = np.arange(60) % 7
    left = [1 - np.average(costs[groups != group]) for group in range(7)]
    np.testing.assert_allclose(score.without_each(OUTCOME, np.ones(60), groups), left)
    with pytest.raises(InputError, match="the file of the score is not known here"):
        scores.recorded_score(score.name, CLASSES)(OUTCOME, WEIGHTS)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("lambda outcome, weights: weights", r"of shape \(3,\) for weights \(3, 60\), got shape \(3, 60\)"),
        ("lambda outcome, weights: 100 * weights.sum(-1)", "finite numbers of at most 1"),
        ("lambda outcome, weights: outcome['box']", r"raised KeyError: 'box' \(line 2\)"),
        ("3", "must return a function of outcomes and weights, got int"),
    ],
)
def test_a_wrong_score_of_ones_own_is_one_line(tmp_path, body, message):
    file = custom_code.write(tmp_path / "own.py", f"def make(classes):\n    return {body}\n")
    with pytest.raises(InputError, match=message):
        scores.find_score(file, CLASSES, KNOWN)(OUTCOME, WEIGHTS)

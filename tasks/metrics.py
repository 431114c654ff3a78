"""Classification and segmentation metrics, all computed from confusion matrices.

Confusion matrices can be added, so the metrics of an epoch follow from the sum of the matrices of its batches, and
those of weighted samples from a weighted sum. Metrics take matrices `(..., C, C)` of JAX or NumPy, or their `Counts`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer


class Counts(NamedTuple):
    """The numbers of samples of each class `(..., C)`: predicted correctly, truly of the class, and predicted as it.

    They are all that the metrics need of a confusion matrix, and take less room for many classes.
    """

    correct: Any
    true: Any
    predicted: Any


@jax.jit(static_argnames="num_classes")
def confusion_matrix(
    predictions: Integer[Array, " batch *pixels"] | Bool[Array, " batch *pixels"],
    targets: Integer[Array, " batch *pixels"] | Bool[Array, " batch *pixels"],
    num_classes: int,
    weights: Float[Array, " batch"] | None = None,
) -> Float[Array, "classes classes"]:
    """Counts the samples or pixels of each true class (row) that were predicted as each class (column).

    For a binary segmentation, `confusion_matrix(logits > 0, targets, 2)` counts the pixels. Counts are in float32, and
    exact up to 2**24. The matrix is `(num_classes, num_classes)`.

    Args:
        predictions: The predicted classes of samples `(B,)` or of their pixels `(B, ...)`. False is class 0 and True is
            class 1. Samples and pixels with a class outside 0 to num_classes - 1 are not counted.
        targets: The true classes, of the same shape.
        num_classes: The number of rows and columns.
        weights: The weight of each sample, `(B,)`: 0 for samples that only pad a batch. If None, all weigh 1.
    """
    rows, columns = (jax.nn.one_hot(classes.astype(jnp.int32), num_classes) for classes in (targets, predictions))
    if weights is not None:
        columns = columns * weights.reshape(-1, *[1] * targets.ndim)
    summed = tuple(range(targets.ndim))
    return jnp.tensordot(rows, columns, (summed, summed), precision="highest")


def counts(confusion: Any) -> Counts:
    """Computes the counts of each class from confusion matrices `(..., C, C)`; counts stay as they are."""
    if isinstance(confusion, Counts):
        return confusion
    return Counts(confusion.diagonal(axis1=-2, axis2=-1), confusion.sum(-1), confusion.sum(-2))


def accuracy(confusion: Any) -> Any:
    """Computes the accuracy `(...)`: the share of samples that were predicted correctly; 0 if there are no samples."""
    correct, true, _ = counts(confusion)
    return _ratio(correct.sum(-1), true.sum(-1))


def balanced_accuracy(confusion: Any) -> Any:
    """Computes the mean recall `(...)` of the classes that have samples; 0 if there are none."""
    return _mean(recall(confusion), counts(confusion).true > 0)


def precision(confusion: Any) -> Any:
    """Computes the precision `(..., C)`: the share of a class's predictions that are correct; 0 without predictions."""
    correct, _, predicted = counts(confusion)
    return _ratio(correct, predicted)


def recall(confusion: Any) -> Any:
    """Computes the recall of each class `(..., C)`: the share of its samples that are found; 0 without samples."""
    correct, true, _ = counts(confusion)
    return _ratio(correct, true)


def f1(confusion: Any) -> Any:
    """Computes the F1 score of each class `(..., C)`: the harmonic mean of precision and recall.

    It is 0 for a class that is neither present nor predicted.
    """
    correct, true, predicted = counts(confusion)
    return _ratio(2 * correct, true + predicted)


def macro_f1(confusion: Any) -> Any:
    """Computes the mean F1 score `(...)` of the classes that are present or predicted; 0 if there are none."""
    return _mean(f1(confusion), _found(confusion))


def iou(confusion: Any) -> Any:
    """Computes the intersection over union of each class `(..., C)`.

    It is the number of samples or pixels that are in the class and predicted as it, divided by the number that are in
    the class or predicted as it; 0 for a class that is neither present nor predicted. In a binary segmentation, class 1
    is the object.
    """
    correct, true, predicted = counts(confusion)
    return _ratio(correct, true + predicted - correct)


def mean_iou(confusion: Any) -> Any:
    """Computes the mean intersection over union `(...)` of the classes that are present or predicted; 0 without any.

    From the summed matrices of a data set, it is the mean IoU of mmsegmentation's `IoUMetric`.
    """
    return _mean(iou(confusion), _found(confusion))


def _found(confusion: Any) -> Any:
    """Tells which classes `(..., C)` are present or predicted."""
    _, true, predicted = counts(confusion)
    return (true + predicted) > 0


def _mean(values: Any, taken: Any) -> Any:
    """Computes the mean over some classes."""
    return _ratio((values * taken).sum(-1), taken.sum(-1))


def _ratio(part: Any, whole: Any) -> Any:
    """Divides sums; 0 by 0 is 0."""
    return part / (whole + (whole == 0))

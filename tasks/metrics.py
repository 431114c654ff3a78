"""Classification and segmentation metrics, all computed from a confusion matrix.

Confusion matrices can be added, so the metrics of an epoch follow from the sum of the matrices of its batches.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer


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


@jax.jit
def accuracy(confusion: Float[Array, "classes classes"]) -> Float[Array, ""]:
    """Computes the accuracy: the share of samples that were predicted correctly; 0 if there are no samples."""
    return _ratio(jnp.trace(confusion), confusion.sum())


@jax.jit
def precision(confusion: Float[Array, "classes classes"]) -> Float[Array, " classes"]:
    """Computes the precision of each class: the share of its predictions that are correct; 0 without predictions."""
    return _ratio(jnp.diag(confusion), confusion.sum(0))


@jax.jit
def recall(confusion: Float[Array, "classes classes"]) -> Float[Array, " classes"]:
    """Computes the recall of each class: the share of its samples that are found; 0 without samples."""
    return _ratio(jnp.diag(confusion), confusion.sum(1))


@jax.jit
def f1(confusion: Float[Array, "classes classes"]) -> Float[Array, " classes"]:
    """Computes the F1 score of each class: the harmonic mean of precision and recall.

    It is 0 for a class that is neither present nor predicted.
    """
    return _ratio(2 * jnp.diag(confusion), confusion.sum(0) + confusion.sum(1))


@jax.jit
def iou(confusion: Float[Array, "classes classes"]) -> Float[Array, " classes"]:
    """Computes the intersection over union of each class.

    It is the number of samples or pixels that are in the class and predicted as it, divided by the number that are in
    the class or predicted as it; 0 for a class that is neither present nor predicted. In a binary segmentation, class 1
    is the object.
    """
    common = jnp.diag(confusion)
    return _ratio(common, confusion.sum(0) + confusion.sum(1) - common)


@jax.jit
def iou_of_images(
    predictions: Integer[Array, " batch *pixels"] | Bool[Array, " batch *pixels"],
    targets: Integer[Array, " batch *pixels"] | Bool[Array, " batch *pixels"],
) -> Float[Array, " batch"]:
    """Computes the intersection over union of the object in each image of a binary segmentation.

    It is 1 if an image has no object and none is predicted. The mean differs from the `iou` of all pixels together,
    because it weighs a small object as much as a large one.
    """
    predicted, true = predictions.astype(bool), targets.astype(bool)
    pixels = tuple(range(1, targets.ndim))
    common, union = (predicted & true).sum(pixels), (predicted | true).sum(pixels)
    return jnp.where(union == 0, 1.0, common / jnp.maximum(union, 1))


def _ratio(part: Float[Array, "*shape"], whole: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    return jnp.where(whole == 0, 0, part / jnp.where(whole == 0, 1, whole))

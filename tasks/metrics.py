"""Metrics of classification and segmentation, all of them read off a confusion matrix.

Confusion matrices add up, so an epoch's metrics are those of the sum of its batches' matrices.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer


@functools.partial(jax.jit, static_argnames="num_classes")
def confusion_matrix(
    predictions: Integer[Array, " batch *pixels"] | Bool[Array, " batch *pixels"],
    targets: Integer[Array, " batch *pixels"] | Bool[Array, " batch *pixels"],
    num_classes: int,
    weights: Float[Array, " batch"] | None = None,
) -> Float[Array, "classes classes"]:
    """Counts how often each class (row) was predicted as each class (column), by samples or by pixels.

    The counts of pixels for a binary segmentation are `confusion_matrix(logits > 0, targets, 2)`. They are exact up to
    2**24 in float32, and rounded beyond.

    Args:
        predictions: predicted classes, of samples or of their pixels. What has a class outside 0 to num_classes - 1 is
            not counted. False is class 0, and True class 1.
        targets: true classes, likewise.
        num_classes: number of rows and columns.
        weights: what each sample counts, one if left out; zero for the padding of a batch.
    """
    rows, columns = (jax.nn.one_hot(classes.astype(jnp.int32), num_classes) for classes in (targets, predictions))
    if weights is not None:
        columns = columns * weights.reshape(-1, *[1] * targets.ndim)
    summed = tuple(range(targets.ndim))
    return jnp.tensordot(rows, columns, (summed, summed), precision="highest")


@jax.jit
def accuracy(confusion: Float[Array, "classes classes"]) -> Float[Array, ""]:
    """Computes the share of samples that were predicted right; 0 of no samples."""
    return _ratio(jnp.trace(confusion), confusion.sum())


@jax.jit
def precision(confusion: Float[Array, "classes classes"]) -> Float[Array, " classes"]:
    """Computes, of the samples predicted as each class, the share that are of it; 0 where there are none."""
    return _ratio(jnp.diag(confusion), confusion.sum(0))


@jax.jit
def recall(confusion: Float[Array, "classes classes"]) -> Float[Array, " classes"]:
    """Computes, of the samples of each class, the share predicted as it; 0 where there are none."""
    return _ratio(jnp.diag(confusion), confusion.sum(1))


@jax.jit
def f1(confusion: Float[Array, "classes classes"]) -> Float[Array, " classes"]:
    """Computes the harmonic mean of precision and recall of each class; 0 where it is neither there nor predicted."""
    return _ratio(2 * jnp.diag(confusion), confusion.sum(0) + confusion.sum(1))


@jax.jit
def iou(confusion: Float[Array, "classes classes"]) -> Float[Array, " classes"]:
    """Computes the intersection over union of each class: of what is of it or predicted as it, the share that is both.

    It is 0 where the union is empty: the class is neither there nor predicted. Of a binary segmentation, class 1 is the
    object.
    """
    common = jnp.diag(confusion)
    return _ratio(common, confusion.sum(0) + confusion.sum(1) - common)


def _ratio(part: Float[Array, "*shape"], whole: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    return jnp.where(whole == 0, 0, part / jnp.where(whole == 0, 1, whole))

"""Losses, one a sample: the mean, or a masked mean where a batch is padded, is the caller's."""

import optax
from jaxtyping import Array, Float, Int


def cross_entropy(logits: Float[Array, "batch classes"], targets: Int[Array, " batch"]) -> Float[Array, " batch"]:
    """Computes `-log softmax(logits)[target]` of each sample, in nats.

    Args:
        logits: any real numbers.
        targets: class indices, 0 to classes - 1.
    """
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets)

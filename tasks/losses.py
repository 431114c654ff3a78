"""Losses, and an image similarity.

A classification loss is one number per sample; the caller takes the mean, and leaves out samples that only pad a batch.
A segmentation loss is one number for all pixels of a batch or a data set, computed from sums of each image.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Integer, Real


def cross_entropy(
    logits: Float[Array, "batch classes"], targets: Int[Array, " batch"], smoothing: float = 0.0, guessed: float = 0.0
) -> Float[Array, " batch"]:
    """Computes the cross-entropy `-log softmax(logits)[target]` of each sample `(B,)`, in nats.

    Args:
        logits: Any real numbers, `(B, classes)`.
        targets: Class indices from 0 to classes - 1, `(B,)`.
        smoothing: The share of each target that is spread over all classes: C. Szegedy et al., "Rethinking the
            inception architecture for computer vision", CVPR (2016).
        guessed: The probability that the answer is a random guess instead of the network's, so no loss exceeds
            `log(classes / guessed)`, and hopeless samples have almost no gradient. This is the forward correction of
            uniform label noise: G. Patrini et al., "Making deep neural networks robust to label noise: a loss
            correction approach", CVPR (2017).
    """
    if guessed:
        least = jnp.log(guessed / logits.shape[-1])
        logits = jnp.logaddexp(jax.nn.log_softmax(logits) + jnp.log1p(-guessed), least)
    of_target = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    if not smoothing:
        return of_target
    of_all = -jax.nn.log_softmax(logits).mean(-1)
    return (1 - smoothing) * of_target + smoothing * of_all


def dice(
    logits: Float[Array, " batch *pixels"],
    targets: Real[Array, " batch *pixels"] | Bool[Array, " batch *pixels"],
    weights: Float[Array, " batch"] | None = None,
) -> Float[Array, ""]:
    """Computes the Dice loss `1 - 2 sum(p t) / sum(p + t)` with `p = sigmoid(logits)` and targets `t`.

    The sums run over all pixels of the batch. This is `DiceLoss(mode="binary", from_logits=True)` of
    segmentation_models_pytorch, after F. Milletari et al., "V-Net: fully convolutional neural networks for volumetric
    medical image segmentation" (2016). It ranges from 0 for perfect agreement to 1. If no target pixel is set, the loss
    is undefined, and 0 is returned.

    Args:
        logits: Any real numbers, `(B, ...)`.
        targets: Values in [0, 1], usually 0 and 1, of the same shape.
        weights: The weight of each sample, `(B,)`: 0 for samples that only pad a batch. If None, all weigh 1.
    """
    sums = dice_sums(logits, targets)
    return dice_of(sums.sum(0) if weights is None else weighted_sum(sums, weights))


def dice_sums(
    logits: Float[Array, " batch *pixels"],
    targets: Real[Array, " batch *pixels"] | Bool[Array, " batch *pixels"],
) -> Float[Array, "batch 3"]:
    """Computes the sums `(sum(p t), sum(p), sum(t))` of each image for the Dice loss, see `dice` and `dice_of`."""
    if logits.shape != targets.shape:
        raise ValueError(f"targets must have the shape of the logits, {logits.shape}, got {targets.shape}")
    # In this form, rounding does not make the gradient of a large logit vanish.
    probabilities = jnp.exp(jax.nn.log_sigmoid(logits))
    terms = probabilities * targets, probabilities, targets.astype(logits.dtype)
    return jnp.stack([pixels.sum(tuple(range(1, logits.ndim))) for pixels in terms], 1)


def weighted_sum(sums: Float[Array, "images ..."], weights: Float[Array, " images"]) -> Float[Array, "..."]:
    """Adds up the sums of images, such as `dice_sums` and `class_sums`, by the weights of the images."""
    return (sums * weights.reshape(-1, *[1] * (sums.ndim - 1))).sum(0)


def dice_of(sums: Float[Array, "3"]) -> Float[Array, ""]:
    """Computes the Dice loss from the total of `dice_sums`."""
    common, predicted, true = sums
    score = 2 * common / jnp.maximum(predicted + true, 1e-7)
    return jnp.where(true > 0, 1 - score, 0)


def class_sums(
    logits: Float[Array, "batch *pixels classes"], targets: Integer[Array, " batch *pixels"]
) -> Float[Array, "batch 4 classes"]:
    """Computes the sums of each image from which `class_loss` computes the loss of several classes.

    For each class, with `p = softmax(logits)` and `t` 1 where a pixel is of the class and else 0, these are `sum(p t)`,
    `sum(p)`, `sum(t)` and the cross-entropy `sum(-t log p)` in nats. Pixels whose target is not from 0 to classes - 1,
    such as 255, count nowhere. The sums of images add up to those of a batch or a data set.

    Args:
        logits: Any real numbers, `(B, ..., classes)`.
        targets: Class indices, `(B, ...)`.
    """
    logarithms = jax.nn.log_softmax(logits)
    true = jax.nn.one_hot(targets, logits.shape[-1], dtype=logits.dtype)
    predicted = jnp.exp(logarithms) * true.sum(-1, keepdims=True)
    # Where the target is another class, log p may be -inf.
    surprise = -jnp.where(true > 0, logarithms, 0)
    pixels = tuple(range(1, targets.ndim))
    return jnp.stack([each.sum(pixels) for each in (predicted * true, predicted, true, surprise)], 1)


def class_loss(sums: Float[Array, "*batch 4 classes"]) -> Float[Array, "*batch"]:
    """Computes the loss of several classes from the sums of `class_sums`: Dice loss plus cross-entropy.

    The Dice loss is the mean over all classes of `1 - 2 sum(p t) / sum(p + t)`, to which a class without pixels
    contributes 0: `DiceLoss(mode="multiclass", from_logits=True, ignore_index=255)` of segmentation_models_pytorch. The
    cross-entropy is the mean over counted pixels, in nats. Without counted pixels, the loss is 0.
    """
    common, predicted, true, surprise = (sums[..., row, :] for row in range(4))
    of_classes = jnp.where(true > 0, 1 - 2 * common / jnp.maximum(predicted + true, 1e-7), 0)
    return of_classes.mean(-1) + surprise.sum(-1) / jnp.maximum(true.sum(-1), 1e-7)


def ssim(
    image_a: Float[Array, "*batch height width channels"], image_b: Float[Array, "*batch height width channels"]
) -> Float[Array, ""]:
    """Computes the mean structural similarity (SSIM) of images, over all pixels, channels and images.

    Means, variances and covariance are computed in a Gaussian window of 11x11 pixels with sigma 1.5, over zero-padded
    images; C1 is 0.01^2 and C2 is 0.03^2: Z. Wang et al., "Image quality assessment: from error visibility to
    structural similarity" (2004). `1 - ssim` is a loss, and `jax.vmap` gives one value per image.

    Both are images `(..., H, W, C)` in [0, 1]. The similarity ranges from -1 to 1, which equal images have.
    """
    if image_a.shape != image_b.shape:
        raise ValueError(f"images must have the same shape, got {image_a.shape} and {image_b.shape}")
    c1, c2 = 0.01**2, 0.03**2
    moments = jnp.stack([image_a, image_b, image_a**2, image_b**2, image_a * image_b])
    mean_a, mean_b, square_a, square_b, product = _blur(moments)
    variances = square_a - mean_a**2 + square_b - mean_b**2
    covariance = product - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (variances + c2)
    return (luminance * structure).mean()


def _blur(images: Float[Array, "*batch height width channels"]) -> Float[Array, "*batch height width channels"]:
    # Gradients of band matrix products take a quarter of the time of sums of shifted images.
    rows, columns = (_gaussian_band(size, images.dtype) for size in images.shape[-3:-1])
    images = jnp.einsum("ij,...jwc->...iwc", rows, images, precision="highest")
    return jnp.einsum("ij,...hjc->...hic", columns, images, precision="highest")


def _gaussian_band(size: int, dtype: jnp.dtype) -> Float[Array, "size size"]:
    """Makes the matrix that convolves a zero-padded vector of this size with a Gaussian of 11 taps, sigma 1.5."""
    sites = jnp.arange(size, dtype=dtype)
    squares = (sites[:, None] - sites) ** 2
    total = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2)).sum()
    return jnp.where(squares <= 5**2, jnp.exp(-squares / (2 * 1.5**2)) / total, 0)

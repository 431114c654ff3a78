"""Losses, and a similarity of images.

Those of classification are one a sample: the mean, or a masked mean where a batch is padded, is the caller's. Those of
segmentation are one a batch, and take weights.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Real


def cross_entropy(logits: Float[Array, "batch classes"], targets: Int[Array, " batch"]) -> Float[Array, " batch"]:
    """Computes `-log softmax(logits)[target]` of each sample, in nats.

    Args:
        logits: any real numbers.
        targets: class indices, 0 to classes - 1.
    """
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets)


def dice(
    logits: Float[Array, " batch *pixels"],
    targets: Real[Array, " batch *pixels"] | Bool[Array, " batch *pixels"],
    weights: Float[Array, " batch"] | None = None,
) -> Float[Array, ""]:
    """Computes `1 - 2 sum(p t) / sum(p + t)`, over all pixels of the batch, with `p = sigmoid(logits)` and targets `t`.

    It is between 0, where they agree, and 1; 0 also if no target pixel is set, where the loss is undefined. It is
    `DiceLoss(mode="binary", from_logits=True)` of segmentation_models_pytorch, after Milletari et al. 2016, "V-Net:
    fully convolutional neural networks for volumetric medical image segmentation".

    Args:
        logits: any real numbers.
        targets: 0 or 1, or between.
        weights: what each sample counts, one if left out; zero for the padding of a batch.

    Raises:
        ValueError: if logits and targets differ in shape.
    """
    if logits.shape != targets.shape:
        raise ValueError(f"targets must have the shape of the logits, {logits.shape}, got {targets.shape}")
    # In this form the gradient of a large logit does not vanish by rounding.
    probabilities = jnp.exp(jax.nn.log_sigmoid(logits))
    each_sample = tuple(range(1, logits.ndim))
    common, predicted, true = (
        pixels.sum(each_sample) for pixels in (probabilities * targets, probabilities, targets.astype(logits.dtype))
    )
    if weights is not None:
        common, predicted, true = common * weights, predicted * weights, true * weights
    score = 2 * common.sum() / jnp.maximum(predicted.sum() + true.sum(), 1e-7)
    return jnp.where(true.sum() > 0, 1 - score, 0)


def ssim(
    image_a: Float[Array, "*batch height width channels"], image_b: Float[Array, "*batch height width channels"]
) -> Float[Array, ""]:
    """Computes the structural similarity of images, its mean over all pixels, channels and images.

    It is 1 for equal images, and at least -1; a loss is `1 - ssim`. `jax.vmap` gives that of each image. Means,
    variances and the covariance are those in a Gaussian window, 11x11 with sigma 1.5, over images padded by zeros. See
    Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity"; C1 is 0.01^2 and C2
    0.03^2.

    Args:
        image_a: values in [0, 1].
        image_b: likewise.

    Raises:
        ValueError: if the images differ in shape.
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
    # As products with band matrices, whose gradients take a quarter of the time of those of sums of shifted images.
    rows, columns = (_gaussian_band(size, images.dtype) for size in images.shape[-3:-1])
    images = jnp.einsum("ij,...jwc->...iwc", rows, images, precision="highest")
    return jnp.einsum("ij,...hjc->...hic", columns, images, precision="highest")


def _gaussian_band(size: int, dtype: jnp.dtype) -> Float[Array, "size size"]:
    """The matrix that convolves a vector of that size, padded by zeros, with 11 taps of sigma 1.5."""
    sites = jnp.arange(size, dtype=dtype)
    squares = (sites[:, None] - sites) ** 2
    total = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2)).sum()
    return jnp.where(squares <= 5**2, jnp.exp(-squares / (2 * 1.5**2)) / total, 0)

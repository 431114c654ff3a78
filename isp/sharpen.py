"""Sharpening, on luma alone so that no colour fringes appear."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from isp import color, denoise
from isp._engine import stencil
from isp._engine.windows import Scalar

SHARPENING_KERNEL = np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]], np.float32)


@jax.jit
def sharpening_filter(
    rgb: Float[Array, "*batch height width 3"], kernel: Float[Array, "3 3"] = SHARPENING_KERNEL
) -> Float[Array, "*batch height width 3"]:
    """Correlates the luma with a 3x3 kernel, zeros beyond the border; U and V stay.

    The default adds the negative four-neighbour Laplacian. The kernel is rounded to the image's type. Does not clip:
    edges overshoot.
    """
    luma = color.luma(rgb)
    return color.with_luma(rgb, stencil.correlate(luma, jnp.asarray(kernel, luma.dtype), "zero"))


def unsharp_masking(
    rgb: Float[Array | np.ndarray, "*batch height width 3"],
    radius: Scalar = 1.0,
    amount: Scalar = 1.0,
    size: int | None = None,
) -> Float[Array, "*batch height width 3"]:
    """Adds to the luma `amount` times what a Gaussian blur takes from it; U and V stay.

    The luma is that of `skimage.filters.unsharp_mask` with preserve_range=True: the border repeats its outermost
    pixels. Does not clip: edges overshoot.

    Args:
        rgb: images.
        radius: standard deviation of the Gaussian in pixels, positive; it can be learned.
        amount: 0 changes nothing, negative values blur; it can be learned.
        size: side of the Gaussian's support, odd; 4 standard deviations to each side if it is not given.

    Raises:
        ValueError: a `radius` that is traced without a `size`, or not positive; an even `size`; no image.
    """
    return _unsharp_masking(rgb, radius, amount, denoise.gaussian_size("radius", radius, size))


@functools.partial(jax.jit, static_argnames="size")
def _unsharp_masking(rgb, radius, amount, size):
    luma = color.luma(rgb)
    return color.with_luma(rgb, luma + amount * (luma - denoise.gaussian_filter(luma, radius, size)))

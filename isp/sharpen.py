"""Sharpening of the luma; U and V stay unchanged, so no color fringes appear."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from isp import color
from isp._kernels import gaussian, stencil
from isp._kernels.checks import Scalar, gaussian_size

# Adds the negative Laplacian of the four neighbors.
SHARPENING_KERNEL = np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]], np.float32)


@jax.jit
def sharpening_filter(
    rgb: Float[Array, "*batch height width 3"], kernel: Float[Array | np.ndarray, "3 3"] = SHARPENING_KERNEL
) -> Float[Array, "*batch height width 3"]:
    """Correlates the luma with a 3x3 kernel, with zeros beyond the border.

    Args:
        kernel: The weights, which can be learned. They are rounded to the image's type.

    Example:
        >>> edge = np.broadcast_to(np.float32([0.25, 0.25, 0.5, 0.5])[:, None], (3, 4, 3))
        >>> np.asarray(isp.sharpen.sharpening_filter(edge))[1, 1:3, 0].round(3)
        array([0.  , 0.75], dtype=float32)
    """
    return color.replace_luma(rgb, lambda luma: stencil.correlate(luma, jnp.asarray(kernel, luma.dtype), "zero"))


def unsharp_masking(
    rgb: Float[Array | np.ndarray, "*batch height width 3"],
    radius: Scalar = 1.0,
    amount: Scalar = 1.0,
    size: int | None = None,
) -> Float[Array, "*batch height width 3"]:
    """Adds to the luma `amount` times the detail that a Gaussian blur would remove.

    Filters the luma as `skimage.filters.unsharp_mask` does with `preserve_range=True`: the border repeats its outermost
    pixels.

    Args:
        radius: The standard deviation of the Gaussian in pixels, positive.
        amount: The factor. 0 changes nothing and negative values blur.

    Raises:
        ValueError: `radius` is not positive, `size` is not odd, or `radius` is traced without a `size`.

    Example:
        >>> edge = np.broadcast_to(np.float32([0.25, 0.25, 0.5, 0.5])[:, None], (3, 4, 3))
        >>> np.asarray(isp.sharpen.unsharp_masking(edge, radius=0.5))[1, :, 0].round(3)
        array([0.25 , 0.223, 0.527, 0.5  ], dtype=float32)
    """
    return _unsharp_masking(gaussian.smooth, rgb, radius, amount, gaussian_size("radius", radius, size))


def unsharp_masking_vertical(
    rgb: Float[Array | np.ndarray, "*batch height width 3"],
    radius: Scalar = 1.0,
    amount: Scalar = 1.0,
    size: int | None = None,
) -> Float[Array, "*batch height width 3"]:
    """Adds to the luma `amount` times the detail that a Gaussian blur along the columns would remove.

    This is the unsharp masking that the program of Oala et al. (TMLR 2023) ran: it calls `skimage.filters.unsharp_mask`
    of scikit-image 0.18.1 on the luma `(H, W)` with `multichannel=True`, which treats the last axis as channels and
    blurs each column separately. Horizontal edges are sharpened; vertical edges stay unchanged. Use it to compare with
    the study's results, and `unsharp_masking`, which has the same arguments, for everything else.

    Raises:
        ValueError: `radius` is not positive, `size` is not odd, or `radius` is traced without a `size`.
    """
    return _unsharp_masking(gaussian.smooth_columns, rgb, radius, amount, gaussian_size("radius", radius, size))


@jax.jit(static_argnames=("smooth", "size"))
def _unsharp_masking(smooth: Callable[..., Array], rgb: Array, radius: Scalar, amount: Scalar, size: int) -> Array:
    return color.replace_luma(rgb, lambda luma: luma + amount * (luma - smooth(luma, radius, size)))

"""Filters of planes that compile to fast code, and tools for your own functions of images.

On CPUs, XLA would compute a filter anew for each value that the next filter reads. `apart` and `pointwise` prevent
that.
"""

import jax
import numpy as np
from jaxtyping import Array, Float

from isp._kernels import gaussian
from isp._kernels.checks import Scalar, check_image
from isp._kernels.stencil import correlate, total
from isp._kernels.xla import apart, pointwise

__all__ = ["apart", "check_image", "correlate", "gaussian_filter", "gaussian_kernel", "pointwise", "total"]


def gaussian_kernel(sigma: float, size: int) -> np.ndarray:
    """Makes a Gaussian kernel that sums to 1.

    Args:
        sigma: The standard deviation in pixels.
        size: The side of the kernel, odd.

    Returns:
        The kernel `(size, size)`, in float32.

    Example:
        >>> isp.filter.gaussian_kernel(0.5, 3).round(3)
        array([[0.011, 0.084, 0.011],
               [0.084, 0.619, 0.084],
               [0.011, 0.084, 0.011]], dtype=float32)
    """
    taps = np.exp(-((np.arange(size) - size // 2) ** 2) / (2 * sigma**2))
    return (np.outer(taps, taps) / taps.sum() ** 2).astype(np.float32)


@jax.jit(static_argnames="size")
def gaussian_filter(
    plane: Float[Array, "*batch height width"], sigma: Scalar, size: int
) -> Float[Array, "*batch height width"]:
    """Smooths planes with a Gaussian; the border repeats the outermost pixels.

    Args:
        plane: Planes `(..., H, W)`.
        sigma: The standard deviation in pixels, positive. It can be learned.
        size: The side at which the Gaussian is cut off, odd. Its weights sum to 1.

    Example:
        >>> spot = np.zeros((5, 5), np.float32)
        >>> spot[2, 2] = 1.0
        >>> np.asarray(isp.filter.gaussian_filter(spot, sigma=0.5, size=3))[2].round(3)
        array([0.   , 0.084, 0.619, 0.084, 0.   ], dtype=float32)
    """
    return gaussian.smooth(plane, sigma, size)

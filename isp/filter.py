"""Plane filters that compile to fast code, and tools for custom image functions.

On CPUs, XLA would recompute a filter for each value that the next filter reads. `unfused` prevents that.
"""

import jax
import numpy as np
from jaxtyping import Array, Float

from isp._kernels import gaussian
from isp._kernels.checks import Scalar, check_image
from isp._kernels.noise import uniform
from isp._kernels.stencil import correlate, total
from isp._kernels.xla import unfused

__all__ = ["check_image", "correlate", "gaussian_filter", "gaussian_kernel", "total", "unfused", "uniform"]


def gaussian_kernel(sigma: float, size: int) -> np.ndarray:
    """Makes a Gaussian kernel `(size, size)` in float32 that sums to 1.

    Args:
        sigma: The standard deviation in pixels, positive.
        size: The side, odd.
    """
    taps = np.exp(-((np.arange(size) - size // 2) ** 2) / (2 * sigma**2))
    return (np.outer(taps, taps) / taps.sum() ** 2).astype(np.float32)


@jax.jit(static_argnames="size")
def gaussian_filter(
    plane: Float[Array, "*batch height width"], sigma: Scalar, size: int
) -> Float[Array, "*batch height width"]:
    """Smooths planes with a Gaussian; the border repeats the outermost pixels.

    Args:
        sigma: The standard deviation in pixels, positive.
        size: The side at which the Gaussian is cut off, odd. Its weights sum to 1.
    """
    return gaussian.smooth(plane, sigma, size)

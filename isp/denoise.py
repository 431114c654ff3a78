"""Denoising, on luma alone where the filter is linear."""

import jax
import numpy as np
from jaxtyping import Array, Float

from isp import color, stencil


def gaussian_kernel(sigma: float, size: int) -> np.ndarray:
    """A `(size, size)` Gaussian of standard deviation `sigma` pixels that sums to 1."""
    taps = np.exp(-((np.arange(size) - size // 2) ** 2) / (2 * sigma**2))
    return (np.outer(taps, taps) / taps.sum() ** 2).astype(np.float32)


@jax.jit
def gaussian_blur(
    rgb: Float[Array, "*batch height width 3"], kernel: Float[Array, "rows cols"]
) -> Float[Array, "*batch height width 3"]:
    """Correlates the luma with a kernel of odd sides over mirrored borders; U and V stay.

    `gaussian_kernel(0.5, 5)` is the one that the differentiable pipeline starts from.
    """
    return color.with_luma(rgb, stencil.correlate(color.luma(rgb), kernel, "mirror"))

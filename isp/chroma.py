"""Denoising of color: U and V are smoothed, and the luma, which carries the detail, stays."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from isp import color
from isp._engine import checks, gaussian, planes
from isp._engine.checks import Scalar


def chroma_denoising(
    rgb: Float[Array | np.ndarray, "*batch height width 3"], sigma: Scalar = 1.5, size: int | None = None
) -> Float[Array, "*batch height width 3"]:
    """Smooths U and V by a Gaussian and keeps the luma.

    The eye sees color at a lower resolution than brightness, and demosaicing turns noise into colored spots a few
    pixels wide. The border repeats its outermost pixels.

    Args:
        rgb: Images `(..., H, W, 3)`.
        sigma: The standard deviation in pixels, positive. It can be learned.
        size: The side of the Gaussian's support, odd. If None, 4 standard deviations to each side.

    Returns:
        The images `(..., H, W, 3)`.

    Raises:
        ValueError: If `sigma` is not positive, or is traced without a `size`; if `size` is even; or if `rgb` is not a
            floating-point image `(..., H, W, 3)`.

    Example:
        >>> import isp
        >>> import numpy as np
        >>> rgb = np.full((5, 5, 3), 0.5, np.float32)
        >>> rgb[2, 2] = [0.9, 0.4, 0.3]
        >>> smooth = isp.denoise.chroma_denoising(rgb, sigma=1.0)
        >>> bool(np.allclose(isp.color.luma(smooth), isp.color.luma(rgb), atol=1e-6))
        True
        >>> np.asarray(smooth)[2, 2].round(2)
        array([0.6 , 0.52, 0.5 ], dtype=float32)
    """
    return _chroma_denoising(rgb, sigma, checks.gaussian_size("sigma", sigma, size))


@jax.jit(static_argnames="size")
def _chroma_denoising(rgb: Array, sigma: Scalar, size: int) -> Array:
    checks.check_image(rgb)
    red, green, blue = planes.split(rgb)
    of_red, of_green, of_blue = (float(weight) for weight in color.RGB_TO_YUV[0])
    luma = of_red * red + of_green * green + of_blue * blue
    # U and V are multiples of these differences, so smoothing the differences smooths U and V.
    red, blue = gaussian.smooth((red - luma, blue - luma), sigma, size)
    # The weighted differences sum to zero, which leaves the luma as it is.
    green = -(of_red / of_green) * red - (of_blue / of_green) * blue
    return jnp.stack([luma + red, luma + green, luma + blue], -1)

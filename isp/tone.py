"""Tone curves, which map linear light to display values."""

import jax
import numpy as np
from jaxtyping import Array, Float

from isp._engine import curves, units
from isp._engine.checks import Scalar, check_image
from isp.local_tone import local_tone_map

__all__ = ["contrast", "curve", "gamma_correct", "local_tone_map", "srgb"]


@jax.jit
def gamma_correct(
    rgb: Float[Array, "*batch height width 3"], gamma: Float[Array, ""] | float
) -> Float[Array, "*batch height width 3"]:
    """Applies the tone curve `rgb ** (1 / gamma)` to positive values; others become 0, with a gradient of 0.

    The slope grows without bound as values approach 0 from above. Where gradients matter, clip to a small positive
    value first.

    Args:
        rgb: Images `(..., H, W, 3)` in linear light.
        gamma: The exponent's inverse, such as 2.2. It can be learned.

    Returns:
        The images `(..., H, W, 3)`. Black stays at 0 and white at 1.

    Raises:
        ValueError: If `rgb` is not a floating-point image `(..., H, W, 3)`.

    Example:
        >>> import isp
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> np.asarray(isp.tone.gamma_correct(jnp.array([[[-0.5, 0.25, 1.0]]]), 2.0)).round(3)
        array([[[0. , 0.5, 1. ]]], dtype=float32)
    """
    check_image(rgb)
    return units.pointwise(curves.power)(rgb, gamma)


@jax.jit
def srgb(rgb: Float[Array, "*batch height width 3"]) -> Float[Array, "*batch height width 3"]:
    """Applies the tone curve of sRGB, by IEC 61966-2-1.

    Values up to 0.0031308 are multiplied by 12.92, negative ones as well; others become 1.055 x^(1/2.4) - 0.055.
    Unlike `gamma_correct`, the curve has a finite slope at 0.

    Args:
        rgb: Images `(..., H, W, 3)` in linear light.

    Returns:
        The images `(..., H, W, 3)`. Black stays at 0 and white at 1.

    Raises:
        ValueError: If `rgb` is not a floating-point image `(..., H, W, 3)`.

    Example:
        >>> import isp
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> np.asarray(isp.tone.srgb(jnp.array([[[0.001, 0.2140, 1.0]]]))).round(4)
        array([[[0.0129, 0.5   , 1.    ]]], dtype=float32)
    """
    check_image(rgb)
    return units.pointwise(curves.srgb)(rgb)


@jax.jit
def contrast(
    rgb: Float[Array, "*batch height width 3"], amount: Scalar, pivot: Scalar = 0.5
) -> Float[Array, "*batch height width 3"]:
    """Stretches all values away from a pivot: pivot + amount * (rgb - pivot).

    Args:
        rgb: Images `(..., H, W, 3)`, usually after a tone curve.
        amount: The factor; 1 changes nothing. It can be learned.
        pivot: The value that stays as it is. It can be learned.

    Returns:
        The images `(..., H, W, 3)`. Nothing is clipped.

    Raises:
        ValueError: If `rgb` is not a floating-point image `(..., H, W, 3)`.

    Example:
        >>> import isp
        >>> import jax.numpy as jnp
        >>> isp.tone.contrast(jnp.array([[[0.25, 0.5, 0.75]]]), 2.0)
        Array([[[0. , 0.5, 1. ]]], dtype=float32)
    """
    check_image(rgb)
    return curves.contrast(rgb, amount, pivot)


@jax.jit
def curve(
    rgb: Float[Array, "*batch height width 3"], rises: Float[Array | np.ndarray, " segments"]
) -> Float[Array, "*batch height width 3"]:
    """Applies a tone curve of straight segments that rises everywhere, whatever its parameters.

    The curve goes from (0, 0) to (1, 1) through knots at equal distances. The rise of each segment is the softmax of
    its parameter, so it is positive, and the rises sum to 1. Equal parameters change nothing. Beyond [0, 1], the first
    and the last segment go on.

    Args:
        rgb: Images `(..., H, W, 3)`.
        rises: The logarithms of the segments' rises, up to a common constant. They can be learned.

    Returns:
        The images `(..., H, W, 3)`. Black stays at 0 and white at 1.

    Raises:
        ValueError: If there are no segments, or `rgb` is not a floating-point image `(..., H, W, 3)`.

    Example:
        The lower half of the range takes up three quarters of it.

        >>> import isp
        >>> import numpy as np
        >>> rgb = np.array([[[0.0, 0.25, 0.5]], [[0.75, 1.0, 2.0]]], np.float32)
        >>> np.asarray(isp.tone.curve(rgb, np.log(np.float32([3, 1])))).round(3)
        array([[[0.   , 0.375, 0.75 ]],
        <BLANKLINE>
               [[0.875, 1.   , 1.5  ]]], dtype=float32)
    """
    check_image(rgb)
    if rises.ndim != 1 or not rises.size:
        raise ValueError(f"rises must have shape (segments,), got {rises.shape}")
    return units.pointwise(curves.segments)(rgb, curves.shares(rises, rgb.dtype))

"""Tone curves, which map linear light to display values."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from isp._engine import stencil
from isp._engine.checks import check_image


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
    return _power(rgb, gamma)


@stencil.pointwise
def _power(rgb: Array, gamma: Float[Array, ""] | float) -> Array:
    dark = rgb <= 0
    # Dark values are replaced before the logarithm as well: its infinite derivative times 0 would be NaN.
    return jnp.where(dark, 0, jnp.exp(jnp.log(jnp.where(dark, 1, rgb)) / gamma))

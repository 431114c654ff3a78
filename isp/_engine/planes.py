"""The channels of images as planes."""

from jax import lax
from jaxtyping import Array


def split(rgb: Array) -> tuple[Array, Array, Array]:
    """Returns the three channels of images `(..., H, W, 3)` as planes `(..., H, W)`.

    The gradient of a split is a concatenation, which cancels with the stacking of channels at the end of the function
    before. The gradients of `rgb[..., 0]` and so on would be three images, mostly of zeros, to add up.
    """
    red, green, blue = (lax.squeeze(plane, (plane.ndim - 1,)) for plane in lax.split(rgb, (1, 1, 1), rgb.ndim - 1))
    return red, green, blue

"""Lens shading: a lens darkens the corners of its picture, some colors more than others."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from isp import cfa
from isp._kernels import planes
from isp._kernels.checks import check_image


@jax.jit(static_argnames="pattern")
def correct(
    image: Shaped[Array, "..."], coefficients: Float[Array | np.ndarray, "3 3"], *, pattern: str | None = None
) -> Float[Array, "..."]:
    """Multiplies images by radial gains, with one polynomial per color.

    The gain at the radius r is 1 + k1 r^2 + k2 r^4 + k3 r^6, where r is 0 in the middle of the whole image and 1 at the
    center of its corner pixels. Crops of a larger frame therefore need separate coefficients. The opcode
    FixVignetteRadial of Adobe's DNG specification has the same polynomial up to r^10, but one for all colors.

    Args:
        image: Images `(..., H, W, 3)`; with a `pattern`, raw images `(..., H, W)` with black at 0.
        coefficients: k1, k2 and k3 in columns, for red, green and blue in rows. 0 changes nothing.
        pattern: The colors of a tile, see `isp.cfa`; None for images.

    Example:
        >>> rgb = isp.shading.correct(jnp.ones((3, 3, 3)), jnp.array([[0.5, 0, 0], [0.25, 0, 0], [0, 0, 0]]))
        >>> rgb[..., 0]
        Array([[1.5 , 1.25, 1.5 ],
               [1.25, 1.  , 1.25],
               [1.5 , 1.25, 1.5 ]], dtype=float32)
    """
    coefficients = jnp.asarray(coefficients, image.dtype)
    if pattern is None:
        check_image(image)
        height, width = image.shape[-3:-1]
        # Pixels and channels share one axis, because an axis of three does not vectorize.
        per_row, each = [jnp.tile(coefficients[:, k], width)[None] for k in range(3)], 3
    else:
        cfa.check_mosaic(image)
        height, width = image.shape[-2:]
        by_site = coefficients[cfa.tile(pattern)]
        per_row, each = [planes.rows_of_sites(by_site[..., k], height, width) for k in range(3)], 1
    rows, period = image.reshape(-1, height, width * each), len(per_row[0])
    squares = planes.squared_radii(height, width, image.dtype)
    r2 = (squares[0][:, None] + jnp.repeat(squares[1], each)).reshape(height // period, period, -1)
    k1, k2, k3 = per_row
    gains = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    return (rows.reshape(-1, height // period, period, width * each) * gains).reshape(image.shape)

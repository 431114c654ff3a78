"""Demosaicing: one colour a site to three colours a pixel."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from isp import bayer, stencil

_RED_BLUE = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 4
_GREEN = np.array([[0, 1, 0], [1, 4, 1], [0, 1, 0]]) / 4

# As out, in, row, col. Over planes that are zero where a site sees another colour, each kernel averages the nearest
# sites of its colour, whichever of the 2x2 tile's sites it stands on.
BILINEAR_KERNEL = np.zeros((3, 3, 3, 3), np.float32)
BILINEAR_KERNEL[[0, 1, 2], [0, 1, 2]] = _RED_BLUE, _GREEN, _RED_BLUE


@jax.jit
def interpolate(
    planes: Float[Array, "*batch height width 3"], kernel: Float[Array, "3 3 3 3"]
) -> Float[Array, "*batch height width 3"]:
    """Fills the planes that `bayer.spread` made, by a 3x3 correlation over mirrored borders.

    Args:
        planes: mosaic values, zero where a site sees another colour.
        kernel: weights as out, in, row, col; `BILINEAR_KERNEL` interpolates each colour from its own sites, a learnt
            one may mix colours.
    """
    return stencil.correlate_channels(planes, kernel, "mirror")


@functools.partial(jax.jit, static_argnames="pattern")
def bilinear(raw: Shaped[Array, "..."], pattern: str = "RGGB") -> Float[Array, "*batch height width 3"]:
    """Bilinear demosaicing of a mosaic `(..., H, W)`; each missing colour is the mean of its nearest sites.

    The outermost pixels follow colour-demosaicing's `demosaicing_CFA_Bayer_bilinear`, which repeats the border of the
    zero-filled planes; `interpolate` mirrors it instead.

    Raises:
        ValueError: raw of odd size, of fewer than two axes or not floating point; an unknown pattern.
    """
    return stencil.correlate_channels(bayer.spread(raw, pattern), jnp.asarray(BILINEAR_KERNEL, raw.dtype), "symmetric")

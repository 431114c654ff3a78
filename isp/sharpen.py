"""Sharpening, on luma alone so that no colour fringes appear."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from isp import color, stencil

SHARPENING_KERNEL = np.array([[0, -1, 0], [-1, 5, -1], [0, -1, 0]], np.float32)


@jax.jit
def sharpening_filter(
    rgb: Float[Array, "*batch height width 3"], kernel: Float[Array, "3 3"] = SHARPENING_KERNEL
) -> Float[Array, "*batch height width 3"]:
    """Correlates the luma with a 3x3 kernel, zeros beyond the border; U and V stay.

    The default adds the negative four-neighbour Laplacian. Does not clip: edges overshoot.
    """
    return color.with_luma(rgb, stencil.correlate(color.luma(rgb), jnp.asarray(kernel), "zero"))

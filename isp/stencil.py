"""Small stencils: the one place that knows how to pad and convolve."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Border = Literal["zero", "mirror", "symmetric"]

# NumPy's names. "mirror" reflects about the outermost pixel (row -1 is row 1), which keeps a mosaic's colours in place;
# "symmetric" repeats it (row -1 is row 0), as SciPy's filters do when nothing is said.
_PAD_MODES = {"zero": "constant", "mirror": "reflect", "symmetric": "symmetric"}


def correlate(
    image: Float[Array, "*batch height width"], kernel: Float[Array, "rows cols"], border: Border
) -> Float[Array, "*batch height width"]:
    """Cross-correlates the last two axes with a kernel of odd sides; the result keeps the size.

    out[y, x] = sum_ij kernel[i, j] * image[y + i - rows // 2, x + j - cols // 2].
    """
    return correlate_channels(image[..., None], kernel[None, None], border)[..., 0]


def correlate_channels(
    image: Float[Array, "*batch height width channels"], kernel: Float[Array, "out channels rows cols"], border: Border
) -> Float[Array, "*batch height width out"]:
    """Cross-correlates each channel with its own kernel for each output channel, and sums over the channels.

    Full float32 on every device: tensor cores' shorter formats would cost more than the last bits of a 12-bit raw.
    """
    *batch, height, width, channels = image.shape
    out, _, rows, cols = kernel.shape
    margins = [(0, 0), (rows // 2, rows // 2), (cols // 2, cols // 2), (0, 0)]
    dtype = jnp.result_type(image, kernel)
    padded = jnp.pad(image.astype(dtype).reshape(-1, height, width, channels), margins, _PAD_MODES[border])
    result = jax.lax.conv_general_dilated(
        padded,
        kernel.astype(dtype).transpose(2, 3, 1, 0),
        window_strides=(1, 1),
        padding="VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=jax.lax.Precision.HIGHEST,
    )
    return result.reshape(*batch, height, width, out)

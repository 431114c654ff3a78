"""Denoising by non-local means: each pixel is averaged with the pixels whose surroundings look alike."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from isp._engine import padding, stencil, units
from isp._engine.checks import Scalar, check_image, check_patches
from isp._engine.formulation import is_plain

# Patches at a greater distance have no weight in scikit-image.
_CUTOFF = 5.0


def nlm_denoising(
    rgb: Float[Array | np.ndarray, "*batch height width 3"],
    strength: Scalar = 0.1,
    patch_size: int = 7,
    patch_distance: int = 11,
    *,
    centered: bool = False,
) -> Float[Array, "*batch height width 3"]:
    """Averages each pixel with the pixels around it, weighted by how much the patches around both are alike.

    The weight of two pixels is exp(-(d / strength)^2), where d is the root mean square of the differences between their
    patches, over all channels: A. Buades, B. Coll and J.-M. Morel, "A non-local algorithm for image denoising", CVPR
    (2005).

    Follows scikit-image's `denoise_nl_means` with `channel_axis=-1`, `h=strength` and its fast mode where it departs
    from the paper: the sums over patches leave out their first row and their first column but divide by the whole
    number of pixels, and weights below exp(-5) are zero. (scikit-image moreover approximates the exponential to within
    four percent.) `centered=True` gives the weights of the paper. The border mirrors the image.

    The gradient ignores that weights become zero. Time is proportional to `(2 * patch_distance + 1) ** 2`, so that the
    defaults, which are scikit-image's, take hundreds of times as long as other denoisers.

    Args:
        rgb: Images `(..., H, W, 3)` of any range.
        strength: The difference of patches, positive, from which on they count little. It can be learned.
        patch_size: The side of the patches, odd.
        patch_distance: The greatest distance of two pixels in rows and in columns.
        centered: Whether patches are whole, and small weights count.

    Returns:
        The images `(..., H, W, 3)`.

    Raises:
        ValueError: If `strength` or `patch_distance` is not positive, if `patch_size` is even, or if `rgb` is not a
            floating-point image `(..., H, W, 3)`.

    Example:
        Noise is averaged, and the edge stays.

        >>> import isp
        >>> import numpy as np
        >>> row = np.array([0.2, 0.24, 0.2, 0.8, 0.76, 0.8], np.float32)
        >>> rgb = np.broadcast_to(row[:, None], (6, 6, 3))
        >>> denoised = isp.denoise.nlm_denoising(rgb, 0.2, patch_size=3, patch_distance=2, centered=True)
        >>> np.asarray(denoised)[3, 1:5, 0].round(2)
        array([0.23, 0.23, 0.77, 0.77], dtype=float32)
    """
    check_patches(strength, patch_size, patch_distance)
    return _nlm_denoising(rgb, strength, patch_size, patch_distance, centered)


@jax.jit(static_argnames=("patch_size", "patch_distance", "centered"))
def _nlm_denoising(rgb: Array, strength: Scalar, patch_size: int, patch_distance: int, centered: bool) -> Array:
    check_image(rgb)
    *batch, height, width, _ = rgb.shape
    # The squares of small differences need more than the range of float16.
    dtype, rgb = rgb.dtype, rgb.astype(jnp.promote_types(rgb.dtype, jnp.float32))
    images = rgb.reshape(-1, height, width, 3)
    average = functools.partial(_averaged, patch_size=patch_size, patch_distance=patch_distance, centered=centered)
    rate = 1 / (3 * patch_size**2 * jnp.asarray(strength, rgb.dtype) ** 2)
    if images.shape[0] == 0:
        return rgb.astype(dtype)
    if is_plain():
        averaged = jax.vmap(lambda image: average(image, rate))(images)
    else:
        averaged = jax.lax.map(lambda image: average(image, rate), images)
    return averaged.reshape(*batch, height, width, 3).astype(dtype)


def _averaged(image: Array, rate: Array, patch_size: int, patch_distance: int, centered: bool) -> Array:
    """Sums over one shift of the image after the other."""
    height, width, _ = image.shape
    before = patch_size // 2 if centered else patch_size // 2 - (patch_size > 1)
    side = patch_size if centered else max(patch_size - 1, 1)
    reach = patch_distance + patch_size // 2
    planes = [padding.pad(image[..., channel], reach, reach, "mirror").plane for channel in range(3)]
    padded = jnp.stack(planes)
    outer = (3, height + side - 1, width + side - 1)
    own = padded[:, reach - before :, reach - before :][:, : outer[1], : outer[2]]

    def seen(padded: Array, own: Array, rate: Array, shift: Array) -> tuple[Array, Array]:
        """Computes the weights of the pixels that are one shift away, and these pixels times the weights."""
        there = reach - before + shift
        moved = jax.lax.dynamic_slice(padded, (0, there[0], there[1]), outer)
        squares = units.apart(_squared_distance)(own, moved)
        rows = units.apart_with(_sums, side, 0)(squares)
        values = jax.lax.dynamic_slice(padded, (0, reach + shift[0], reach + shift[1]), (3, height, width))
        return units.apart_with(_weighted, side, not centered)(rows, rate, values)

    def add(sums: tuple[Array, Array], shift: Array) -> tuple[tuple[Array, Array], None]:
        # The gradient computes the weights of each shift again, so that they are never all in memory.
        weights, weighted = jax.checkpoint(seen)(padded, own, rate, shift)
        return (sums[0] + weights, sums[1] + weighted), None

    zeros = jnp.zeros((height, width), image.dtype), jnp.zeros((3, height, width), image.dtype)
    reached = np.arange(-patch_distance, patch_distance + 1)
    shifts = np.stack(np.meshgrid(reached, reached, indexing="ij"), -1).reshape(-1, 2)
    (total, weighted), _ = jax.lax.scan(add, zeros, jnp.asarray(shifts))
    return jnp.moveaxis(weighted / total, 0, -1)


def _squared_distance(own: Array, moved: Array) -> Array:
    differences = [own[channel] - moved[channel] for channel in range(3)]
    return stencil.total(difference * difference for difference in differences)


def _sums(side: int, axis: int, plane: Array) -> Array:
    length = plane.shape[axis] - side + 1
    return stencil.total(jax.lax.slice_in_dim(plane, i, i + length, axis=axis) for i in range(side))


def _weighted(side: int, cut: bool, rows: Array, rate: Array, values: Array) -> tuple[Array, Array]:
    distance = _sums(side, 1, rows) * rate
    weights = jnp.exp(-distance)
    if cut:
        weights = jnp.where(distance > _CUTOFF, 0, weights)
    return weights, weights * values

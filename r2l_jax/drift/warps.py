"""Warps images: resamples them between their pixels with linear interpolation."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from isp.filter import unfused

# Positions along an axis: the index before each, the index after it, and the fraction of the way between the two.
Axis = Sequence[Array]

Sigma = Float[Array, ""] | float


@jax.jit
def elastic_warp(
    images: Float[Array, "*batch height width 3"],
    shifts: Float[Array, "*batch 3 2"],
    noise: Float[Array, "*batch 2 height width"],
    sigma: Sigma,
    amplitude: Float[Array, ""] | float,
) -> Float[Array, "*batch height width 3"]:
    """Warps each image by an affine map, and the result by smoothed noise, each time with linear interpolation.

    The affine map moves three points whose distance from the middle, pixel (H // 2, W // 2), is a third of the shorter
    side along both axes: one to the lower right, one to the upper right and one to the upper left. The image is
    mirrored about its outermost pixels. This equals `cv2.warpAffine` with `BORDER_REFLECT_101`, except that OpenCV
    rounds positions to 1/32 of a pixel.

    Then each pixel is read from a displaced position, as by `scipy.ndimage.map_coordinates` with mode "reflect", which
    repeats the outermost pixels.

    Args:
        images: `(..., H, W, 3)`.
        shifts: for each of the three points, the number of pixels that it moves to the right and down.
        noise: how far down and how far to the right each pixel is read from, before smoothing and amplitude.
        sigma: the standard deviation in pixels of the Gaussian that smooths the noise, up to 0.3 of the shorter side.
            The Gaussian is truncated at 3 standard deviations and reflected at the borders.
        amplitude: factor on the smoothed noise.
    """
    height, width = images.shape[-3:-1]
    distance = max(min(height, width) // 3, 1)
    y, x = jnp.arange(height)[:, None], jnp.arange(width)
    rows, columns = _before_shifts(shifts[..., None, None], y - height // 2, x - width // 2, distance)
    warped = _interpolate(images, rows + height // 2, columns + width // 2, _mirrored)
    displacement = amplitude * _smooth(noise, sigma)
    return _interpolate(warped, y + displacement[..., 0, :, :], x + displacement[..., 1, :, :], _reflected)


def _before_shifts(shifts, rows, columns, distance):
    """Computes the source of each position under the affine map that shifts the three points of `elastic_warp`.

    Positions are relative to the middle, from which the points are `distance` away along each axis.
    """
    first, second, third = (shifts[..., i, :, :, :] for i in range(3))
    # The map moves p to L p + t. Two points that differ along one axis give a column of L, and opposite points give t.
    along, down = (second - third) / (2 * distance), (first - second) / (2 * distance)
    xx, yx, xy, yy = 1 + along[..., 0, :, :], along[..., 1, :, :], down[..., 0, :, :], 1 + down[..., 1, :, :]
    columns = columns - (first + third)[..., 0, :, :] / 2
    rows = rows - (first + third)[..., 1, :, :] / 2
    determinant = xx * yy - xy * yx
    return (xx * rows - yx * columns) / determinant, (yy * columns - xy * rows) / determinant


def _interpolate(images, rows, columns, inside):
    """Interpolates images at positions `(..., H, W)`; `inside` brings indices beyond the border inside."""

    def axis(positions, size):
        before = jnp.floor(positions)
        index = before.astype(jnp.int32)
        return inside(index, size), inside(index + 1, size), positions - before

    def one(image, rows, columns):
        return between_pixels(image, axis(rows, image.shape[0]), axis(columns, image.shape[1]))

    flat = images.reshape(-1, *images.shape[-3:])
    positions = (array.reshape(-1, *array.shape[-2:]) for array in (rows, columns))
    # If XLA fused two interpolations, it would repeat the first for each of the four pixels that the second reads.
    return unfused(jax.vmap(one))(flat, *positions).reshape(images.shape)


def _mirrored(index, size):
    """Mirrors indices about the outermost pixels, so that row -1 is row 1."""
    period = max(2 * (size - 1), 1)
    return jnp.minimum(index % period, -index % period)


def _reflected(index, size):
    """Reflects indices at the border, so that row -1 is row 0."""
    return jnp.minimum(index % (2 * size), (-1 - index) % (2 * size))


def _smooth(planes: Float[Array, "*batch height width"], sigma: Sigma) -> Float[Array, "*batch height width"]:
    """Smooths planes with matrix products, because the Gaussian may be as wide as the planes."""
    down, along = (_smoothing(size, sigma) for size in planes.shape[-2:])
    return jnp.matmul(jnp.matmul(down, planes, precision="highest"), along.T, precision="highest")


def _smoothing(size: int, sigma: Sigma) -> Float[Array, "size size"]:
    """Computes the matrix that smooths an axis: each row holds a pixel's Gaussian, folded back at the borders."""
    to, of = jnp.arange(size)[:, None], jnp.arange(size)
    distances = jnp.stack([of - to, -1 - of - to, 2 * size - 1 - of - to])
    # At a sigma of 0, only the pixel itself keeps a weight.
    gaussian = jnp.exp(-((distances / jnp.maximum(sigma, 0.01)) ** 2) / 2)
    weights = jnp.where(abs(distances) <= jnp.floor(3 * sigma + 0.5), gaussian, 0).sum(0)
    return weights / weights.sum(1, keepdims=True)


def between_pixels(
    image: Float[Array, "height width channels"], rows: Axis, columns: Axis
) -> Float[Array, "rows columns channels"]:
    """Interpolates an image linearly at a grid of positions, or at a position for each pixel."""
    (above, below, down), (before, after, right) = rows, columns
    down, right = down[..., None], right[..., None]

    def pixel(row, column):
        return image.at[row, column].get(mode="promise_in_bounds")

    upper = pixel(above, before) * (1 - right) + pixel(above, after) * right
    lower = pixel(below, before) * (1 - right) + pixel(below, after) * right
    return upper * (1 - down) + lower * down

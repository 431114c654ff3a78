"""Planes with values beyond their border.

Stencils read a padded plane that exists in memory. On a CPU, two things make padding as fast as a copy:

- XLA:CPU chooses between the plane and its border for each value of a row, but only once for a block of values. So rows
  are padded by whole blocks, which may be more columns than the stencil reads.
- Reflections are written over a border of zeros, in place. Concatenations would copy the whole plane once per axis.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Shaped

from isp._kernels.xla import is_fast_on_cpu, is_plain, unfused_with

# "mirror" reflects about the outermost pixel (row -1 is row 1), which keeps a mosaic's colors in place. "symmetric"
# repeats the outermost pixel (row -1 is row 0), which is the default of SciPy's filters.
Border = Literal["zero", "mirror", "symmetric"]

_PAD_MODES: dict[Border, Literal["constant", "reflect", "symmetric"]] = {
    "zero": "constant",
    "mirror": "reflect",
    "symmetric": "symmetric",
}

# The values of a block. Smaller blocks take longer, and larger ones divide the widths of fewer images.
_BLOCK = 8


@functools.partial(jax.tree_util.register_dataclass, data_fields=["wide"], meta_fields=["spare"])
@dataclasses.dataclass(frozen=True)
class Padded:
    """A padded plane: `wide` has `spare` columns of any values on each side of it."""

    wide: Shaped[Array, "*batch padded_height wide"]
    spare: int

    @property
    def plane(self) -> Shaped[Array, "*batch padded_height padded_width"]:
        """The padded plane. Do not take slices with steps from it: XLA would write this plane to memory first."""
        return lax.slice_in_dim(self.wide, self.spare, self.wide.shape[-1] - self.spare, axis=-1)


def pad(plane: Shaped[Array, "*batch height width"], rows: int, cols: int, border: Border) -> Padded:
    """Adds `rows` rows above and below and `cols` columns left and right, and puts the result in memory."""
    height, width = plane.shape[-2:]
    block = math.gcd(width, _BLOCK)
    margin = -(-cols // block) * block
    if not is_fast_on_cpu() or height <= rows or width <= margin:
        return Padded(unfused_with(_extended, rows, cols, border)(plane), 0)
    in_blocks = unfused_with(_in_blocks, rows, margin, block, border)(plane)
    # Within the unit, XLA would fuse this with the writing of the border, and copy the plane for that.
    return Padded(in_blocks.reshape(*in_blocks.shape[:-2], width + 2 * margin), margin - cols)


def unpad(
    padded: Shaped[Array, "*batch padded_height padded_width"], rows: int, cols: int, border: Border
) -> Shaped[Array, "*batch height width"]:
    """Applies the transpose of `pad`, which adds the values beyond the border to the pixels that they repeat."""
    return unfused_with(_transposed, rows, cols, border)(padded)


def windows(padded: Padded, size: int) -> list[Array]:
    """Lists the pixels of every square window, in reading order, as shifted views of a padded plane."""
    plane = padded.plane
    height, width = (side - (size - 1) for side in plane.shape[-2:])
    return [window(plane, (i, j), (height, width)) for i, j in itertools.product(range(size), repeat=2)]


def window(
    plane: Shaped[Array, "*batch height width"],
    place: tuple[int, int],
    size: tuple[int, int],
    steps: tuple[int, int] = (1, 1),
) -> Shaped[Array, "*batch rows cols"]:
    """Reads a window of a given size from a given start, in steps. Tracing `plane[..., a:b, c:d]` takes longer."""
    batch = plane.shape[:-2]
    ends = (first + (count - 1) * step + 1 for first, count, step in zip(place, size, steps, strict=True))
    return lax.slice(plane, (*[0] * len(batch), *place), (*batch, *ends), (*[1] * len(batch), *steps))


def extended(plane: Shaped[Array, "*batch height width"], rows: int, cols: int, border: Border) -> Shaped[Array, "..."]:
    """Pads planes in the plain formulation by indexing rows and columns."""
    if border == "zero":
        return jnp.pad(plane, [(0, 0)] * (plane.ndim - 2) + [(rows, rows), (cols, cols)])
    y, x = (
        np.pad(np.arange(side), margin, _PAD_MODES[border])
        for side, margin in zip(plane.shape[-2:], (rows, cols), strict=True)
    )
    # Without bounds to check, an exporter writes a single operation for each axis.
    for places, axis in ((y, -2), (x, -1)):
        if len(places) > plane.shape[axis]:
            chosen = (..., places, slice(None)) if axis == -2 else (..., places)
            plane = plane.at[chosen].get(mode="promise_in_bounds")
    return plane


def _extended(rows: int, cols: int, border: Border, plane: Array) -> Array:
    if is_plain():
        return extended(plane, rows, cols, border)
    return jnp.pad(plane, [(0, 0)] * (plane.ndim - 2) + [(rows, rows), (cols, cols)], _PAD_MODES[border])


def _in_blocks(rows: int, cols: int, block: int, border: Border, plane: Array) -> Array:
    """Pads a plane; the result has its columns in blocks, `(..., padded_height, padded_width / block, block)`."""

    def blocks(plane: Array) -> Array:
        return plane.reshape(*plane.shape[:-1], plane.shape[-1] // block, block)

    margins = [(0, 0, 0)] * (plane.ndim - 2) + [(rows, rows, 0), (cols // block, cols // block, 0), (0, 0, 0)]
    padded = lax.pad(blocks(plane), np.zeros((), plane.dtype), margins)
    for strip, row, col in _strips_beyond(plane, rows, cols, border):
        place = (*[0] * (plane.ndim - 2), row, col // block, 0)
        padded = lax.dynamic_update_slice(padded, blocks(strip), place)
    return padded


def _strips_beyond(plane: Array, rows: int, cols: int, border: Border) -> Iterator[tuple[Array, int, int]]:
    """Yields the strips around a plane, and for each its first row and column in the padded plane."""
    if border == "zero":
        return
    height, width = plane.shape[-2:]
    left, right = _reflected(plane, cols, -1, border)
    yield left, rows, 0
    yield right, rows, cols + width
    for strip, row in zip(_reflected(plane, rows, -2, border), (0, rows + height), strict=True):
        left, right = _reflected(strip, cols, -1, border)
        yield jnp.concatenate([left, strip, right], -1), row, 0


def _transposed(rows: int, cols: int, border: Border, padded: Array) -> Array:
    """Applies the transpose of `_extended`."""
    # Only its type matters, including the devices over which it varies.
    plane = padded[..., 2 * rows :, 2 * cols :]
    (folded,) = jax.linear_transpose(functools.partial(_extended, rows, cols, border), plane)(padded)
    return folded


def _reflected(plane: Array, count: int, axis: int, border: Border) -> list[Array]:
    """Returns the `count` values before the start of an axis and those after its end."""
    # A mirror skips the outermost value.
    skipped = int(border == "mirror")
    starts = skipped, plane.shape[axis] - count - skipped
    parts = (lax.slice_in_dim(plane, start, start + count, axis=axis) for start in starts)
    return [lax.rev(part, (plane.ndim + axis,)) for part in parts]

"""Processing large inputs on CPUs in parts: the images of a batch, and the patches of a large image.

A part's intermediate results stay in the cache, and the next part reuses their memory. The whole input at once would
need fresh memory, which costs a page fault for each 4 KiB. Results do not change.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from isp._kernels.xla import is_fast_on_cpu, with_gradient

# Maps parameters and images `(batch, H, W, ...)` to images of the same height and width.
Local = Callable[[PyTree, Array], Array]
Carried = TypeVar("Carried")
Index = int | np.int32 | Array

# Images are processed together up to this many pixels: enough to keep all cores busy, and few enough for the planes of
# a pipeline to stay in a cache of 1 MiB per core.
_PIXELS_AT_ONCE = 2**17

# Images of more pixels are processed patch by patch. Smaller ones are faster as a whole if the allocator keeps freed
# memory.
_LARGE = 2**22

# The maximum rows and columns of the patches of a large image, without the surrounding pixels that they depend on. Wide
# patches are copied faster.
_PATCH = (256, 2048)


def each_image(function: Callable[[Array], Array], images: Float[Array, "batch ..."]) -> Float[Array, "batch ..."]:
    """Applies a function to independent images, on a CPU a few at a time, also in the gradient, to save memory."""
    if not _takes_turns(images):
        return function(images)
    batch, pixels = images.shape[0], math.prod(images.shape[1:])
    divisors = [n for n in range(1, batch + 1) if batch % n == 0 and n * pixels <= _PIXELS_AT_ONCE]
    at_once = max(divisors, default=1)
    if batch <= at_once:
        return function(images)
    groups = images.reshape(-1, at_once, *images.shape[1:])
    results = jax.lax.map(jax.checkpoint(function), groups)
    return results.reshape(batch, *results.shape[2:])


def _takes_turns(images: Array) -> bool:
    """Returns whether to take turns: not in the plain formulation, nor for an array that several devices may share."""
    return is_fast_on_cpu() and jax.device_count() == 1 and not any(jax.typeof(images).sharding.spec)


def by_patches(
    function: Local, parameters: PyTree, images: Float[Array, "batch height width ..."], reach: int, period: int
) -> Float[Array, "batch height width ..."]:
    """Applies a function whose results depend on nearby pixels only, patch by patch for large images on a CPU.

    Patches include the pixels `reach` rows or columns around, which are cut off afterwards; they start at multiples of
    `period`. The gradient also goes patch by patch and computes intermediate results again. Forward mode does not work,
    and the function captures no traced values.
    """
    if not _in_patches(images, *images.shape[1:3]):
        return function(parameters, images)
    return _by_patches(function, _layout(images.shape, reach, period), parameters, images)


def mosaics_by_patches(
    function: Local, parameters: PyTree, raw: Float[Array, "*batch height width"], reach: int, period: int = 2
) -> Float[Array, "..."]:
    """Applies a function of mosaics with any number of leading axes as `by_patches` does."""
    if not _in_patches(raw, *raw.shape[-2:]):
        return function(parameters, raw)
    results = by_patches(function, parameters, raw.reshape(-1, *raw.shape[-2:]), reach, period)
    return results.reshape(*raw.shape, *results.shape[3:])


def _in_patches(images: Array, height: int, width: int) -> bool:
    # An empty batch has no patches.
    return _takes_turns(images) and height * width > _LARGE and images.size > 0


class _Place(NamedTuple):
    """The place of a patch, in numbers that may be traced."""

    image: Index
    taken: tuple[Index, Index]  # The first row and column that the function gets.
    kept: tuple[Index, Index]  # The first row and column that are kept.
    new: tuple[Index, Index]  # The first row and column that no earlier patch has kept.


class _Layout(NamedTuple):
    """The patches of a batch of images."""

    taken: tuple[int, int]  # Height and width of the pixels that the function gets.
    kept: tuple[int, int]
    places: tuple[_Place, ...]

    def each(self, step: Callable[[_Place, Carried], Carried], start: Carried) -> Carried:
        """Carries a value from patch to patch."""

        def indices(*of_places: int) -> Callable[[Array], Index]:
            # Where all patches begin in the same row or column, a constant makes copies faster.
            if len({*of_places}) == 1:
                return lambda i: np.int32(of_places[0])
            return lambda i: jnp.array(of_places, jnp.int32)[i]

        place = jax.tree.map(indices, *self.places)
        return jax.lax.fori_loop(
            0, len(self.places), lambda i, carried: step(jax.tree.map(lambda index: index(i), place), carried), start
        )


def _layout(shape: tuple[int, ...], reach: int, period: int) -> _Layout:
    batch, height, width = shape[:3]
    most_rows, most_cols = _PATCH
    # A tall patch has fewer pixels around it to depend on than a wide one.
    while most_rows < 8 * reach and most_rows < most_cols:
        most_rows, most_cols = 2 * most_rows, most_cols // 2
    rows, rows_taken, rows_kept = _pieces(height, most_rows, reach, period)
    cols, cols_taken, cols_kept = _pieces(width, most_cols, reach, period)
    places = tuple(
        _Place(image, *zip(row, col, strict=True)) for image, row, col in itertools.product(range(batch), rows, cols)
    )
    return _Layout((rows_taken, cols_taken), (rows_kept, cols_kept), places)


def _pieces(length: int, longest: int, reach: int, period: int) -> tuple[list[tuple[int, int, int]], int, int]:
    """Divides an axis into pieces: the first indices taken, kept and new of each, and the lengths taken and kept."""
    margin = -(-reach // period) * period
    count = -(-length // longest)
    # With the remainder, the last piece starts at a whole period as well.
    kept = min(-(-length // (count * period)) * period + length % period, length)
    taken = min(kept + 2 * margin, length)
    pieces, new = [], 0
    while new < length:
        start = min(new // period * period, length - kept)
        pieces.append((min(max(start - margin, 0), length - taken), start, new))
        new = start + kept
    return pieces, taken, kept


def _whole(function: Local, layout: _Layout, parameters: PyTree, images: Array) -> Array:
    taken = jax.ShapeDtypeStruct((1, *layout.taken, *images.shape[3:]), images.dtype)
    patch = jax.eval_shape(function, parameters, taken)
    if patch.shape[1:3] != layout.taken:
        raise ValueError(f"a local stage must keep height and width {layout.taken}, got {patch.shape[1:3]}")

    def write(place: _Place, results: Array) -> Array:
        taken = _sliced(images, place.image, place.taken, layout.taken)
        kept = _cropped(function, layout, place, parameters, taken)
        return jax.lax.dynamic_update_slice(results, kept, _starts(results, place.image, place.kept))

    return layout.each(write, jnp.zeros((*images.shape[:3], *patch.shape[3:]), patch.dtype))


def _whole_backward(
    function: Local, layout: _Layout, residuals: tuple[PyTree, Array], gradient: Array
) -> tuple[PyTree, Array]:
    parameters, images = residuals

    def add(place: _Place, sums: tuple[PyTree, Array]) -> tuple[PyTree, Array]:
        taken = _sliced(images, place.image, place.taken, layout.taken)
        _, pullback = jax.vjp(functools.partial(_cropped, function, layout, place), parameters, taken)
        kept = _sliced(gradient, place.image, place.kept, layout.kept)
        rows, cols = (
            jnp.arange(size) + at >= new for size, at, new in zip(layout.kept, place.kept, place.new, strict=True)
        )
        is_new = jnp.expand_dims(rows[:, None] & cols, range(2, kept.ndim - 1))
        of_parameters, of_patch = pullback(jnp.where(is_new, kept, 0))
        of_images = _sliced(sums[1], place.image, place.taken, layout.taken) + of_patch
        return (
            jax.tree.map(jnp.add, sums[0], of_parameters),
            jax.lax.dynamic_update_slice(sums[1], of_images, _starts(images, place.image, place.taken)),
        )

    return layout.each(add, jax.tree.map(jnp.zeros_like, (parameters, images)))


_by_patches = with_gradient(_whole, _whole_backward, static_argnums=(0, 1))


def _cropped(function: Local, layout: _Layout, place: _Place, parameters: PyTree, taken: Array) -> Array:
    corner = place.kept[0] - place.taken[0], place.kept[1] - place.taken[1]
    return _sliced(function(parameters, taken), np.int32(0), corner, layout.kept)


def _sliced(images: Array, image: Index, corner: tuple[Index, Index], size: tuple[int, int]) -> Array:
    return jax.lax.dynamic_slice(images, _starts(images, image, corner), (1, *size, *images.shape[3:]))


def _starts(images: Array, image: Index, corner: tuple[Index, Index]) -> tuple[Index, ...]:
    return (image, *corner, *[np.int32(0)] * (images.ndim - 3))

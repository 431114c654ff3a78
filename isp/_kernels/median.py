"""The median over square windows, using networks of comparisons that XLA can vectorize."""

import functools
from collections.abc import Iterator, Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from isp._kernels import padding, stencil, xla
from isp._kernels.xla import with_gradient


def window_median(plane: Array, size: int) -> Array:
    """Computes the median of the window of `size` by `size` pixels around each pixel of a plane `(..., H, W)`."""
    return _median(size, plane)


def _network(size: int, plane: Array) -> Array:
    radius = size // 2
    return xla.unfused_with(_medians, size)(padding.pad(plane, radius, radius, "symmetric"))


def _forward(size: int, plane: Array) -> tuple[Array, tuple[Array, Array]]:
    medians = _median(size, plane)
    return medians, (plane, medians)


def _backward(size: int, residuals: tuple[Array, Array], gradient: Array) -> tuple[Array]:
    """Computes the gradient by comparing with the median again; JAX would store the result of each comparison."""
    plane, medians = residuals
    pad = functools.partial(padding.pad, rows=size // 2, cols=size // 2, border="symmetric")
    shares = xla.unfused_with(_shares, size)(pad(plane), medians, gradient)
    # A window that reaches over the border sees the pixels near it more than once. Its reflection is a window around a
    # position beyond the border, so collecting from the reflected windows as well counts these pixels as often.
    return (xla.unfused_with(_collected, size)(plane, pad(medians), pad(shares)),)


_median = with_gradient(_network, _backward, static_argnums=(0,), forward=_forward)


def _shares(size: int, padded: padding.Padded, medians: Array, gradient: Array) -> Array:
    """Divides a window's gradient by the number of its pixels that equal the median."""
    ties = ((value == medians).astype(gradient.dtype) for value in padding.windows(padded, size))
    return gradient / stencil.total(ties)


def _collected(size: int, plane: Array, medians: padding.Padded, shares: padding.Padded) -> Array:
    """Adds up the shares of the windows whose median a pixel equals."""
    around = zip(padding.windows(medians, size), padding.windows(shares, size), strict=True)
    return stencil.total(jnp.where(plane == median, share, 0) for median, share in around)


def _medians(size: int, padded: padding.Padded) -> Array:
    return _median_of_9(padded) if size == 3 else sort_arrays(padding.windows(padded, size))[size**2 // 2]


def _median_of_9(padded: padding.Padded) -> Array:
    """Computes the medians of 3x3 windows from sorted columns of three: A. W. Paeth, Graphics Gems (1990)."""
    plane = padded.plane
    height, width = plane.shape[-2] - 2, plane.shape[-1] - 2
    columns = sort_arrays([plane[..., i : i + height, :] for i in range(3)])
    least, middle, greatest = ([ranked[..., j : j + width] for j in range(3)] for ranked in columns)
    candidates = functools.reduce(jnp.maximum, least), sort_arrays(middle)[1], functools.reduce(jnp.minimum, greatest)
    return sort_arrays(candidates)[1]


def sort_arrays(values: Sequence[Array]) -> list[Array]:
    """Sorts arrays elementwise. The compiler drops exchanges whose results are not used."""
    values = list(values)
    for i, j in _exchanges(len(values)):
        values[i], values[j] = lax.min(values[i], values[j]), lax.max(values[i], values[j])
    return values


def _exchanges(count: int) -> Iterator[tuple[int, int]]:
    """Lists the exchanges of Batcher's sorting network: D. E. Knuth, The Art of Computer Programming 3, 5.2.2M."""
    top = 1 << (max(count - 1, 1).bit_length() - 1)
    p = top
    while p:
        q, r, d = top, 0, p
        while d:
            yield from ((i, i + d) for i in range(count - d) if i & p == r)
            q, r, d = q // 2, p, q - p
        p //= 2

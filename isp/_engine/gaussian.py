"""Smoothing of planes by a separable Gaussian."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array

from isp._engine import stencil
from isp._engine.checks import Scalar


def smooth(planes: Sequence[Array], sigma: Scalar, size: int) -> tuple[Array, ...]:
    """Smooths planes `(..., H, W)` by a Gaussian that is cut off at `size`; the border repeats the outermost pixels."""
    taps = _taps(sigma, size, planes[0].dtype)
    along_columns = (stencil.correlate(plane, taps[:, None], "symmetric") for plane in planes)
    return tuple(stencil.correlate(plane, taps[None, :], "symmetric") for plane in along_columns)


def smooth_columns(plane: Array, sigma: Scalar, size: int) -> Array:
    """Smooths each column of a plane `(..., H, W)` by itself, as `smooth` does along both axes."""
    return stencil.correlate(plane, _taps(sigma, size, plane.dtype)[:, None], "symmetric")


def _taps(sigma: Scalar, size: int, dtype: DTypeLike) -> Array:
    """Computes the weights of a Gaussian `(size,)`, which sum to 1."""
    offsets = jnp.arange(size, dtype=dtype) - size // 2
    return jax.nn.softmax(-((offsets / sigma) ** 2) / 2)

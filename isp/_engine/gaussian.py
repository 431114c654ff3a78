"""Smoothing of planes by a separable Gaussian."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array

from isp._engine import stencil
from isp._engine.checks import Scalar


def smooth(planes: Sequence[Array], sigma: Scalar, size: int) -> tuple[Array, ...]:
    """Smooths planes `(..., H, W)` by a Gaussian that is cut off at `size`; the border repeats the outermost pixels."""
    dtype = planes[0].dtype
    offsets = jnp.arange(size, dtype=dtype) - size // 2
    taps = jax.nn.softmax(-((offsets / sigma) ** 2) / 2)
    along_columns = (stencil.correlate(plane, taps[:, None], "symmetric") for plane in planes)
    return tuple(stencil.correlate(plane, taps[None, :], "symmetric") for plane in along_columns)

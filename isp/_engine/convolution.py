"""Stencils as convolutions, which is their plain formulation (see `isp._engine.formulation`)."""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

PadMode = Literal["constant", "reflect", "symmetric"]


def correlate(
    planes: Sequence[Float[Array, "batch height width"]],
    kernels: Float[Array, "out in rows cols row_period col_period"],
    mode: PadMode,
) -> tuple[Float[Array, "batch height width"], ...]:
    """Computes the formula of `stencil.correlate_planes` by one convolution.

    Where weights repeat with the position, each phase is an output channel of a convolution that steps by the period.

    Args:
        planes: The inputs.
        kernels: The weights.
        mode: What lies beyond the border, as for `extended`.

    Returns:
        One plane for each output.
    """
    out, channels, rows, cols, *periods = kernels.shape
    inputs, margins = jnp.stack(planes, 1), (rows // 2, cols // 2)
    if mode != "constant":
        inputs, margins = extended(inputs, *margins, mode), (0, 0)
    if periods == [1, 1]:
        found = _convolved(inputs, kernels[..., 0, 0], (1, 1), margins)
    else:
        row_period, col_period = periods
        phases = [
            jnp.pad(kernels[..., p, q], [(0, 0), (0, 0), (p, row_period - 1 - p), (q, col_period - 1 - q)])
            for p, q in np.ndindex(row_period, col_period)
        ]
        by_phase = jnp.stack(phases, 1).reshape(-1, channels, rows + row_period - 1, cols + col_period - 1)
        found = _convolved(inputs, by_phase, (row_period, col_period), margins)
        batch, _, height, width = found.shape
        found = found.reshape(batch, out, row_period, col_period, height, width).transpose(0, 1, 4, 2, 5, 3)
        found = found.reshape(batch, out, height * row_period, width * col_period)
    return tuple(found[:, k] for k in range(out))


def _convolved(inputs: Array, kernels: Array, steps: tuple[int, int], margins: tuple[int, int]) -> Array:
    padding = [(margin, margin) for margin in margins]
    # Full precision, since GPUs and TPUs would round the operands to a shorter format.
    return jax.lax.conv_general_dilated(inputs, kernels, steps, padding, precision=jax.lax.Precision.HIGHEST)


def extended(plane: Shaped[Array, "*batch height width"], rows: int, cols: int, mode: PadMode) -> Shaped[Array, "..."]:
    """Pads the last two axes as `jnp.pad` does with one of its modes, by choosing rows and columns."""
    if mode == "constant":
        return jnp.pad(plane, [(0, 0)] * (plane.ndim - 2) + [(rows, rows), (cols, cols)])
    y, x = (np.pad(np.arange(side), margin, mode) for side, margin in zip(plane.shape[-2:], (rows, cols), strict=True))
    # Without bounds to check, an exporter writes a single operation for each axis.
    for places, axis in ((y, -2), (x, -1)):
        if len(places) > plane.shape[axis]:
            chosen = (..., places, slice(None)) if axis == -2 else (..., places)
            plane = plane.at[chosen].get(mode="promise_in_bounds")
    return plane

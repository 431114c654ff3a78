"""Rewrites operations of traced functions as others that a converter to ONNX takes.

jax2onnx 0.17 refuses some operations if the number of images is symbolic, and gets others wrong: arrays without
elements, reversed axes, and loops in which each image stops by itself.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

AnyArray = jax.Array | np.ndarray
Side = Any  # A whole number, or a symbolic one.


def pad(operand: AnyArray, value: AnyArray, padding_config: Sequence[tuple[Any, Any, Any]]) -> AnyArray:
    """Pads by joining; negative margins and margins between elements are left to `lax.pad`."""
    if any(min(margins) < 0 or margins[2] for margins in padding_config):
        return lax.pad(operand, value, padding_config)
    for axis, (before, after, _) in enumerate(padding_config):
        shapes = [(*operand.shape[:axis], margin, *operand.shape[axis + 1 :]) for margin in (before, after)]
        first, last = (jnp.broadcast_to(value, shape) for shape in shapes)
        operand = concatenate(first, operand, last, dimension=axis)
    return operand


def concatenate(*operands: AnyArray, dimension: int) -> AnyArray:
    """Joins arrays, without those that have no elements."""
    parts = [operand for operand in operands if operand.shape[dimension] != 0]
    return lax.concatenate(parts, dimension) if len(parts) > 1 else (*parts, operands[0])[0]


def clamp(low: AnyArray, operand: AnyArray, high: AnyArray) -> AnyArray:
    """Clips to a range."""
    return jnp.minimum(jnp.maximum(operand, low), high)


def reverse(operand: AnyArray, dimensions: Sequence[Any]) -> AnyArray:
    """Turns axes around by choosing their elements."""
    for axis in dimensions:
        if operand.shape[axis] != 1:
            chosen = (*[slice(None)] * axis, np.arange(operand.shape[axis])[::-1])
            operand = jnp.asarray(operand).at[chosen].get(mode="promise_in_bounds")
    return operand


def broadcast(operand: AnyArray, shape: Sequence[Side], broadcast_dimensions: Sequence[Any], **_: Any) -> AnyArray:
    """Repeats an array along axes; a reshape where it only gets new axes of one element."""
    sides = [1] * len(shape)
    for axis, side in zip(broadcast_dimensions, operand.shape, strict=True):
        sides[axis] = side
    if tuple(sides) != tuple(shape):
        return lax.broadcast_in_dim(operand, shape, broadcast_dimensions)
    return operand if operand.shape == tuple(shape) else lax.reshape(operand, shape)


def select(which: AnyArray, *cases: AnyArray) -> AnyArray:
    """Selects between arrays; onnxruntime does not select between booleans, which are combined instead."""
    if cases[0].dtype != bool:
        return lax.select_n(which, *cases)
    first, second = cases
    return (which & second) | (~which & first)


def loop(
    condition: Callable[[Sequence[AnyArray]], AnyArray],
    body: Callable[[Sequence[AnyArray]], Sequence[AnyArray]],
    start: Sequence[AnyArray],
) -> Sequence[AnyArray]:
    """Runs a loop whose condition may differ between the elements of a batch: those that are done keep their state."""

    def step(state: Sequence[AnyArray]) -> Sequence[AnyArray]:
        moved, runs = body(state), condition(state)
        if runs.ndim == 0:
            return moved
        return [
            select(jnp.broadcast_to(jnp.expand_dims(runs, range(runs.ndim, new.ndim)), new.shape), old, new)
            for old, new in zip(state, moved, strict=True)
        ]

    return lax.while_loop(lambda state: condition(state).any(), step, list(start))


def copy(operand: AnyArray) -> AnyArray:
    """Returns an array as it is."""
    return operand


# By the names of JAX's operations. Each takes the operands and the parameters of the operation.
RULES: dict[str, Callable[..., AnyArray]] = {
    "pad": pad,
    "concatenate": concatenate,
    "clamp": clamp,
    "rev": reverse,
    "broadcast_in_dim": broadcast,
    "select_n": select,
    "copy": copy,
    "copy_p": copy,
}

"""Functions with reverse-mode derivatives that are written out."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

Result = TypeVar("Result")


def with_gradient(
    function: Callable[..., Result],
    forward: Callable[..., tuple[Result, PyTree]],
    backward: Callable[..., tuple[PyTree, ...]],
    static_argnums: Sequence[int] = (),
) -> Callable[..., Result]:
    """Gives a function of arrays a reverse-mode derivative; forward mode does not work.

    This is `jax.custom_vjp`, except that the three functions always get JAX arrays. JAX itself may pass NumPy arrays:
    constants, and the cotangents that a user gives.

    Args:
        function: The function, of positional arguments.
        forward: `(*arguments) -> (result, residuals)`.
        backward: `(*static_arguments, residuals, cotangent) -> cotangents`, one for each argument that is not static.
        static_argnums: The positions of the arguments that are not arrays.

    Returns:
        The function with its derivative.
    """

    def primal(*args: PyTree) -> Result:
        return function(*_with_arrays(args, static_argnums))

    def primal_and_residuals(*args: PyTree) -> tuple[Result, PyTree]:
        return forward(*_with_arrays(args, static_argnums))

    def cotangents(*args: PyTree) -> tuple[PyTree, ...]:
        return backward(*_with_arrays(args, range(len(static_argnums))))

    differentiable = jax.custom_vjp(primal, nondiff_argnums=static_argnums)
    differentiable.defvjp(primal_and_residuals, cotangents)
    return differentiable


def _with_arrays(args: Sequence[PyTree], static_argnums: Sequence[int]) -> list[PyTree]:
    """Converts the arguments that are not static to JAX arrays."""
    return [arg if i in static_argnums else jax.tree.map(jnp.asarray, arg) for i, arg in enumerate(args)]

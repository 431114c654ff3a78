"""The step of searches and attacks: along the gradient of a cost of a pipeline's parameters, which stay valid."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

import jax
import optax
from jaxtyping import Array

from r2l_jax.drift.search.ranges import Facts, valid_offsets, values_at

PyTree = Any

Direction = Literal["worst", "best"]


def cost_of(direction: Direction, task_loss: Array, away: Array, aux_weight: Array | float) -> Array:
    """Computes the cost that a search lowers: the task loss or its negative, and a price on deviation.

    Args:
        direction: "worst" raises the task loss, "best" lowers it.
        task_loss: the mean over a batch.
        away: the batch's `deviation`. It costs in both directions.
        aux_weight: the price of deviation.
    """
    return (task_loss if direction == "best" else -task_loss) + aux_weight * away


def descend(
    optimizer: optax.GradientTransformation,
    facts: Facts,
    default: dict[str, Array],
    cost: Callable[[dict[str, Array]], tuple[Array, PyTree]],
    offsets: dict[str, Array],
    opt_state: optax.OptState,
    free: Mapping[str, Array | float],
) -> tuple[dict[str, Array], optax.OptState, PyTree]:
    """Takes one step down a cost of a pipeline's parameters, which stay valid.

    Args:
        optimizer: updates the offsets.
        facts: the declarations of the parameters.
        default: the values that offsets count from.
        cost: takes values to the cost and any other results.
        offsets: the parameters' offsets, at which all values are valid, see `valid_offsets`.
        opt_state: the optimizer's state.
        free: 1 for each parameter that may move, and 0 for the others.

    Returns:
        The next offsets, the optimizer's next state, and the other results of the cost.
    """
    gradients, wanted = jax.grad(lambda offsets: cost(values_at(facts, default, offsets)), has_aux=True)(offsets)
    gradients = {name: free[name] * gradient for name, gradient in gradients.items()}
    updates, opt_state = optimizer.update(gradients, opt_state)
    moved_offsets = cast(dict[str, Array], optax.apply_updates(offsets, updates))
    return valid_offsets(facts, default, moved_offsets), opt_state, wanted

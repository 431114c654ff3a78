"""The cost that searches and attacks lower, and a step down its gradient that keeps parameters valid."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

import tasks
from r2l_jax.drift.search.ranges import Declarations, valid_offsets, values_at

PyTree = Any

Direction = Literal["worst", "best"]

Images = Float[Array, "batch height width 3"]


def deviation(images: Images, default: Images, aux_loss: str) -> Float[Array, ""]:
    """Computes the distance of images from their default rendering, 0 where they are equal.

    Args:
        images: the images.
        default: their default rendering.
        aux_loss: "ssim" for 1 minus the structural similarity (`tasks.losses.ssim`); "l2" or "l2_sum" for the mean
            square difference. These two differ only in the weight of the deviation, see `cost_of`.
    """
    if aux_loss == "ssim":
        return 1 - tasks.losses.ssim(images, default)
    return jnp.square(images - default).mean()


def cost_of(
    direction: Direction,
    task_loss: Array,
    images: Images,
    default: Images,
    aux_loss: str,
    aux_weight: Array | float,
) -> tuple[Array, Array]:
    """Computes the cost that a search lowers, and the deviation of images from their default rendering.

    The cost is the task loss or, for the worst direction, its negative, plus `aux_weight` times the deviation. The
    published program sums square differences over a batch, as "l2_sum" does; "l2" takes their mean. For "l2_sum", the
    weight is multiplied by the number of values in the batch, 6291456 for 32 images of 256x256.
    """
    away = deviation(images, default, aux_loss)
    price = aux_weight * (images.size if aux_loss == "l2_sum" else 1)
    return (task_loss if direction == "best" else -task_loss) + price * away, away


def descend(
    optimizer: optax.GradientTransformation,
    declarations: Declarations,
    default: dict[str, Array],
    cost: Callable[[dict[str, Array]], tuple[Array, PyTree]],
    offsets: dict[str, Array],
    opt_state: optax.OptState,
    free: Mapping[str, Array | float],
) -> tuple[dict[str, Array], optax.OptState, PyTree]:
    """Takes one step down a cost of a pipeline's parameters, which stay valid.

    `cost` computes a number and any other results from the values. Offsets count from the default, and all values are
    valid at them, see `valid_offsets`. `free` is 1 for each parameter that may move, and 0 for the others.

    Returns:
        The next offsets, the optimizer's next state, and the other results of the cost.
    """
    gradients, others = jax.grad(lambda offsets: cost(values_at(declarations, default, offsets)), has_aux=True)(offsets)
    gradients = {name: free[name] * gradient for name, gradient in gradients.items()}
    updates, opt_state = optimizer.update(gradients, opt_state)
    moved_offsets = cast(dict[str, Array], optax.apply_updates(offsets, updates))
    return valid_offsets(declarations, default, moved_offsets), opt_state, others

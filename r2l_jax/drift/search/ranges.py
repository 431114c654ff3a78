"""Computes the offsets of all parameters of a pipeline: the distances from their defaults in natural ranges.

Searches, attacks, sensitivities and tolerances use offsets. Natural ranges and valid values are declared by
`isp.Parameter`; the functions here apply them to all parameters of a pipeline by name. Searches and attacks take steps
down a cost (`descend`), in which the distance from the default rendering has a price (`cost_of`).
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

import isp
import tasks
from r2l_jax.errors import InputError

Declarations = Mapping[str, isp.Parameter]
Values = Mapping[str, ArrayLike]

PyTree = Any

Direction = Literal["worst", "best"]

Images = Float[Array, "batch height width 3"]


def moved(declarations: Declarations, default: Values, offsets: Values) -> dict[str, Array]:
    """Computes the values at offsets from their defaults."""
    return {name: jnp.asarray(declarations[name].moved(default[name], offset)) for name, offset in offsets.items()}


def valid_offsets(declarations: Declarations, default: Values, offsets: Values) -> dict[str, Array]:
    """Returns the nearest offsets at which all values are valid, except for the rounding that `values_at` undoes."""
    return {
        name: jnp.clip(offset, *declarations[name].offset_limits(default[name])) for name, offset in offsets.items()
    }


def values_at(declarations: Declarations, default: Values, offsets: Values) -> dict[str, Array]:
    """Computes the values at valid offsets, as `moved` does, and keeps rounding from moving them beyond their limits.

    The gradient is taken through `moved`.
    """
    values = moved(declarations, default, offsets)
    # Clipping alone would reduce the gradient of a value at its limit, or remove it.
    rounding = {name: declarations[name].valid(default[name], value) - value for name, value in values.items()}
    return {name: value + jax.lax.stop_gradient(rounding[name]) for name, value in values.items()}


def valid_values(declarations: Declarations, default: Values, offsets: Values) -> dict[str, Array]:
    """Computes the values at the nearest valid offsets."""
    return {name: declarations[name].moved_validly(default[name], offset) for name, offset in offsets.items()}


def apart(declarations: Declarations, default: Values, values: Values) -> Array:
    """Computes how far parameters have moved in ways that no single camera drift would move them.

    One drift, such as another exposure or a warmer sensor, moves all elements of a vector together: all gains by one
    factor, or all black levels by one shift. The squared distances from such a common offset count; for matrices and
    kernels, those from 0. They are averaged over the elements and summed over the parameters.
    """
    total = jnp.zeros(())
    for name, value in values.items():
        offsets = jnp.asarray(declarations[name].offset(default[name], value))
        common = offsets.mean() if offsets.ndim < 2 else 0.0
        total += jnp.square(offsets - common).mean()
    return total


def tuned(declarations: Declarations) -> tuple[str, ...]:
    """Returns the names of the parameters that searches move by default."""
    return tuple(name for name, parameter in declarations.items() if parameter.tuned)


def gains(declarations: Declarations, names: Iterable[str]) -> list[str]:
    """Returns the named parameters that are gains of a camera, which scale an image's brightness."""
    return [
        name for name in names if declarations[name].camera == "white_balance" and declarations[name].scale == "log"
    ]


def check(declarations: Declarations, default: Values) -> None:
    """Raises an InputError unless every parameter has offsets from its default value, which must not be traced."""
    for name, parameter in declarations.items():
        if not parameter.has_range:
            raise InputError(
                f"parameter {name} needs a natural range: declare it as isp.Parameter(..., width=...) "
                'or isp.Parameter(..., scale="log")'
            )
        if parameter.scale == "log" and not np.all(np.asarray(default[name])):
            raise InputError(f"parameter {name} has a log scale, but a value of 0, which no factor changes")


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
    direction: Direction, task_loss: Array, images: Images, default: Images, aux_loss: str, aux_weight: Array | float
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
) -> tuple[dict[str, Array], optax.OptState, dict[str, Array], PyTree]:
    """Takes one step down a cost of a pipeline's parameters, which stay valid.

    `cost` computes a number and any other results from the values. Offsets count from the default, and all values are
    valid at them, see `valid_offsets`. `free` is 1 for each parameter that may move, and 0 for the others.

    Returns:
        The next offsets, the optimizer's next state, the gradients, and the other results of the cost.
    """
    gradients, others = jax.grad(lambda offsets: cost(values_at(declarations, default, offsets)), has_aux=True)(offsets)
    gradients = {name: free[name] * gradient for name, gradient in gradients.items()}
    updates, opt_state = optimizer.update(gradients, opt_state)
    moved_offsets = cast(dict[str, Array], optax.apply_updates(offsets, updates))
    return valid_offsets(declarations, default, moved_offsets), opt_state, gradients, others

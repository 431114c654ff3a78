"""Optimizers and the schedule of their learning rate."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import Array


@dataclasses.dataclass(frozen=True)
class LearningRate:
    """A learning rate schedule.

    The rate rises from 0 to `peak` over `warmup` updates, and falls to 0 at update `end` along half a cosine
    (I. Loshchilov and F. Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017); without an `end`,
    it stays at `peak`.
    """

    peak: float
    warmup: int = 0
    end: int | None = None

    def schedule(self) -> optax.Schedule:
        """Returns the rate as a function."""
        after = optax.constant_schedule(self.peak)
        if self.end is not None:
            after = optax.cosine_decay_schedule(self.peak, max(self.end - self.warmup, 1))
        if not self.warmup:
            return after
        return optax.join_schedules([optax.linear_schedule(0.0, self.peak, self.warmup), after], [self.warmup])

    def at(self, update: int) -> float:
        """Computes the rate after a number of updates."""
        return float(_compiled(self)(update))


@functools.cache
def _compiled(rate: LearningRate) -> Callable[[int], Array]:
    # Outside of a compiled function, JAX would compile each operation separately.
    return jax.jit(rate.schedule())


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An optimizer. Weight decay applies to the kernels of the head, not to the processing, norms and biases.

    `name` is "adam", "adamw" (the only one with weight decay) or "sgd".
    """

    name: str
    rate: LearningRate
    weight_decay: float = 0.0

    def transformation(self) -> optax.GradientTransformation:
        """Makes the optimizer."""
        is_constant = not self.rate.warmup and self.rate.end is None
        # A constant rate, unlike a schedule, adds no count to the optimizer's state.
        rate = self.rate.peak if is_constant else self.rate.schedule()
        if self.name == "adam":
            return optax.adam(rate)
        if self.name == "adamw":
            return optax.adamw(rate, weight_decay=self.weight_decay, mask=_kernels_of_head)
        # The usual optimizer for ResNets.
        return optax.sgd(rate, momentum=0.9, nesterov=True)


def _kernels_of_head(parameters: Any) -> Any:
    def is_kernel(path: tuple[Any, ...], leaf: Any) -> bool:
        return str(getattr(path[0], "key", path[0])) == "head" and np.ndim(leaf) > 1

    return jax.tree_util.tree_map_with_path(is_kernel, parameters)

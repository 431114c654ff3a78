"""Optimizers and schedules of the learning rate, as the flags choose them."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import Array

from r2l_jax.config import OptimizationSettings, TrainConfig

# The momentum of --optimizer=sgd, as ResNets are usually trained.
_MOMENTUM = 0.9


def steps_of_epoch(config: TrainConfig, samples: int) -> int:
    """Returns the number of updates in an epoch of a data set of so many samples."""
    train = max(int(config.data.train_size * samples), 1)
    batch = min(config.optimization.batch_size, max(train // jax.device_count() * jax.device_count(), 1))
    return 1 if config.data.test_run else max(train // batch, 1)


def schedule(settings: OptimizationSettings, epoch_steps: int) -> optax.Schedule:
    """Returns the learning rate by the number of updates done.

    Over `warmup_epochs`, it rises from 0 to `lr`. Then it stays, or falls to 0 along half a cosine until the last epoch
    (I. Loshchilov and F. Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017).
    """
    warmup, total = round(settings.warmup_epochs * epoch_steps), settings.epochs * epoch_steps
    after = optax.constant_schedule(settings.lr)
    if settings.schedule == "cosine":
        after = optax.cosine_decay_schedule(settings.lr, max(total - warmup, 1))
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, settings.lr, warmup), after], [warmup])


@functools.cache
def learning_rate(settings: OptimizationSettings, epoch_steps: int) -> Callable[[int], Array]:
    """Compiles the schedule as one function. Otherwise, each of its operations would be compiled by itself."""
    return jax.jit(schedule(settings, epoch_steps))


def make_optimizer(settings: OptimizationSettings, epoch_steps: int) -> optax.GradientTransformation:
    """Makes the optimizer. Weight decay applies to the kernels of the head, not to the processing, norms and biases."""
    constant = settings.schedule == "constant" and not settings.warmup_epochs
    # A number in place of a schedule keeps the optimizer's state as earlier versions wrote it.
    rate = settings.lr if constant else schedule(settings, epoch_steps)
    if settings.optimizer == "adam":
        return optax.adam(rate)
    if settings.optimizer == "adamw":
        return optax.adamw(rate, weight_decay=settings.weight_decay, mask=_kernels_of_head)
    decay = optax.add_decayed_weights(settings.weight_decay, mask=_kernels_of_head)
    return optax.chain(decay, optax.sgd(rate, momentum=_MOMENTUM, nesterov=True))


def _kernels_of_head(parameters: Any) -> Any:
    def is_kernel(path: tuple[Any, ...], leaf: Any) -> bool:
        return str(getattr(path[0], "key", path[0])) == "head" and np.ndim(leaf) > 1

    return jax.tree_util.tree_map_with_path(is_kernel, parameters)

"""Units of compilation: functions that XLA:CPU does not fuse with what comes before and after them."""

import functools
from collections.abc import Callable, Hashable
from typing import Concatenate, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.xla_metadata import set_xla_metadata
from jaxtyping import Array

from isp._engine.formulation import is_fast_on_cpu, is_plain

P = ParamSpec("P")
Result = TypeVar("Result")


def apart(function: Callable[P, Result]) -> Callable[P, Result]:
    """Makes a function of arrays a unit of its own on CPUs, which XLA does not fuse with its surroundings.

    Operands and results of the unit exist in memory. Its derivatives and its batched versions are such units as well.
    Values do not change. On other devices the function stays as it is, because GPUs gain from fusing.
    """

    @functools.wraps(function)
    def inner(*args: P.args, **kwargs: P.kwargs) -> Result:
        # Without this, the functions that are called within would inherit "false".
        with set_xla_metadata(inlineable="true"):
            return function(*args, **kwargs)

    unit = jax.jit(inner)

    @functools.wraps(function)
    def outer(*args: P.args, **kwargs: P.kwargs) -> Result:
        if not is_fast_on_cpu():
            return function(*args, **kwargs)
        with set_xla_metadata(inlineable="false"):
            return unit(*args, **kwargs)

    return outer


@functools.cache
def apart_with(function: Callable[..., Result], *static: Hashable) -> Callable[..., Result]:
    """Makes a function of static arguments, followed by arrays, a unit as `apart` does.

    It is the same unit for the same function and static arguments, so that it is traced only once for its shapes. The
    function is never freed, so it should be a function of a module rather than a closure.
    """
    return apart(functools.partial(function, *static))


def pointwise(
    function: Callable[Concatenate[Array, P], Array],
) -> Callable[Concatenate[Array | np.ndarray, P], Array]:
    """Makes a function `(image, *scalars)` that treats each value by itself a unit of its own, as `apart` does.

    The function gets the image as a vector, because XLA:CPU does not vectorize every loop over a last axis of three.
    """
    unit = apart(function)

    @functools.wraps(function)
    def outer(image: Array | np.ndarray, *args: P.args, **kwargs: P.kwargs) -> Array:
        if is_plain():
            return function(jnp.asarray(image), *args, **kwargs)
        return unit(jnp.asarray(image).reshape(-1), *args, **kwargs).reshape(image.shape)

    return outer

"""Functions that XLA:CPU does not fuse with their surroundings."""

import functools
from collections.abc import Callable, Hashable
from typing import Any

import jax
from jax.experimental.xla_metadata import set_xla_metadata


@functools.cache
def apart(function: Callable[..., Any], *static: Hashable) -> Callable[..., Any]:
    """Makes a function of arrays a unit of its own on CPUs: its operands and results exist in memory.

    Without this, XLA:CPU may compute a function again for each of its readers. On other devices the function stays as
    it is. Units of the same function and static arguments are the same, so that each is traced once for its shapes.

    Args:
        function: Takes the static arguments, followed by arrays.
        *static: The static arguments.

    Returns:
        The function of the arrays.
    """

    def inner(*arrays: Any) -> Any:
        # Without this, the functions that are called within would inherit "false".
        with set_xla_metadata(inlineable="true"):
            return function(*static, *arrays)

    unit = jax.jit(inner)

    def outer(*arrays: Any) -> Any:
        if jax.default_backend() != "cpu":
            return function(*static, *arrays)
        with set_xla_metadata(inlineable="false"):
            return unit(*arrays)

    return outer

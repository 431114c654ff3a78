"""Declares corruptions: checks their arguments, compiles each once for all severities, and draws noise by image."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, PRNGKeyArray

from isp.filter import check_image, uniform
from r2l_jax.errors import InputError
from r2l_jax.names import SEVERITIES

# Within a corruption, all arguments are arrays.
ImageArray = Float[Array, "*batch height width 3"]
SeverityArray = Int[Array, ""]

Images = Float[Array | np.ndarray, "*batch height width 3"]
Severity = int | np.integer | SeverityArray
Corruption = Callable[[Images, PRNGKeyArray, Severity], ImageArray]

# The groups of corruptions, in the order in which figures show them.
Group = Literal["tone and color", "noise", "blur", "weather", "digital"]
ORDER: tuple[Group, ...] = get_args(Group)

# All corruptions that have been declared, and the group of each, by name.
DECLARED: dict[str, Corruption] = {}
GROUPS: dict[str, Group | None] = {}


def corruption(group: Group | None) -> Callable[[Callable[[Array, PRNGKeyArray, Array], Array]], Corruption]:
    """Declares a corruption of a group, such as "noise".

    It checks arguments, computes in at least 32 bits, and compiles once for all severities.
    """

    def declare(function: Callable[[Array, PRNGKeyArray, Array], Array]) -> Corruption:
        @jax.jit
        @functools.wraps(function)
        def compiled(images, key, severity):
            exact = images.astype(jnp.promote_types(images.dtype, jnp.float32))
            return function(exact, key, severity).astype(images.dtype)

        @functools.wraps(function)
        def corrupt(images, key, severity):
            if not isinstance(severity, Tracer) and severity not in SEVERITIES:
                raise InputError(f"severity must be a whole number from 1 to 5, got {severity}")
            images = jnp.asarray(images)
            check_image(images)
            # The type is always the same, because each type would compile the function again.
            return compiled(images, key, jnp.asarray(severity, jnp.int32))

        DECLARED[function.__name__], GROUPS[function.__name__] = corrupt, group
        return corrupt

    return declare


def strength(severity: Array, strengths: Sequence[Any] | np.ndarray | Array, dtype: Any = float) -> Array:
    """Selects the strengths of one severity. It is clipped to 1 to 5, because a traced severity cannot be checked."""
    return jnp.asarray(strengths, dtype)[jnp.clip(severity - 1, 0, len(SEVERITIES) - 1)]


def each_image(function: Callable[[Array, Array], Array], images: ImageArray, key: PRNGKeyArray) -> ImageArray:
    """Applies a function of one image `(H, W, 3)` and its key to every image, and clips the results to [0, 1].

    An image's key depends on its place in the batch alone, not on the size of the batch.
    """
    flat = images.reshape(-1, *images.shape[-3:])
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(len(flat)))
    return jnp.clip(jax.vmap(function)(flat, keys), 0, 1).reshape(images.shape)


def normal(key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Draws standard normal numbers in float32, see `isp.filter.uniform`."""
    return np.float32(np.sqrt(2)) * jax.lax.erf_inv(2 * uniform(key, shape) - 1)

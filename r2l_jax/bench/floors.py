"""Floors: times that no function can beat if it reads its input once and writes its result once."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from r2l_jax.bench.inputs import GAMMA
from r2l_jax.bench.timing import Call


def copy_floor(raw: np.ndarray) -> Call:
    """Prepares to read a mosaic and to write an image."""
    return _into_old_memory(lambda raw: jnp.broadcast_to(raw, (3, *raw.shape)), jnp.asarray(raw))


def tone_floor(raw: np.ndarray) -> Call:
    """Prepares to read an image and to write its tone curve, an exp of a log of each value."""
    image = jnp.stack([jnp.asarray(raw)] * 3)
    return _into_old_memory(lambda image: jnp.exp(jnp.log(image) / GAMMA), image)


def _into_old_memory(function: Callable[[jax.Array], jax.Array], source: jax.Array) -> Call:
    """Returns a call of a function that writes its result over its previous one, so that no new pages are mapped."""
    compiled = jax.jit(lambda old, source: function(source), donate_argnums=0, keep_unused=True)
    result = function(source)

    def call() -> jax.Array:
        nonlocal result
        result = compiled(result, source)
        return result

    return call

"""Random numbers of sites, one for each, from a hash of the site's number and the key.

`jax.random` is made for keys that an adversary must not tell apart, which costs two and a half times as much on a CPU
as the hash and the inverse error function together. Both run in one pass with what uses the numbers.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt32


def uniform(key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Draws numbers above 0 and below 1, in steps of 2^-23. A longer array begins with the numbers of a shorter one.

    The hash is applied twice, with a part of the key before each. It has the least bias that was found for two
    multiplications: C. Wellons, "Prospecting for hash functions" (2018, lowbias32).
    """
    words = jax.random.key_data(key).reshape(-1)
    # Each half depends on the whole key; otherwise keys with one half in common would permute neighboring sites.
    first = _hashed(words[0] ^ _hashed(words[-1]))
    second = _hashed(words[-1] + _hashed(first))
    sites = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    drawn = _hashed(_hashed(sites ^ first) + second)
    return (drawn >> 9).astype(jnp.float32) * np.float32(2**-23) + np.float32(2**-24)


def normal(key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Draws standard normal numbers, from -5.3 to 5.3."""
    return np.float32(np.sqrt(2)) * jax.lax.erf_inv(2 * uniform(key, shape) - 1)


def _hashed(bits: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    bits = (bits ^ (bits >> 16)) * np.uint32(0x7FEB352D)
    bits = (bits ^ (bits >> 15)) * np.uint32(0x846CA68B)
    return bits ^ (bits >> 16)

"""The inputs of both sides of a comparison, and the floors: times that no function of these inputs can beat."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import isp
from r2l_jax.bench.timing import Call

CAMERA = isp.CAMERAS["drone"]
GAMMA = 2.2
CLASSES = 9
LEARNING_RATE = 1e-5


def images(shape: tuple[int, ...]) -> tuple[np.ndarray]:
    """Returns images `(*shape, 3)` in [0, 1] with shading, edges and noise, on which TV denoising's steps depend."""
    rng = np.random.default_rng(0)
    *batch, height, width = shape
    y, x = np.ogrid[:height, :width]
    down, across = rng.uniform(0.01, 0.1, (2, *batch, 1, 1, 3))
    waves = down * y[..., None] + across * x[..., None]
    rgb = 0.5 + 0.2 * np.sin(waves) + 0.1 * np.sign(np.sin(3 * waves)) + 0.02 * rng.standard_normal((*shape, 3))
    return (np.clip(rgb, 0, 1).astype(np.float32),)


def raws(shape: tuple[int, ...]) -> tuple[np.ndarray]:
    """Returns raw images made from `images`."""
    (photographs,) = images(shape)
    return (np.array(isp.cfa.mosaic(photographs, CAMERA.pattern)),)


def raws_and_weights(shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns raw images, and a weight for each value of the images that they are rendered to."""
    return *raws(shape), np.random.default_rng(1).standard_normal((*shape, 3), np.float32)


def raws_and_labels(shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns raw images and their classes."""
    return *raws(shape), np.arange(shape[0], dtype=np.int32) % CLASSES


def copy_floor(raw: np.ndarray) -> Call:
    """Prepares to read a raw image and to write an image, each once."""
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

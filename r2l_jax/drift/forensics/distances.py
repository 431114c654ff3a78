"""Compares images under other processing with the default rendering."""

import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

import isp
import tasks
from r2l_jax.data.loader import Batch
from r2l_jax.devices import compiler
from r2l_jax.devices.placement import shardings
from r2l_jax.drift.measure import Samples, of_each_sample
from r2l_jax.drift.search.descent import deviation
from r2l_jax.drift.search.frozen import Frozen

Image = Float[Array, "height width 3"]


def distances(image: Image, default: Image) -> dict[str, Array]:
    """Computes how far an image is from its default rendering.

    Returns:
        The structural similarity `ssim`; the largest difference of a value, `change`; and the color difference
        CIEDE2000 of the images as sRGB: its mean over the pixels, `color`, and its 95th percentile, `color_95`.
    """
    color = isp.color.ciede2000(isp.color.srgb_to_lab(image), isp.color.srgb_to_lab(default))
    return {
        "ssim": tasks.losses.ssim(image, default),
        "change": jnp.abs(image - default).max(),
        "color": color.mean(),
        "color_95": jnp.percentile(color, 95),
    }


@functools.cache
def deviations(aux_loss: str) -> Callable[[Image, Image], dict[str, Array]]:
    """Returns a function for `compared` that computes the `deviation` of an image."""
    return lambda image, default: {"deviation": deviation(image[None], default[None], aux_loss)}


def compared(
    compare: Callable[[Image, Image], dict[str, Array]],
    frozen: Frozen,
    processings: Sequence[Mapping[str, ArrayLike]],
    samples: Samples,
    title: str,
) -> list[dict[str, np.ndarray]]:
    """Compares the images of each sample under several processings with its default rendering.

    Args:
        compare: computes numbers, by name, from an image and its default rendering. Equal functions are compiled once.
        frozen: the model.
        processings: for each processing, the values of all parameters.
        samples: the samples.
        title: the title of the progress bar.

    Returns:
        For each processing the numbers of each sample `(S,)`, by name.

    Raises:
        Interrupted: a signal has asked to stop.
    """
    (render, compare_one), placed = _functions(), jax.device_put(frozen, shardings().everywhere)

    def of_batch(batch: Batch) -> list[dict[str, Array]]:
        default = render(placed, batch)
        return [compare_one(compare, placed, values, batch, default) for values in processings]

    return of_each_sample(of_batch, samples, title)


@functools.lru_cache(maxsize=1)
def _functions() -> tuple[Callable[..., Array], Callable[..., dict[str, Array]]]:
    """Makes the functions that render a batch, and that compare it with its default rendering."""

    def render(frozen: Frozen, batch: Batch) -> Array:
        return frozen.images(frozen.default, batch)

    def compare_one(compare, frozen: Frozen, values, batch: Batch, default: Array) -> dict[str, Array]:
        return jax.vmap(compare)(frozen.images(values, batch), default)

    options, split = compiler.options(), shardings().split
    return (
        jax.jit(render, out_shardings=split, compiler_options=options),
        jax.jit(compare_one, static_argnums=0, out_shardings=split, compiler_options=options),
    )

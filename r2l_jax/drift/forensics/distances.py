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
from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.drift.search.ranges import deviation

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
    placed = jax.device_put(frozen, shardings().everywhere)

    def of_batch(batch: Batch) -> list[dict[str, Array]]:
        default = compiler.jit(Frozen.images)(placed, placed.default, batch)
        return [compiler.jit(_compared, 0)(compare, placed, values, batch, default) for values in processings]

    return of_each_sample(of_batch, samples, title)


def _compared(
    compare: Callable[[Image, Image], dict[str, Array]],
    frozen: Frozen,
    values: Mapping[str, ArrayLike],
    batch: Batch,
    default: Array,
) -> dict[str, Array]:
    return jax.vmap(compare)(frozen.images(values, batch), default)

"""Compares the images of processings with the default rendering."""

import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

import isp
import tasks
from r2l_jax.data import loader
from r2l_jax.data.loader import Batch
from r2l_jax.drift.measure import Samples, ticking
from r2l_jax.drift.search.descent import deviation
from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.runtime import compiler
from r2l_jax.runtime.devices import OneAhead, shardings, to_devices

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
    """Returns the function of the `deviation` of an image."""
    return lambda image, default: {"deviation": deviation(image[None], default[None], aux_loss)}


def compared(
    compare: Callable[[Image, Image], dict[str, Array]],
    frozen: Frozen,
    processings: Sequence[Mapping[str, ArrayLike]],
    samples: Samples,
    title: str,
) -> list[dict[str, np.ndarray]]:
    """Compares the images of each sample under several processings with those of the default.

    Args:
        compare: takes an image and its default rendering to numbers by name. Equal functions are compiled once.
        frozen: the model.
        processings: for each processing, the values of all parameters.
        samples: the samples.
        title: the title of the progress bar.

    Returns:
        For each processing the numbers of each sample `(S,)`, by name.

    Raises:
        Interrupted: a signal has asked to stop.
    """
    devices, split = jax.device_count(), shardings().split
    size = devices * -(-min(samples.batch_size, len(samples.indices)) // devices)
    (render, function), ahead = _functions(), OneAhead()
    placed = jax.device_put(frozen, shardings().everywhere)
    found: list[list[dict[str, jax.Array]]] = [[] for _ in processings]
    with ticking(title, len(processings) * -(-len(samples.indices) // size)) as tick:
        for batch in loader.eval_batches(samples.dataset, samples.indices, size):
            batch = to_devices(batch, split)
            default = render(placed, batch)
            for place, values in enumerate(processings):
                found[place].append(ahead.begun(function(compare, placed, values, batch, default)))
                tick()
    return [
        {name: np.concatenate([batch[name][batch["weight"] > 0] for batch in batches]) for name in batches[0]}
        for batches in jax.device_get(found)
    ]


@functools.lru_cache(maxsize=1)
def _functions() -> tuple[Callable[..., Array], Callable[..., dict[str, Array]]]:
    """Makes the functions that render a batch, and that compare it with its default rendering."""

    def render(frozen: Frozen, batch: Batch) -> Array:
        return frozen.images(frozen.default, batch)

    def compare(compare, frozen: Frozen, values, batch: Batch, default: Array) -> dict[str, Array]:
        return {**jax.vmap(compare)(frozen.images(values, batch), default), "weight": batch["weight"]}

    options, (split, everywhere) = compiler.options(), shardings()
    return (
        jax.jit(render, out_shardings=split, compiler_options=options),
        jax.jit(compare, static_argnums=0, out_shardings=everywhere, compiler_options=options),
    )

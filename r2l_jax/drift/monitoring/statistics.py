"""Computes the statistics that reveal drift: of raw images, of processed images, and of the head."""

import functools
import math
import zlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float32, Shaped
from scipy.special import entr

import isp
from r2l_jax.devices import compiler
from r2l_jax.model import processors
from r2l_jax.model.tasks import Task
from r2l_jax.results.contact_sheet import quantized
from r2l_jax.training.run import BATCH, Run

_COLORS = ("red", "green", "blue")
_PERCENTS = (1, 5, 25, 50, 75, 95, 99)
_BANDS = 4

# Quantiles are interpolated between these levels of the scale of `_tone`, on which noise may lie below black.
_LEVELS = np.linspace(-0.5, 1.05, 32, dtype=np.float32)

# The signal, as a share of white, around which the scale of tones turns from linear to logarithmic.
_LINEAR_BELOW = 1 / 512

# Quantiles are taken over about this many blocks of sites along the shorter side.
_GRID = 32

# The height and width of the small image whose gradient is a statistic.
_SMALL = 16

# The statistics of a raw image. `_color_statistics` computes the first two lines, in this order.
MOSAIC = (
    *(f"{percent}% quantile of {color}" for color in _COLORS for percent in _PERCENTS),
    *(f"{name} of {color}" for name in ("mean", "variance", "noise", "gradient") for color in _COLORS),
    *("saturated sites", "sites at black", "red to green", "blue to green", "corners to middle"),
    *("noise of dark sites", "noise of bright sites", "variation of rows", "variation of columns"),
    *(f"spectrum, octave {octave}" for octave in range(1, _BANDS + 1)),
)
IMAGE = (
    *(f"{color} of the image" for color in _COLORS),
    *("contrast", "saturated pixels", "dark pixels", "colorfulness", "sharpness"),
)

# The places of statistics whose means over groups are far from normally distributed: shares that most images do not
# have, and quantiles that saturate in some groups.
SKEWED = {
    "raw images": [
        MOSAIC.index(name)
        for name in (
            *(f"{percent}% quantile of {color}" for color in _COLORS for percent in (95, 99)),
            *("saturated sites", "sites at black"),
        )
    ],
    "images": [IMAGE.index(name) for name in ("saturated pixels", "dark pixels")],
}

# The statistics of a layer of the network are projected onto this many fixed random directions, so that a reference of
# some hundred images takes little room.
_DIRECTIONS = 16

# Shares and light below this are not distinguished.
_LEAST = 1e-4


class Seen(NamedTuple):
    """The statistics of images.

    Attributes:
        mosaic: the statistics `MOSAIC`.
        image: the statistics `IMAGE`, averaged over the models.
        output: the confidence, the entropy and the probability of each class, averaged over the models, see
            `output_names`.
        features: the projected statistics of all normalization layers, model by model.
        probabilities: the probabilities of each model, `(M, N, C)`; of segmentation, averaged over the sites.
        groups: the group of each image, any values; None if no image of a reference depends on another, or if that of
            new images is not known.
    """

    mosaic: Float32[np.ndarray, "N mosaic"]
    image: Float32[np.ndarray, "N image"]
    output: Float32[np.ndarray, "N output"]
    features: Float32[np.ndarray, "N features"]
    probabilities: Float32[np.ndarray, "M N C"]
    groups: Shaped[np.ndarray, " N"] | None = None

    @property
    def disagreement(self) -> Float32[np.ndarray, " N"] | None:
        """How much the models disagree on each image; None for one model.

        It is the entropy of their mean prediction minus the mean of their entropies (Jensen-Shannon divergence).
        """
        if len(self.probabilities) == 1:
            return None
        return entr(self.probabilities.mean(0)).sum(-1) - entr(self.probabilities).sum(-1).mean(0)


class Others(NamedTuple):
    """The statistics of images that models were trained on or chosen by, none of the trained network."""

    mosaic: Float32[np.ndarray, "N mosaic"]
    image: Float32[np.ndarray, "N image"]
    groups: Shaped[np.ndarray, " N"]


def output_names(task: Task) -> tuple[str, ...]:
    """Returns the names of the statistics of the head's output; a task without probabilities of classes has none."""
    names = ("confidence", "entropy", *(f"probability of {name}" for name in task.classes))
    return names if task.has_distributions else ()


def see(run: Run, raws: Float[np.ndarray, "N height width"], groups: Shaped[np.ndarray, " N"] | None = None) -> Seen:
    """Computes the statistics of raw images, in batches of one shape.

    Raw images are first rounded to 16 bits, as a reference holds them. Otherwise, the reader's rounding would decide on
    which side of the black level a site at that level lies.

    Args:
        run: the models.
        raws: raw images in [0, 1] of the training size.
        groups: the group of each, see `Seen`.
    """
    assert run.camera is not None
    raws = quantized(np.asarray(raws), np.uint16).astype(np.float32) / 65535
    mosaic = run.in_batches(lambda images: compiler.jit(mosaic_statistics, 1)(images, run.camera), raws, BATCH)
    found = []
    for fold in run:
        graph, state = nnx.split(fold.model)
        compute = functools.partial(compiler.jit(_of_model, 0, 1), graph, fold.task, state)
        found.append(run.in_batches(compute, raws, BATCH))
    images, outputs, features, probabilities = zip(*found, strict=True)
    found = np.mean(images, 0), np.mean(outputs, 0), np.concatenate(features, 1), np.stack(probabilities)
    return Seen(mosaic, *found, groups)


def mosaic_statistics(raw: Float[Array, "N height width"], camera: isp.Camera) -> Float[Array, "N mosaic"]:
    """Computes the statistics `MOSAIC` of raw images of a camera."""
    black = float(np.mean(camera.black_level))
    rgb = (isp.demosaic.binned(raw, camera.pattern) - black) / (1 - black)
    green = rgb[..., 1]
    means = jnp.maximum(rgb.mean((1, 2)), _LEAST)
    rows, columns = green.shape[1:]
    y, x = (jnp.linspace(-1, 1, side) for side in (rows, columns))
    outside = (y[:, None] ** 2 + x**2) > 1
    corner, middle = ((green * mask).sum((1, 2)) / mask.sum() for mask in (outside, ~outside))
    around = (green[:, :-2, 1:-1] + green[:, 2:, 1:-1] + green[:, 1:-1, :-2] + green[:, 1:-1, 2:]) / 4
    residual = jnp.abs(green[:, 1:-1, 1:-1] - around)
    dark = around < jnp.median(around, (1, 2), keepdims=True)
    noise = [(residual * mask).mean((1, 2)) for mask in (dark, ~dark)]
    # A root has no derivative at 0, where an image is white.
    unrest = [jnp.sqrt(jnp.diff(green.mean(axis), axis=1).var(1) + 1e-12) for axis in (2, 1)]
    power = jnp.square(jnp.abs(jnp.fft.rfft2(green - green.mean((1, 2), keepdims=True)))) / (rows * columns)
    # In octaves below the highest frequency of an axis; the last one holds everything that is lower.
    radius = jnp.hypot(jnp.fft.fftfreq(rows)[:, None], jnp.fft.rfftfreq(columns))
    octave = jnp.clip(jnp.floor(-jnp.log2(jnp.maximum(2 * radius, 1e-9))), 0, _BANDS - 1)
    bands = [(power * (octave == number)).mean((1, 2)) for number in range(_BANDS)]
    # Shares pass from 0 to 1 within a few thousandths of the range, so that they have derivatives.
    shares = [
        jnp.clip(500 * (raw - 0.998), 0, 1).mean((1, 2)),
        jnp.clip(0.5 + 500 * (_LEAST - rgb), 0, 1).mean((1, 2, 3)),
    ]
    return jnp.concatenate(
        [
            _color_statistics(rgb),
            jnp.stack([_log(each) for each in shares], 1),
            jnp.log2(means[:, ::2] / means[:, 1:2]),
            jnp.log2(jnp.maximum(corner, _LEAST) / jnp.maximum(middle, _LEAST))[:, None],
            jnp.stack([_log(each) for each in (*noise, *unrest)], 1),
            jnp.stack([jnp.log10(each + 1e-9) for each in bands], 1),
        ],
        1,
    )


def _color_statistics(rgb: Float[Array, "N rows cols 3"]) -> Float[Array, "N statistics"]:
    """Computes statistics of each color that do not depend on the size of the raw image.

    They are seven quantiles, the mean, the variance, the noise (the mean difference between a block and the mean of its
    four neighbors), and the gradient of the raw image at 16 x 16 pixels, on scales on which a factor on the light adds
    about the same amount.

    Args:
        rgb: the means of the colors in blocks of one tile of the color filter array, with black at 0 and white at 1.
    """
    batch, rows, cols, _ = rgb.shape
    every = max(1, min(rows, cols) // _GRID)
    tones = _tone(rgb[:, ::every, ::every]).reshape(batch, -1, 1, 3)
    # A site counts for a level by degrees, so that quantiles have derivatives.
    step = _LEVELS[1] - _LEVELS[0]
    darker = jnp.clip((_LEVELS[:, None] - tones) / step + 0.5, 0, 1).mean(1)[:, None]
    # The inverse of the piecewise linear function from levels to shares, which takes a quarter of the time of sorting.
    wanted = np.array(_PERCENTS, np.float32)[:, None, None] / 100
    reached = (wanted - darker[:, :, :-1]) / jnp.maximum(jnp.diff(darker, axis=2), 1e-6)
    quantiles = _LEVELS[0] + step * jnp.clip(reached, 0, 1).sum(2)
    small = jax.image.resize(rgb, (batch, _SMALL, _SMALL, 3), "linear", antialias=True)
    around = (rgb[:, :-2, 1:-1] + rgb[:, 2:, 1:-1] + rgb[:, 1:-1, :-2] + rgb[:, 1:-1, 2:]) / 4
    noise = jnp.abs(rgb[:, 1:-1, 1:-1] - around).mean((1, 2))
    gradient = sum(jnp.abs(jnp.diff(small, axis=axis)).mean((1, 2)) for axis in (1, 2))
    logarithms = [jnp.log10(each + 1e-6) / 6 + 0.5 for each in (rgb.var((1, 2)), noise, gradient)]
    by_color = jnp.swapaxes(quantiles, 1, 2).reshape(batch, -1)
    return jnp.concatenate([by_color, _tone(rgb.mean((1, 2))), *logarithms], 1)


def _tone(values: Array) -> Array:
    """Maps the signal to a scale that is logarithmic in the light, linear around black, and 1 at white."""
    return jnp.arcsinh(values / _LINEAR_BELOW) / math.asinh(1 / _LINEAR_BELOW)


def _log(values: Array) -> Array:
    return jnp.log10(values + _LEAST)


def _image_statistics(images: Float[Array, "N height width 3"]) -> Float[Array, "N image"]:
    luma = images.mean(-1)
    across, down = (jnp.abs(jnp.diff(luma, axis=axis)).mean((1, 2)) for axis in (1, 2))
    single = [
        luma.std((1, 2)),
        _log((images >= 0.995).mean((1, 2, 3))),
        _log((images <= 0.005).mean((1, 2, 3))),
        images.std(-1).mean((1, 2)),
        _log(across + down),
    ]
    return jnp.concatenate([images.mean((1, 2)), jnp.stack(single, 1)], 1)


def _of_model(graph: nnx.GraphDef, task: Task, state: nnx.State, raws: Array) -> tuple[Array, Array, Array, Array]:
    model = nnx.merge(graph, state)
    images = model.processor(raws)
    layers = processors.layers_of(model.normalizer, model.head)
    known = {name: processors.statistics_of(layer) for name, layer in layers.items()}
    # A share of 0 leaves the training statistics in place.
    logits, moments = processors.observed(model.normalizer, model.head, images, 0.0)
    features = [_projected(name, moments[name], *known[name]) for name in layers]
    if not task.has_distributions:
        none = jnp.zeros((len(images), 0))
        return _image_statistics(images), none, jnp.concatenate(features, 1), none
    probabilities = task.distributions(task.probabilities(logits, raws.shape[1]))
    sites = tuple(range(1, probabilities.ndim - 1))
    entropy = jax.scipy.special.entr(probabilities).sum(-1)
    confidence, entropy = (each.mean(sites) for each in (probabilities.max(-1), entropy))
    probabilities = probabilities.mean(sites)
    output = jnp.concatenate([jnp.stack([confidence, entropy], 1), probabilities], 1)
    features += [task.logits_of(probabilities)] if task.has_labels else [probabilities]
    return _image_statistics(images), output, jnp.concatenate(features, 1), probabilities


def _projected(name: str, moments: Float[Array, "2 N C"], mean: Array, var: Array) -> Float[Array, "N directions"]:
    """Projects the mean and the variance of each image by channel, relative to a layer's, onto random directions.

    The directions depend only on the name of the layer: directions found in the reference would fit its images better
    than others.
    """
    means, variances = moments
    spread = var + processors.EPSILON
    relative = jnp.concatenate(
        [(means - mean) / jnp.sqrt(spread), jnp.log((variances + processors.EPSILON) / spread)], 1
    )
    size = relative.shape[1]
    if size <= _DIRECTIONS:
        return relative
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return relative @ jnp.asarray(rng.normal(0, size**-0.5, (size, _DIRECTIONS)), relative.dtype)

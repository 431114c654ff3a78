"""Adapts a model without labels: mixes the statistics by which it normalizes with those of new images.

S. Schneider et al., "Improving robustness against common corruptions by covariate shift adaptation", NeurIPS 2020: of n
new images and N pseudo-images of the training, the new ones have the share n / (n + N). There, N is one number that is
chosen with labels. Here, each layer has its own N, by which the statistics of some images foretell the others best; or
N is 0 in all layers, if the model is more certain then. Whether a model needs to be adapted is for the caller to tell.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Shaped

from r2l_jax.model import normalization
from r2l_jax.model.processors import Standardize
from r2l_jax.model.raw_to_logit import RawToLogit
from r2l_jax.model.tasks import Task
from r2l_jax.runtime import compiler
from tasks.layers import BatchNorm

# A model is mended by at most this many images at once, since each layer needs all of them together.
MOST = 64

# The statistics of fewer images are those of a few scenes.
LEAST = 8

# The certainty that a model needs of new images, as a share of its validation score. Of 16 trained models, each without
# a drift and under three drifts, all 64 sets of images of all classes reached it, and none of 148 sets of one class.
_NEEDED = 0.55

# The numbers of pseudo-images of the training among which each layer's is chosen.
_PSEUDO_IMAGES = (0.0, *(2.0**power for power in range(11)), math.inf)

# A drift that an early layer sees can hide from later layers once the early one is mended: from layer to layer, the
# number of pseudo-images grows at most by this factor.
_GROWTH = 2

# The choice of a layer changes what later layers see, so that it is made again.
_ROUNDS = 2

# The mean and the variance by channel of each layer that normalizes.
Known = Mapping[str, tuple[np.ndarray, np.ndarray]]

Raws = Shaped[Array | np.ndarray, "batch height width *channels"]


@dataclasses.dataclass(frozen=True)
class Mended:
    """A model with other statistics.

    `shares` has, for each layer that normalizes, the share of the new images' own statistics, from 0 to 1; `certainty`
    is how certain the model is of these images, see `certainty_of`; `needed` is the least of one that is not refused.
    """

    model: RawToLogit
    shares: dict[str, float]
    certainty: float
    needed: float
    images: int

    @property
    def refusal(self) -> str | None:
        """Says why the new images are not fit to mend by; None if they are."""
        if self.images < LEAST:
            return f"{self.images} images are too few to mend by: it takes {LEAST}"
        if self.certainty < self.needed:
            return (
                f"the {self.images} images are no mixture of those that the model knows, such as images of one class "
                f"or of other scenes: its certainty would be {self.certainty:.2f}, and {self.needed:.2f} is needed"
            )
        return None

    @property
    def description(self) -> str:
        """Describes the mixture in words, such as "64 images, whose share is 20% to 98% by layer"."""
        least, most = (f"{100 * bound(self.shares.values()):.0f}%" for bound in (min, max))
        share = f"{least} in all layers" if least == most else f"{least} to {most} by layer"
        return f"{self.images} images, whose share is {share}"


def certainty_of(probabilities: Float[Array, "... classes"]) -> Float[Array, ""]:
    """Computes the share of the entropy of a mean prediction that the single predictions resolve, from 0 to 1.

    It is their mutual information with the images over that entropy: 1 if each image is surely of one class and the
    classes differ, 0 if all images get the same probabilities.
    """
    entropies = jax.scipy.special.entr(probabilities).sum(-1)
    of_mean = jax.scipy.special.entr(probabilities.reshape(-1, probabilities.shape[-1]).mean(0)).sum()
    return 1 - entropies.mean() / jnp.maximum(of_mean, jnp.finfo(of_mean.dtype).tiny)


def mend(model: RawToLogit, raws: Raws, task: Task, score: float, clean: Known | None = None) -> Mended:
    """Adapts the statistics of all layers that normalize to new images.

    In each layer, the statistics of clean images are mixed with those of new ones. The share of these is chosen by
    leaving them out one by one, see `pseudo_images`; it is 1 in all layers if the model is more certain then.

    `model` is in evaluation, and `raws` are the mosaics of at least two new images. The validation score says how
    confident a classifier must be on them. `clean` has the statistics of clean images (see `known_of`); with None, the
    statistics of the training are mixed, which do not describe the images of one camera if there were several.
    """
    graph, state = nnx.split(model)
    layers = normalization.layers_of(model.normalizer, model.head)
    known = _statistics(layers) if clean is None else clean

    def observe(shares: Mapping[str, np.float32]) -> tuple[Array, dict[str, Array], nnx.State]:
        return _observe()(graph, task, state, raws, shares, known)

    shares = dict.fromkeys(layers, np.float32(1))
    alone = shares, (seen := observe(shares))
    for _ in range(_ROUNDS):
        shares = _shares(jax.device_get(seen[1]), known, len(raws))
        seen = observe(shares)
    shares, (certainty, _, statistics) = max((shares, seen), alone, key=lambda each: float(each[1][0]))
    mixed = nnx.merge(graph, nnx.merge_state(state, statistics))
    # For segmentation, the certainty is the same on noise.
    needed = _NEEDED * score if task.name == "classification" else 0.0
    of_layers = {name: float(each) for name, each in shares.items()}
    return Mended(mixed, of_layers, float(certainty), needed, len(raws))


def replaced(model: RawToLogit, raws: Raws, task: Task) -> RawToLogit:
    """Returns a model with the statistics of new images alone in all layers that normalize."""
    graph, state = nnx.split(model)
    layers = normalization.layers_of(model.normalizer, model.head)
    shares = dict.fromkeys(layers, np.float32(1))
    *_, statistics = _observe()(graph, task, state, raws, shares, _statistics(layers))
    return nnx.merge(graph, nnx.merge_state(state, statistics))


def known_of(model: RawToLogit, raws: Raws, task: Task) -> Known:
    """Observes the statistics of images in all layers that normalize, as the model is."""
    graph, state = nnx.split(model)
    layers = normalization.layers_of(model.normalizer, model.head)
    shares = dict.fromkeys(layers, np.float32(0))
    _, moments, _ = _observe()(graph, task, state, raws, shares, _statistics(layers))
    known = dict[str, tuple[np.ndarray, np.ndarray]]()
    # In the order of the layers, which compiled functions do not keep.
    for name in layers:
        means, variances = jax.device_get(moments[name])
        known[name] = means.mean(0), variances.mean(0) + means.var(0)
    return known


def _statistics(layers: Mapping[str, BatchNorm | Standardize]) -> Known:
    return jax.device_get({name: normalization.statistics_of(layer) for name, layer in layers.items()})


def pseudo_images(moments: np.ndarray, mean: np.ndarray, var: np.ndarray) -> float:
    """Chooses the number of pseudo-images of the training for a layer, without labels.

    The statistics of all new images but one are mixed with those of the training `(C,)`. The best number makes the
    image that was left out most likely, as normally distributed values of each channel, on average over all images.
    `moments` are the mean and the variance of each image by channel, `(2, B, C)`.
    """
    means, variances = np.asarray(moments, np.float64)
    others, squares = len(means) - 1, variances + means**2
    left = (means.sum(0) - means) / others
    spread = np.maximum((squares.sum(0) - squares) / others - left**2, 0)
    costs = []
    for number in _PSEUDO_IMAGES:
        share = others / (others + number)
        mixed, mixed_var = mean + share * (left - mean), var + share * (spread - var) + normalization.EPSILON
        costs.append((np.log(mixed_var) + (variances + (means - mixed) ** 2) / mixed_var).mean())
    return _PSEUDO_IMAGES[int(np.argmin(costs))]


def _shares(moments: Mapping[str, np.ndarray], known: Known, images: int) -> dict[str, np.float32]:
    shares, most = {}, math.inf
    for name, of_layer in known.items():
        most = min(_GROWTH * most, pseudo_images(moments[name], *of_layer))
        shares[name] = np.float32(images / (images + most))
    return shares


@functools.cache
def _observe() -> Callable[..., tuple[Array, dict[str, Array], nnx.State]]:
    def compute(
        graph: nnx.GraphDef,
        task: Task,
        state: nnx.State,
        raws: Array,
        shares: Mapping[str, Array],
        known: Mapping[str, tuple[Array, Array]],
    ):
        model = nnx.merge(graph, state)
        images = model.processor(raws)
        logits, moments = normalization.observed(model.normalizer, model.head, images, shares, known)
        probabilities = task.probabilities(logits, raws.shape[1])
        if task.name == "segmentation":
            probabilities = jnp.stack([1 - probabilities, probabilities], -1)
        return certainty_of(probabilities), moments, nnx.state(model, nnx.BatchStat)

    # Made at the first use: the compiler is not asked for its options when this module is imported.
    return jax.jit(compute, static_argnums=(0, 1), compiler_options=compiler.options())

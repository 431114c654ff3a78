"""Mends a model without labels: mixes the statistics by which it normalizes with those of new images.

S. Schneider et al., "Improving robustness against common corruptions by covariate shift adaptation", NeurIPS 2020: of n
new images and N pseudo-images of the training, the new ones have the share n / (n + N). There, N is one number that is
chosen with labels. Here, each layer has its own N, by which the statistics of some images foretell the others best.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Shaped

from r2l_jax.data.cameras import CameraValues
from r2l_jax.model import normalization, own_camera
from r2l_jax.model.raw_to_logit import RawToLogit
from r2l_jax.model.tasks import Task
from r2l_jax.runtime import compiler

# A model is mended by at most this many images at once, since each layer needs all of them together.
MOST = 64

# The statistics of fewer images are those of a few scenes.
LEAST = 8

# The least certainty of a mended model, as a fraction of its validation score.
_LEAST_CERTAINTY = 0.5

# A model stays as it is unless mending makes it more certain by this factor. Of 42 pairs of a model and a drift, the 30
# above it gained 1.9 points or more, and the 12 below it would have lost 2.8 points on average.
_LEAST_GAIN = 1.05

# The numbers of pseudo-images of the training among which each layer's is chosen.
_PSEUDO_IMAGES = (0.0, *(2.0**power for power in range(11)), math.inf)

# A drift that an early layer sees can hide from later layers once the early one is mended: from layer to layer, the
# number of pseudo-images grows at most by this factor.
_GROWTH = 2

# The choice of a layer changes what later layers see, so that it is made again.
_ROUNDS = 2

Raws = Shaped[Array | np.ndarray, "batch height width *channels"]


@dataclasses.dataclass(frozen=True)
class Mended:
    """A model with other statistics.

    Attributes:
        model: the model, in evaluation.
        shares: for each layer that normalizes, the share of the new images' own statistics, from 0 to 1.
        certainty: how much the model knows of these images, see `certainty_of`.
        needed: the least certainty of a model that is not refused.
        images: the number of new images.
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
        if not any(self.shares.values()):
            return f"{self.images} images, whose share is 0%: the model is most certain as it is"
        return f"{self.images} images, whose share is {least} to {most} by layer"


def mend(
    model: RawToLogit, raws: Raws, task: Task, score: float, cameras: CameraValues[np.ndarray] | None = None
) -> Mended:
    """Mixes the statistics of all layers that normalize with those of new images.

    The share of the images in each layer is chosen by leaving them out one by one, see `pseudo_images`. If the model is
    about as certain of the images as it is, its statistics stay. A model that has seen many cameras in training knows
    each of them, and its statistics differ from those of any one camera.

    Args:
        model: a model in evaluation.
        raws: the mosaics of the new images, at least two.
        task: the model's task.
        score: the model's validation score, from which the certainty follows that is needed.
        cameras: the values of the mosaics' cameras, for a model of several cameras.
    """
    graph, state = nnx.split(model)
    layers = normalization.layers_of(model.normalizer, model.head)
    known = jax.device_get({name: normalization.statistics_of(layer) for name, layer in layers.items()})
    shares = dict.fromkeys(layers, np.float32(1))
    for _ in range(_ROUNDS):
        _, moments, _ = _observe()(graph, task, state, raws, shares, cameras)
        shares = _shares(jax.device_get(moments), known, len(raws))
    none = dict.fromkeys(layers, np.float32(0))
    as_it_is, *_ = _observe()(graph, task, state, raws, none, cameras)
    certainty, _, statistics = _observe()(graph, task, state, raws, shares, cameras)
    certainty, as_it_is = float(certainty), float(as_it_is)
    if certainty < _LEAST_GAIN * as_it_is:
        return Mended(model, dict.fromkeys(layers, 0.0), as_it_is, _needed(score), len(raws))
    mended = nnx.merge(graph, nnx.merge_state(state, statistics))
    return Mended(mended, {name: float(each) for name, each in shares.items()}, certainty, _needed(score), len(raws))


def replaced(
    model: RawToLogit,
    raws: Raws,
    task: Task,
    normalizer_only: bool = False,
    cameras: CameraValues[np.ndarray] | None = None,
) -> RawToLogit:
    """Returns a model with the statistics of new images alone, in all layers or only in the normalizer of images."""
    graph, state = nnx.split(model)
    layers = normalization.layers_of(model.normalizer, model.head)
    shares = {name: np.float32(not normalizer_only or name.startswith("normalizer")) for name in layers}
    *_, statistics = _observe()(graph, task, state, raws, shares, cameras)
    return nnx.merge(graph, nnx.merge_state(state, statistics))


def _needed(score: float) -> float:
    return _LEAST_CERTAINTY * score


def certainty_of(probabilities: Array) -> Array:
    """Computes the share of the entropy of a mean prediction that the single predictions resolve, from 0 to 1.

    It is their mutual information with the images over that entropy: 1 if each image is surely of one class and the
    classes differ, 0 if all images get the same probabilities. Images of one class score low once they are normalized
    as if they were of all classes: the network then has to find differences in them that are none.

    Args:
        probabilities: `(..., C)`, which add up to 1.
    """
    entropies = jax.scipy.special.entr(probabilities).sum(-1)
    of_mean = jax.scipy.special.entr(probabilities.reshape(-1, probabilities.shape[-1]).mean(0)).sum()
    return 1 - entropies.mean() / jnp.maximum(of_mean, jnp.finfo(of_mean.dtype).tiny)


def pseudo_images(moments: np.ndarray, mean: np.ndarray, var: np.ndarray) -> float:
    """Chooses the number of pseudo-images of the training for a layer, without labels.

    The statistics of all new images but one are mixed with those of the training. The best number makes the image that
    was left out most likely, as normally distributed values of each channel, on average over all images.

    Args:
        moments: the mean and the variance of each image by channel, `(2, B, C)`.
        mean: the mean of the training `(C,)`.
        var: the variance of the training `(C,)`.
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


def _shares(
    moments: Mapping[str, np.ndarray], known: Mapping[str, tuple[np.ndarray, np.ndarray]], images: int
) -> dict[str, np.float32]:
    """Chooses the share of the new images in each layer, in the order of the layers."""
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
        cameras: CameraValues | None,
    ):
        model = nnx.merge(graph, state)
        images = own_camera.images(model.processor, raws, cameras)
        logits, moments = normalization.observed(model.normalizer, model.head, images, shares)
        probabilities = task.probabilities(logits, raws.shape[1])
        if task.name == "segmentation":
            probabilities = jnp.stack([1 - probabilities, probabilities], -1)
        return certainty_of(probabilities), moments, nnx.state(model, nnx.BatchStat)

    # Made at the first use: the compiler is not asked for its options when this module is imported.
    return jax.jit(compute, static_argnums=(0, 1), compiler_options=compiler.options())

"""Test-time adaptation without labels: mixes batch-norm statistics with those of new images (AdaBN).

S. Schneider et al., "Improving robustness against common corruptions by covariate shift adaptation", NeurIPS 2020: with
n new images and N pseudo-images from training, the new images have the weight n / (n + N). The paper chooses N with
labels. Here, N is the number with which the statistics of some new images best predict the others, or 0 if that raises
the mutual information of the predictions.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from r2l_jax.devices import compiler
from r2l_jax.model import processors
from r2l_jax.model.raw_to_logit import Raws, RawToLogit
from r2l_jax.model.tasks import Task

# A model is adapted to at most this many images, since each layer needs all of them together.
MOST = 64

# Fewer images would give the statistics of only a few scenes.
LEAST = 8

# The mutual information that a model must reach on new images, as a fraction of its validation score. For 16 models,
# each without drift and under three drifts, all 64 image sets of all classes reached it, and 0 of 148 sets of one
# class. For two more models, with one number of pseudo-images for all layers, all 8 and 0 of 40 did.
_NEEDED = 0.55

# The candidate numbers of pseudo-images from training.
_PSEUDO_IMAGES = (0.0, *(2.0**power for power in range(11)), math.inf)

# The mean and the variance by channel of each normalization layer.
Known = Mapping[str, tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Adapted:
    """A model with adapted batch-norm statistics."""

    model: RawToLogit
    share: float  # the weight of the new images in the mixture, from 0 to 1
    mutual_information: float  # of the predictions and these images
    needed: float  # the least mutual information of images that are not refused
    images: int

    @property
    def refusal(self) -> str | None:
        """The reason why the model should not be adapted to the new images; None if it may be."""
        if self.images < LEAST:
            return f"at least {LEAST} images are needed to adapt, got {self.images}"
        if self.mutual_information >= self.needed:
            return None
        return (
            f"the {self.images} images are not a mixture of the training classes, such as images of one class or of "
            f"other scenes: the mutual information of predictions and images must be at least {self.needed:.2f}, got "
            f"{self.mutual_information:.2f}"
        )

    @property
    def description(self) -> str:
        """Describes the mixture, such as "64 images with a weight of 80%"."""
        return f"{self.images} images with a weight of {100 * self.share:.0f}%"


def mutual_information(probabilities: Float[Array, "... classes"]) -> Float[Array, ""]:
    """Computes the mutual information of predictions with images, over the entropy of the mean prediction: from 0 to 1.

    It is 1 if the model is confident on each image and the classes differ, 0 if all images get the same probabilities.
    """
    entropies = jax.scipy.special.entr(probabilities).sum(-1)
    of_mean = jax.scipy.special.entr(probabilities.reshape(-1, probabilities.shape[-1]).mean(0)).sum()
    return 1 - entropies.mean() / jnp.maximum(of_mean, jnp.finfo(of_mean.dtype).tiny)


def adapt(model: RawToLogit, raws: Raws, task: Task, score: float, clean: Known | None = None) -> Adapted:
    """Mixes the statistics of new raw images, at least two, into those of clean images, in all normalization layers.

    Leave-one-out chooses the share of the new images, see `pseudo_images`; the share is 1 where that gives a greater
    mutual information. The validation score decides how confident a classifier must be on the new images. `clean` has
    the statistics of clean images, see `known_of`. Without it, the running statistics of the training serve instead;
    after training with camera augmentation, these also cover other cameras.
    """
    known = statistics(model) if clean is None else clean
    *_, moments = _mixed(model, raws, task, 0.0, known)
    share = len(raws) / (len(raws) + pseudo_images(moments, known))
    tried = [(each, *_mixed(model, raws, task, each, known)) for each in dict.fromkeys((share, 1.0))]
    share, adapted, information, _ = max(tried, key=lambda each: each[2])
    # For masks, noise gives the same mutual information.
    needed = _NEEDED * score if task.has_labels else 0.0
    return Adapted(adapted, share, information, needed, len(raws))


def replaced(model: RawToLogit, raws: Raws, task: Task) -> RawToLogit:
    """Returns a model with only the statistics of new images in all normalization layers."""
    return _mixed(model, raws, task, 1.0, statistics(model))[0]


def known_of(model: RawToLogit, raws: Raws, task: Task) -> Known:
    """Observes the statistics of images, a multiple of `LEAST`, in all normalization layers of the unchanged model."""
    parts = [raws[start : start + LEAST] for start in range(0, len(raws), LEAST)]
    known = statistics(model)
    moments = [_mixed(model, part, task, 0.0, known)[2] for part in parts]
    of_layers = {name: np.concatenate([part[name] for part in moments], 1) for name in known}
    return {name: (means.mean(0), variances.mean(0) + means.var(0)) for name, (means, variances) in of_layers.items()}


def statistics(model: RawToLogit) -> Known:
    """Returns the statistics that the normalization layers of a model use."""
    layers = processors.layers_of(model.normalizer, model.head)
    return jax.device_get({name: processors.statistics_of(layer) for name, layer in layers.items()})


def pseudo_images(moments: Mapping[str, np.ndarray], known: Known) -> float:
    """Chooses the number of pseudo-images from training, without labels.

    The statistics of all new images but one are mixed with the known ones. The best number gives the left-out image the
    highest likelihood under a normal distribution of each channel, averaged over images and channels and summed over
    the layers. `moments` are the mean and the variance of each image by channel, `(2, B, C)`, in the unchanged model.
    """
    costs = np.zeros(len(_PSEUDO_IMAGES))
    for name, (mean, var) in known.items():
        means, variances = np.asarray(moments[name], np.float64)
        others, squares = len(means) - 1, variances + means**2
        left = (means.sum(0) - means) / others
        spread = np.maximum((squares.sum(0) - squares) / others - left**2, 0)
        for place, number in enumerate(_PSEUDO_IMAGES):
            share = others / (others + number)
            mixed, mixed_var = mean + share * (left - mean), var + share * (spread - var) + processors.EPSILON
            costs[place] += (np.log(mixed_var) + (variances + (means - mixed) ** 2) / mixed_var).mean()
    return _PSEUDO_IMAGES[int(np.argmin(costs))]


def _mixed(model: RawToLogit, raws: Raws, task: Task, share: float, known: Known) -> tuple[RawToLogit, float, Any]:
    """Returns a model with mixed statistics, its mutual information with images, and their moments in each layer."""
    graph, state = nnx.split(model)
    information, moments, changed = compiler.jit(_observe, 0, 1)(graph, task, state, raws, np.float32(share), known)
    return nnx.merge(graph, nnx.merge_state(state, changed)), float(information), jax.device_get(moments)


def _observe(
    graph: nnx.GraphDef, task: Task, state: nnx.State, raws: Raws, share: Array, known: Any
) -> tuple[Array, dict[str, Array], nnx.State]:
    model = nnx.merge(graph, state)
    logits, moments = processors.observed(model.normalizer, model.head, model.processor(raws), share, known)
    information = jnp.zeros(())
    if task.has_distributions:
        information = mutual_information(task.distributions(task.probabilities(logits, raws.shape[1])))
    return information, moments, nnx.state(model, nnx.BatchStat)

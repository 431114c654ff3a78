"""How certain a model is of images, which tells whether they are a mixture of the classes that it knows."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Let 0 be the certainty on images of one class, and 1 the certainty on images of all classes: then this is needed. With
# 15 models, each without a drift and under up to four drifts, all 72 sets of images of all classes reached it, and 2 of
# 302 sets of one class did.
_SHARE = 1 / 4

# Without the data of the run: the certainty that is needed, as a fraction of the validation score.
_OF_SCORE = 0.5


def needed_certainty(mixture: float, one_class: float) -> float:
    """Computes the least certainty at which an adapted model is not refused.

    Args:
        mixture: the certainty of images of all classes, if the model is adapted by them.
        one_class: of images of one class, if it is adapted by them; the highest of all classes.
    """
    return min(one_class, mixture) + _SHARE * max(mixture - one_class, 0.0)


def guessed_certainty(score: float) -> float:
    """Guesses the certainty that is needed by the validation score, where the data of the run is not at hand."""
    return _OF_SCORE * score


def certainty_of(probabilities: Float[Array, "... classes"]) -> Float[Array, ""]:
    """Computes the share of the entropy of a mean prediction that the single predictions resolve, from 0 to 1.

    It is their mutual information with the images over that entropy: 1 if each image is surely of one class and the
    classes differ, 0 if all images get the same probabilities. Images of one class score low once they are normalized
    as if they were of all classes: the network then has to find differences in them that are none.

    Args:
        probabilities: values that add up to 1.
    """
    entropies = jax.scipy.special.entr(probabilities).sum(-1)
    of_mean = jax.scipy.special.entr(probabilities.reshape(-1, probabilities.shape[-1]).mean(0)).sum()
    return 1 - entropies.mean() / jnp.maximum(of_mean, jnp.finfo(of_mean.dtype).tiny)

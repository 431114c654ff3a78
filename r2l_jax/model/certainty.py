"""How certain a model is of images, which tells whether it knows images like them."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Let 0 be the certainty on images of one class, and 1 the certainty on images of all classes: then this is needed. With
# 15 models, each without a drift and under up to four drifts, all 72 sets of images of all classes reached it, and 2 of
# 302 sets of one class did.
_SHARE = 1 / 4

# The factor by which mending has to bring a model's certainty nearer to that of its own images. Of 72 pairs of a model
# and a drift or none, the 44 above it gained -1 to 73 points. Of the 28 below it, one would have gained 34, and the
# others -9 to 3.
_LEAST_GAIN = 1.1

# Certainties are at least this, so that they can be compared by their ratios.
_LEAST = 1e-3

# Without own images: the certainty that is needed, as a fraction of the validation score.
_OF_SCORE = 0.5


@dataclasses.dataclass(frozen=True)
class OwnCertainty:
    """The certainty of a model of its own images, from 0 to 1, by which it judges new ones.

    Attributes:
        as_it_is: of images of all classes.
        mended: of the same images, if it is mended by them.
        needed: the least certainty of a mended model that is not refused.
    """

    as_it_is: float
    mended: float
    needed: float

    @classmethod
    def of(cls, as_it_is: float, mended: float, one_class: float) -> "OwnCertainty":
        """Makes the figures of a model from its certainties of own images, and derives the needed certainty.

        Args:
            as_it_is: of images of all classes.
            mended: of the same images, if it is mended by them.
            one_class: of images of one class, if it is mended by them; the highest of all classes.
        """
        as_it_is, mended = max(as_it_is, _LEAST), max(mended, _LEAST)
        return cls(as_it_is, mended, min(one_class, mended) + _SHARE * max(mended - one_class, 0.0))

    @classmethod
    def guessed(cls, score: float) -> "OwnCertainty":
        """Guesses what a model needs whose own images are not at hand, by its validation score."""
        return cls(1.0, 1.0, _OF_SCORE * score)

    def is_nearer(self, mended: float, as_it_is: float) -> bool:
        """Tells whether mending brings the certainty of new images nearer to that of the model's own images.

        A model that is more certain than of its own images is as far from it as one that is less certain by the same
        factor: a drift can make a model sure of the wrong class.

        Args:
            mended: the certainty of the new images, if the model is mended by them.
            as_it_is: the certainty of the new images without mending.
        """
        return _nearness(mended, self.mended) >= _LEAST_GAIN * _nearness(as_it_is, self.as_it_is)


def _nearness(one: float, other: float) -> float:
    """Returns the ratio of two certainties, from 0 to 1."""
    return min(one, other) / max(one, other)


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

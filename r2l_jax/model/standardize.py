"""Normalization of images by fixed statistics."""

from flax import nnx
from jaxtyping import Array, Float


class Standardize(nnx.Module):
    """Subtracts a fixed mean from each channel, and divides it by a fixed standard deviation."""

    def __init__(self, mean: Float[Array, "3"], std: Float[Array, "3"]):
        self.mean = nnx.BatchStat(mean)
        self.std = nnx.BatchStat(std)

    def __call__(self, images: Float[Array, "batch height width 3"]) -> Float[Array, "batch height width 3"]:
        """Normalizes images."""
        return (images - self.mean[...]) / self.std[...]

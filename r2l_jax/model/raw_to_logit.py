"""The whole way from raw to logit: processor, normalisation, augmentation, head."""

from collections.abc import Mapping

from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

from r2l_jax.model.augment import augment


class RawToLogit(nnx.Module):
    """Raw mosaics to logits, differentiable from end to end.

    Attributes:
        processor: mosaics `(B, H, W)` to images: an `isp.Pipeline`, or what has its `stage_names` and is called and
            traced like one.
        normalizer: images to images of zero mean and unit variance.
        head: normalised images to logits.
    """

    def __init__(self, processor: nnx.Module, normalizer: nnx.Module, head: nnx.Module):
        self.processor = processor
        self.normalizer = normalizer
        self.head = head

    def __call__(
        self,
        raw: Float[Array, "batch height width *channels"],
        key: PRNGKeyArray | None = None,
        augmentation: str = "none",
    ) -> Float[Array, "batch ..."]:
        """Computes the logits; `key` is what an augmentation other than "none" is drawn from."""
        return self.logits(self.processor(raw), key, augmentation)

    def logits(
        self,
        images: Float[Array, "batch height width 3"],
        key: PRNGKeyArray | None = None,
        augmentation: str = "none",
    ) -> Float[Array, "batch ..."]:
        """The logits of processed images, as in a call."""
        images = self.normalizer(images)
        return self.head(images if augmentation == "none" else augment(images, key, augmentation))

    def trace(
        self, raw: Float[Array, "batch height width *channels"], perturbations: Mapping[str, Array] | None = None
    ) -> tuple[Float[Array, "batch ..."], dict[str, Float[Array, "batch ..."]]]:
        """The logits without augmentation, and the processor's image after each stage; see `isp.Pipeline.trace`."""
        images, stages = self.processor.trace(raw, perturbations)
        return self.head(self.normalizer(images)), stages


class Standardize(nnx.Module):
    """Subtracts a fixed mean and divides by a fixed standard deviation, per channel."""

    def __init__(self, mean: Float[Array, "3"], std: Float[Array, "3"]):
        self.mean = nnx.BatchStat(mean)
        self.std = nnx.BatchStat(std)

    def __call__(self, images: Float[Array, "batch height width 3"]) -> Float[Array, "batch height width 3"]:
        """Normalises images."""
        return (images - self.mean[...]) / self.std[...]

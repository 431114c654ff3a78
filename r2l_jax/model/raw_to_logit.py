"""The whole path from raw to logit: processor, normalization, augmentation and head."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key

import isp
from isp.metering import Part
from r2l_jax.model.augment import augment
from r2l_jax.model.processors import Processor, Standardize
from tasks.layers import BatchNorm

# Logits `(B, ...)`; for detection, the boxes and the images of a `Detector`.
Logits = Float[Array, "batch ..."] | dict[str, Array]

# Raw images, parts of frames, or processed images.
Raws = Float[Array | np.ndarray, "batch height width *channels"] | Part


class RawToLogit(nnx.Module):
    """Computes logits from raw images, differentiable from end to end.

    `processor` turns raw images `(B, H, W)` into images; `normalizer` gives these zero mean and unit variance.
    """

    def __init__(self, processor: Processor, normalizer: BatchNorm | Standardize, head: nnx.Module):
        self.processor = processor
        self.normalizer = normalizer
        self.head = head

    def __call__(
        self,
        raw: Raws,
        keys: Key[Array, " batch"] | None = None,
        augmentation: str = "none",
    ) -> Logits:
        """Computes the logits of raw images, see `logits`."""
        # Only the processor `Unprocessed` takes no parts, and it processes no raw images.
        return self.logits(self.processor(raw), keys, augmentation)  # pyright: ignore[reportArgumentType]

    def logits(
        self,
        images: Float[Array, "batch height width 3"],
        keys: Key[Array, " batch"] | None = None,
        augmentation: str = "none",
    ) -> Logits:
        """Computes the logits of processed images, after an augmentation drawn from the keys, see `augment`."""
        images = self.normalizer(images)
        if augmentation != "none":
            if keys is None:
                raise ValueError(f"the augmentation {augmentation!r} needs keys")
            images = augment(images, keys, augmentation)
        return self.head(images)

    def trace(
        self,
        raw: Raws,
        perturbations: Mapping[str, Array] | None = None,
    ) -> tuple[Logits, dict[str, Float[Array, "batch ..."]]]:
        """Computes the logits without augmentation, and the image after each stage (see `isp.Pipeline.trace`)."""
        images, stages = self.processor.trace(raw, perturbations)  # pyright: ignore[reportArgumentType]  # as above
        return self.logits(images), stages

    def processed_by(self, processor: Processor) -> "RawToLogit":
        """Returns the model with another processor."""
        return RawToLogit(processor, self.normalizer, self.head)

    def on_one_device(self) -> "RawToLogit":
        """Returns a copy on this process's default device; a run's arrays may be spread over the devices of several."""
        graph, state = nnx.split(self)
        return nnx.merge(graph, jax.tree.map(jnp.asarray, jax.device_get(state)))


def pipeline_of(model: RawToLogit) -> isp.Pipeline:
    """Returns the processor of a model, or raises a ValueError if it is not a pipeline."""
    if not isinstance(model.processor, isp.Pipeline):
        raise ValueError(f"the model's processor must be an isp.Pipeline, got {type(model.processor).__name__}")
    return model.processor

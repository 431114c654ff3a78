"""The whole path from raw to logit: processor, normalization, augmentation and head; and how it is made."""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key

import isp
from isp.metering import Part
from isp.published import additive_layer_stage
from r2l_jax.model.augment import augment
from r2l_jax.model.heads import NormalizedHead, made_once
from r2l_jax.model.processors import (
    Images,
    NeuralProcessor,
    OwnNormalization,
    Processor,
    Standardize,
    Statistics,
    Unprocessed,
    half_size,
)
from r2l_jax.model.settings import HALF_SIZE_MODES, ProcessingSettings
from r2l_jax.model.tasks import Task
from r2l_jax.pipelines import NamedPipeline, metered
from tasks.layers import BatchNorm

# Logits `(B, ...)`; for detection, the boxes and the images of a `Detector`.
Logits = Float[Array, "batch ..."] | dict[str, Array]

Keys = Key[Array, " batch"]

# Raw images, parts of frames, or processed images.
Raws = Float[Array | np.ndarray, "batch height width *channels"] | Part


class RawToLogit(nnx.Module):
    """Computes logits from raw images, differentiable from end to end.

    `processor` turns raw images `(B, H, W)` into images; `normalizer` gives these zero mean and unit variance.
    """

    def __init__(self, processor: Processor, normalizer: BatchNorm | Standardize, head: nnx.Module):
        self.processor, self.normalizer, self.head = processor, normalizer, head

    def __call__(self, raw: Raws, keys: Keys | None = None, augmentation: str = "none") -> Logits:
        """Computes the logits of raw images, see `logits`."""
        # Only the processor `Unprocessed` takes no parts, and it processes no raw images.
        return self.logits(self.processor(raw), keys, augmentation)  # pyright: ignore[reportArgumentType]

    def logits(self, images: Images, keys: Keys | None = None, augmentation: str = "none") -> Logits:
        """Computes the logits of processed images, after an augmentation drawn from the keys, see `augment`."""
        images = self.normalizer(images)
        if augmentation != "none":
            if keys is None:
                raise ValueError(f"the augmentation {augmentation!r} needs keys")
            images = augment(images, keys, augmentation)
        return self.head(images)

    def trace(
        self, raw: Raws, perturbations: Mapping[str, Array] | None = None
    ) -> tuple[Logits, dict[str, Float[Array, "batch ..."]]]:
        """Computes the logits without augmentation, and the image after each stage (see `isp.Pipeline.trace`)."""
        images, stages = self.processor.trace(raw, perturbations)  # pyright: ignore[reportArgumentType]  # as above
        return self.logits(images), stages

    def processed_by(self, processor: Processor) -> "RawToLogit":
        """Returns the model with another processor."""
        return RawToLogit(processor, self.normalizer, self.head)


def pipeline_of(model: RawToLogit) -> isp.Pipeline:
    """Returns the processor of a model, or raises a ValueError if it is not a pipeline."""
    if not isinstance(model.processor, isp.Pipeline):
        raise ValueError(f"the model's processor must be an isp.Pipeline, got {type(model.processor).__name__}")
    return model.processor


def unknown_statistics() -> Statistics:
    """Returns a mean of 0 and a standard deviation of 1, for a model whose statistics are restored later."""
    return jnp.zeros(3), jnp.ones(3)


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Describes the models of a run, and makes them.

    `pipeline` is the one that `processing` names now, if any; `camera` is None for images that are processed already.
    `shape` is `(H, W)`, or then `(H, W, 3)`. `additive_layer` adds a learned image at the end of the pipeline.
    """

    processing: ProcessingSettings
    task: Task
    camera: isp.Camera | None
    shape: tuple[int, ...]
    additive_layer: bool = False
    pipeline: NamedPipeline | None = dataclasses.field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "pipeline", self.processing.named_pipeline)

    def processor(self) -> isp.Pipeline | Unprocessed:
        """Makes the chosen pipeline, or a processor that returns the raw image at half size."""
        if self.pipeline is None:
            return half_size(self.camera)
        assert self.camera is not None
        return metered(self.pipeline(self.camera), self.camera, self.processing.auto or ())

    def model(self, rngs: nnx.Rngs, statistics: Statistics | None) -> RawToLogit:
        """Makes a model in training mode, with weights drawn from `rngs` and `statistics` for `Standardize`, if any."""
        constant = Standardize(*(unknown_statistics() if statistics is None else statistics))
        if self.processing.processing_mode == "neural_network":
            assert self.camera is not None
            processor = NeuralProcessor(self.camera.pattern, constant, rngs)
        else:
            processor = self.processor()
        if self.additive_layer and isinstance(processor, isp.Pipeline):
            layer = additive_layer_stage(image_size(processor, self.shape))
            processor = processor.inserted(layer, after=processor.stage_names[-1])
        head = self.task.make_head(rngs)
        if isinstance(head, NormalizedHead):
            return RawToLogit(processor, OwnNormalization(jnp.array(head.mean), jnp.array(head.std)), head.core)
        normalizer = BatchNorm(3, affine=False, rngs=rngs) if self.processing.learns else constant
        return RawToLogit(processor, normalizer, head)

    @functools.cached_property
    def frozen_head(self) -> NormalizedHead | None:
        """The head with its normalization, if it is frozen."""
        return self.task.custom and self.task.custom.frozen(self.task.outputs)

    @property
    def measures_normalization(self) -> bool:
        """Whether the statistics of the normalization come from the data, not from the head."""
        custom = self.task.custom
        head = custom and made_once(custom, self.task.outputs)
        return not isinstance(head, NormalizedHead)

    def check_head(self) -> None:
        """Raises an InputError unless a custom head takes the images and makes the task's logits."""
        if (custom := self.task.custom) is not None:
            model, raw = self.abstract(), jax.ShapeDtypeStruct((2, *self.shape), jnp.float32)
            images = nnx.eval_shape(lambda processor, raw: processor(raw), model.processor, raw).shape
            custom.check(model.head, images, self.task.logits_shape(images))

    def abstract(self) -> RawToLogit:
        """Makes a model in evaluation mode, with shapes in place of arrays."""
        model = nnx.eval_shape(lambda: self.model(nnx.Rngs(0), unknown_statistics()))
        model.eval()
        return model

    @functools.cached_property
    def multiples(self) -> dict[str, int]:
        """The numbers that must divide the height and width of raw images, for each part of the model."""
        multiples, camera = {}, self.camera
        if self.processing.processing_mode == "neural_network" and camera is not None:
            multiples["`processing_mode=neural_network`"] = NeuralProcessor.multiple(camera.pattern)
        if self.task.multiple > 1:
            side, processing = 1, self.processing
            if camera is not None and (processing.half_size or processing.processing_mode in HALF_SIZE_MODES):
                side = isp.demosaic.bin_side(camera.pattern)
            multiples[f"a U-Net++ after {self.processing.flag}"] = side * self.task.multiple
        return multiples


def image_size(pipeline: isp.Pipeline, shape: tuple[int, ...]) -> tuple[int, int]:
    """Returns the height and width of the images that a pipeline makes from raw images of a shape."""
    height, width, _ = jax.eval_shape(pipeline, jax.ShapeDtypeStruct(shape, jnp.float32)).shape
    return height, width

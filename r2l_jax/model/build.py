"""Making the model that a run's settings describe."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

import isp
from isp.published import additive_layer_stage
from r2l_jax.config import TrainConfig
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.model.processors import NeuralProcessor, Unprocessed, half_size
from r2l_jax.model.raw_to_logit import RawToLogit, Standardize
from r2l_jax.model.tasks import Task
from tasks.layers import BatchNorm

Statistics = tuple[jax.Array, jax.Array]


class Inputs(NamedTuple):
    """Describes the data that a model is made for.

    Attributes:
        camera: where the processing starts; None for images that are processed already.
        shape: of a mosaic `(H, W)`, or of an image `(H, W, 3)`.
    """

    camera: isp.Camera | None
    shape: tuple[int, ...]


def unknown_statistics() -> Statistics:
    """Returns a mean and a standard deviation that change nothing, for a model whose own are restored later."""
    return jnp.zeros(3), jnp.ones(3)


def make_processor(config: TrainConfig, camera: isp.Camera | None) -> isp.Pipeline | Unprocessed:
    """Makes a processor that has no network: the chosen pipeline, or the mosaic at half size."""
    named = config.processing.named_pipeline
    return half_size(camera) if named is None else named(_known(camera))


def make_model(
    config: TrainConfig, dataset: RawDataset | Inputs, task: Task, rngs: nnx.Rngs, statistics: Statistics | None
) -> RawToLogit:
    """Makes a run's model, in training mode.

    Args:
        config: names the processing.
        dataset: its camera is where the processing starts, and its mosaics have the size of an additive layer.
        task: makes the head.
        rngs: draw the weights.
        statistics: mean and standard deviation for `Standardize`; None where a batch norm normalizes.
    """
    fixed = Standardize(*(unknown_statistics() if statistics is None else statistics))
    if config.processing.processing_mode == "neural_network":
        processor = NeuralProcessor(_known(dataset.camera).pattern, fixed, rngs)
    else:
        processor = make_processor(config, dataset.camera)
    if config.attack.adv_noise_layer and isinstance(processor, isp.Pipeline):
        layer = additive_layer_stage(image_size(processor, dataset.shape))
        processor = processor.inserted(layer, after=processor.stage_names[-1])
    normalizer = BatchNorm(3, affine=False, rngs=rngs) if config.processing.learns else fixed
    return RawToLogit(processor, normalizer, task.make_head(rngs))


def image_size(pipeline: isp.Pipeline, shape: tuple[int, ...]) -> tuple[int, int]:
    """Returns the height and width of the images that a pipeline makes of mosaics of a shape."""
    height, width, _ = jax.eval_shape(pipeline, jax.ShapeDtypeStruct(shape, jnp.float32)).shape
    return height, width


def needed_multiples(config: TrainConfig, camera: isp.Camera | None, task: Task) -> dict[str, int]:
    """Returns what height and width of mosaics must be multiples of, by the part of the model that needs it."""
    multiples, processing = {}, config.processing
    if processing.processing_mode == "neural_network" and camera is not None:
        multiples["--processing_mode=neural_network"] = NeuralProcessor.multiple(camera.pattern)
    if task.multiple > 1:
        side = 1
        if camera is not None and processing.images_are_half_size:
            side = isp.demosaic.bin_side(camera.pattern)
        multiples[f"{task.head_name} after {processing.flag}"] = side * task.multiple
    return multiples


def _known(camera: isp.Camera | None) -> isp.Camera:
    if camera is None:
        raise ValueError("images that are processed already have no camera to process them for")
    return camera

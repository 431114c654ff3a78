"""The initial training state of a fold."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from isp.published import ADDITIVE_LAYER
from r2l_jax.config import TrainConfig
from r2l_jax.data import loader
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.data.sets import published
from r2l_jax.devices.hosts import is_first
from r2l_jax.devices.placement import each_on_devices, shardings, to_devices
from r2l_jax.errors import InputError, spelled, warn
from r2l_jax.model.build import Architecture, Statistics, unknown_statistics
from r2l_jax.model.pretrained import load_weights
from r2l_jax.model.processors import Processor
from r2l_jax.model.settings import HALF_SIZE_MODES
from r2l_jax.model.tasks import Task
from r2l_jax.pipelines import metered
from r2l_jax.training.model_io import restore, stored
from r2l_jax.training.record import Fold, fold_folder, read_record
from r2l_jax.training.steps import Steps, TrainState
from tasks.layers import EPSILON

# The number of samples that initialize the running statistics of a learned processing.
_SAMPLES = 256

# The number of samples that set the target of metering.
_METERED = 64


def _origins(config: TrainConfig, architecture: Architecture) -> list[tuple[str, str, tuple[str, ...]]]:
    """Lists the earlier runs that provide the processor, with the normalization that it measured, and the head.

    Each comes with the argument that names it, and the parts that it provides.
    """
    of_processor = ("processor", "normalizer") if architecture.measures_normalization else ("processor",)
    given = (
        ("processor_uri", config.processing.processor_uri, of_processor),
        ("classifier_uri", config.model.classifier_uri, ("head",)),
    )
    return [(f"`{name}={uri}`", uri, parts) for name, uri, parts in given if uri]


def check_origins(config: TrainConfig, architecture: Architecture, dataset: RawDataset, fold: Fold) -> None:
    """Raises an InputError unless the runs that a fold starts from are trained, and not in a folder to be removed.

    Warns about scored samples that these runs were trained on.
    """
    for where, uri, _ in _origins(config, architecture):
        folder = fold_folder(uri, fold.number, where).resolve()
        if config.tracking.overwrite and fold.folder.parent.resolve() in folder.parents:
            raise InputError(f"{where} is inside the run that `overwrite` would remove")
        earlier = read_record(folder / "metrics.json", where)
        stored(folder, shardings().everywhere, "best", where)
        parts = {"validation": fold.split.valid, "test": fold.split.test}
        seen = [
            f"{count} of {len(indices)} {name} samples"
            for name, indices in parts.items()
            if (count := np.isin(indices, earlier.train_indices).sum())
        ]
        if seen and earlier.flags.get("epochs") and earlier.fingerprint == dataset.fingerprint and is_first():
            warn(
                f"{where} was trained on {' and '.join(seen)} of this run, which inflates their scores: "
                f"`state_dict_uri={uri}` reuses its splits"
            )


def pretrained_head(config: TrainConfig, task: Task, own: nnx.State | None = None) -> nnx.Module | None:
    """Makes a head with the ImageNet weights and the rest of its `own` state, which may be abstract.

    None if they are not wanted; an InputError if they do not fit the head.
    """
    if not config.model.classifier_pretrained:
        return None
    head = nnx.eval_shape(lambda: task.make_head(nnx.Rngs(0)))
    if own is not None:
        nnx.update(head, own)
    load_weights(head, task.network, config.model.pretrained_weights)
    return head


def provide(model: nnx.State, config: TrainConfig, architecture: Architecture, fold: int) -> None:
    """Replaces the parts of a fresh model that come from earlier runs or from ImageNet, in place."""
    everywhere, task = shardings().everywhere, architecture.task
    for where, uri, parts in _origins(config, architecture):
        arrays, _ = stored(fold_folder(uri, fold, where), everywhere, "best", where)
        fresh = restore(model, arrays, parts, where, (ADDITIVE_LAYER,), task.class_layers)
        if fresh and is_first():
            print(f"{spelled(where)} has different classes: layer {', '.join(fresh)} of the head keeps random weights")
    if (head := pretrained_head(config, task, model["head"])) is not None:
        weights = jax.device_put(nnx.to_pure_dict(nnx.state(head)), everywhere)
        restore(model, {"head": weights}, ("head",))


def initial_state(
    steps: Steps,
    config: TrainConfig,
    dataset: RawDataset,
    fold: Fold,
    batch_size: int,
    key: jax.Array,
    resumes: bool = False,
) -> TrainState:
    """Makes a fresh state, with the parts that earlier runs or ImageNet provide; `key` draws the weights.

    If a checkpoint is restored afterwards (`resumes`), only the shapes matter.
    """
    architecture, everywhere, train = steps.architecture, shardings().everywhere, fold.split.train
    processing, measures = architecture.processing, architecture.measures_normalization
    from_run = config.processing.processor_uri
    # If no step updates the statistics, the head would see images unlike its training images. If steps do, initial
    # values of 0 and 1 would outweigh the variance of dark images, such as 0.0007, for the first hundred steps.
    some = train if steps.rule.keeps_statistics else train[:_SAMPLES]
    statistics = None if processing.learns_pipeline else to_devices(unknown_statistics(), everywhere)
    if resumes:
        return steps.begin(steps.init(key, statistics))
    processor = start_of_processor(architecture, dataset, train)
    # A neural network normalizes its input, whatever the head does with its output.
    if statistics is not None and (measures or processing.learns):
        statistics = published_statistics(config) or standardization(processor, dataset, train, batch_size)
    model = steps.init(key, statistics)
    if processing.auto and not from_run:
        start = to_devices(nnx.to_pure_dict(nnx.state(processor)), everywhere)
        restore(model, {"processor": start}, ("processor",), optional=(ADDITIVE_LAYER,))
    if processing.learns_pipeline and measures and not from_run:
        mean, var = moments(processor, dataset, some, batch_size)
        restore(model, {"normalizer": {"mean": mean, "var": var}}, ("normalizer",))
    provide(model, config, architecture, fold.number)
    if not measures:
        processor = nnx.merge(nnx.graphdef(architecture.abstract()), model).processor
        mean, var = moments(processor, dataset, some if config.optimization.epochs else train, batch_size)
        known = {"known_mean": mean, "known_var": var}
        restore(model, {"normalizer": known}, ("normalizer",), optional=("mean", "std"))
    return steps.begin(model)


def start_of_processor(architecture: Architecture, dataset: RawDataset, indices: np.ndarray) -> Processor:
    """Returns the processor of a fresh model; if it meters, its target is the training images' level and color."""
    pipeline, auto = architecture.processor(), architecture.processing.auto
    if architecture.pipeline is None or architecture.camera is None or not auto:
        return pipeline
    # Spread over the training samples, which may be sorted by class.
    chosen = indices[np.linspace(0, len(indices) - 1, min(_METERED, len(indices))).astype(int)]
    raws, _ = dataset.samples(chosen)
    return metered(architecture.pipeline(architecture.camera), architecture.camera, auto, raws)


def published_statistics(config: TrainConfig) -> Statistics | None:
    """Returns the published mean and standard deviation of each channel; None for data or processing without them.

    They are those of images in full light: of raw images at half size, and of static pipelines without metering.
    """
    processing = config.processing
    halves = processing.processing_mode in HALF_SIZE_MODES
    if config.data.iso != (1.0,) or (not halves and (processing.auto or processing.half_size)):
        return None
    known = (published.MOSAIC_STATISTICS if halves else published.STATIC_STATISTICS).get(config.data.dataset)
    return known and to_devices(tuple(np.array(each, np.float32) for each in known), shardings().everywhere)


def standardization(processor: Processor, dataset: RawDataset, indices: np.ndarray, batch_size: int) -> Statistics:
    """Computes the mean and standard deviation of each channel, see `moments`."""
    mean, var = moments(processor, dataset, indices, batch_size)
    # The epsilon of a batch norm, for a channel that is constant.
    return mean, jnp.sqrt(var + EPSILON)


def moments(processor: Processor, dataset: RawDataset, indices: np.ndarray, batch_size: int) -> Statistics:
    """Computes the mean and variance of each channel over the processed images of some samples."""

    @functools.partial(jax.jit, out_shardings=shardings().everywhere)
    def of_images(batch):
        images = processor(batch["raw"])
        means = images.mean((1, 2))
        return means, jnp.square(images - means[:, None, None]).mean((1, 2)), batch["weight"]

    batches = loader.eval_batches(dataset, indices, batch_size)
    parts = jax.device_get([*each_on_devices(of_images, batches)])
    # In float64, since the variance of the means is a small difference of large sums.
    means, variances, weights = (np.concatenate(each).astype(np.float64) for each in zip(*parts, strict=True))
    mean = np.average(means, 0, weights)
    var = np.average(variances + np.square(means - mean), 0, weights)
    return to_devices((mean.astype(np.float32), var.astype(np.float32)), shardings().everywhere)

"""The initial training state of a fold."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from isp.published import ADDITIVE_LAYER
from r2l_jax.data import loader
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.data.sets import published
from r2l_jax.devices.hosts import is_first
from r2l_jax.devices.placement import shardings, to_devices
from r2l_jax.errors import InputError, warn
from r2l_jax.model.build import Architecture, Statistics, unknown_statistics
from r2l_jax.model.pretrained import load_weights
from r2l_jax.model.processors import Processor
from r2l_jax.model.settings import HALF_SIZE_MODES
from r2l_jax.model.tasks import Task
from r2l_jax.pipelines import metered
from r2l_jax.training.artifact import replace_parts, stored_arrays
from r2l_jax.training.record import Fold, fold_folder, read_metrics
from r2l_jax.training.steps import Steps, TrainState

# The number of samples that initialize the running statistics of a learned processing.
_SAMPLES = 256

# The number of samples that set the target of metering.
_METERED = 64


@dataclasses.dataclass(frozen=True)
class Sources:
    """The earlier runs that provide the processor (and, if it `normalizes`, the normalization) and the head.

    `pretrained` heads start from ImageNet weights, which are downloaded if `weights` names no file.
    """

    processor: str | None
    head: str | None
    pretrained: bool
    weights: str | None
    normalizes: bool = True

    @property
    def _runs(self) -> list[tuple[str, str, tuple[str, ...]]]:
        """The flag and folder of each run, and the parts that it provides."""
        of_processor = ("processor", "normalizer") if self.normalizes else ("processor",)
        runs = (
            ("processor_uri", self.processor, of_processor),
            ("classifier_uri", self.head, ("head",)),
        )
        return [(flag, uri, parts) for flag, uri, parts in runs if uri]

    def check(self, fold: Fold, fingerprint: str, removed: pathlib.Path | None) -> None:
        """Raises an InputError unless the runs that a fold starts from are trained, and not in a folder to be removed.

        Warns about scored samples that these runs were trained on, if their data has this fingerprint.
        """
        for flag, uri, _ in self._runs:
            where = f"`{flag}={uri}`"
            folder = fold_folder(uri, fold.number, where).resolve()
            if removed is not None and removed.resolve() in folder.parents:
                raise InputError(f"{where} is inside the run that `overwrite` would remove")
            earlier = read_metrics(folder / "metrics.json", where)
            stored_arrays(folder, shardings().everywhere, "best", where)
            parts = {"validation": fold.split.valid, "test": fold.split.test}
            seen = [
                f"{count} of {len(indices)} {name} samples"
                for name, indices in parts.items()
                if (count := np.isin(indices, earlier["train_indices"]).sum())
            ]
            if seen and earlier["flags"].get("epochs") and earlier["fingerprint"] == fingerprint and is_first():
                warn(
                    f"{where} was trained on {' and '.join(seen)} of this run, which inflates their scores: "
                    f"`state_dict_uri={uri}` reuses its splits"
                )

    def check_weights(self, task: Task) -> None:
        """Raises an InputError unless the ImageNet weights, if wanted, fit the head."""
        if self.pretrained:
            load_weights(nnx.eval_shape(lambda: task.make_head(nnx.Rngs(0))), task.network, self.weights)

    def provide(self, model: nnx.State, fold: int, task: Task) -> None:
        """Replaces the parts of a fresh model, in place."""
        for flag, uri, parts in self._runs:
            where = f"`{flag}={uri}`"
            stored = stored_arrays(fold_folder(uri, fold, where), shardings().everywhere, "best", where)
            fresh = replace_parts(model, stored, parts, where, (ADDITIVE_LAYER,), task.class_layers)
            if fresh and is_first():
                print(f"{where} has different classes: layer {', '.join(fresh)} of the head keeps random weights")
        if self.pretrained:
            head = nnx.eval_shape(lambda: task.make_head(nnx.Rngs(0)))
            nnx.update(head, model["head"])
            load_weights(head, task.network, self.weights)
            _put(model, "head", jax.device_put(nnx.to_pure_dict(nnx.state(head)), shardings().everywhere))


def initial_state(
    steps: Steps,
    sources: Sources,
    dataset: RawDataset,
    fold: Fold,
    batch_size: int,
    key: jax.Array,
    resumes: bool,
    trains: bool = True,
) -> TrainState:
    """Makes a fresh state, with the parts that earlier runs or ImageNet provide; `key` draws the weights.

    If a checkpoint is restored afterwards (`resumes`), only the shapes matter.
    """
    everywhere, architecture = shardings().everywhere, steps.settings.architecture
    learns_pipeline = architecture.processing.learns_pipeline
    measures, train = architecture.measures_normalization, fold.split.train
    statistics = None if learns_pipeline else to_devices(unknown_statistics(), everywhere)
    if resumes:
        return steps.begin(steps.init(key, statistics))
    processor = start_of_processor(architecture, dataset, train)
    # A neural network normalizes its input, whatever the head does with its output.
    if statistics is not None and (measures or architecture.processing.learns):
        statistics = fixed_statistics(architecture, processor, dataset, train, batch_size)
    model = steps.init(key, statistics)
    if architecture.processing.auto and not sources.processor:
        _put(model, "processor", to_devices(nnx.to_pure_dict(nnx.state(processor)), everywhere))
    if learns_pipeline and measures and not sources.processor:
        # If no step updates the statistics, the head would see images unlike its training images. If steps do, initial
        # values of 0 and 1 would outweigh the variance of dark images, such as 0.0007, for the first hundred steps.
        indices = train if steps.rule.keeps_statistics else train[:_SAMPLES]
        mean, var = _moments(processor, dataset, indices, batch_size)
        _put(model, "normalizer", {"mean": mean, "var": var})
    sources.provide(model, fold.number, steps.task)
    if not measures:
        indices = train[:_SAMPLES] if trains and not steps.rule.keeps_statistics else train
        processor = nnx.merge(nnx.graphdef(architecture.abstract()), model).processor
        mean, var = _moments(processor, dataset, indices, batch_size)
        _put(model, "normalizer", {"known_mean": mean, "known_var": var})
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


def fixed_statistics(
    architecture: Architecture, processor: Processor, dataset: RawDataset, indices: np.ndarray, batch_size: int
) -> Statistics:
    """Returns the mean and standard deviation of each channel over the training images, or the published ones.

    The images are the processed images, or the input images of a neural network.
    """
    half = architecture.processing.processing_mode in HALF_SIZE_MODES
    known = published.MOSAIC_STATISTICS if half else published.STATIC_STATISTICS
    if dataset.name in known:
        return to_devices(tuple(np.array(each, np.float32) for each in known[dataset.name]), shardings().everywhere)
    mean, var = _moments(processor, dataset, indices, batch_size)
    # The epsilon of a batch norm, for a channel that is constant.
    return mean, jnp.sqrt(var + 1e-5)


def _moments(processor: Processor, dataset: RawDataset, indices: np.ndarray, batch_size: int) -> Statistics:
    """Computes the mean and variance of each channel over the processed images of some samples."""

    @functools.partial(jax.jit, out_shardings=shardings().everywhere)
    def add(moments, batch):
        images, weight = processor(batch["raw"]), batch["weight"]
        return moments + jnp.stack([(weight @ (images**power).mean((1, 2))) for power in (1, 2)])

    # On the devices from the start: otherwise, the second call would compile again.
    moments = to_devices(np.zeros((2, 3), np.float32), shardings().everywhere)
    for batch in loader.eval_batches(dataset, indices, batch_size):
        moments = add(moments, to_devices(batch, shardings().split))
    mean, mean_square = jax.device_get(moments) / len(indices)
    return to_devices((mean, np.maximum(mean_square - mean**2, 0)), shardings().everywhere)


def _put(model: nnx.State, part: str, values: dict) -> None:
    parts = nnx.to_pure_dict(model)
    nnx.replace_by_pure_dict(model, parts | {part: parts[part] | values})

"""Finished models to use: probabilities and images from mosaics, without the data that a model was trained on."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from flax import nnx
from jaxtyping import Array, Float32, Shaped

import isp
from r2l_jax.config import CHECKPOINTS, TrainConfig
from r2l_jax.model.build import Inputs, needed_multiples
from r2l_jax.model.raw_to_logit import RawToLogit
from r2l_jax.model.tasks import Task, make_task
from r2l_jax.pipelines import NamedPipeline, find_pipeline
from r2l_jax.runtime import compiler, named_code
from r2l_jax.runtime.errors import InputError
from r2l_jax.training import finished, model_file
from r2l_jax.training.about import About, about_run, camera_of, identity_of, named_arrays
from r2l_jax.training.folds import fold_folders, fold_number
from r2l_jax.training.stored import fold_folder, stored_model

# How many mosaics are processed at once, unless told otherwise.
BATCH = 32

Raws = Shaped[Array | np.ndarray, "..."]


class TrainedModel:
    """Computes probabilities and images as a finished run has learned to.

    Mosaics are `(..., H, W)` in [0, 1]; a model of images that are processed already takes images `(..., H, W, 3)`.

    Attributes:
        about: all that is recorded of the model.
        config: the settings of its training.
        module: the network, from mosaics to logits.
        identity: a hash of the arrays and of what they mean.
    """

    def __init__(self, about: About, config: TrainConfig, module: RawToLogit):
        self.about, self.config, self.module = about, config, module
        self._task = make_task(about.task, tuple(about.classes), config.model)
        self._graph, self._state = nnx.split(module)

    @functools.cached_property
    def identity(self) -> str:
        """A hash of the arrays and of what they mean: the task, the classes and the processing."""
        return identity_of(self.about, self.config, named_arrays(nnx.state(self.module)))

    @property
    def task(self) -> str:
        """The name of the task: "classification" or "segmentation"."""
        return self._task.name

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes; of segmentation, that of the object."""
        return tuple(self.about.classes)

    @property
    def camera(self) -> isp.Camera | None:
        """The camera that the processing started from in training; None for images that are processed already."""
        return camera_of(self.about)

    @property
    def calibration(self) -> isp.Camera | None:
        """The camera by which files without calibration values are read: with the white level of the training."""
        camera, white = self.camera, self.about.white_level
        return camera if camera is None or white is None else dataclasses.replace(camera, white_level=white)

    @property
    def shape(self) -> tuple[int, int] | None:
        """The height and width of the mosaics of the training; None if an earlier version has not recorded them."""
        return None if self.about.shape is None else (self.about.shape[0], self.about.shape[1])

    @property
    def score(self) -> float:
        """The score on the validation samples: the accuracy, or the intersection over union of segmentation."""
        return self.about.score

    @property
    def score_name(self) -> str:
        """The name of the score: "accuracy" or "iou"."""
        return self._task.score

    @property
    def pipeline(self) -> isp.Pipeline | None:
        """The processing; None if it is a neural network, or if images are processed already."""
        return self.module.processor if isinstance(self.module.processor, isp.Pipeline) else None

    @property
    def named_pipeline(self) -> NamedPipeline:
        """The processing as a pipeline by name, with the learned values whatever camera it is made for.

        Raises:
            InputError: the processing is no pipeline.
        """
        pipeline, camera = self.pipeline, self.camera
        if pipeline is None or camera is None:
            raise InputError(f"the run was trained with {self.config.processing.flag}, which is no pipeline")

        def make(own: isp.Camera) -> isp.Pipeline:
            if own.pattern != camera.pattern:
                raise ValueError(f"the color filter array must be {camera.pattern}, got {own.pattern}")
            return pipeline

        about = self.about
        name = f"learned by {self.config.tracking.run_name}, fold {about.fold}, {about.checkpoint} checkpoint"
        return NamedPipeline(f"{name} ({self.identity[:12]})", name, make)

    @property
    def multiple(self) -> int:
        """The number of which the height and width of mosaics to predict must be multiples."""
        return int(np.lcm.reduce([1, *needed_multiples(self.config, self.camera, self._task).values()]))

    def predict(self, raws: Raws, batch_size: int = BATCH) -> Float32[np.ndarray, "..."]:
        """Computes the probabilities of classes `(..., C)`, or those of the object at each site `(..., H, W)`.

        Args:
            raws: mosaics `(..., H, W)` in [0, 1]. Those of one size are compiled once.
            batch_size: how many are processed at once.

        Raises:
            InputError: the shape is not that of mosaics, or a side does not fit the network.
        """
        side = self.multiple
        height, width = self._size(raws)
        if height % side or width % side:
            raise InputError(f"height and width must be multiples of {side} for this model, got {height}x{width}")
        if self.config.attack.adv_noise_layer and self.shape != (height, width):
            raise InputError(f"the additive layer of this model is for mosaics of {self.shape}, got {height}x{width}")
        return self._in_batches(
            lambda batch: _jit(_probabilities, (0, 1))(self._graph, self._task, self._state, batch), raws, batch_size
        )

    def render(self, raws: Raws, batch_size: int = BATCH) -> Float32[np.ndarray, "..."]:
        """Computes the processed images `(..., H, W, 3)`, which the network sees normalized.

        Args:
            raws: mosaics `(..., H, W)` in [0, 1].
            batch_size: how many are processed at once.

        Raises:
            InputError: the shape is not that of mosaics.
        """
        return self._in_batches(lambda batch: _jit(_images, (0,))(self._graph, self._state, batch), raws, batch_size)

    def trace(self, raws: Raws, batch_size: int = BATCH) -> dict[str, Float32[np.ndarray, "..."]]:
        """Computes the images after each stage, by the names of the stages, in order.

        Args:
            raws: mosaics `(..., H, W)` in [0, 1].
            batch_size: how many are processed at once.

        Raises:
            InputError: the shape is not that of mosaics.
        """
        images = self._in_batches(lambda batch: _jit(_stages, (0,))(self._graph, self._state, batch), raws, batch_size)
        return dict(zip(self.module.processor.stage_names, images, strict=True))

    def _size(self, raws: Raws) -> tuple[int, int]:
        """Returns the height and width of mosaics; raises an InputError for another shape."""
        shape = np.shape(raws)
        rank = 2 if self.camera is not None else 3
        wanted = "mosaics (..., H, W)" if rank == 2 else "images (..., H, W, 3)"
        if len(shape) < rank or (rank == 3 and shape[-1] != 3) or 0 in shape:
            raise InputError(f"expected {wanted}, got an array of shape {shape}")
        return shape[-rank], shape[1 - rank]

    def _in_batches(self, function: Callable[[np.ndarray], Any], raws: Raws, batch_size: int) -> Any:
        """Calls a function of a batch of mosaics, and joins its results; all calls have one shape."""
        self._size(raws)
        rank = 2 if self.camera is not None else 3
        array = np.asarray(raws, np.float32)
        flat = array.reshape(-1, *array.shape[-rank:])
        size, results = min(batch_size, len(flat)), []

        def fetched(result: Array, count: int) -> np.ndarray:
            return np.asarray(result)[:count]

        for start in range(0, len(flat), size):
            batch = flat[start : start + size]
            filled = np.concatenate([batch, np.repeat(batch[-1:], size - len(batch), 0)])
            results.append(jax.tree.map(functools.partial(fetched, count=len(batch)), function(filled)))
        leading = array.shape[:-rank]
        return jax.tree.map(lambda *parts: np.concatenate(parts).reshape(*leading, *parts[0].shape[1:]), *results)


@functools.cache
def _jit(function: Callable, static: tuple[int, ...]) -> Callable:
    # Made at the first use: the compiler is not asked for its options when this module is imported.
    return jax.jit(function, static_argnums=static, compiler_options=compiler.options())


def _probabilities(graph: nnx.GraphDef, task: Task, state: nnx.State, raws: Array) -> Array:
    return task.probabilities(nnx.merge(graph, state)(raws), raws.shape[1])


def _images(graph: nnx.GraphDef, state: nnx.State, raws: Array) -> Array:
    return nnx.merge(graph, state).processor(raws)


def _stages(graph: nnx.GraphDef, state: nnx.State, raws: Array) -> list[Array]:
    # A list, since a compiled function sorts a dict by its names.
    processor = nnx.merge(graph, state).processor
    _, stages = processor.trace(raws)
    return [stages[name] for name in processor.stage_names]


def load(path: str | os.PathLike, fold: int = 0, checkpoint: str = "best", pipeline: str | None = None) -> TrainedModel:
    """Loads a finished model from the folder of its run, or from a file model.safetensors.

    Nothing else is needed, except for the Python file of a user's own pipeline: it must lie where it was in training,
    with the same content, or be named. A file that this user has never named, in a flag or here, is not run.

    Args:
        path: the folder of a run or of one of its folds, or a file that training with --save_locally has written.
        fold: which fold of the run's folder.
        checkpoint: "best", the state of the best epoch, or "last". A file holds only one of them.
        pipeline: where the file of the run's pipeline is now, as `<file>.py:<function>`.

    Returns:
        The model.

    Raises:
        InputError: the path is no finished run or model, is damaged, or lacks the checkpoint; or the file of its
            pipeline is missing, has changed, or has never been named.

    Example:
        ::

            model = r2l_jax.load("runs/quickstart/small")
            raw, camera = r2l_jax.data.read_raw("IMG_0001.dng")
            probabilities = model.predict(raw[:64, :64])
    """
    if checkpoint not in CHECKPOINTS:
        raise InputError(f"checkpoint must be one of {', '.join(CHECKPOINTS)}, got {checkpoint!r}")
    if pipeline is not None:
        named_code.name(pipeline)
    return load_from(str(path), fold, checkpoint, pipeline, str(path))


def load_folds(uri: str, folds: Sequence[str], checkpoint: str, pipeline: str | None) -> list[TrainedModel]:
    """Loads folds of a finished run for a program, whose errors name its flags.

    Args:
        uri: the folder of a run or of a fold, or the file of a model.
        folds: the numbers of folds, or "all".
        checkpoint: "best" or "last".
        pipeline: as for `load`.

    Raises:
        InputError: as `load`, or a fold that is not given by its number.
    """
    numbers = [*folds]
    if numbers == ["all"]:
        found = [fold_number(folder) for folder in fold_folders(pathlib.Path(uri))]
        numbers = [str(number) for number in found] or ["0"]
    if not numbers or not all(number.isdecimal() for number in numbers) or len(set(numbers)) < len(numbers):
        raise InputError(f"--folds must be all, or numbers of folds that differ, got {','.join(folds)}")
    return [load_from(uri, int(number), checkpoint, pipeline, f"--run={uri}") for number in numbers]


def load_from(uri: str, fold: int, checkpoint: str, pipeline: str | None, where: str) -> TrainedModel:
    """Loads as `load` does; `where` names the model in errors, such as "--run=runs/a"."""
    named = {pipeline: find_pipeline(pipeline)} if pipeline else {}
    if pathlib.Path(uri).is_file():
        model = _from_file(pathlib.Path(uri), checkpoint, named, where)
    else:
        model = _from_folder(fold_folder(uri, fold, where), checkpoint, named, where)
    if pipeline and model.config.processing.pipeline != pipeline:
        raise InputError(f"{where} was not trained with the pipeline {pipeline}: leave it out")
    return model


def _from_file(source: pathlib.Path, checkpoint: str, named: Mapping[str, NamedPipeline], where: str) -> TrainedModel:
    about, stored, identity = model_file.read(source)
    if about.checkpoint != checkpoint:
        raise InputError(f"{where} holds the {about.checkpoint} checkpoint, not the {checkpoint} one: ask for that")
    config = finished.settings_of(msgspec.to_builtins(about), named, where)
    model = _made(about, config, jax.tree.map(jnp.asarray, stored), where)
    if model.identity != identity:
        raise InputError(f"{where} is damaged: its arrays are not those that were written")
    return model


def _from_folder(folder: pathlib.Path, checkpoint: str, named: Mapping[str, NamedPipeline], where: str) -> TrainedModel:
    metrics = finished.read(folder, where)
    about = about_run(metrics, fold_number(folder.resolve()) or 0, checkpoint, where)
    config = finished.settings_of(metrics, named, where)
    stored = stored_model(folder, jax.sharding.SingleDeviceSharding(jax.local_devices()[0]), checkpoint, where)
    return _made(about, config, stored, where)


def _made(about: About, config: TrainConfig, stored: Any, where: str) -> TrainedModel:
    camera = camera_of(about, where)
    if config.attack.adv_noise_layer and about.shape is None:
        # The image that is added has the size of the images.
        raise InputError(f"{where} has an additive layer and no size of its mosaics: it was trained by version 0.1")
    inputs = Inputs(camera, tuple(about.shape or ()))
    task = make_task(about.task, tuple(about.classes), config.model)
    return TrainedModel(about, config, finished.make(config, inputs, task, stored, where))

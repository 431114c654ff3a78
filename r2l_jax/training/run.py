"""Finished runs, opened in one way for every program: settings, trained folds, models, data and predictions."""

import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from flax import nnx
from jaxtyping import Array, Float32, Shaped

import isp
from r2l_jax.config import CHECKPOINTS, TrainConfig
from r2l_jax.data.files.known_camera import KnownCamera
from r2l_jax.data.files.reference_camera import Reference
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.data.sets import datasets
from r2l_jax.data.settings import TrainingDataSettings
from r2l_jax.model.build import Architecture
from r2l_jax.model.mending import MOST, Known, Mended, known_of, mend
from r2l_jax.model.model_hash import model_hash
from r2l_jax.model.raw_to_logit import RawToLogit
from r2l_jax.model.tasks import Task, make_task
from r2l_jax.pipelines import NamedPipeline
from r2l_jax.runtime import compiler, named_code
from r2l_jax.runtime.devices import shardings
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.flags import build, leaves, replace
from r2l_jax.runtime.named_code import Source
from r2l_jax.training import model_file
from r2l_jax.training.checkpoint import replace_parts, stored_model
from r2l_jax.training.model_file import About, about_run, camera_of, cameras_of, identity_of, named_arrays
from r2l_jax.training.record import (
    fold_folder,
    fold_folders,
    fold_number,
    members,
    not_found,
    read_metrics,
    recorded_split,
    seed_folders,
    split_of,
    training_id,
)

# How many mosaics are processed at once, unless told otherwise.
BATCH = 32

Raws = Shaped[Array | np.ndarray, "..."]


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedFold:
    """A fold of a finished run.

    Attributes:
        folder: the fold's folder, or the folder of the model's file.
        about: the description of the model.
        metrics: the content of metrics.json; empty for a model's file.
        config: the settings of the training, with the present place of the data.
        train_indices: the samples that it was trained on; none for a model's file.
        valid_indices: the samples that it was validated on; none for a model's file.
        load_model: loads the model of a checkpoint, once.
        load_data: loads the data set, once for all folds that were opened together.
        test_indices: the samples that its training never saw, if any.
        mending: how the model was mended after it was opened, if it was.
    """

    folder: pathlib.Path
    about: About
    metrics: Mapping[str, Any]
    config: TrainConfig
    train_indices: np.ndarray
    valid_indices: np.ndarray
    load_model: Callable[[], RawToLogit]
    load_data: Callable[[], RawDataset]
    test_indices: np.ndarray = dataclasses.field(default_factory=functools.partial(np.zeros, 0, np.int64))
    mending: Mended | None = None

    @property
    def measured(self) -> str:
        """Which samples the controls measure: "test" if there are test samples, else "validation"."""
        return "test" if len(self.test_indices) else "validation"

    @property
    def measured_indices(self) -> np.ndarray:
        """The samples that the controls measure."""
        return self.test_indices if len(self.test_indices) else self.valid_indices

    def measuring(self, indices: np.ndarray) -> "TrainedFold":
        """Returns the fold with some of its measured samples in place of all."""
        name = "test_indices" if len(self.test_indices) else "valid_indices"
        return dataclasses.replace(self, **{name: indices})

    @property
    def number(self) -> int:
        """The number of the fold in its run."""
        return self.about.fold

    @property
    def model(self) -> RawToLogit:
        """The model of a checkpoint, in evaluation: batch norms use their running statistics."""
        return self.load_model()

    @functools.cached_property
    def architecture(self) -> Architecture:
        """The structure of the model."""
        return _architecture(self.about, self.config)

    @property
    def task(self) -> Task:
        """The task that the model was trained for."""
        return self.architecture.task

    @property
    def dataset(self) -> RawDataset:
        """The data set that the model was trained on.

        Raises:
            InputError: the data is missing, or has other samples or classes.
        """
        return self.load_data()

    @property
    def training(self) -> str:
        """The id of the training, which results record (see `record.training_id`)."""
        return training_id(self.metrics)

    @functools.cached_property
    def clean(self) -> Known | None:
        """The statistics of clean images of the training, by which a model that has seen many cameras is adapted.

        Its own statistics are of images that no camera takes together. Other models have none, nor have adapted ones,
        and those whose data is missing.
        """
        if not self.config.optimization.camera_augmentation or self.about.mended or len(self.train_indices) < MOST:
            return None
        drawn = np.random.default_rng(0).permutation(self.train_indices)[:MOST]
        try:
            dataset = self.dataset
        except InputError:
            return None
        raws, _ = dataset.samples(drawn)
        return known_of(self.model.on_one_device(), raws, self.task)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the model (see `model_hash`) and of the file of its pipeline, which results record."""
        named = (self.config.processing.named_pipeline, self.task.own)
        parts = [model_hash(self.model), *(str(part) for each in named if each for part in each.identity)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @functools.cached_property
    def identity(self) -> str:
        """A hash of the arrays, the task, the classes and the processing."""
        return identity_of(self.about, self.architecture, named_arrays(nnx.state(self.model)))


class Run:
    """A finished run, some of its folds, or the folds of the members of a group.

    It predicts with the mean of its folds' probabilities. Its other attributes come from its first fold.

    Mosaics are `(..., H, W)` in [0, 1]; a model of images that are processed already takes images `(..., H, W, 3)`.

    Attributes:
        folds: its folds, at least one.
        about: the description of the model.
        config: the settings of the training.
        model: the network, from mosaics to logits.
        task: the task.
    """

    def __init__(self, folds: Sequence[TrainedFold]):
        self.folds = tuple(folds)
        first = self.folds[0]
        self.about, self.config, self.task = first.about, first.config, first.task
        # All at once, since several processes load each checkpoint together.
        self.model, *_ = [fold.model for fold in self.folds]

    def __iter__(self) -> Iterator[TrainedFold]:
        """Yields the folds."""
        return iter(self.folds)

    @functools.cached_property
    def _split(self) -> list[tuple[nnx.GraphDef, nnx.State]]:
        return [nnx.split(fold.model) for fold in self.folds]

    @property
    def identity(self) -> str:
        """A hash of the arrays, the task, the classes and the processing."""
        return self.folds[0].identity

    @property
    def dataset(self) -> RawDataset:
        """The data set that the run was trained on."""
        return self.folds[0].dataset

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, or the name of the object to segment."""
        return tuple(self.about.classes)

    @property
    def camera(self) -> isp.Camera | None:
        """The camera that the processing started from; None for images that are processed already.

        Raw images of other cameras are brought to it when they are read, see `reading`.
        """
        return camera_of(self.about)

    @functools.cached_property
    def cameras(self) -> dict[str, isp.Camera]:
        """The cameras of the training by name, if there were several."""
        return cameras_of(self.about)

    @property
    def calibration(self) -> isp.Camera | None:
        """The camera for reading files without calibration values: it has the white level of the training.

        None if images are processed already, or if the training had several cameras.
        """
        if self.cameras:
            return None
        camera, white = self.camera, self.about.white_level
        return camera if camera is None or white is None else dataclasses.replace(camera, white_level=white)

    def reading(self, known: isp.Camera | KnownCamera | None = None) -> KnownCamera:
        """Returns what `read_raw` takes in place of a file's camera, to read the file as the models take it.

        A raw image of another camera is brought to the run's: its black level and, after a training on several
        cameras, its gains. Without a known camera, a file that names one of these has the calibration of the training.

        Args:
            known: the file's camera, as for `read_raw`.

        Raises:
            InputError: the models take images that are processed already.
        """
        if self.camera is None:
            raise InputError("the model was trained on images that are processed already: it takes no raw files")
        return dataclasses.replace(KnownCamera.of(known), reference=Reference(self.camera, self.cameras))

    @property
    def shape(self) -> tuple[int, int]:
        """The height and width of the mosaics of the training."""
        return self.about.shape[0], self.about.shape[1]

    @property
    def score(self) -> float:
        """The score on the validation samples: the accuracy, or the intersection over union of segmentation."""
        return self.about.score

    @property
    def pipeline(self) -> isp.Pipeline | None:
        """The processing; None if it is a neural network, or if images are processed already."""
        return self.model.processor if isinstance(self.model.processor, isp.Pipeline) else None

    @property
    def named_pipeline(self) -> NamedPipeline:
        """The processing as a pipeline by name, with the learned values whatever camera it is made for.

        Raises:
            InputError: the processing is not a pipeline.
        """
        pipeline, about = self.pipeline, self.about
        if pipeline is None:
            raise InputError(f"the run was trained with {self.config.processing.flag}, which is not a pipeline")

        name = f"learned by {self.config.tracking.run_name}, fold {about.fold}, {about.checkpoint} checkpoint"
        return NamedPipeline(f"{name} ({self.identity[:12]})", name, lambda _: pipeline)

    @property
    def multiple(self) -> int:
        """The number that must divide the height and width of mosaics to predict."""
        return int(np.lcm.reduce([1, *self.folds[0].architecture.multiples.values()]))

    def mended(self, raws: Raws, *, force: bool = False) -> "Run":
        """Returns the run with all models adapted to new images without labels, see `r2l_jax.model.mending`.

        Whether they need it is for the caller to tell, see `r2l_jax.drift.watch.notice`.

        Args:
            raws: mosaics `(N, H, W)` in [0, 1] of the size to predict, as diverse as those of the training. All of
                them are processed at once; `mending.MOST` are plenty.
            force: whether to adapt by images that are not fit for it.

        Raises:
            InputError: the shape is wrong, or the images are too few or no mixture of those that a model knows.
        """
        self._size(raws)
        if np.ndim(raws) != (4 if self.camera is None else 3):
            raise InputError(f"a model is mended by several mosaics (N, H, W), got an array of shape {np.shape(raws)}")
        folds = []
        for fold in self.folds:
            mosaics = jnp.asarray(raws, jnp.float32)
            found = mend(fold.model, mosaics, fold.task, fold.about.score, fold.clean)
            if found.refusal and not force:
                raise InputError(f"{fold.folder} stays as it is: {found.refusal}")
            origin = {"from": fold.identity, "run": str(fold.folder), "by": found.description}
            about = msgspec.structs.replace(fold.about, mended=origin)
            load_model = functools.partial(_model_of, found)
            folds.append(dataclasses.replace(fold, about=about, load_model=load_model, mending=found))
        return Run(folds)

    def check_parameters(self) -> None:
        """Raises an InputError if the processing has no parameters."""
        for fold in self.folds:
            processor = fold.model.processor
            if not isinstance(processor, isp.Pipeline) or not processor.parameters():
                raise InputError(
                    f"--run={fold.folder} was trained with {fold.config.processing.flag}, which has no processing "
                    "parameters"
                )

    def predict(self, raws: Raws, batch_size: int = BATCH) -> Float32[np.ndarray, "..."]:
        """Computes the probabilities of classes `(..., C)`, or of the object at each site `(..., H, W)`.

        Args:
            raws: mosaics `(..., H, W)` in [0, 1]. Mosaics of one size are compiled once.
            batch_size: how many are processed at once.

        Raises:
            InputError: the shape is wrong, or a side does not fit the network.
        """
        side = self.multiple
        height, width = self._size(raws)
        if height % side or width % side:
            raise InputError(f"height and width must be multiples of {side} for this model, got {height}x{width}")
        if self.config.attack.adv_noise_layer and self.shape != (height, width):
            raise InputError(f"the additive layer of this model is for mosaics of {self.shape}, got {height}x{width}")
        compute = _jit(_probabilities, (0, 1))
        each = [
            self.in_batches(functools.partial(compute, graph, self.task, state), raws, batch_size)
            for graph, state in self._split
        ]
        return np.mean(each, axis=0)

    def render(self, raws: Raws, batch_size: int = BATCH) -> Float32[np.ndarray, "..."]:
        """Computes the processed images `(..., H, W, 3)`, before the normalization for the network.

        Args:
            raws: mosaics `(..., H, W)` in [0, 1].
            batch_size: how many are processed at once.

        Raises:
            InputError: the shape is wrong.
        """
        return self.in_batches(functools.partial(_jit(_images, (0,)), *self._split[0]), raws, batch_size)

    def trace(self, raws: Raws, batch_size: int = BATCH) -> dict[str, Float32[np.ndarray, "..."]]:
        """Computes the images after each stage, by the names of the stages, in order.

        Args:
            raws: mosaics `(..., H, W)` in [0, 1].
            batch_size: how many are processed at once.

        Raises:
            InputError: the shape is wrong.
        """
        compute = functools.partial(_jit(_stages, (0,)), *self._split[0])
        images = self.in_batches(compute, raws, batch_size)
        return dict(zip(self.model.processor.stage_names, images, strict=True))

    def _size(self, raws: Raws) -> tuple[int, int]:
        """Returns the height and width of mosaics; raises an InputError for another shape."""
        shape = np.shape(raws)
        rank = 2 if self.camera is not None else 3
        wanted = "mosaics (..., H, W)" if rank == 2 else "images (..., H, W, 3)"
        if len(shape) < rank or (rank == 3 and shape[-1] != 3) or 0 in shape:
            raise InputError(f"expected {wanted}, got an array of shape {shape}")
        return shape[-rank], shape[1 - rank]

    def in_batches(self, function: Callable[..., Any], raws: Raws, batch_size: int) -> Any:
        """Calls a function of mosaics, and joins its results; all calls have one shape.

        Args:
            function: returns arrays, or a tree of them, with an entry for each mosaic.
            raws: mosaics `(..., H, W)`.
            batch_size: how many there are in a call; the last one is filled up.

        Raises:
            InputError: the shape is wrong.
        """
        self._size(raws)
        rank = 2 if self.camera is not None else 3
        array = np.asarray(raws, np.float32)
        flat = array.reshape(-1, *array.shape[-rank:])
        size, results = min(batch_size, len(flat)), []

        def fetched(result: Array, count: int) -> np.ndarray:
            return np.asarray(result)[:count]

        for start in range(0, len(flat), size):
            places = np.arange(start, start + size).clip(max=len(flat) - 1)
            count = min(size, len(flat) - start)
            results.append(jax.tree.map(functools.partial(fetched, count=count), function(flat[places])))
        leading = array.shape[:-rank]
        return jax.tree.map(lambda *parts: np.concatenate(parts).reshape(*leading, *parts[0].shape[1:]), *results)


def _model_of(mended: Mended) -> RawToLogit:
    return mended.model


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


def load(
    path: str | os.PathLike,
    fold: int = 0,
    checkpoint: str = "best",
    code: str | Sequence[str] = (),
) -> Run:
    """Loads a finished model from the folder of a run or of a group of trainings, or from a file model.safetensors.

    Nothing else is needed, except for the Python file of a user's pipeline or head, which `code` must name: it has the
    same content as in training. A file that a run or a model merely records is never run.

    Args:
        path: the folder of a run or of one of its folds, or a file that training with --save_locally has written; or
            the folder of a group of trainings, which predict together, with the mean of their probabilities.
        fold: which fold of the run's folder, or of each member's.
        checkpoint: "best", the state of the best epoch, or "last". A file holds only one of them.
        code: where the file of the run's own pipeline or head is now, as `<file>.py:<function>`; or both.

    Returns:
        The run with this fold, or with this fold of each member.

    Raises:
        InputError: the path is not a finished run or model, is damaged, or lacks the checkpoint; the file of its
            pipeline is not named or has changed; or members differ in more than their seeds.

    Example:
        ::

            model = r2l_jax.load("runs/quickstart/small")
            raw, camera = r2l_jax.data.read_raw("IMG_0001.dng")
            probabilities = model.predict(raw[:64, :64])
    """
    if checkpoint not in CHECKPOINTS:
        raise InputError(f"checkpoint must be one of {', '.join(CHECKPOINTS)}, got {checkpoint!r}")
    return _open(str(path), [fold], checkpoint, [code] if isinstance(code, str) else code, None, "")


def open_run(
    uri: str, folds: Sequence[str], checkpoint: str, code: Sequence[str] = (), data_dir: str | None = None
) -> Run:
    """Opens a finished run for a program that needs no data, on one device. Errors name the program's flags.

    Args:
        uri: the folder of a run, a group or a fold, or the file of a model.
        folds: the numbers of folds, of each member of a group; or "all".
        checkpoint: "best" or "last".
        code: as for `load`.
        data_dir: the present folder of the data; None if it has not moved.

    Raises:
        InputError: as `load`, or a fold that is not given by its number.
    """
    numbers = [*folds]
    if numbers == ["all"]:
        first, *_ = [*seed_folders(pathlib.Path(uri)), pathlib.Path(uri)]
        found = [fold_number(folder) for folder in fold_folders(first)]
        numbers = [str(number) for number in found] or ["0"]
    if not numbers or not all(number.isdecimal() for number in numbers) or len(set(numbers)) < len(numbers):
        raise InputError(f"--folds must be all, or numbers of folds that differ, got {','.join(folds)}")
    return _open(uri, list(map(int, numbers)), checkpoint, code, data_dir, "--run=")


def open_runs(
    uris: Sequence[str],
    data_dir: str | None = None,
    codes: Sequence[str] = (),
    checkpoint: str = "best",
    says: bool = True,
) -> list[Run]:
    """Opens finished runs with their data on all devices, and prints which checkpoint of each fold.

    Args:
        uris: runs' folders, whose folds are all taken, or folds' folders.
        data_dir: the present folder of the data; None if it has not moved.
        codes: the user's pipelines and heads that runs were trained with, as `code` of `load`.
        checkpoint: "best" or "last".
        says: whether anything is printed.

    Raises:
        InputError: a folder without a run, a fold that is not trained to its end, other data or another pipeline than
            in training, a pipeline that no run needs, or a checkpoint that cannot be read.
    """
    opening = _Opening(checkpoint, _sources(codes), data_dir, shardings().everywhere)
    runs = [[opening.folder(folder, f"--run={folder}") for folder in _folders(uri)] for uri in uris]
    used = {name for folds in runs for fold in folds for name in fold.config.code}
    for name in codes:
        if name not in used:
            raise InputError(f"--code={name}: no --run was trained with this code; leave it out")
    for fold in (fold for folds in runs for fold in folds):
        fold.load_data()
    if says:
        for fold in (fold for folds in runs for fold in folds):
            print(f"{fold.folder}: the {checkpoint} checkpoint")
    return [Run(folds) for folds in runs]


def _folders(uri: str) -> list[pathlib.Path]:
    root = pathlib.Path(uri)
    # The folder that is meant, for a link of another name and for ".".
    if fold_number(root.resolve()) is not None:
        return [root]
    folders = fold_folders(root)
    if not folders:
        reason = "it has no fold_0" if root.is_dir() else not_found(root)
        raise InputError(f"--run={uri} is not a run's folder: {reason}")
    return folders


def _open(
    uri: str, numbers: Sequence[int], checkpoint: str, codes: Sequence[str], data_dir: str | None, prefix: str
) -> Run:
    """Opens folds, of each member of a group, on one device; errors begin with the prefix and the folder or file."""
    where = f"{prefix}{uri}"
    opening = _Opening(checkpoint, _sources(codes), data_dir, jax.sharding.SingleDeviceSharding(jax.local_devices()[0]))
    if pathlib.Path(uri).is_file():
        folds = [opening.file(pathlib.Path(uri), where)]
    else:
        of_members = {f"{prefix}{folder}": str(folder) for folder in members(uri)}
        folds = [
            opening.folder(fold_folder(folder, number, of_member), of_member)
            for of_member, folder in of_members.items()
            for number in numbers
        ]
    for code in codes:
        if code not in folds[0].config.code:
            raise InputError(f"{where} was not trained with the code {code}: leave it out")
    return Run(folds)


@dataclasses.dataclass(frozen=True)
class _Opening:
    """Opens folds at a checkpoint, onto a sharding, with the named code and the present place of the data.

    Folds of the same data share its data set.
    """

    checkpoint: str
    named: Mapping[str, Source]
    data_dir: str | None
    sharding: jax.sharding.Sharding
    load: Callable[..., RawDataset] = dataclasses.field(
        default_factory=lambda: functools.cache(lambda name, source: datasets.load(name, **dict(source)))
    )

    def folder(self, folder: pathlib.Path, where: str) -> TrainedFold:
        """Opens a fold's folder; an InputError begins with `where`."""
        metrics = read_metrics(folder / "metrics.json", where)
        if not metrics["complete"]:
            raise InputError(f"{where} is not trained to its end: to train the rest, repeat the command that began it")
        about = about_run(metrics, fold_number(folder.resolve()) or 0, self.checkpoint, where)
        config = _moved(_settings(metrics, self.named, where), self.data_dir, where)

        def load_model() -> RawToLogit:
            return _make(about, config, stored_model(folder, self.sharding, about.checkpoint, where), where)

        def load_data() -> RawDataset:
            dataset = self._dataset(config.data)
            if dataset.fingerprint != metrics["fingerprint"]:
                raise InputError(
                    f"{where} was trained on other data: the samples or classes of {dataset.name} in "
                    f"{config.data.data_dir} differ"
                )
            recorded_split(metrics, dataset, folder / "metrics.json")
            return dataset

        train, valid, test = split_of(metrics)
        loading = functools.cache(load_model), functools.cache(load_data)
        return TrainedFold(folder, about, metrics, config, train, valid, *loading, test)

    def file(self, file: pathlib.Path, where: str) -> TrainedFold:
        """Opens a model's file; an InputError begins with `where`."""
        about, stored, identity = model_file.read(file)
        if about.checkpoint != self.checkpoint:
            raise InputError(
                f"{where} holds the {about.checkpoint} checkpoint, not the {self.checkpoint} one: ask for that"
            )
        config = _moved(_settings(msgspec.to_builtins(about), self.named, where), self.data_dir, where)
        model, none = _make(about, config, jax.tree.map(jnp.asarray, stored), where), np.zeros(0, np.int64)

        def load_data() -> RawDataset:
            return self._dataset(config.data)

        fold = TrainedFold(file.parent, about, {}, config, none, none, lambda: model, load_data)
        if fold.identity != identity:
            raise InputError(f"{where} is damaged: its arrays have changed since it was written")
        return fold

    def _dataset(self, data: TrainingDataSettings) -> RawDataset:
        return self.load(data.dataset, tuple(data.source.items()))


def _make(about: About, config: TrainConfig, stored: Any, where: str) -> RawToLogit:
    """Makes a model from its arrays, given in nested dicts by the names of the attributes."""
    architecture = _architecture(about, config)
    own = architecture.task.own
    if own is not None and own.weights(architecture.task.outputs) != about.weights:
        raise InputError(f"{where}: the weights of --classifier_network={own.name} have changed since the run")
    graph, state = nnx.split(architecture.abstract())
    replace_parts(state, stored, ("processor", "normalizer", "head"), where)
    return nnx.merge(graph, state)


def _architecture(about: About, config: TrainConfig) -> Architecture:
    task = make_task(about.task, tuple(about.classes), config.model)
    return Architecture.of(config.processing, task, camera_of(about), about.shape, config.attack.adv_noise_layer)


def _settings(metrics: Mapping[str, Any], named: Mapping[str, Source], where: str) -> TrainConfig:
    """Returns the recorded settings of a training, in which the user's names replace those of Python files."""
    recorded = dict(metrics["flags"])
    if unknown := sorted(recorded.keys() - {leaf.name for leaf in leaves(TrainConfig)}):
        raise InputError(f"{where} was trained by another version: it has the flags {', '.join(unknown)}")
    for flag, part in (("pipeline", "pipeline"), ("classifier_network", "head")):
        name = recorded.get(flag)
        if isinstance(name, str) and named_code.is_file(name):
            recorded[flag] = _present(f"--{flag}={name}", metrics.get(part), named, where)
    try:
        return build(TrainConfig, recorded)
    except InputError as error:
        raise InputError(f"{where} is damaged: {error}") from None


def _sources(codes: Sequence[str]) -> dict[str, Source]:
    return {code: named_code.load(code, "--code", "pipeline or head")[0] for code in codes}


def _present(flag: str, source: Mapping[str, str] | None, named: Mapping[str, Source], where: str) -> str:
    """Returns the name that the user has given for the file of a pipeline or a head. The recorded file is never run."""
    if not source:
        raise InputError(f"{where} is damaged: it lacks the file of {flag}")
    recorded = Source(**{field: source[field] for field in ("file", "function", "sha256")})
    for name, given in named.items():
        if given.identity == recorded.identity:
            return name
    changed = [f"; --code={name} is another" for name, given in named.items() if given.function == recorded.function]
    raise InputError(
        f"{where} was trained with Python code of SHA-256 {recorded.sha256[:12]}, which is not run unless you name it: "
        f"if you trust it, give --code={recorded.file}:{recorded.function}{''.join(changed)}"
    )


def _moved(config: TrainConfig, data_dir: str | None, where: str) -> TrainConfig:
    """Returns settings with the present folder of the data, into which the camera's file may have moved as well."""
    if data_dir is None:
        return config
    name = config.data.camera
    if name is not None and name != "auto" and name not in isp.CAMERAS and not pathlib.Path(name).is_file():
        moved = pathlib.Path(data_dir) / pathlib.Path(name).name
        if not moved.is_file():
            raise InputError(f"{where} was trained with --camera={name}, which is not found here: put it at {moved}")
        name = str(moved)
    return replace(config, data_dir=data_dir, camera=name)

"""Finished runs, as all programs open them: models, data and predictions."""

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float32, Shaped

import isp
from isp.metering import Part
from r2l_jax.data.files.decoding import check_finite, reading
from r2l_jax.data.files.known_camera import KnownCamera
from r2l_jax.data.files.reference_camera import Reference
from r2l_jax.data.in_memory import check_integers, fractions
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.devices import compiler
from r2l_jax.errors import InputError, warn
from r2l_jax.model.adaptation import adapt
from r2l_jax.model.tasks import Task
from r2l_jax.pipelines import NamedPipeline, metering_of
from r2l_jax.results.result import Column, Table
from r2l_jax.training.model_io import NAME, SHARED, TEST, Trained, open, places_of, read_file, record_of
from r2l_jax.training.record import fold_folders, fold_number

# The default number of raw images processed at once.
BATCH = 32

# Values may leave [0, 1] by this much, such as after a change of exposure; beyond it, they have another unit.
_BEYOND = 0.1

Raws = Shaped[Array | np.ndarray, "..."] | Part


class Tested(NamedTuple):
    """The score of a run, or the mean of a group's, on test samples, with its 95% confidence interval.

    Attributes:
        name: the name of the score.
        value: the estimate; `low` and `high` bound the interval.
        samples: the number of test samples, in so many `groups` that depend on each other.
        seeds: the number of members.
    """

    name: str
    value: float
    low: float
    high: float
    samples: int
    groups: int
    seeds: int


class Run:
    """A finished run, some of its folds, or the folds of the members of a group.

    It predicts with the mean of its folds' probabilities; its other attributes are those of its first fold. Raw images
    are `(..., H, W)` in [0, 1], integers if training knew their white level, or an `isp.metering.Part`; a model of
    processed images takes images `(..., H, W, 3)`. Each size is compiled once, and `batch_size` images are processed at
    once.
    """

    def __init__(self, folds: Sequence[Trained]):
        self.folds, first = tuple(folds), folds[0]
        self.about, self.config, self.task, self.model = first.about, first.config, first.task, first.model
        # Raw images of other cameras are converted to the first one when they are read, see `reading`.
        self.camera, self.cameras = first.camera, first.cameras
        self.classes = tuple(self.about.classes)  # or the name of the object to segment
        self.shape = self.about.shape[0], self.about.shape[1]  # of the raw images in training
        self.score = self.about.score  # on the validation samples
        self._expected = {self.shape}  # sizes to predict without a warning

    def _described(self) -> dict[str, str]:
        about = self.about
        found = {
            "run": ", ".join(str(fold.folder) for fold in self.folds),
            "task": f"{about.task} of {', '.join(about.classes)}",
            f"validation {about.scored_by}": f"{about.score:.4g}",
        }
        if test := self.tested:
            drawn = f"{test.samples} images" + f" of {test.groups} groups" * (test.groups < test.samples)
            found[f"test {test.name}"] = f"{test.value:.4g} ({test.low:.4g} to {test.high:.4g}; {drawn})"
        adapted = f"; adapted: {about.adapted.get('by', 'by hand')}" if about.adapted else ""
        return {**found, "state": about.state + adapted}

    def __repr__(self) -> str:
        run, task, *scores, state = self._described().items()
        return f"Run of {run[1]}: {task[1]}; {', '.join(map(' '.join, scores))}, {state[1]}"

    def _repr_html_(self) -> str:
        headings, *rows = self._described().items()
        return Table("Trained model", [*map(Column, headings)], rows)._repr_html_()

    def __iter__(self) -> Iterator[Trained]:
        """Yields the folds."""
        return iter(self.folds)

    @property
    def tested(self) -> Tested | None:
        """The score on test samples that is stored for exactly these models; None without one."""
        folder, several = self.folds[0].folder, len(self.folds) > 1
        if (folder / SHARED).exists():
            file = folder / TEST
        elif fold_number(folder) is None or len(fold_folders(folder.parent)) > 1:
            return None  # A score on test samples is of all folds together.
        else:
            file = (folder.parents[1] if several else folder.parent) / TEST
        if not file.exists() or any(fold.about.adapted or fold.about.checkpoint != "best" for fold in self):
            return None
        with reading(file):
            found = Tested(**json.loads(file.read_text()))
        return found if found.seeds == len(self.folds) else None

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
    def calibration(self) -> isp.Camera | None:
        """The camera for files without calibration values, with training's white level, if there is one raw camera."""
        if self.cameras:
            return None
        camera, white = self.camera, self.about.white_level
        return dataclasses.replace(camera, white_level=white) if camera and white else camera

    def reading(self, known: isp.Camera | KnownCamera | None = None) -> KnownCamera:
        """Returns the camera argument of `read_raw` for files to be processed by this run.

        Raw images of others are converted to the run's camera: in the black level, and in the gains if they are known
        here or if the run was trained on several cameras.
        """
        if self.camera is None:
            raise InputError("the model was trained on processed images and cannot read raw files")
        return dataclasses.replace(KnownCamera.of(known), reference=Reference(self.camera, self.cameras))

    @property
    def pipeline(self) -> isp.Pipeline | None:
        """The processing; None if it is a neural network, or if images are processed already."""
        return self.model.processor if isinstance(self.model.processor, isp.Pipeline) else None

    @property
    def named_pipeline(self) -> NamedPipeline:
        """The processing as a named pipeline, which keeps its learned values for any camera."""
        pipeline, about = self.pipeline, self.about
        if pipeline is None:
            raise InputError(f"the run was trained with {self.config.processing.flag}, which is not a pipeline")
        name = f"learned by {self.config.tracking.run_name}, fold {about.fold}, {about.checkpoint} checkpoint"
        return NamedPipeline(f"{name} ({self.identity[:12]})", name, lambda _: pipeline)

    @property
    def multiple(self) -> int:
        """The number that must divide the height and width of raw images to predict."""
        return int(np.lcm.reduce([1, *self.folds[0].architecture.multiples.values()]))

    def adapted(self, raws: Raws, *, force: bool = False) -> "Run":
        """Returns the run with all models adapted to new images without labels, see `r2l_jax.model.adaptation`.

        `raws` are raw images `(N, H, W)` in [0, 1] of the size to predict, as diverse as the training images. They are
        processed at once; `adaptation.MOST` are plenty. `force` adapts even to unsuitable images.
        """
        folds, mosaics = [], jax.tree.map(jnp.asarray, self.unlabeled(raws))
        for fold in self.folds:
            found = adapt(fold.model, mosaics, fold.task, fold.about.score, fold.clean)
            if found.refusal and not force:
                raise InputError(f"{fold.folder} cannot be adapted: {found.refusal}")
            origin = {"run": str(fold.folder), "by": found.description}
            folds.append(fold.adapted(found.model, origin, adaptation=found))
        return type(self)(folds)

    def unlabeled(self, raws: Raws) -> Any:
        """Returns raw images to adapt to in float32; raises an InputError if they, or the task, do not fit."""
        self.task.check_adapts()
        raws = self.checked(raws)
        if len(np.shape(raws)) != (4 if self.camera is None else 3):
            raise InputError(f"a model needs raw images (N, H, W) to adapt to, got shape {np.shape(raws)}")
        return raws

    def write(self, folder: str | os.PathLike) -> None:
        """Writes an adapted run to a folder, which may contain all or part of the same run from an earlier call."""
        folder = pathlib.Path(folder)
        runs = [fold.folder.resolve().parent for fold in self.folds]
        for run, fold in zip(runs, self.folds, strict=True):
            target = (folder / run.name if len(set(runs)) > 1 else folder) / f"fold_{fold.number}"
            if not (target / "metrics.json").exists():
                (fold if fold.about.adapted else fold.adapted(fold.model, {})).write_fold(target)
            elif not (target / NAME).exists() or read_file(target / NAME)[-1] != fold.identity:
                raise InputError(f"{folder} contains a different run: choose another folder")

    def metered_frame(self, raw: Float32[np.ndarray, "height width"]) -> Float32[np.ndarray, "rows cols"] | None:
        """Returns what the models meter for all parts of a frame: its summary after training on tiles; or None."""
        if self.camera is None or not metering_of(self.model.processor):
            return None
        if not self.about.in_parts:
            return raw
        black_level = tuple(map(float, np.ravel(self.camera.black_level)))
        return np.asarray(isp.metering.summary(raw, black_level=black_level, pattern=self.camera.pattern))

    def check_parameters(self) -> None:
        """Raises an InputError if the processing has no parameters."""
        for fold in self.folds:
            processor, flag = fold.model.processor, fold.config.processing.flag
            if not isinstance(processor, isp.Pipeline) or not processor.parameters():
                raise InputError(f"`run={fold.folder}` must have processing parameters, got {flag}, which has none")

    def predict(self, raws: Raws, batch_size: int = BATCH) -> Float32[np.ndarray, "..."]:
        """Computes the probabilities of classes `(..., C)`, or of the object at each site `(..., H, W)`.

        Raw images are in [0, 1], or integers, which are divided by the white level of the training. For detection, it
        returns boxes `(..., D, 6)`: x1, y1, x2, y2 in pixels, score, and class or -1 in empty rows.
        """
        if self.task.has_boxes and len(self.folds) > 1:
            raise InputError(f"boxes of {len(self.folds)} models have no mean: choose one fold of one run")
        raws, side = self.checked(raws), self.multiple
        height, width = self._size(raws)
        if height % side or width % side:
            raise InputError(f"height and width must be multiples of {side} for this model, got {height}x{width}")
        if self.config.attack.adv_noise_layer and self.shape != (height, width):
            raise InputError(f"raw images must have the additive layer's shape {self.shape}, got {height}x{width}")
        # Masks and boxes are found in frames of any size.
        if not (self.task.has_masks or self.task.has_boxes or (height, width) in self._expected):
            self._expected.add((height, width))
            trained = "x".join(map(str, self.shape))
            warn(f"the model was trained on images of {trained}, so predictions at {height}x{width} may be wrong")
        compute = compiler.jit(_probabilities, 0, 1)
        each = [functools.partial(compute, graph, self.task, state) for graph, state in self._split]
        return np.mean([self.in_batches(of_model, raws, batch_size) for of_model in each], axis=0)

    def render(self, raws: Raws, batch_size: int = BATCH) -> Float32[np.ndarray, "..."]:
        """Computes the processed images `(..., H, W, 3)`, before the normalization for the network."""
        return self.in_batches(functools.partial(compiler.jit(_images, 0), *self._split[0]), raws, batch_size)

    def trace(self, raws: Raws, batch_size: int = BATCH) -> dict[str, Float32[np.ndarray, "..."]]:
        """Computes the images after each stage, by the names of the stages, in order."""
        compute = functools.partial(compiler.jit(_stages, 0), *self._split[0])
        images = self.in_batches(compute, raws, batch_size)
        return dict(zip(self.model.processor.stage_names, images, strict=True))

    def _size(self, raws: Raws) -> tuple[int, int]:
        """Returns the height and width of raw images; raises an InputError for another shape."""
        shape = np.shape(raws)
        rank = 2 if self.camera is not None else 3
        wanted = "raw images (..., H, W)" if rank == 2 else "images (..., H, W, 3)"
        if len(shape) < rank or (rank == 3 and shape[-1] != 3) or 0 in shape:
            raise InputError(f"expected {wanted}, got an array of shape {shape}")
        return shape[-rank], shape[1 - rank]

    def checked(self, raws: Raws) -> Any:
        """Returns raw images in float32; raises an InputError unless they are floats in about [0, 1].

        Integers are divided by training's white level, if it is known.
        """
        self._size(raws)
        white = self.about.white_level

        def checked(given: np.ndarray) -> np.ndarray:
            if white is not None and given.dtype.kind in "iu":
                check_integers(given.reshape(-1, *given.shape[-2:]), white)
                return fractions(given, white)
            array = given.astype(np.float32, copy=False)
            check_finite(array, "raw images")
            low, high = array.min(), array.max()
            if jnp.issubdtype(given.dtype, jnp.floating) and low >= -_BEYOND and high <= 1 + _BEYOND:
                return array
            raise InputError(
                f"expected images of floats in [0, 1], got {given.dtype} from {low:g} to {high:g}: divide by the white "
                "level, as r2l_jax.data.read_raw does"
            )

        return jax.tree.map(lambda each: checked(np.asarray(each)), raws)

    def in_batches(self, function: Callable[..., Any], raws: Raws, batch_size: int) -> Any:
        """Calls a function of raw images `(B, H, W)` with batches of one shape, and joins its arrays `(B, ...)`."""
        rank = 2 if self.camera is not None else 3
        flat = jax.tree.map(lambda each: each.reshape(-1, *each.shape[-rank:]), self.checked(raws))
        size, results = min(batch_size, len(flat)), []

        for start in range(0, len(flat), size):
            places = np.arange(start, start + size).clip(max=len(flat) - 1)
            results.append(jax.tree.map(np.asarray, function(flat[places])))
        lead, count = np.shape(raws)[:-rank], len(flat)
        return jax.tree.map(lambda *each: np.concatenate(each)[:count].reshape(*lead, *each[0].shape[1:]), *results)


def _probabilities(graph: nnx.GraphDef, task: Task, state: nnx.State, raws: Array | Part) -> Array:
    return task.probabilities(nnx.merge(graph, state)(raws), raws.shape[1])


def _images(graph: nnx.GraphDef, state: nnx.State, raws: Array | Part) -> Array:
    return nnx.merge(graph, state).processor(raws)


def _stages(graph: nnx.GraphDef, state: nnx.State, raws: Array | Part) -> list[Array]:
    # A list, since a compiled function sorts a dict by its names.
    processor = nnx.merge(graph, state).processor
    _, stages = processor.trace(raws)
    return [stages[name] for name in processor.stage_names]


def load(
    path: str | os.PathLike,
    fold: int | Sequence[int] | None = 0,
    checkpoint: str = "best",
    code: str | Sequence[str] = (),
    data_dir: str | None = None,
    with_data: bool = False,
) -> Run:
    """Loads a finished model; a path that cannot be loaded raises an `InputError`.

    Args:
        path: the folder of a run, or of one of its folds; a file that training with --save_locally has written; the
            folder of a group of seeds, which predict as an ensemble, with the mean of their probabilities; a folder
            that `save_pretrained` has written; or "hf://<owner>/<name>", a model on the Hugging Face hub, with or
            without "@<revision>".
        fold: the number of the fold to load (of each member of a group); several numbers; or None for all.
        checkpoint: "best", the state of the best epoch, or "last". A file holds only one of them.
        code: the custom pipeline or head, in a file with unchanged content, as `<file>.py:<function>`; or both. A file
            that a run merely records is never run.
        data_dir: the current folder of the data; None if it has not moved.
        with_data: whether to find the data at once, and to place the model's arrays on all devices, not on the first.

    Example:
        ::

            model = r2l_jax.load("runs/quickstart/small")
            raw, camera = r2l_jax.data.read_raw("IMG_0001.dng")
            probabilities = model.predict(raw[:64, :64])
    """
    return Run(open(path, fold, checkpoint, code, data_dir, with_data))


def predicts_masks(path: str | os.PathLike, fold: int | Sequence[int] | None = 0) -> bool:
    """Tells whether a finished model, see `load`, predicts masks, from its description alone."""
    return record_of(places_of(path, fold)[0]).has_masks

"""Opens trained models: a fold of a run, an adapted model, or a file model.safetensors."""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import safetensors
import safetensors.numpy
from flax import nnx

import isp
from r2l_jax import named_code
from r2l_jax.cli.flags import build, leaves, replace
from r2l_jax.config import TrainConfig
from r2l_jax.data.files.decoding import reading
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.data.sets import datasets
from r2l_jax.data.settings import TrainingDataSettings
from r2l_jax.data.splits import Split
from r2l_jax.errors import InputError
from r2l_jax.model.adaptation import LEAST, MOST, Adapted, Known, known_of, statistics
from r2l_jax.model.build import Architecture
from r2l_jax.model.processors import OwnNormalization, Standardize
from r2l_jax.model.raw_to_logit import RawToLogit
from r2l_jax.model.settings import STATIC_FLAGS, ProcessingSettings
from r2l_jax.model.tasks import Task, make_task
from r2l_jax.named_code import Source
from r2l_jax.pipelines import NamedPipeline, metering_of
from r2l_jax.results.files import clear_parts, write_json, write_safetensors
from r2l_jax.training.checkpoint import stored_model
from r2l_jax.training.record import CODE_FLAGS, About, about_of, check_split, fold_number, read_metrics, training_id
from tasks.layers import BatchNorm

PyTree = Any

NAME = "model.safetensors"

# The statistics of clean images in the checkpoints of a fold that was trained with camera augmentation.
CLEAN = "clean.safetensors"

_FORMAT = "r2l_jax 2"

# Data sets in use, so that models with the same data share the samples that were read.
_datasets: weakref.WeakValueDictionary[Any, RawDataset] = weakref.WeakValueDictionary()


@dataclasses.dataclass(frozen=True, eq=False)
class Artifact:
    """A trained model. `about` is the typed part of `metrics`, the content of metrics.json.

    `config` has the current paths of the data and the user's code. `folder` contains the fold or the model file.
    `adaptation` describes how the model was adapted after it was opened. `load_clean` returns the statistics of clean
    images, none if they were not stored.
    """

    folder: pathlib.Path
    metrics: Mapping[str, Any]
    about: About
    config: TrainConfig
    split: Split
    load_model: Callable[[], RawToLogit]
    load_data: Callable[[], RawDataset]
    load_clean: Callable[[], Known] = dict
    adaptation: Adapted | None = None

    @property
    def train_indices(self) -> np.ndarray:
        """The training samples."""
        return self.split.train

    @property
    def valid_indices(self) -> np.ndarray:
        """The validation samples."""
        return self.split.valid

    @property
    def test_indices(self) -> np.ndarray:
        """The test samples, which training never saw, if any."""
        return self.split.test

    @property
    def measured(self) -> str:
        """The samples that drift controls measure: "test" if there are test samples, else "validation"."""
        return "test" if len(self.split.test) else "validation"

    @property
    def measured_indices(self) -> np.ndarray:
        """The samples that drift controls measure."""
        return self.split.test if len(self.split.test) else self.split.valid

    def measuring(self, indices: np.ndarray) -> "Artifact":
        """Returns the model with only some of its measured samples."""
        part = "test" if len(self.split.test) else "valid"
        return dataclasses.replace(self, split=self.split._replace(**{part: indices}))

    @property
    def number(self) -> int:
        """The number of the fold in its run."""
        return self.about.fold

    @property
    def model(self) -> RawToLogit:
        """The model of a checkpoint, in evaluation mode: batch norms use their running statistics."""
        return self.load_model()

    @functools.cached_property
    def architecture(self) -> Architecture:
        """The structure of the model."""
        return _architecture(self.about, self.config)

    @property
    def task(self) -> Task:
        """The task that the model was trained for."""
        return self.architecture.task

    @functools.cached_property
    def camera(self) -> isp.Camera | None:
        """The camera that the processing started from; None for images that are processed already."""
        return _camera(self.about)

    @functools.cached_property
    def cameras(self) -> dict[str, isp.Camera]:
        """The training cameras by name, if there were several."""
        return {name: isp.Camera.from_json(json.dumps(each)) for name, each in (self.about.cameras or {}).items()}

    @property
    def dataset(self) -> RawDataset:
        """The data set that the model was trained on."""
        return self.load_data()

    @property
    def training(self) -> str:
        """The id of the training run, which results record (see `record.training_id`)."""
        return training_id(self.metrics)

    @functools.cached_property
    def clean(self) -> Known | None:
        """The statistics of clean training images, from which a model trained with camera augmentation is adapted.

        They were observed at the end of the training, or adapted with the model. None for a training without camera
        augmentation. If they are missing, an InputError is raised.
        """
        if not self.config.optimization.camera_augmentation:
            return None
        known = self.load_clean()
        if jax.tree.map(np.shape, known) != jax.tree.map(np.shape, statistics(self.model)):
            few = f"at least {LEAST} training samples, got {len(self.train_indices)}"
            reason = "a training by this version" if len(self.train_indices) >= LEAST else few
            raise InputError(
                f"{self.folder}: after training with `camera_augmentation`, adapting starts from stored statistics of "
                f"clean images, which need {reason}"
            )
        return known

    def observed(self) -> Known:
        """Observes the statistics of up to `MOST` clean training images; none of fewer than `LEAST`."""
        count = min(len(self.train_indices), MOST) // LEAST * LEAST
        if not count:
            return {}
        raws, _ = self.dataset.samples(np.random.default_rng(0).permutation(self.train_indices)[:count])
        return known_of(self.model.on_one_device(), raws, self.task)

    @functools.cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """The model's variables, and the statistics of clean images, by their dotted paths."""
        flat = nnx.to_flat_state(nnx.state(self.model))
        variables = {".".join(map(str, path)): np.asarray(variable[...]) for path, variable in flat}
        return variables | named(self.load_clean(), "clean")

    @functools.cached_property
    def identity(self) -> str:
        """A hash of the arrays, the task, the classes, the processing and the head, which results record."""
        about, architecture = self.about, self.architecture
        pipeline, custom = architecture.pipeline, architecture.task.custom
        processing = architecture.processing.processing_mode if pipeline is None else pipeline.description
        meaning = [about.task, about.classes, about.camera, processing, architecture.additive_layer]
        meaning += [architecture.task.source.identity] if architecture.task.source else []
        meaning += [] if about.cameras is None else [about.cameras]
        meaning += [] if custom is None else [*custom.identity, custom.weights(architecture.task.outputs)]
        digest = hashlib.sha256(json.dumps(meaning).encode())
        for name, array in sorted(self.arrays.items()):
            digest.update(f"\n{name} {array.dtype} {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def adapted(
        self,
        model: RawToLogit,
        origin: Mapping[str, Any],
        pipeline: NamedPipeline | None = None,
        adaptation: Adapted | None = None,
    ) -> "Artifact":
        """Returns the artifact of a model derived from this one, with the same data, splits and scores.

        `origin` says where the model came from, in a form that JSON can hold; `pipeline` replaces this model's.
        """
        config, metrics = self.config, {**self.metrics, "adapted": {"from": self.identity, **origin}}
        clean = self.load_clean()
        if clean and not jax.tree.all(jax.tree.map(np.array_equal, statistics(model), statistics(self.model))):
            clean = statistics(model)
        if pipeline is not None:
            # A named pipeline is followed by a batch norm, unless the head has its own normalization.
            model = RawToLogit(model.processor, _as_batch_norm(model.normalizer), model.head)
            flags = {"pipeline": pipeline.name, "auto": metering_of(model.processor)}
            flags |= {name: getattr(ProcessingSettings, name) for name in ("processing_mode", *STATIC_FLAGS)}
            config = replace(config, **flags)
            code = {flag: source for flag, source in self.metrics["code"].items() if flag != "pipeline"}
            code |= {"pipeline": dataclasses.asdict(pipeline.source)} if pipeline.source else {}
            metrics |= {"flags": {**self.metrics["flags"], **flags}, "code": code}
        about = about_of({**metrics, "checkpoint": self.about.checkpoint, "fold": self.about.fold}, str(self.folder))
        changed = {"metrics": metrics, "about": about, "config": config, "adaptation": adaptation}
        return dataclasses.replace(self, **changed, load_model=lambda: model, load_clean=lambda: clean)

    def write(self, target: pathlib.Path) -> None:
        """Writes the model to one file, with its description."""
        about = {**self.metrics, "checkpoint": self.about.checkpoint, "fold": self.about.fold}
        metadata = {"format": _FORMAT, "about": json.dumps(about), "identity": self.identity}
        write_safetensors(target, self.arrays, metadata)

    def write_fold(self, folder: pathlib.Path) -> None:
        """Writes the model as a fold of a run."""
        folder.mkdir(parents=True, exist_ok=True)
        clear_parts(folder, 0.0)
        self.write(folder / NAME)
        # Written last, since a fold exists once its metrics.json does.
        write_json(folder / "metrics.json", self.metrics)


@dataclasses.dataclass(frozen=True)
class Opening:
    """Opens folds and model files.

    User pipelines and heads come from `codes`, which the user names. Files that a run records are never executed.
    """

    checkpoint: str
    sharding: jax.sharding.Sharding
    codes: Mapping[str, Source]
    data_dir: str | None = None

    def fold(self, folder: pathlib.Path) -> Artifact:
        """Opens a fold's folder."""
        where = str(folder)
        metrics = read_metrics(folder / "metrics.json", "choose a finished run")
        if not metrics["complete"]:
            raise InputError(f"{where} is not fully trained: run the training command again to resume")
        number = fold_number(folder.resolve()) or 0

        def stored() -> PyTree:
            return stored_arrays(folder, self.sharding, self.checkpoint, where)

        def clean() -> Known:
            return _stored_clean(folder, self.checkpoint)

        return self._artifact(folder, metrics, number, stored, clean, where)

    def file(self, file: pathlib.Path) -> Artifact:
        """Opens a model file, which is not trusted: all of its content is checked."""
        metrics, arrays, identity = read_file(file)
        number, checkpoint = metrics.pop("fold"), metrics.pop("checkpoint")
        if checkpoint != self.checkpoint:
            raise InputError(f"{file} holds only the {checkpoint} checkpoint, got checkpoint={self.checkpoint}")

        with reading(file):
            clean = _known(arrays.pop("clean", {}))

        def stored() -> PyTree:
            return jax.device_put(arrays, self.sharding)

        artifact = self._artifact(file.parent, metrics, number, stored, lambda: clean, str(file))
        if artifact.identity != identity:
            raise InputError(f"{file} is damaged: its arrays do not match their hash")
        return artifact

    def _artifact(
        self,
        folder: pathlib.Path,
        metrics: dict[str, Any],
        number: int,
        stored: Callable[[], PyTree],
        clean: Callable[[], Known],
        where: str,
    ) -> Artifact:
        about = about_of({**metrics, "checkpoint": self.checkpoint, "fold": number}, where)
        config = self._settings(about, where)

        # Neither function refers to the artifact, so that its data is freed together with it.
        @functools.cache
        def load_model() -> RawToLogit:
            return _made(about, config, stored(), where)

        @functools.cache
        def load_data() -> RawDataset:
            dataset = _load_data(config.data)
            if dataset.fingerprint != about.fingerprint:
                raise InputError(
                    f"{where} was trained on different data: the samples or classes of {dataset.name} in "
                    f"{config.data.data_dir} have changed"
                )
            check_split(about, dataset, where)
            return dataset

        artifact = Artifact(folder, metrics, about, config, about.split, load_model, load_data, functools.cache(clean))
        try:
            _ = artifact.camera, artifact.cameras
            if artifact.camera is None and config.processing.processing_mode != "none":
                raise ValueError(f"{config.processing.flag} needs one")
        except ValueError as error:
            raise InputError(f"{where} is damaged: a camera is not valid: {error}") from None
        return artifact

    def _settings(self, about: About, where: str) -> TrainConfig:
        """Returns the recorded settings of a training run, with the current paths of the user's code and data."""
        flags = dict(about.flags)
        if unknown := sorted(flags.keys() - {leaf.name for leaf in leaves(TrainConfig)}):
            raise InputError(f"{where} is from another version: unknown flags {', '.join(unknown)}")
        for flag in CODE_FLAGS:
            name, source = flags.get(flag), about.code.get(flag)
            if isinstance(name, str) and named_code.is_file(name):
                if source is None:
                    raise InputError(f"{where} is damaged: it does not record the file of `{flag}={name}`")
                flags[flag] = self._present(Source(**msgspec.structs.asdict(source)), where)
        if self.data_dir is not None:
            flags["data_dir"] = self.data_dir
            # These files may have moved with the data.
            for flag in ("camera", "group"):
                file = pathlib.Path(str(flags.get(flag)))
                if (moved := pathlib.Path(self.data_dir, file.name)).is_file() and not os.path.isfile(file):
                    flags[flag] = str(moved)
        try:
            return build(TrainConfig, flags)
        except InputError as error:
            raise InputError(f"{where} is damaged: {error}") from None

    def _present(self, recorded: Source, where: str) -> str:
        """Returns the name that the user has given for the file of a pipeline or a head."""
        for name, given in self.codes.items():
            if given.identity == recorded.identity:
                return name
        changed = [f"; `code={name}` has different content" for name in self.codes]
        raise InputError(
            f"{where} was trained with Python code of SHA-256 {recorded.sha256[:12]}, which runs only if you name it: "
            f"if you trust it, pass `code={recorded.file}`:{recorded.function}{''.join(changed)}"
        )


def stored_arrays(folder: pathlib.Path, sharding: jax.sharding.Sharding, checkpoint: str, where: str) -> PyTree:
    """Loads the arrays of a fold, from its checkpoints or, if it was adapted, from its file."""
    file = folder / NAME
    if (folder / "checkpoints").is_dir() or not file.is_file():
        return stored_model(folder, sharding, checkpoint, where)
    about, arrays, _ = read_file(file)
    if about["checkpoint"] != checkpoint:
        raise InputError(f"{where} has no {checkpoint} checkpoint")
    return jax.device_put(arrays, sharding)


def named(known: Known, start: str) -> dict[str, np.ndarray]:
    """Returns the means and variances of layers by their names in a file, after `start`."""
    pairs = {name: zip(("mean", "var"), pair, strict=True) for name, pair in known.items()}
    return {f"{start}.{name}.{kind}": array for name, pair in pairs.items() for kind, array in pair}


def _known(nested: PyTree) -> Known:
    """Returns the means and variances of layers from the nested arrays of a file."""
    flat: dict[str, Any] = flax.traverse_util.flatten_dict(nested, sep=".")
    layers = [name.removesuffix(".mean") for name in flat if name.endswith(".mean")]
    return {name: (flat[f"{name}.mean"], flat[f"{name}.var"]) for name in layers if f"{name}.var" in flat}


def _stored_clean(folder: pathlib.Path, checkpoint: str) -> Known:
    """Loads the statistics of clean images of a fold, from its own file or from its model's, as after adapting."""
    if (file := folder / CLEAN).is_file():
        with reading(file):
            flat = safetensors.numpy.load_file(file)
        return _known(flax.traverse_util.unflatten_dict(flat, sep=".").get(checkpoint, {}))
    about, arrays, _ = read_file(folder / NAME) if (folder / NAME).is_file() else ({}, {}, "")
    return _known(arrays.get("clean", {})) if about.get("checkpoint") == checkpoint else {}


def replace_parts(
    model: nnx.State,
    stored: PyTree,
    parts: Sequence[str],
    where: str,
    optional: Sequence[str] = (),
    resized: Sequence[str] = (),
) -> list[str]:
    """Replaces parts of a model, in place, with arrays from nested dicts keyed by attribute.

    Variables in `optional` are kept if no arrays are stored for them; layers in `resized` are kept if their shapes
    differ, and are returned. `where` names the arrays in an error, such as the flag of their run with its value.
    """
    ours = nnx.to_pure_dict(model)
    loaded, stayed = {}, []
    for part in parts:
        own, theirs = ours.get(part, {}), stored.get(part, {})
        kept = {name: value for name, value in own.items() if name in optional}
        differ = {
            name: own[name]
            for name in resized
            if name in own and name in theirs and _shapes(own[name]) != _shapes(theirs[name])
        }
        stayed += differ
        loaded[part] = kept | theirs | differ
        have, want = _shapes(loaded[part]), _shapes(own)
        for name in sorted(have.keys() | want.keys()):
            if have.get(name) != want.get(name):
                raise InputError(
                    f"{where} does not fit this run: {part}.{name} expects {want.get(name, 'no array')}, got "
                    f"{have.get(name, 'no array')}"
                )
    nnx.replace_by_pure_dict(model, ours | loaded)
    return stayed


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): tuple(leaf.shape) for path, leaf in leaves}


def _camera(about: About) -> isp.Camera | None:
    return None if about.camera is None else isp.Camera.from_json(json.dumps(about.camera))


def _architecture(about: About, config: TrainConfig) -> Architecture:
    task = make_task(about.task, tuple(about.classes), config.model, tuple(about.colors))
    return Architecture(config.processing, task, _camera(about), tuple(about.shape), config.attack.adv_noise_layer)


def _made(about: About, config: TrainConfig, stored: PyTree, where: str) -> RawToLogit:
    """Makes a model from its arrays, given in nested dicts keyed by attribute."""
    architecture = _architecture(about, config)
    custom = architecture.task.custom
    if custom is not None and custom.weights(architecture.task.outputs) != about.weights:
        raise InputError(
            f"{where}: the weights or code of `classifier_network={custom.name}` have changed since training"
        )
    graph, state = nnx.split(architecture.abstract())
    replace_parts(state, stored, ("processor", "normalizer", "head"), where)
    return nnx.merge(graph, state)


def _load_data(data: TrainingDataSettings) -> RawDataset:
    key = data.dataset, tuple(data.source.items())
    if (found := _datasets.get(key)) is None:
        found = _datasets[key] = datasets.load(data.dataset, **data.source)
    return found


def read_file(source: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Reads a model file: its metrics with the fold and checkpoint, its nested arrays, and its identity."""
    with reading(source), safetensors.safe_open(source, "np") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != _FORMAT:
            raise InputError(
                f"the format in the metadata of a model file must be {_FORMAT!r}, got {metadata.get('format')!r:.40}"
            )
        about = json.loads(metadata["about"])
        if not about["complete"]:
            raise InputError("its training is incomplete")
        about |= {name: getattr(about_of(about, "its metadata"), name) for name in ("checkpoint", "fold")}
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- no dict
        if wrong := [name for name, array in arrays.items() if array.dtype != np.float32]:
            raise InputError(f"the array {wrong[0]:.80} must be float32, got {arrays[wrong[0]].dtype}")
        return about, flax.traverse_util.unflatten_dict(arrays, sep="."), metadata["identity"]


def _as_batch_norm(normalizer: BatchNorm | Standardize) -> BatchNorm | OwnNormalization:
    if isinstance(normalizer, BatchNorm | OwnNormalization):
        return normalizer
    found = BatchNorm(normalizer.mean[...].size, affine=False, rngs=nnx.Rngs(0))
    found.mean[...], found.var[...] = normalizer.mean[...], jnp.square(normalizer.std[...]) - found.epsilon
    found.eval()
    return found

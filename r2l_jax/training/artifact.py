"""Opens trained models: a fold of a run, an adapted model, or a file model.safetensors."""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
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
from r2l_jax.results.files import clear_parts, write_json
from r2l_jax.training.model_io import (
    NAME,
    known_of_layers,
    named,
    read_file,
    restore,
    stored_arrays,
    stored_clean,
    write_file,
)
from r2l_jax.training.record import CODE_FLAGS, CodeFile, Record, check_split, fold_number, read_record, training_id
from tasks.layers import BatchNorm

PyTree = Any

# Data sets in use, so that models with the same data share the samples that were read.
_datasets: weakref.WeakValueDictionary[Any, RawDataset] = weakref.WeakValueDictionary()


@dataclasses.dataclass(frozen=True, eq=False)
class Artifact:
    """A trained model, and its record.

    `config` has the current paths of the data and the user's code. `folder` contains the fold or the model file.
    `adaptation` describes how the model was adapted after it was opened. `load_clean` returns the statistics of clean
    images, none if they were not stored.
    """

    folder: pathlib.Path
    about: Record
    config: TrainConfig
    split: Split
    load_model: Callable[[Architecture], RawToLogit]
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
        return self.load_model(self.architecture)

    @functools.cached_property
    def architecture(self) -> Architecture:
        """The structure of the model."""
        about, config = self.about, self.config
        task = make_task(about.task, tuple(about.classes), config.model, tuple(about.colors))
        return Architecture(config.processing, task, self.camera, tuple(about.shape), config.attack.adv_noise_layer)

    @property
    def task(self) -> Task:
        """The task that the model was trained for."""
        return self.architecture.task

    @functools.cached_property
    def camera(self) -> isp.Camera | None:
        """The camera that the processing started from; None for images that are processed already."""
        return None if self.about.camera is None else isp.Camera.from_json(json.dumps(self.about.camera))

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
        return training_id(self.about)

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
        config, changed = self.config, dict[str, Any](adapted={"from": self.identity, **origin})
        clean = self.load_clean()
        if clean and not jax.tree.all(jax.tree.map(np.array_equal, statistics(model), statistics(self.model))):
            clean = statistics(model)
        if pipeline is not None:
            # A named pipeline is followed by a batch norm, unless the head has its own normalization.
            model = RawToLogit(model.processor, _as_batch_norm(model.normalizer), model.head)
            flags = {"pipeline": pipeline.name, "auto": metering_of(model.processor)}
            flags |= {name: getattr(ProcessingSettings, name) for name in ("processing_mode", *STATIC_FLAGS)}
            config = replace(config, **flags)
            code = {flag: source for flag, source in self.about.code.items() if flag != "pipeline"}
            code |= {"pipeline": CodeFile(**dataclasses.asdict(pipeline.source))} if pipeline.source else {}
            changed |= {"flags": {**self.about.flags, **flags}, "code": code}
        changed = {"about": msgspec.structs.replace(self.about, **changed), "config": config, "adaptation": adaptation}
        return dataclasses.replace(self, **changed, load_model=lambda _: model, load_clean=lambda: clean)

    def write(self, target: pathlib.Path) -> None:
        """Writes the model to one file, with its description."""
        write_file(target, self.about, self.arrays, self.identity)

    def write_fold(self, folder: pathlib.Path) -> None:
        """Writes the model as a fold of a run."""
        folder.mkdir(parents=True, exist_ok=True)
        clear_parts(folder, 0.0)
        self.write(folder / NAME)
        # Written last, since a fold exists once its metrics.json does.
        write_json(folder / "metrics.json", self.about.content)


def open_fold(
    folder: pathlib.Path,
    checkpoint: str,
    sharding: jax.sharding.Sharding,
    codes: Mapping[str, Source],
    data_dir: str | None = None,
) -> Artifact:
    """Opens a fold's folder, trained or adapted.

    User pipelines and heads come from `codes`, which the user names. Files that a run records are never executed.
    """
    about = read_record(folder / "metrics.json", "choose a finished run")
    if not about.complete:
        raise InputError(f"{folder} is not fully trained: run the training command again to resume")
    about = msgspec.structs.replace(about, checkpoint=checkpoint, fold=fold_number(folder.resolve()) or 0)

    def stored() -> PyTree:
        return stored_arrays(folder, sharding, checkpoint, str(folder))

    def clean() -> Known:
        return stored_clean(folder, checkpoint)

    return _opened(folder, about, stored, clean, codes, data_dir, str(folder))


def open_file(
    file: pathlib.Path,
    checkpoint: str,
    sharding: jax.sharding.Sharding,
    codes: Mapping[str, Source],
    data_dir: str | None = None,
) -> Artifact:
    """Opens a model file, which is not trusted: all of its content is checked. For `codes`, see `open_fold`."""
    about, arrays, identity = read_file(file)
    if about.checkpoint != checkpoint:
        raise InputError(f"{file} holds only the {about.checkpoint} checkpoint, got checkpoint={checkpoint}")
    with reading(file):
        clean = known_of_layers(arrays.pop("clean", {}))

    def stored() -> PyTree:
        return jax.device_put(arrays, sharding)

    artifact = _opened(file.parent, about, stored, lambda: clean, codes, data_dir, str(file))
    if artifact.identity != identity:
        raise InputError(f"{file} is damaged: its arrays do not match their hash")
    return artifact


def _opened(
    folder: pathlib.Path,
    about: Record,
    stored: Callable[[], PyTree],
    clean: Callable[[], Known],
    codes: Mapping[str, Source],
    data_dir: str | None,
    where: str,
) -> Artifact:
    config = _settings(about, codes, data_dir, where)

    # Neither function refers to the artifact, so that its data is freed together with it.
    @functools.cache
    def load_model(architecture: Architecture) -> RawToLogit:
        custom = architecture.task.custom
        if custom is not None and custom.weights(architecture.task.outputs) != about.weights:
            raise InputError(
                f"{where}: the weights or code of `classifier_network={custom.name}` have changed since training"
            )
        graph, state = nnx.split(architecture.abstract())
        restore(state, stored(), ("processor", "normalizer", "head"), where)
        return nnx.merge(graph, state)

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

    artifact = Artifact(folder, about, config, about.split, load_model, load_data, functools.cache(clean))
    try:
        _ = artifact.camera, artifact.cameras
        if artifact.camera is None and config.processing.processing_mode != "none":
            raise ValueError(f"{config.processing.flag} needs one")
    except ValueError as error:
        raise InputError(f"{where} is damaged: a camera is not valid: {error}") from None
    return artifact


def _settings(about: Record, codes: Mapping[str, Source], data_dir: str | None, where: str) -> TrainConfig:
    """Returns the recorded settings of a training run, with the current paths of the user's code and data."""
    flags = dict(about.flags)
    if unknown := sorted(flags.keys() - {leaf.name for leaf in leaves(TrainConfig)}):
        raise InputError(f"{where} is from another version: unknown flags {', '.join(unknown)}")
    for flag in CODE_FLAGS:
        name, source = flags.get(flag), about.code.get(flag)
        if isinstance(name, str) and named_code.is_file(name):
            if source is None:
                raise InputError(f"{where} is damaged: it does not record the file of `{flag}={name}`")
            flags[flag] = _present(Source(**msgspec.structs.asdict(source)), codes, where)
    if data_dir is not None:
        flags["data_dir"] = data_dir
        # These files may have moved with the data.
        for flag in ("camera", "group"):
            file = pathlib.Path(str(flags.get(flag)))
            if (moved := pathlib.Path(data_dir, file.name)).is_file() and not os.path.isfile(file):
                flags[flag] = str(moved)
    try:
        return build(TrainConfig, flags)
    except InputError as error:
        raise InputError(f"{where} is damaged: {error}") from None


def _present(recorded: Source, codes: Mapping[str, Source], where: str) -> str:
    """Returns the name that the user has given for the file of a pipeline or a head."""
    for name, given in codes.items():
        if given.identity == recorded.identity:
            return name
    changed = [f"; `code={name}` has different content" for name in codes]
    raise InputError(
        f"{where} was trained with Python code of SHA-256 {recorded.sha256[:12]}, which runs only if you name it: "
        f"if you trust it, pass `code={recorded.file}:{recorded.function}`{''.join(changed)}"
    )


def _load_data(data: TrainingDataSettings) -> RawDataset:
    key = data.dataset, tuple(data.source.items())
    if (found := _datasets.get(key)) is None:
        found = _datasets[key] = datasets.load(data.dataset, **data.source)
    return found


def _as_batch_norm(normalizer: BatchNorm | Standardize) -> BatchNorm | OwnNormalization:
    if isinstance(normalizer, BatchNorm | OwnNormalization):
        return normalizer
    found = BatchNorm(normalizer.mean[...].size, affine=False, rngs=nnx.Rngs(0))
    found.mean[...], found.var[...] = normalizer.mean[...], jnp.square(normalizer.std[...]) - found.epsilon
    found.eval()
    return found

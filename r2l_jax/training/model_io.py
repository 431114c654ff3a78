"""Trained models: opening them, writing them, and the one way by which values come into a model."""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import safetensors
import safetensors.numpy
from flax import nnx
from jax.sharding import Sharding, make_single_device_sharding

import isp
from r2l_jax import named_code
from r2l_jax.cli.flags import build, leaves, replace
from r2l_jax.config import CHECKPOINTS, TrainConfig
from r2l_jax.data.files.decoding import reading
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.data.sets import datasets
from r2l_jax.data.splits import Split
from r2l_jax.devices.placement import shardings
from r2l_jax.errors import InputError
from r2l_jax.model.adaptation import LEAST, MOST, Adapted, Known, known_of, statistics
from r2l_jax.model.processors import OwnNormalization, Standardize
from r2l_jax.model.raw_to_logit import Architecture, RawToLogit
from r2l_jax.model.settings import STATIC_FLAGS, ProcessingSettings
from r2l_jax.model.tasks import Task, make_task
from r2l_jax.named_code import Source
from r2l_jax.pipelines import NamedPipeline, metering_of
from r2l_jax.results.files import clear_parts, write_json, write_safetensors
from r2l_jax.training.checkpoint import stored_model
from r2l_jax.training.record import (
    CODE_FLAGS,
    Record,
    check_split,
    fold_folder,
    fold_folders,
    fold_number,
    members,
    read_record,
    training_id,
)
from tasks.layers import BatchNorm

PyTree = Any

NAME = "model.safetensors"

# The description of a shared model, in the folder of its files: model.safetensors, or model_<number>.safetensors of
# each member of an ensemble.
SHARED = "config.json"

# The statistics of clean images in the checkpoints of a fold that was trained with camera augmentation.
CLEAN = "clean.safetensors"

# The score on test samples, with its interval, in the folder of a run or a group.
TEST = "test.json"

_FORMAT = "r2l_jax 2"

# The parts of a model.
PARTS = ("processor", "normalizer", "head")

# Data sets in use, so that models with the same data share the samples that were read.
_datasets: weakref.WeakValueDictionary[Any, RawDataset] = weakref.WeakValueDictionary()


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A trained model: a fold of a run, an adapted fold, or a file."""

    folder: pathlib.Path  # of the fold or of the file
    about: Record
    config: TrainConfig  # with the current paths of the data and the user's code
    split: Split
    model: RawToLogit  # in evaluation mode: batch norms use their running statistics
    stored_clean: Known = dataclasses.field(default_factory=dict)  # statistics of clean images
    adaptation: Adapted | None = None  # after it was opened
    in_memory: RawDataset | None = None  # the data set, if the settings do not name it

    @property
    def measured(self) -> str:
        """The samples that drift controls measure: "test" if there are test samples, else "validation"."""
        return "test" if len(self.split.test) else "validation"

    @property
    def measured_indices(self) -> np.ndarray:
        """The samples that drift controls measure."""
        return self.split.test if len(self.split.test) else self.split.valid

    def measuring(self, indices: np.ndarray) -> "Trained":
        """Returns the model with only some of its measured samples."""
        part = "test" if len(self.split.test) else "valid"
        return dataclasses.replace(self, split=self.split._replace(**{part: indices}))

    @property
    def number(self) -> int:
        """The number of the fold in its run."""
        return self.about.fold

    @functools.cached_property
    def architecture(self) -> Architecture:
        """The structure of the model."""
        return _architecture(self.about, self.config)

    @property
    def task(self) -> Task:
        """The task that the model was trained for."""
        return self.architecture.task

    @property
    def camera(self) -> isp.Camera | None:
        """The camera that the processing started from; None for images that are processed already."""
        return self.architecture.camera

    @functools.cached_property
    def cameras(self) -> dict[str, isp.Camera]:
        """The training cameras by name, if there were several."""
        return {name: isp.Camera.from_json(json.dumps(each)) for name, each in (self.about.cameras or {}).items()}

    @functools.cached_property
    def dataset(self) -> RawDataset:
        """The data set that the model was trained on; an InputError if it has changed."""
        if self.in_memory is not None:
            return self.in_memory
        data = self.config.data
        if (found := _datasets.get(key := (data.dataset, tuple(data.source.items())))) is None:
            found = _datasets[key] = datasets.load(data.dataset, **data.source)
        if found.fingerprint != self.about.fingerprint:
            raise InputError(
                f"{self.folder} was trained on different data: the samples or classes of {found.name} in "
                f"{data.data_dir} have changed"
            )
        check_split(self.about, found, str(self.folder))
        return found

    @property
    def training(self) -> str:
        """The id of the training run, which results record (see `record.training_id`)."""
        return training_id(self.about)

    @functools.cached_property
    def clean(self) -> Known | None:
        """The statistics of clean training images, from which a model trained with camera augmentation is adapted.

        None for a training without camera augmentation. If they are missing, an InputError is raised.
        """
        if not self.config.optimization.camera_augmentation:
            return None
        known = self.stored_clean
        if jax.tree.map(np.shape, known) != jax.tree.map(np.shape, statistics(self.model)):
            count, reason = len(self.split.train), "a training by this version"
            reason = reason if count >= LEAST else f"at least {LEAST} training samples, got {count}"
            raise InputError(
                f"{self.folder}: after training with `camera_augmentation`, adapting starts from stored statistics of "
                f"clean images, which need {reason}"
            )
        return known

    def observed(self) -> Known:
        """Observes the statistics of up to `MOST` clean training images; none of fewer than `LEAST`."""
        count = min(len(self.split.train), MOST) // LEAST * LEAST
        if not count:
            return {}
        raws, _ = self.dataset.samples(np.random.default_rng(0).permutation(self.split.train)[:count])
        # On this process's default device; a run's arrays may be spread over the devices of several.
        graph, state = nnx.split(self.model)
        return known_of(nnx.merge(graph, jax.tree.map(jnp.asarray, jax.device_get(state))), raws, self.task)

    @functools.cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """The model's variables, and the statistics of clean images, by their dotted paths."""
        variables = nnx.to_flat_state(nnx.state(self.model))
        arrays = {".".join(map(str, path)): np.asarray(variable[...]) for path, variable in variables}
        return arrays | named(self.stored_clean, "clean")

    @functools.cached_property
    def identity(self) -> str:
        """A hash of the arrays, the task, the classes, the processing and the head, which results record."""
        about, architecture = self.about, self.architecture
        pipeline, task = architecture.pipeline, architecture.task
        processing = architecture.processing.processing_mode if pipeline is None else pipeline.description
        meaning = [about.task, about.classes, about.camera, processing, architecture.additive_layer]
        meaning += [task.source.identity] if task.source else []
        meaning += [] if about.cameras is None else [about.cameras]
        meaning += [*task.custom.identity, task.custom.weights(task.outputs)] if task.custom else []
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
    ) -> "Trained":
        """Returns a model derived from this one, with the same data, splits and scores.

        `origin` says where the model came from, in a form that JSON can hold; `pipeline` replaces this model's.
        """
        config, clean = self.config, self.stored_clean
        changed = dict[str, Any](adapted={"from": self.identity, **origin})
        if clean and not jax.tree.all(jax.tree.map(np.array_equal, statistics(model), statistics(self.model))):
            clean = statistics(model)
        if pipeline is not None:
            # A named pipeline is followed by a batch norm, unless the head has its own normalization.
            model = RawToLogit(model.processor, _as_batch_norm(model.normalizer), model.head)
            flags = {"pipeline": pipeline.name, "auto": metering_of(model.processor)}
            flags |= {name: getattr(ProcessingSettings, name) for name in ("processing_mode", *STATIC_FLAGS)}
            config = replace(config, **flags)
            sources = {**self.about.code, "pipeline": pipeline.source}
            code = {flag: source for flag, source in sources.items() if source}
            changed |= {"flags": {**self.about.flags, **flags}, "code": code}
        changes = {"config": config, "model": model, "stored_clean": clean, "adaptation": adaptation}
        return dataclasses.replace(self, about=msgspec.structs.replace(self.about, **changed), **changes)

    def without_paths(self) -> "Trained":
        """Returns the model without the absolute paths of its maker's files, of which only the names are kept."""

        def shared(value: Any) -> Any:
            return pathlib.Path(value).name if isinstance(value, str) and os.path.isabs(value) else value

        def named(values: Mapping[str, Any]) -> dict[str, Any]:
            return {name: shared(value) for name, value in values.items()}

        code = {flag: dataclasses.replace(each, file=shared(each.file)) for flag, each in self.about.code.items()}
        changed = {"flags": named(self.about.flags), "code": code}
        changed |= {"adapted": named(self.about.adapted)} if self.about.adapted else {}
        about = msgspec.structs.replace(self.about, **changed)
        return dataclasses.replace(self, about=about)

    def write(self, target: pathlib.Path) -> None:
        """Writes the model to one file: its record, its arrays, and its identity."""
        header = {"format": _FORMAT, "about": json.dumps(self.about.header), "identity": self.identity}
        write_safetensors(target, self.arrays, header)

    def write_fold(self, folder: pathlib.Path) -> None:
        """Writes the model as a fold of a run."""
        folder.mkdir(parents=True, exist_ok=True)
        clear_parts(folder, 0.0)
        self.write(folder / NAME)
        # Written last, since a fold exists once its metrics.json does.
        write_json(folder / "metrics.json", self.about.content)


def open(
    path: str | os.PathLike,
    fold: int | Sequence[int] | None = 0,
    checkpoint: str = "best",
    code: str | Sequence[str] = (),
    data_dir: str | None = None,
    with_data: bool = False,
) -> list[Trained]:
    """Opens the trained models of a run, of a group of seeds, of an adapted run or of a file, see `run.load`."""
    if checkpoint not in CHECKPOINTS:
        raise InputError(f"checkpoint must be one of {', '.join(CHECKPOINTS)}, got {checkpoint!r}")
    sharding = shardings().everywhere if with_data else make_single_device_sharding(jax.local_devices()[0])
    codes = [code] if isinstance(code, str) else code
    given = {each: named_code.load(each, "code", "pipeline or head")[0] for each in codes}
    opened = [_opened(place, checkpoint, sharding, given, data_dir) for place in places_of(path, fold)]
    for each in opened if with_data else ():
        _ = each.dataset
    return opened


def places_of(path: str | os.PathLike, fold: int | Sequence[int] | None) -> list[pathlib.Path]:
    """Returns the files of a model, or the folders of a run's folds, of all if `fold` is None.

    A fold and a file stand for themselves. A model on the hub, "hf://<owner>/<name>", is downloaded.
    """
    numbers, places, where = [fold or 0] if fold is None or isinstance(fold, int) else fold, [], path
    if str(path).startswith("hf://"):
        # Imported here, because the download libraries would make every program start later.
        from r2l_jax.data.fetch import hub

        path = hub.model_folder(str(path))
    if path is not where or (pathlib.Path(path) / SHARED).is_file():
        if not (files := sorted(pathlib.Path(path).glob("model*.safetensors"))):
            raise InputError(f"{where} must contain a {NAME}, as save_pretrained writes it")
        return files
    for run in [] if pathlib.Path(path).is_file() else members(str(path)):
        every = fold_folders(run) if fold is None else []
        places += every or [fold_folder(str(run), number, str(run)) for number in numbers]
    return places or [pathlib.Path(path)]


def record_of(place: pathlib.Path) -> Record:
    """Reads the record of a model file, or of a fold that is fully trained."""
    if place.is_file():
        return read_file(place)[0]
    about = read_record(place / "metrics.json", "choose a finished run")
    if not about.complete:
        raise InputError(f"{place} is not fully trained: run the training command again to resume")
    return msgspec.structs.replace(about, fold=fold_number(place.resolve()) or 0)


def _opened(
    place: pathlib.Path, checkpoint: str, sharding: Sharding, codes: Mapping[str, Source], data_dir: str | None
) -> Trained:
    """Opens a fold, trained or adapted, or a model file, which is not trusted: all of its content is checked.

    User pipelines and heads come from `codes`, which the user names. Files that a run records are never executed.
    """
    where, folder, identity = str(place), place, None
    if place.is_file():
        about, arrays, clean, identity = read_file(place)
        folder, arrays = place.parent, jax.device_put(arrays, sharding)
        if about.checkpoint != checkpoint:
            raise InputError(f"{where} holds only the {about.checkpoint} checkpoint, got checkpoint={checkpoint}")
    else:
        about = msgspec.structs.replace(record_of(place), checkpoint=checkpoint)
        arrays, clean = stored(place, sharding, checkpoint, where)
    config = _settings(about, codes, data_dir, where)
    try:
        given = [each for each in (about.camera, *(about.cameras or {}).values()) if each is not None]
        _ = [isp.Camera.from_json(json.dumps(each)) for each in given]
        if about.camera is None and config.processing.processing_mode != "none":
            raise ValueError(f"{config.processing.flag} needs one")
    except ValueError as error:
        raise InputError(f"{where} is damaged: a camera is not valid: {error}") from None
    architecture = _architecture(about, config)
    custom = architecture.task.custom
    if custom is not None and custom.weights(architecture.task.outputs) != about.weights:
        named = f"`classifier_network={custom.name}`"
        raise InputError(f"{where}: the weights or code of {named} have changed since training")
    graph, state = nnx.split(architecture.abstract())
    restore(state, arrays, PARTS, where)
    trained = Trained(folder, about, config, about.split, nnx.merge(graph, state), clean)
    if identity is not None and identity != trained.identity:
        raise InputError(f"{where} is damaged: its arrays do not match their hash")
    return trained


def _architecture(about: Record, config: TrainConfig) -> Architecture:
    task = make_task(about.task, tuple(about.classes), config.model, tuple(about.colors))
    camera = isp.Camera.from_json(json.dumps(about.camera)) if about.camera else None
    return Architecture(config.processing, task, camera, tuple(about.shape), config.attack.adv_noise_layer)


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
            flags[flag] = _present(source, codes, where)
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
    if found := [name for name, given in codes.items() if given.identity == recorded.identity]:
        return found[0]
    changed = [f"; `code={name}` has different content" for name in codes]
    raise InputError(
        f"{where} was trained with Python code of SHA-256 {recorded.sha256[:12]}, which runs only if you name it: "
        f"if you trust it, pass `code={recorded.file}:{recorded.function}`{''.join(changed)}"
    )


def stored(folder: pathlib.Path, sharding: Sharding, checkpoint: str, where: str) -> tuple[PyTree, Known]:
    """Loads the arrays of a fold, and statistics of clean images, from its checkpoints or, if adapted, its file."""
    if (folder / "checkpoints").is_dir() or not (folder / NAME).is_file():
        arrays, known = stored_model(folder, sharding, checkpoint, where), {}
        if (file := folder / CLEAN).is_file():
            with reading(file):
                known = flax.traverse_util.unflatten_dict(safetensors.numpy.load_file(file), sep=".")
        return arrays, _known_of_layers(known.get(checkpoint, {}))
    about, arrays, known, _ = read_file(folder / NAME)
    if about.checkpoint != checkpoint:
        raise InputError(f"{where} has no {checkpoint} checkpoint")
    return jax.device_put(arrays, sharding), known


def read_file(source: pathlib.Path) -> tuple[Record, PyTree, Known, str]:
    """Reads a model file: its record, its nested arrays, the statistics of clean images, and its identity."""
    with reading(source), safetensors.safe_open(source, "np") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != _FORMAT:
            raise InputError(
                f"the format in the metadata of a model file must be {_FORMAT!r}, got {metadata.get('format')!r:.40}"
            )
        about = Record.of(json.loads(metadata["about"]), "its metadata")
        if not about.complete:
            raise InputError("its training is incomplete")
        flat = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- no dict
        if wrong := [name for name, array in flat.items() if array.dtype != np.float32]:
            raise InputError(f"the array {wrong[0]:.80} must be float32, got {flat[wrong[0]].dtype}")
        arrays = flax.traverse_util.unflatten_dict(flat, sep=".")
        return about, arrays, _known_of_layers(arrays.pop("clean", {})), metadata["identity"]


def named(known: Known, start: str) -> dict[str, np.ndarray]:
    """Returns the means and variances of layers by their names in a file, after `start`."""
    return {
        f"{start}.{name}.{kind}": array
        for name, pair in known.items()
        for kind, array in zip(("mean", "var"), pair, strict=True)
    }


def _known_of_layers(nested: PyTree) -> Known:
    """Returns the means and variances of layers from the nested arrays of a file."""
    flat: dict[str, Any] = flax.traverse_util.flatten_dict(nested, sep=".")
    layers = [name.removesuffix(".mean") for name in flat if name.endswith(".mean")]
    return {name: (flat[f"{name}.mean"], flat[f"{name}.var"]) for name in layers if f"{name}.var" in flat}


def restore(
    model: nnx.State,
    source: PyTree,
    parts: Sequence[str],
    where: str = "the model",
    optional: Sequence[str] = (),
    resized: Sequence[str] = (),
) -> list[str]:
    """Replaces all values in `parts` of a model's state, in place, with arrays from nested dicts keyed by attribute.

    `optional` variables are kept if the source, which an error calls `where`, does not have them. So are the layers
    among `resized` whose shapes differ; their names are returned. An InputError says if an array is missing, has
    another shape, or has no place in the model.
    """
    ours, loaded, stayed = nnx.to_pure_dict(model), {}, []
    for part in parts:
        own, theirs = ours.get(part, {}), source.get(part, {})
        kept = {name: value for name, value in own.items() if name in optional}
        both = own.keys() & theirs.keys() & {*resized}
        differ = {name: own[name] for name in both if _shapes(own[name]) != _shapes(theirs[name])}
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


def _as_batch_norm(normalizer: BatchNorm | Standardize) -> BatchNorm | OwnNormalization:
    if isinstance(normalizer, BatchNorm | OwnNormalization):
        return normalizer
    found = BatchNorm(normalizer.mean[...].size, affine=False, rngs=nnx.Rngs(0))
    found.mean[...], found.var[...] = normalizer.mean[...], jnp.square(normalizer.std[...]) - found.epsilon
    found.eval()
    return found

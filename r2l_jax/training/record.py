"""Run folders, and the metrics.json of each fold: its scores, and how to reproduce them."""

import dataclasses
import hashlib
import json
import pathlib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np

from r2l_jax.cli.flags import flat
from r2l_jax.config import TrainConfig
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.data.splits import Split
from r2l_jax.errors import InputError
from r2l_jax.model.tasks import task_of
from r2l_jax.named_code import Source
from r2l_jax.results.environment import environment

# Flags that may name a file of Python code.
CODE_FLAGS = ("pipeline", "classifier_network", "task", "score")

# Settings that may change when a run is resumed: locations, and how much is recorded. Pipelines, heads and the custom
# split are compared by their content, not by their file names.
_FREE_TO_CHANGE = {
    *("logdir", "data_dir", "split", "download", "overwrite", *CODE_FLAGS),
    *("save_locally", "track", "track_n_images", "adv_track_differences"),
}

# What a run records about its data, and the message if two runs differ in it.
_DATA = {
    "fingerprint": "different samples or classes",
    "data": "different data",
    "camera": "a different camera",
    "cameras": "different cameras",
}

# Settings in which the members of a group may differ.
_FREE_IN_A_GROUP = _FREE_TO_CHANGE | {"seed", "split_seed", "experiment_name", "run_name"}

Indices = list[Annotated[int, msgspec.Meta(ge=0, lt=2**31)]]
Shape = Annotated[list[Annotated[int, msgspec.Meta(ge=1, lt=2**31)]], msgspec.Meta(min_length=2, max_length=3)]


class Record(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A fold as it is recorded, in a metrics.json and in the header of a model file, and as it is read from there."""

    complete: bool
    scored_by: str
    task: Literal["classification", "detection", "segmentation", "numbers"]  # what the targets are
    has_masks: bool
    classes: Annotated[list[str], msgspec.Meta(min_length=1)]
    camera: dict[str, Any] | None  # which the processing started from; None for images that are processed already
    cameras: dict[str, dict[str, Any]] | None = None
    shape: Shape
    # The divisor of samples from files without levels of their own; None is their full range.
    white_level: Annotated[float, msgspec.Meta(gt=0)] | None
    flags: dict[str, Any]
    # Integers stay integers: the id of a training is a hash of their text.
    history: list[dict[str, int | float]]
    in_parts: bool = False  # whether the raw images are parts of frames, and metered as their frames
    fingerprint: str  # a hash of the names and classes of the samples
    train_indices: Indices
    valid_indices: Indices
    test_indices: Indices = []
    best_epoch: int | None = None
    code: dict[str, Source] = {}  # the user's files, by the flags that name them
    weights: str | None = None  # the hash of a frozen head's weights, which are not among the arrays
    adapted: dict[str, Any] | None = None  # where the model came from, if it was adapted after its training
    colors: list[str] = []
    # The state of the model that this describes; a metrics.json has neither of these two.
    checkpoint: Literal["best", "last"] = "best"
    fold: Annotated[int, msgspec.Meta(ge=0)] = 0
    others: dict[str, Any] = {}  # the final scores, the environment, and what other versions record

    @classmethod
    def of(cls, content: Any, where: str, context: str = "") -> "Record":
        """Checks the content of a metrics.json or a header; `where` names it in an error, which `context` ends."""
        try:
            record = msgspec.convert(content, cls)
            if record.complete:
                _ = record.score, record.epoch
            others = {name: value for name, value in content.items() if name not in cls.__struct_fields__}
            return msgspec.structs.replace(record, others=others)
        except msgspec.ValidationError as error:
            reason = str(error).replace("`", "").replace("$.", "")
        except LookupError as error:
            reason = f"its history lacks {error}"
        except (ValueError, OverflowError) as error:
            reason = str(error)
        raise InputError(f"{where} was not written by a run of this program ({reason}){context}")

    @property
    def header(self) -> dict[str, Any]:
        """The content of a model file's header."""
        told = msgspec.to_builtins(self)
        others = told.pop("others", {})
        return {"code": {}, "test_indices": [], "checkpoint": "best", "fold": 0, **told, **others}

    @property
    def content(self) -> dict[str, Any]:
        """The content of a metrics.json."""
        return {name: value for name, value in self.header.items() if name not in ("checkpoint", "fold")}

    @property
    def _row(self) -> dict[str, int | float]:
        return self.history[-1 if self.checkpoint == "last" or self.best_epoch is None else self.best_epoch]

    @property
    def epoch(self) -> int:
        """The epoch that ended in this state, from 0 on."""
        return int(self._row["epoch"])

    @property
    def score(self) -> float:
        """The score of this state on the validation samples."""
        return self._row[f"val_{self.scored_by}"]

    @property
    def state(self) -> str:
        """The state of the model in words, for notes."""
        return state_in_words(self.checkpoint, self.flags["epochs"])

    @property
    def split(self) -> Split:
        """The training samples, by their indices in the data set."""
        return Split(*(np.array(getattr(self, f"{name}_indices"), np.int64) for name in Split._fields))


def state_in_words(checkpoint: str, epochs: int) -> str:
    """Describes a model, such as "best checkpoint"; without training, it is the network as it was given."""
    return f"{checkpoint} checkpoint" if epochs else "network as given"


class Fold(NamedTuple):
    """One of a run's splits, and the folder of its training."""

    number: int
    split: Split
    folder: pathlib.Path


def read_record(file: pathlib.Path, context: str) -> Record:
    """Reads and checks a metrics.json; `context` ends the message of an error."""
    if not file.exists():
        raise InputError(f"{file.parent} is not a trained fold: it has no {file.name}; {context}")
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file} cannot be read ({error}); {context}") from None
    return Record.of(content, str(file), f"; {context}")


def training_id(about: Record) -> str:
    """Computes the id of a training run, which results record: a hash of the epochs' numbers and seconds.

    Training again into the same folder, or adapting the model, changes the id; recording more pictures does not.
    """
    parts = [about.history, *([about.adapted] if about.adapted else [])]
    return hashlib.sha256("".join(map(json.dumps, parts)).encode()).hexdigest()


def check_split(about: Record, dataset: RawDataset, where: str) -> None:
    """Raises an InputError if there are no samples to train or validate on, or if the data set is smaller."""
    for name, indices in about.split._asdict().items():
        if (name != "test" and not len(indices)) or max(indices, default=0) >= len(dataset):
            wanted, found = (
                f"indices of the {len(dataset)} samples",
                f"index {indices.max()}" if len(indices) else "none",
            )
            raise InputError(f"{where} is damaged: {name}_indices must be {wanted}, got {found}")


def describe(config: TrainConfig, dataset: RawDataset) -> dict[str, Any]:
    """Describes a run as metrics.json records it and JSON returns it: its settings, environment and data."""
    named, task = config.processing.named_pipeline, task_of(dataset, config.model)
    head, camera = task.custom, dataset.camera
    sources = {"pipeline": named and named.source, "classifier_network": head and head.source}
    sources |= {"task": task.source, "score": task.score.source}
    optional = {
        "weights": head and head.weights(task.outputs),
        "colors": dataset.colors,
        "in_parts": dataset.in_parts,
        "cameras": {name: json.loads(each.to_json()) for name, each in dataset.cameras.items()},
    }
    return {
        "flags": {name: list(value) if isinstance(value, tuple) else value for name, value in flat(config).items()},
        "code": {flag: dataclasses.asdict(source) for flag, source in sources.items() if source},
        **environment(),
        "seed": config.optimization.seed,
        "task": dataset.task,
        "has_masks": task.has_masks,
        "scored_by": task.score.name,
        "classes": dataset.classes,
        "shape": list(dataset.shape),
        "white_level": dataset.white_level,
        "fingerprint": dataset.fingerprint,
        "data": dataset.content,
        "camera": camera and json.loads(camera.to_json()),
        **{name: value for name, value in optional.items() if value},
    }


def differences(was: Mapping[str, Any], now: Mapping[str, Any], free: Collection[str] = _FREE_TO_CHANGE) -> list[str]:
    """Lists differences between two runs (see `describe`), such as "lr was 0.1, is 0.2", except in `free` settings."""
    before, after = (_settings(each, free) for each in (was, now))
    changed = [name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]
    found = [f"{name} was {before.get(name)!r}, is {after.get(name)!r}" for name in changed]
    return found + [said for name, said in _DATA.items() if was.get(name) != now.get(name)]


def _settings(content: Mapping[str, Any], free: Collection[str]) -> dict[str, Any]:
    """Returns the flags of a run, with its pipeline and its head by the content of the user's files."""
    flags = {name: value for name, value in content["flags"].items() if name not in free}
    for flag in CODE_FLAGS:
        source = content["code"].get(flag)
        said = Source(**source).description if source else content["flags"].get(flag)
        flags["head" if flag == "classifier_network" else flag] = said
    return {**flags, "weights": content.get("weights")}


def fold_number(folder: pathlib.Path, prefix: str = "fold") -> int | None:
    """Returns the number in the name of a fold's folder; None for other folders, such as a copy."""
    match = re.fullmatch(f"{prefix}_(0|[1-9][0-9]{{0,9}})", folder.name)
    return int(match[1]) if match and folder.is_dir() else None


def fold_folders(run: pathlib.Path, prefix: str = "fold") -> list[pathlib.Path]:
    """Lists the folders of a run's folds, by their numbers."""
    numbers = {folder: fold_number(folder, prefix) for folder in run.glob(f"{prefix}_*")}
    return sorted((folder for folder in numbers if numbers[folder] is not None), key=lambda each: numbers[each] or 0)


def seed_folders(group: pathlib.Path) -> list[pathlib.Path]:
    """Lists the folders of a group's members, by their seeds."""
    return fold_folders(group, "seed")


def members(uri: str) -> list[pathlib.Path]:
    """Returns the folders of a group's members, by their seeds; the folder itself if it is a run or a fold."""
    folders = seed_folders(pathlib.Path(uri))
    files = [folder / "fold_0" / "metrics.json" for folder in folders]
    known = {file.parent.parent.name: read_record(file, uri).content for file in files if file.exists()}
    for name, content in known.items():
        if found := differences(next(iter(known.values())), content, _FREE_IN_A_GROUP):
            raise InputError(f"{uri}: {name} differs from the first member in more than the seed: {'; '.join(found)}")
    return folders or [pathlib.Path(uri)]


def fold_folder(uri: str, fold: int, where: str) -> pathlib.Path:
    """Returns the folder of a fold in an earlier run; a fold's folder stands for itself.

    `where` names `uri` in an error, such as the argument with its value.
    """
    root = pathlib.Path(uri)
    # Resolved for links with another name and for ".".
    if fold_number(root.resolve()) is not None:
        return root
    if (root / f"fold_{fold}").is_dir():
        return root / f"fold_{fold}"
    reason = f"found {', '.join(folder.name for folder in fold_folders(root)) or 'no fold_* folder'}"
    if not root.is_dir():
        # A run of the same name in the folder of an experiment.
        deeper = [each for each in root.parent.glob(f"*/{root.name}") if fold_folders(each) or seed_folders(each)]
        reason = f"not found; did you mean {min(deeper)}?" if deeper else "not found"
    raise InputError(f"{where} must be a run folder with a fold_{fold}: {reason}")


def run_names(uris: Sequence[str]) -> list[str]:
    """Returns names of runs for tables and plots: their folders' names, or the given paths if two names are equal."""
    paths = [pathlib.Path(uri).resolve() for uri in uris]
    for number, path in enumerate(paths):
        if path in paths[:number]:
            raise InputError(f"`run={uris[number]}` is given twice")
    names = ["/".join(path.parts[-2:]) if fold_number(path) is not None else path.name for path in paths]
    return names if len(set(names)) == len(names) else list(uris)

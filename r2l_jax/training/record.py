"""The folders of a run's folds, and the metrics.json in each: its numbers, and how to reproduce them."""

import dataclasses
import hashlib
import json
import pathlib
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import msgspec
import numpy as np

from r2l_jax.config import TrainConfig
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.data.splits import Split
from r2l_jax.model.tasks import task_of
from r2l_jax.runtime import store
from r2l_jax.runtime.environment import environment
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.files import write_json
from r2l_jax.runtime.flags import flat
from r2l_jax.runtime.hosts import is_first
from r2l_jax.runtime.named_code import Source
from r2l_jax.training.model_file import PipelineFile, Shape, TaskName

# Settings that may differ when a run is continued: where things are, how much is recorded, and how long it trains.
# Pipelines, heads and the user's own split are compared by their content, not by the names of their files.
_FREE_TO_CHANGE = frozenset(
    {
        *("logdir", "data_dir", "split", "pipeline", "classifier_network", "download", "epochs", "overwrite"),
        *("keep_optimizer", "save_locally", "track", "adv_track_differences"),
    }
)

# Settings in which the members of a group may differ.
_FREE_IN_A_GROUP = _FREE_TO_CHANGE - {"epochs"} | {*("seed", "split_seed", "experiment_name", "run_name")}

_SEED_FOLDER = re.compile("seed_(0|[1-9][0-9]{0,9})")


class Fold(NamedTuple):
    """One of a run's splits.

    Attributes:
        number: which of them.
        train_indices: the samples to train on, by their indices in the data set.
        valid_indices: the samples to validate on.
        folder: the folder of the fold's files.
        test_indices: the samples to test on, which training never reads.
    """

    number: int
    train_indices: np.ndarray
    valid_indices: np.ndarray
    folder: pathlib.Path
    test_indices: np.ndarray = np.zeros(0, np.int64)

    @property
    def metrics_file(self) -> pathlib.Path:
        """The numbers so far, and how to reproduce them."""
        return self.folder / "metrics.json"


def fold_number(folder: pathlib.Path) -> int | None:
    """Returns the number in the name of a fold's folder; None for another folder, such as a copy of one."""
    match = re.fullmatch(r"fold_(0|[1-9][0-9]{0,8})", folder.name)
    return int(match[1]) if match and folder.is_dir() else None


def fold_folders(run: pathlib.Path) -> list[pathlib.Path]:
    """Lists the folders of a run's folds, by their numbers."""
    numbers = {folder: number for folder in run.glob("fold_*") if (number := fold_number(folder)) is not None}
    return sorted(numbers, key=numbers.__getitem__)


def seed_folders(group: pathlib.Path) -> list[pathlib.Path]:
    """Lists the folders of a group's members, by their seeds."""
    seeds = {folder: int(match[1]) for folder in group.glob("seed_*") if (match := _SEED_FOLDER.fullmatch(folder.name))}
    return sorted((folder for folder in seeds if folder.is_dir()), key=seeds.__getitem__)


def members(uri: str) -> list[pathlib.Path]:
    """Returns the folders of a group's members, by their seeds; the folder itself if it is a run or a fold.

    Prints a warning if different source code has trained them.

    Raises:
        InputError: members differ in more than their seeds.
    """
    folders = seed_folders(pathlib.Path(uri)) or [pathlib.Path(uri)]
    known = [folder for folder in folders[len(folders) == 1 :] if (folder / "fold_0" / "metrics.json").exists()]
    read = [read_metrics(folder / "fold_0" / "metrics.json", f"--run={uri}") for folder in known]
    for folder, metrics in zip(known[1:], read[1:], strict=True):
        found = _differences(read[0], metrics)
        if found:
            raise InputError(
                f"--run={uri}: {folder.name} differs from {known[0].name} in more than its seed: {'; '.join(found)}"
            )
    if any(metrics["made_by"] != read[0]["made_by"] for metrics in read) and is_first():
        print(f"warning: the trainings of {uri} were made by different source code or versions of JAX", file=sys.stderr)
    return folders


def _differences(first: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Lists how a training differs from another besides seeds and places, such as "--lr=0.2 instead of 0.1"."""
    was, now = (flat(TrainConfig()) | each["flags"] for each in (first, other))
    found = [
        f"--{name}={now.get(name)} instead of {was.get(name)}"
        for name in sorted(was | now)
        if not _is_free(name, _FREE_IN_A_GROUP) and was.get(name) != now.get(name)
    ]
    for part, (is_now, before) in _parts(other, first):
        found.append(f"the {part} {is_now} instead of {before}")
    words = {"fingerprint": "other samples or classes", "data": "other data", "camera": "another camera"}
    words["cameras"] = "other cameras"
    return found + [words[name] for name in words if first.get(name) != other.get(name)]


def fold_folder(uri: str, fold: int, where: str) -> pathlib.Path:
    """Returns the folder of an earlier run's fold of the same number.

    The head of another fold has been trained on samples that this fold validates on. To use it all the same, name the
    folder of that fold.

    Args:
        uri: an earlier run's folder, or one of its folds' folders.
        fold: the fold of this run.
        where: the name of `uri` in an error, such as its flag with the value.

    Raises:
        InputError: there is no such folder, or it holds no such fold.
    """
    root = pathlib.Path(uri)
    # The folder that is meant, for a link of another name and for ".".
    if fold_number(root.resolve()) is not None:
        return root
    if (root / f"fold_{fold}").is_dir():
        return root / f"fold_{fold}"
    found = ", ".join(folder.name for folder in fold_folders(root)) or "no fold_* folder"
    reason = f"it has {found}" if root.is_dir() else not_found(root)
    raise InputError(f"{where} is not a run's folder with a fold_{fold}: {reason}")


def not_found(run: pathlib.Path) -> str:
    """Says that a run's folder is not there, and names a run of this name in the folder of an experiment."""
    deeper = [each for each in run.parent.glob(f"*/{run.name}") if fold_folders(each) or seed_folders(each)]
    return f"not found; did you mean {min(deeper)}?" if deeper else "not found"


def run_names(uris: Sequence[str]) -> list[str]:
    """Returns names of runs for tables and plots: their folders' names, or the given paths if two names are equal.

    Args:
        uris: folders of runs, or of their folds.

    Raises:
        InputError: two paths lead to one folder.
    """
    paths = [pathlib.Path(uri).resolve() for uri in uris]
    for number, path in enumerate(paths):
        if path in paths[:number]:
            raise InputError(f"--run={uris[number]} is given twice")
    names = ["/".join(path.parts[-2:]) if fold_number(path) is not None else path.name for path in paths]
    return names if len(set(names)) == len(names) else list(uris)


_Indices = list[Annotated[int, msgspec.Meta(ge=0, lt=2**31)]]


class _Metrics(msgspec.Struct):
    """The keys of a metrics.json that are read. It may hold more."""

    complete: bool
    flags: dict[str, Any]
    history: list[dict[str, float]]
    task: TaskName
    classes: list[str]
    shape: Shape
    white_level: float | None
    camera: dict[str, Any] | None
    fingerprint: str
    train_indices: _Indices
    valid_indices: _Indices
    made_by: list[dict[str, str]]
    pipeline: PipelineFile | None = None
    head: PipelineFile | None = None
    weights: str | None = None
    test_indices: _Indices = []


def describe(config: TrainConfig, dataset: RawDataset) -> dict[str, Any]:
    """Describes a run as metrics.json records it: its settings, environment and data."""
    named, flags, task = config.processing.named_pipeline, flat(config), task_of(dataset, config.model)
    head, weights = task.own, task.own and task.own.weights(task.outputs)
    return {
        # As JSON gives them back, since earlier runs are compared with these.
        "flags": {name: list(value) if isinstance(value, tuple) else value for name, value in flags.items()},
        **({"pipeline": dataclasses.asdict(named.source)} if named and named.source else {}),
        **({"head": dataclasses.asdict(head.source)} if head and head.source else {}),
        **({"weights": weights} if weights else {}),
        **environment(),
        "seed": config.optimization.seed,
        "task": dataset.task,
        "classes": dataset.classes,
        "shape": list(dataset.shape),
        "white_level": dataset.white_level,
        "fingerprint": dataset.fingerprint,
        **_describe_data(dataset),
    }


class Record:
    """The metrics.json of a fold.

    Args:
        fold: how the fold splits the data, and where its file is.
        described: the description of the run, see `describe`.
        final: the names of final numbers that a finished fold has.

    Attributes:
        finished: the content, if an earlier call with these settings has trained the fold to its end.

    Raises:
        InputError: the file is there, and is not a fold's.
    """

    def __init__(self, fold: Fold, described: Mapping[str, Any], final: Sequence[str] = ()):
        self._fold, self._described = fold, described
        self._made_by, self.finished = [store.made_by()], None
        if not fold.metrics_file.exists():
            return
        earlier = read_metrics(fold.metrics_file, "start anew with --overwrite")
        self._made_by = [*(maker for maker in earlier["made_by"] if maker not in self._made_by), *self._made_by]
        # A flag that an earlier version did not have stood at its default.
        if earlier["complete"] and flat(TrainConfig()) | earlier["flags"] == described["flags"]:
            for name in final:
                if not isinstance(earlier.get(name), int | float):
                    raise InputError(
                        f"{fold.metrics_file} is damaged: {name} must be a number, got {earlier.get(name)!r:.80}; "
                        "start anew with --overwrite"
                    )
            self.finished = earlier

    def write(self, history: Sequence[Mapping[str, Any]], final: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Writes the file, and returns its content.

        Args:
            history: the numbers of each epoch.
            final: the final numbers; without them, the fold is recorded as unfinished.
        """
        content = self.content(history, final)
        if jax.process_index() == 0:
            write_json(self._fold.metrics_file, content)
        return content

    def content(self, history: Sequence[Mapping[str, Any]], final: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Returns the content that `write` would write."""
        return {
            "complete": final is not None,
            **(final or {}),
            "history": list(history),
            **self._described,
            "made_by": self._made_by,
            "train_indices": self._fold.train_indices.tolist(),
            "valid_indices": self._fold.valid_indices.tolist(),
            "test_indices": self._fold.test_indices.tolist(),
        }


def read_metrics(file: pathlib.Path, context: str) -> dict[str, Any]:
    """Reads a metrics.json.

    Args:
        file: its path.
        context: ends the message of an error.

    Raises:
        InputError: the file cannot be read, or is not a fold's.
    """
    if not file.exists():
        raise InputError(f"{file.parent} is not trained yet: it has no {file.name}; {context}")
    try:
        content = json.loads(file.read_text())
        msgspec.convert(content, _Metrics)
    except msgspec.ValidationError as error:
        reason = str(error).replace("`", "").replace("$.", "")
        raise InputError(f"{file} was not written by a run of this program ({reason}); {context}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file} cannot be read ({error}); {context}") from None
    return content


def training_id(metrics: Mapping[str, Any]) -> str:
    """Identifies the training of a fold by the content of its metrics.json, so that results can name it.

    The id is a hash of the epochs' numbers and seconds: a later training into the same folder has another one, and
    recording more pictures of a finished training does not change it. A model that was mended has another one, too.
    """
    parts = [metrics["history"], *([metrics["mended"]] if metrics.get("mended") else [])]
    return hashlib.sha256("".join(map(json.dumps, parts)).encode()).hexdigest()


def recorded_split(content: Mapping[str, Any], dataset: RawDataset, file: pathlib.Path) -> Split:
    """Returns the split that a metrics.json records; earlier versions recorded no test samples.

    Args:
        content: the result of `read_metrics`.
        dataset: the data set that they are samples of.
        file: the file, for the message of an error.

    Raises:
        InputError: there are none to train or validate on, or the data set is smaller.
    """
    split = split_of(content)
    for name, indices in split._asdict().items():
        if (name != "test" and not len(indices)) or max(indices, default=0) >= len(dataset):
            found = f"one of {indices.max()}" if len(indices) else "none"
            raise InputError(
                f"{file} is damaged: {name}_indices must be some of the {len(dataset)} samples, found {found}"
            )
    return split


def split_of(content: Mapping[str, Any]) -> Split:
    """Returns the split that a metrics.json records, which may be of other data."""
    return Split(*(np.array(content.get(f"{name}_indices", ()), np.int64) for name in Split._fields))


def changed_flags(flags: Mapping[str, Any], earlier: Mapping[str, Any]) -> list[str]:
    """Lists the flags that keep a run from continuing an earlier one, as "name was old, is new"."""
    before = flat(TrainConfig()) | dict(earlier)
    # A cosine ends at the last epoch: with another one, the earlier epochs would have had other learning rates.
    free = _FREE_TO_CHANGE if flags["schedule"] == "constant" else _FREE_TO_CHANGE - {"epochs"}
    changed = [name for name in sorted(flags) if not _is_free(name, free) and before[name] != flags[name]]
    advice = {"epochs": "; for more epochs, a run needs --schedule=constant and --keep_optimizer from the start"}
    return [f"{name} was {before[name]!r}, is {flags[name]!r}{advice.get(name, '')}" for name in changed]


def _is_free(name: str, free: Collection[str]) -> bool:
    return name in free or name.startswith("track_")


def changes(described: Mapping[str, Any], earlier: Mapping[str, Any]) -> list[str]:
    """Lists the reasons why a run cannot continue a fold.

    Args:
        described: the description of the run, see `describe`.
        earlier: the fold's metrics.json.
    """
    found = changed_flags(described["flags"], earlier["flags"])
    for part, (was, now) in _parts(earlier, described):
        found.append(f"{part} was {was}, is {now}")
    if earlier["fingerprint"] != described["fingerprint"]:
        found.append("it has other samples or classes")
    else:
        found += _changed(described, earlier)
    epochs, before = described["flags"]["epochs"], earlier["flags"].get("epochs")
    if before != epochs and 0 in (before, epochs):
        found.append(f"epochs was {before}, is {epochs}")
    elif len(earlier["history"]) > max(epochs, 1):
        found.append(f"it has {len(earlier['history'])} epochs, more than {epochs}")
    return found


def _parts(*runs: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Lists the parts of models that come by name and that differ between runs, as each run has them."""
    parts = {"pipeline": "pipeline", "head": "classifier_network"}
    each = [(part, [_named_part(run, part, flag) for run in runs]) for part, flag in parts.items()]
    return [(part, described) for part, described in each if len(set(described)) > 1]


def _named_part(metrics: Mapping[str, Any], part: str, flag: str) -> str:
    """Describes the pipeline or the head of a run. The content of a user's file counts, not its place."""
    source, weights = metrics.get(part), metrics.get("weights") if part == "head" else None
    flags = flat(TrainConfig()) | metrics["flags"]
    described = Source("", source["function"], source["sha256"]).description if source else repr(flags[flag])
    return f"{described} with weights of SHA-256 {weights[:12]}" if weights else described


def changed_data(dataset: RawDataset, earlier: Mapping[str, Any]) -> list[str]:
    """Lists which of the data has changed since a run recorded it."""
    return _changed(_describe_data(dataset), earlier)


def _changed(described: Mapping[str, Any], earlier: Mapping[str, Any]) -> list[str]:
    names = ("data", "camera", "cameras")
    return list(dict.fromkeys(store.WORDS[name] for name in names if earlier.get(name) != described.get(name)))


def other_makers(earlier: Mapping[str, Any]) -> bool:
    """Returns whether other code has trained a fold, wholly or in part."""
    return any(maker != store.made_by() for maker in earlier["made_by"])


def _describe_data(dataset: RawDataset) -> dict[str, Any]:
    """Describes the data that a run records: its content, and the camera as JSON gives it back."""
    camera = dataset.camera and json.loads(dataset.camera.to_json())
    several = {name: json.loads(each.to_json()) for name, each in dataset.cameras.items()}
    return {"data": dataset.content, "camera": camera, **({"cameras": several} if several else {})}

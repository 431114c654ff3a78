"""A fold's metrics.json: what has been reached so far, and all that a repetition needs."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import jax
import msgspec
import numpy as np

from r2l_jax.config import TrainConfig
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.pipelines import Source
from r2l_jax.runtime import store
from r2l_jax.runtime.environment import environment
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.files import write_json
from r2l_jax.runtime.flags import flat
from r2l_jax.training.about import PipelineFile, Shape, TaskName
from r2l_jax.training.folds import Fold

_Indices = list[Annotated[int, msgspec.Meta(ge=0, lt=2**31)]]


class _Metrics(msgspec.Struct):
    """The keys of a metrics.json that are read. It may hold more; earlier versions lacked those with a default."""

    complete: bool
    flags: dict[str, Any]
    history: list[dict[str, float]]
    fingerprint: str
    train_indices: _Indices
    valid_indices: _Indices
    made_by: list[dict[str, str]] = []
    pipeline: PipelineFile | None = None
    task: TaskName | None = None
    classes: list[str] | None = None
    shape: Shape | None = None
    white_level: float | None = None
    camera: dict[str, Any] | None = None


class Record:
    """The metrics.json of a fold.

    Args:
        config: the run.
        dataset: its samples.
        fold: how the fold splits them, and where its file is.
        final: the names of final numbers that a finished fold has.

    Attributes:
        finished: the content, if an earlier call with these settings has trained the fold to its end.

    Raises:
        InputError: the file is there, and is not a fold's.
    """

    def __init__(self, config: TrainConfig, dataset: RawDataset, fold: Fold, final: Sequence[str] = ()):
        self._config, self._dataset, self._fold = config, dataset, fold
        self._made_by, self.finished = [store.made_by()], None
        if not fold.metrics_file.exists():
            return
        earlier = read_metrics(fold.metrics_file, "start anew with --overwrite")
        self._made_by = [
            *(maker for maker in earlier.get("made_by", []) if maker not in self._made_by),
            *self._made_by,
        ]
        # A flag that an earlier version did not have stood at its default.
        if earlier["complete"] and flat(TrainConfig()) | earlier["flags"] == flat(config):
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
        config, dataset, fold = self._config, self._dataset, self._fold
        return {
            "complete": final is not None,
            **(final or {}),
            "history": list(history),
            **_reproduction(config),
            "seed": config.optimization.seed,
            "task": dataset.task,
            "classes": dataset.classes,
            "shape": list(dataset.shape),
            "white_level": dataset.white_level,
            "fingerprint": dataset.fingerprint,
            **_describe_data(dataset),
            "made_by": self._made_by,
            "train_indices": fold.train_indices.tolist(),
            "valid_indices": fold.valid_indices.tolist(),
        }


def read_metrics(file: pathlib.Path, context: str) -> dict[str, Any]:
    """Reads a metrics.json.

    Args:
        file: its path.
        context: ends the message of an error.

    Raises:
        InputError: the file cannot be read, or is not a fold's.
    """
    try:
        content = json.loads(file.read_text())
        msgspec.convert(content, _Metrics)
    except msgspec.ValidationError as error:
        reason = str(error).replace("`", "").replace("$.", "")
        raise InputError(f"{file} is not what a run of this program writes ({reason}); {context}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file} cannot be read ({error}); {context}") from None
    return content


def training_id(metrics: Mapping[str, Any]) -> str:
    """Identifies the training of a fold by the content of its metrics.json, so that results can name it.

    The id is a hash of the epochs' numbers and seconds: a later training into the same folder has another one, and
    recording more pictures of a finished training does not change it.
    """
    return hashlib.sha256(json.dumps(metrics["history"]).encode()).hexdigest()


def recorded_split(
    content: Mapping[str, Any], dataset: RawDataset, file: pathlib.Path
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices of the training and the validation samples that a metrics.json records.

    Args:
        content: what `read_metrics` returns.
        dataset: the data set that they are samples of.
        file: the file, for the message of an error.

    Raises:
        InputError: there are none, or the data set is smaller.
    """
    splits = []
    for name in ("train_indices", "valid_indices"):
        indices = np.array(content[name], np.int64)
        if len(indices) == 0 or indices.max() >= len(dataset):
            found = f"one of {indices.max()}" if len(indices) else "none"
            raise InputError(f"{file} is damaged: {name} must be of the {len(dataset)} samples, found {found}")
        splits.append(indices)
    train, valid = splits
    return train, valid


def changes(config: TrainConfig, dataset: RawDataset, earlier: Mapping[str, Any]) -> list[str]:
    """Lists what keeps a run from continuing what an earlier one has recorded of a fold."""
    differences = config.differences(earlier["flags"]) + _other_pipeline(config, earlier)
    if earlier["fingerprint"] != dataset.fingerprint:
        differences.append("it has other samples or classes")
    else:
        differences += changed_data(dataset, earlier)
    if len(earlier["history"]) > config.optimization.epochs:
        differences.append(f"it has {len(earlier['history'])} epochs, more than {config.optimization.epochs}")
    return differences


def changed_data(dataset: RawDataset, earlier: Mapping[str, Any]) -> list[str]:
    """Lists which of the data has changed since a run recorded it; earlier versions recorded nothing."""
    return [
        store.WORDS[name]
        for name, value in _describe_data(dataset).items()
        if name in earlier and earlier[name] != value
    ]


def other_makers(earlier: Mapping[str, Any]) -> bool:
    """Tells whether other code has trained a fold, wholly or in part; earlier versions did not record it."""
    return any(maker != store.made_by() for maker in earlier.get("made_by", []))


def _reproduction(config: TrainConfig) -> dict[str, Any]:
    """Collects what a repetition needs: flags, the file of the user's pipeline, git commit, versions, devices."""
    named = config.processing.named_pipeline
    pipeline = {"pipeline": dataclasses.asdict(named.source)} if named and named.source else {}
    return {"flags": flat(config), **pipeline, **environment()}


def _describe_data(dataset: RawDataset) -> dict[str, Any]:
    """Describes the data that a run records: its content, and the camera as JSON gives it back."""
    camera = dataset.camera and json.loads(dataset.camera.to_json())
    return {"data": dataset.content, "camera": camera}


def _other_pipeline(config: TrainConfig, earlier: Mapping[str, Any]) -> list[str]:
    """Says whether the pipeline is another one: the content of the user's file counts, not its place."""
    named, recorded = config.processing.named_pipeline, earlier.get("pipeline")
    if named and named.source and recorded:
        earlier_source = Source("", recorded["function"], recorded["sha256"])
        was, now = earlier_source.description, named.source.description
    else:
        was, now = repr(earlier["flags"].get("pipeline")), repr(config.processing.pipeline)
    return [f"pipeline was {was}, is {now}"] if was != now else []

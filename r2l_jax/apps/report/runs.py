"""Reads the folders of runs for reports and comparisons: records of training, and the results of all programs."""

import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from r2l_jax.cli.flags import arguments, changed, flat
from r2l_jax.config import TrainConfig
from r2l_jax.data.settings import IN_MEMORY
from r2l_jax.drift.synthesis.config import TOGETHER, EvaluationConfig
from r2l_jax.errors import InputError, warn
from r2l_jax.results import result
from r2l_jax.results.result import Result
from r2l_jax.training.record import (
    Record,
    fold_folders,
    fold_number,
    members,
    read_record,
    run_names,
    seed_folders,
    training_id,
)

# Settings of a run's place and name, in which runs always differ.
_NAMES = ("logdir", "experiment_name", "run_name", "overwrite", "download")

# The order of the results on a page; others follow.
_ORDER = ("envelope", "evaluation", "forensics", "adjustment", "monitor", "training")

_OF_ONE = re.compile("(seed|fold)_[0-9]+")


class Numbers(msgspec.Struct):
    """The scores and losses in a metrics.json, of the last and the best epoch, and where they were computed."""

    last: float | None = None
    best: float | None = None
    best_epoch: int | None = None
    val_loss: float | None = None
    best_loss: float | None = None
    git_commit: str | None = None
    versions: dict[str, str | None] = {}
    devices: list[str] = []
    seed: int | None = None


class Fold(NamedTuple):
    """A fold of a run, finished or not.

    Attributes:
        folder: its folder.
        record: what its metrics.json records.
        numbers: the numbers in it.
        score: the name of the score.
    """

    folder: pathlib.Path
    record: Record
    numbers: Numbers
    score: str

    @property
    def is_finished(self) -> bool:
        """Whether the training is complete."""
        return self.record.complete

    @property
    def epochs(self) -> int:
        """How many epochs it was trained for."""
        return len(self.record.history) if self.record.flags.get("epochs") != 0 else 0


class Metadata(msgspec.Struct):
    """The metadata of a result that a report shows."""

    title: str = ""
    verdict: list[str] = []
    notes: list[str] = []
    training: dict[str, str] = {}


class Found(NamedTuple):
    """A result.

    Attributes:
        place: the parts of its folder's path below the folder of the run.
        result: the result.
        metadata: its metadata that is shown.
    """

    place: tuple[str, ...]
    result: Result
    metadata: Metadata

    @property
    def control(self) -> str:
        """The name of the folder in which a program writes its results."""
        return next((part for part in self.place if not _OF_ONE.fullmatch(part)), "results")

    @property
    def of(self) -> str:
        """The member and the fold that the result is about, such as "seed_1/fold_0"; empty if it is about all."""
        return "/".join(part for part in self.place if _OF_ONE.fullmatch(part))


class RunRecord(NamedTuple):
    """A run or a group of seeds, as its folder holds it.

    Attributes:
        name: its name in the report.
        folder: its folder.
        members: the folders of the members of a group, or the run's own.
        folds: the folds of all members.
        results: the results of its present models, in the order of the page.
        left_out: a line for each result that an earlier run left in the folder.
    """

    name: str
    folder: pathlib.Path
    members: Sequence[pathlib.Path]
    folds: Sequence[Fold]
    results: Sequence[Found]
    left_out: Sequence[str]

    @property
    def score(self) -> str:
        """The name of the score."""
        return self.folds[0].score

    @property
    def flags(self) -> Mapping[str, Any]:
        """The training settings; those that an earlier version did not have are at their defaults."""
        return flat(TrainConfig()) | dict(self.folds[0].record.flags)

    @property
    def command(self) -> str:
        """The command that trains the run again, in lines of at most about 80 characters; for arrays, the call."""
        flags = self.folds[0].record.flags
        if str(flags.get("dataset")).startswith(IN_MEMORY):
            given = [f"{name}={value!r}," for name, value in changed(TrainConfig, flags).items() if name != "dataset"]
            return "\n    ".join(["r2l_jax.train(", "data,  # the same arrays", *given]) + "\n)"
        lines = ["python scripts/train.py"]
        for text in arguments(TrainConfig, flags):
            if len(lines[-1]) + len(text) < 78:  # A space is between them, and a backslash after them.
                lines[-1] += f" {text}"
            else:
                lines.append(f"  {text}")
        return " \\\n".join(lines)

    def title(self, fold: Fold) -> str:
        """Returns the name of a fold; a single fold has the name of its run."""
        if len(self.folds) == 1:
            return self.name
        place = fold.folder.relative_to(self.folder) if fold.folder != self.folder else fold.folder.name
        return f"{self.name}/{place}"


def read_runs(uris: Sequence[str]) -> list[RunRecord]:
    """Reads runs, groups of seeds, or folds of runs, finished or not, with all results in their folders.

    Raises:
        InputError: a folder is given twice or does not belong to a run, or a file in it is damaged.
    """
    return [_read_run(uri, name) for uri, name in zip(uris, run_names(uris), strict=True)]


def read_together(runs: Sequence[RunRecord]) -> tuple[list[Found], list[str]]:
    """Reads the joint evaluation of several runs from their common folder: its results, and lines on those left out.

    Raises:
        InputError: it is damaged.
    """
    if len(runs) < 2:
        return [], []
    where = EvaluationConfig(run=tuple(str(run.folder) for run in runs)).output_dir
    return _read_results(where.parent, where, [fold for run in runs for fold in run.folds])


def differing_flags(runs: Sequence[RunRecord]) -> dict[str, list[Any]]:
    """Returns the settings in which runs differ, with the value of each run, ignoring their names and places."""
    # The members of a group have their own seeds.
    flags = [
        {name: value for name, value in run.flags.items() if len(run.members) == 1 or not name.endswith("seed")}
        for run in runs
    ]
    names = dict.fromkeys(name for each in flags for name in each)
    values = {name: [each.get(name) for each in flags] for name in names if name not in _NAMES}
    return {name: each for name, each in values.items() if any(value != each[0] for value in each)}


def _read_run(uri: str, name: str) -> RunRecord:
    folder = pathlib.Path(uri)
    is_fold, of_group = fold_number(folder.resolve()) is not None, members(uri)
    folders = [folder] if is_fold else [fold for member in of_group for fold in fold_folders(member)]
    folds = [_read_fold(each, f"`run={uri}`") for each in folders if (each / "metrics.json").exists()]
    if not folds:
        reason = "it has no fold_* folder with a metrics.json" if folder.is_dir() else "not found"
        raise InputError(f"`run={uri}` is not a run's folder: {reason}")
    return RunRecord(name, folder, of_group, folds, *_read_results(folder, folder, folds))


def _read_fold(folder: pathlib.Path, where: str) -> Fold:
    file = folder / "metrics.json"
    record = read_record(file, f"{where} cannot be shown")
    score, metrics = record.scored_by, record.content
    places = {"last": f"val_{score}", "best": f"best_val_{score}", "best_loss": "best_val_loss"}
    scores = {name: metrics.get(place) for name, place in places.items()}
    try:
        return Fold(folder, record, msgspec.convert({**metrics, **scores}, Numbers), score)
    except msgspec.ValidationError as error:
        raise InputError(f"{file} is damaged ({error}); {where} cannot be shown") from None


def _read_results(root: pathlib.Path, where: pathlib.Path, folds: Sequence[Fold]) -> tuple[list[Found], list[str]]:
    """Reads the results below a folder, and says which ones are left out, since they belong to other models.

    Nested runs, such as adapted ones, are skipped.
    """
    present, known = {training_id(fold.record) for fold in folds}, {fold.folder.parent for fold in folds}
    found, left_out = [], []
    for path, names, files in os.walk(where):
        folder = pathlib.Path(path)
        is_run = seed_folders(folder) or any((each / "metrics.json").exists() for each in fold_folders(folder))
        if folder != where and folder not in known and is_run:
            names.clear()
        # Hidden folders hold unfinished work of programs that were stopped.
        names[:] = [name for name in names if not name.startswith(".") and name != TOGETHER]
        if result.FILE not in files or (read := result.read(folder)) is None:
            continue
        try:
            metadata = msgspec.convert(read.metadata, Metadata)
            read.text()  # A table that cannot be printed cannot be shown.
        except (ValueError, TypeError, LookupError, OverflowError) as error:
            reason = str(error).replace("`", "")
            raise InputError(f"{folder / result.FILE} is damaged ({reason}): remove it or compute it again") from None
        if present.issuperset(metadata.training.values()):
            found.append(Found(folder.relative_to(root).parts, read, metadata))
        else:
            again = "repeat its command for the present models"
            left_out.append(f"{folder / result.FILE} is left out: it belongs to other models; {again}")
            warn(left_out[-1])
    return sorted(found, key=_place), sorted(left_out)


def _place(found: Found) -> tuple[Any, ...]:
    """Returns a sort key: by program, first those on all models, and by number, so that fold_2 is before fold_10."""
    order = _ORDER.index(found.control) if found.control in _ORDER else len(_ORDER)
    numbers = [int(part) if part.isdecimal() else part for part in re.split("([0-9]+)", "/".join(found.place))]
    return order, found.control, len(found.of) > 0, numbers

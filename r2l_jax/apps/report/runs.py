"""The folders of runs as reports and comparisons read them: records of training, and the results of other programs."""

import dataclasses
import os
import pathlib
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from r2l_jax.apps.report.events import Recorded, read_events
from r2l_jax.config import TrainConfig
from r2l_jax.drift import results
from r2l_jax.model.tasks import TASKS
from r2l_jax.runtime.errors import InputError, warn
from r2l_jax.runtime.flags import flat, leaves
from r2l_jax.training.record import fold_folders, fold_number, members, read_metrics, run_names, training_id

ANALYSES: Mapping[str, type] = {
    "sensitivity": results.Sensitivity,
    "tolerances": results.Tolerances,
    "worst_case": results.WorstCases,
    "shots": results.Shots,
}

# The place and the name of a run: runs are not compared by these settings.
_NAMES = ("logdir", "experiment_name", "run_name", "overwrite", "download")

_EPOCH = re.compile("epoch_([0-9]{4,9})")


class Final(msgspec.Struct):
    """The numbers of a finished fold: last and best scores, the default score of adversarial training, and others."""

    last: float
    best: float
    default: float | None
    best_epoch: results.Count
    val_loss: float
    best_loss: float | None = None
    val_precision: dict[str, float] = {}
    val_recall: dict[str, float] = {}
    val_f1: dict[str, float] = {}
    val_samples: dict[str, float] = {}
    val_confusion_matrix: list[list[float]] = []


class Environment(msgspec.Struct):
    """The environment that a fold was trained in."""

    git_commit: str | None = None
    versions: dict[str, str | None] = {}
    devices: list[str] = []
    seed: int | None = None


@dataclasses.dataclass(frozen=True)
class FoldRecord:
    """A fold of a run, finished or not.

    Attributes:
        number: its number.
        folder: its folder.
        flags: the settings of its training.
        history: the numbers of each epoch.
        score: the name of the score; None before the end of the first epoch.
        final: the numbers of a finished fold; None before the end of the training.
        environment: where it was trained.
        camera: the camera that the processing started from, as JSON; None for processed images.
        fingerprint: the hash of the samples and classes.
        training: the id of the training, see `record.training_id`.
        samples: the numbers of samples for training and for validation.
        measured: the samples that controls measure: "test" or "validation", and their indices.
        chance: the accuracy of a guess; None for scores other than accuracy.
        recorded: the parameters over epochs.
        pictures: the pictures of each epoch, by their names such as "stages/0_demosaic".
    """

    number: int
    folder: pathlib.Path
    flags: Mapping[str, Any]
    history: Sequence[Mapping[str, float]]
    score: str | None
    final: Final | None
    environment: Environment
    camera: Mapping[str, Any] | None
    fingerprint: str
    training: str
    samples: tuple[int, int]
    measured: tuple[str, list[int]]
    chance: float | None
    recorded: Recorded
    pictures: Mapping[int, Mapping[str, pathlib.Path]]

    def course(self, name: str) -> tuple[list[float], list[float]]:
        """Returns the epochs, from 1 on, in which a number was recorded, and the numbers."""
        rows = [row for row in self.history if name in row]
        return [row["epoch"] + 1 for row in rows], [row[name] for row in rows]


class Analyses(NamedTuple):
    """The forensics of a fold by name, see `ANALYSES`, and their folder."""

    fold: int
    folder: pathlib.Path
    found: Mapping[str, Any]


class RunRecord(NamedTuple):
    """A run, as its folder holds it.

    Attributes:
        name: its name in the report.
        folder: its folder.
        folds: its folds.
        evaluation: the result of evaluate.py; None without one.
        analyses: the results of forensics.py.
        adaptation: the result of adjust.py; None without one.
        left_out: a line for each result that another training has left in the folder.
        members: the folders of the members of a group, or the run's own.
        forensics: the summary of forensics.py over the members of a group; None without one.
    """

    name: str
    folder: pathlib.Path
    folds: Sequence[FoldRecord]
    evaluation: results.Evaluation | None
    analyses: Sequence[Analyses]
    adaptation: results.Adaptation | None
    left_out: Sequence[str]
    members: Sequence[pathlib.Path]
    forensics: results.Forensics | None

    @property
    def score(self) -> str:
        """The name of the score."""
        return next((fold.score for fold in self.folds if fold.score), "score")

    @property
    def planned(self) -> int:
        """The number of trainings, also those that have not begun."""
        begun = [fold.folder.parent for fold in self.folds]
        return len(begun) + sum(member not in begun for member in self.members if len(self.members) > 1)

    @property
    def flags(self) -> Mapping[str, Any]:
        """The settings of the training; those that an earlier version did not have are at their defaults."""
        return flat(TrainConfig()) | dict(self.folds[0].flags)

    @property
    def command(self) -> str:
        """The command that trains the run again, in lines of at most about 80 characters."""
        defaults, values_apart = flat(TrainConfig()), {leaf.name for leaf in leaves(TrainConfig) if leaf.declared.kind}
        lines = ["python scripts/train.py"]
        for name, value in self.folds[0].flags.items():
            # In JSON, tuples are lists.
            default = defaults.get(name)
            if value is None or value == (list(default) if isinstance(default, tuple) else default):
                continue
            value = ",".join(map(str, value)) or "none" if isinstance(value, list) else value
            switch = isinstance(value, bool) and name not in values_apart
            text = f"--{'' if value else 'no'}{name}" if switch else shlex.quote(f"--{name}={value}")
            if len(lines[-1]) + len(text) < 78:  # A space is between them, and a backslash after them.
                lines[-1] += f" {text}"
            else:
                lines.append(f"  {text}")
        return " \\\n".join(lines)

    def title(self, fold: int) -> str:
        """Returns the name of a fold; a single fold has the name of its run."""
        return self.name if len(self.folds) == 1 else f"{self.name}, fold {fold}"


def read_runs(uris: Sequence[str]) -> list[RunRecord]:
    """Reads runs, groups of trainings, or folds of runs, finished or not, with all results in their folders.

    A group has the folds of all of its members.

    Raises:
        InputError: a folder is given twice or does not belong to a run, or a file in it is damaged.
    """
    return [_read_run(uri, name) for uri, name in zip(uris, run_names(uris), strict=True)]


def read_members(runs: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    """Reads the members of the groups among some records, those that have begun to train, by the groups' names."""
    found = {}
    for run in runs:
        if list(run.members) != [run.folder]:
            begun = dict.fromkeys(fold.folder.parent for fold in run.folds)
            found[run.name] = [_read_run(str(folder), f"{run.name}/{folder.name}") for folder in begun]
    return found


def joint_evaluation(runs: Sequence[RunRecord]) -> tuple[pathlib.Path, results.Evaluation | str] | None:
    """Returns the evaluation of several runs together, and its folder.

    evaluate.py writes it to the innermost folder of the runs that it tests. If it tested other trainings of any of its
    runs, a line that says so is returned in its place.

    Raises:
        InputError: it is damaged, or so is a run that it tests.
    """
    if len(runs) < 2:
        return None
    folder = pathlib.Path(os.path.commonpath([run.folder.resolve() for run in runs])) / "evaluation"
    found = results.read_result(folder / "evaluation.json", results.Evaluation)
    tested = set() if found is None else {pathlib.Path(run.folder).resolve() for run in found.runs.values()}
    if found is None or not tested.intersection(run.folder.resolve() for run in runs):
        return None
    are_present = all(run.trainings <= _trainings(pathlib.Path(run.folder)) for run in found.runs.values())
    return folder, found if are_present else _left_out(folder / "evaluation.json")


def _trainings(run: pathlib.Path) -> set[str]:
    """Reads the ids of the present trainings of a run's folds."""
    files = [file for fold in fold_folders(run) if (file := fold / "metrics.json").exists()]
    return {training_id(read_metrics(file, "make it anew or move it away")) for file in files}


def _left_out(file: pathlib.Path) -> str:
    return f"{file} is left out: it belongs to another training; the same command makes it anew for the present one"


def common_score(runs: Sequence[RunRecord]) -> str:
    """Returns the name of the score of runs; "score" if they have different ones."""
    names = {run.score for run in runs}
    return names.pop() if len(names) == 1 else "score"


def common_chance(runs: Sequence[RunRecord]) -> float | None:
    """Returns the accuracy of a guess, if it is the same for all runs."""
    chances = {fold.chance for run in runs for fold in run.folds}
    return chances.pop() if len(chances) == 1 else None


def differing_flags(runs: Sequence[RunRecord]) -> dict[str, list[Any]]:
    """Returns the settings in which runs differ, with the value of each run; their names and places do not count."""
    # The members of a group have seeds of their own.
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
    folders = [each for each in folders if (each / "metrics.json").exists()]
    if not folders:
        reason = "it has no fold_* folder with a metrics.json" if folder.is_dir() else "not found"
        raise InputError(f"--run={uri} is not a run's folder: {reason}")
    folds = [_read_fold(each, f"--run={uri}") for each in folders]
    present = {fold.training for fold in folds}
    left_out = []

    def read(file: pathlib.Path, kind: type) -> Any:
        """Reads a result, unless it belongs to another training."""
        result = results.read_result(file, kind)
        if result is None or result.trainings <= present:
            return result
        left_out.append(_left_out(file))
        warn(left_out[-1])
        return None

    def read_analyses(place: pathlib.Path) -> Analyses:
        found = {name: read(place / name / f"{name}.json", kind) for name, kind in ANALYSES.items()}
        return Analyses(
            fold_number(place) or 0, place, {name: each for name, each in found.items() if each is not None}
        )

    return RunRecord(
        name,
        folder,
        folds,
        read(folder / "evaluation" / "evaluation.json", results.Evaluation),
        [found for each in fold_folders(folder / "forensics") if (found := read_analyses(each)).found],
        read(folder / "adjustment" / "adaptation.json", results.Adaptation),
        left_out,
        of_group,
        read(folder / "forensics" / "forensics.json", results.Forensics),
    )


def _read_fold(folder: pathlib.Path, where: str) -> FoldRecord:
    file = folder / "metrics.json"
    metrics = read_metrics(file, f"{where} cannot be shown")
    history = [{name: float(value) for name, value in row.items()} for row in metrics["history"]]
    of_tasks = {name: task.score for task in TASKS for name in (f"train_{task.score}", f"val_{task.score}")}
    score = next((of_tasks[name] for name in of_tasks if history and name in history[0]), None)
    if any("epoch" not in row for row in history) or (metrics["complete"] and score is None):
        raise InputError(f"{file} is damaged: its history lacks the epochs or their score; {where} cannot be shown")
    places = {"last": f"val_{score}", "best": f"best_val_{score}", "default": f"default_val_{score}"}
    places["best_loss"] = "best_val_loss"
    scores = {name: metrics.get(place) for name, place in places.items()}
    return FoldRecord(
        fold_number(folder.resolve()) or 0,
        folder,
        metrics["flags"],
        # Without a training, there was no epoch.
        history if metrics["flags"].get("epochs") != 0 else [],
        score,
        results.converted({**metrics, **scores}, Final, file) if metrics["complete"] else None,
        results.converted(metrics, Environment, file),
        metrics.get("camera"),
        metrics["fingerprint"],
        training_id(metrics),
        (len(metrics["train_indices"]), len(metrics["valid_indices"])),
        ("test", metrics["test_indices"]) if metrics.get("test_indices") else ("validation", metrics["valid_indices"]),
        1 / len(metrics["classes"]) if score == "accuracy" else None,
        read_events(folder),
        _pictures(folder / "results"),
    )


def _pictures(folder: pathlib.Path) -> dict[int, dict[str, pathlib.Path]]:
    """Lists the pictures of each epoch, by their names without the ending, in the order of the stages."""
    found = {}
    for epoch in sorted(folder.glob("epoch_*")):
        if match := _EPOCH.fullmatch(epoch.name):
            files = {file.relative_to(epoch).with_suffix("").as_posix(): file for file in epoch.rglob("*.png")}
            found[int(match[1])] = {name: files[name] for name in sorted(files, key=_parts)}
    return found


def _parts(name: str) -> list[str | int]:
    """Divides a name into texts and numbers: sorted by these, the tenth stage comes after the second."""
    return [int(part) if part.isdecimal() else part for part in re.split("([0-9]+)", name)]

"""The time that a study takes, from one epoch that is measured, or from the jobs that have been run."""

import contextlib
import hashlib
import io
import json
import math
import pathlib
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tqdm import tqdm

from r2l_jax.apps.study.config import StudyConfig
from r2l_jax.apps.study.plan import StudyJob
from r2l_jax.config import TrainConfig
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.drift.synthesis.config import EvaluationConfig
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.flags import flat, replace
from r2l_jax.runtime.resume import Table
from r2l_jax.runtime.tables import table as text_table
from r2l_jax.training import train

# A step of training or of a search costs about as much as three images that are only classified: one pass forward, and
# two for the gradient.
_STEP = 3


class Samples(NamedTuple):
    """The numbers of samples of a fold: to train on, and to validate on."""

    train: int
    valid: int

    @classmethod
    def of(cls, config: StudyConfig, dataset: RawDataset) -> "Samples":
        """Returns the numbers of samples in each fold of a study."""
        train = math.floor(config.data.train_size * len(dataset))
        return cls(train, len(dataset) - train)


class Speed(NamedTuple):
    """How fast jobs are.

    Attributes:
        seconds_per_pass: the seconds of one sample's pass through the network.
        start: the seconds that a job takes to load data and to compile.
    """

    seconds_per_pass: float
    start: float


class Entry(NamedTuple):
    """A finished job: its name and kind, a hash of its settings, the seconds that it took, and its `passes`."""

    job: str
    kind: str
    settings: str
    seconds: float
    passes: int


class Ledger:
    """The finished jobs of a study, in the table `jobs.csv`.

    Args:
        output: the folder of the study.

    Raises:
        InputError: the table is damaged.
    """

    def __init__(self, output: pathlib.Path):
        self._table = Table(output / "jobs.csv", Entry._fields)
        try:
            rows = self._table.rows().values()
            entries = [
                Entry(row["job"], row["kind"], row["settings"], float(row["seconds"]), int(row["passes"]))
                for row in rows
            ]
        except ValueError as error:
            raise InputError(f"{self._table.file} is damaged ({error}): remove it; only an estimate is lost") from None
        self._entries = {entry.job: entry for entry in entries}

    def has(self, job: StudyJob) -> bool:
        """Tells whether a job of the same settings is finished."""
        return job.name in self._entries and self._entries[job.name].settings == _hash(job)

    def add(self, job: StudyJob, seconds: float, passes: int) -> None:
        """Adds a finished job; if it is there already, it had nothing left to do, and its entry stays."""
        if not self.has(job):
            self._entries[job.name] = entry = Entry(job.name, job.kind, _hash(job), seconds, passes)
            self._table.add([entry._asdict()])

    def seconds_per_pass(self, kind: str) -> float | None:
        """Returns the mean seconds of a pass in the finished jobs of a kind; None without such jobs."""
        entries = [entry for entry in self._entries.values() if entry.kind == kind]
        passes = sum(entry.passes for entry in entries)
        return sum(entry.seconds for entry in entries) / passes if passes else None


def _hash(job: StudyJob) -> str:
    return hashlib.sha256(json.dumps(flat(job.config), sort_keys=True).encode()).hexdigest()


def passes(job: StudyJob, samples: Samples) -> int:
    """Returns the work of a job in forward passes of one sample; a gradient step counts as several."""
    config = job.config
    if isinstance(config, TrainConfig):
        return job.folds * config.optimization.epochs * (_STEP * samples.train + samples.valid)
    if isinstance(config, EvaluationConfig):
        return job.folds * len(config.cases()) * samples.valid
    worst = config.worst_case
    searches = len(worst.adv_parameters) * len(worst.adv_aux_weight) * worst.starts
    return job.folds * searches * (_STEP * worst.steps * config.batch_size + samples.valid)


def measure(config: StudyConfig) -> Speed:
    """Measures the speed of training in one discarded epoch of the study's first pipeline."""
    name = next(iter(config.pipelines.values()))
    with tempfile.TemporaryDirectory() as folder:
        training = replace(
            config.training_of("epoch", pipeline=name),
            logdir=folder,
            n_splits=1,
            epochs=1,
            warmup_epochs=0.0,
            log_model=False,
        )
        started = time.monotonic()
        with contextlib.redirect_stdout(io.StringIO()):
            train.run(training)
        whole = time.monotonic() - started
        metrics = json.loads((training.run_dir / "fold_0" / "metrics.json").read_text())
    seconds = metrics["history"][0]["seconds"]
    return Speed(seconds / (_STEP * len(metrics["train_indices"])), whole - seconds)


def table(
    jobs: Sequence[StudyJob], ledger: Ledger, samples: Samples, measured: Callable[[], Speed], workers: int
) -> str:
    """Formats the jobs that are left, by control and kind, and the estimate of their time.

    Args:
        jobs: all jobs of the study.
        ledger: the finished jobs, whose speed is assumed for the others of their kind.
        samples: the numbers of samples of a fold.
        measured: measures the speed for kinds without a finished job.
        workers: how many jobs run at a time.
    """
    left = [job for job in jobs if not ledger.has(job)]
    unknown = {job.kind for job in left if ledger.seconds_per_pass(job.kind) is None}
    speed = measured() if unknown else None
    rows, total = [["control", "jobs", "number", "finished", "time left"]], 0.0
    for control, kind in dict.fromkeys((job.control, job.kind) for job in jobs):
        here = [job for job in left if (job.control, job.kind) == (control, kind)]
        count = sum((job.control, job.kind) == (control, kind) for job in jobs)
        seconds = math.fsum(_seconds(job, ledger, samples, speed) for job in here)
        total += seconds
        rows.append([control, _PLURALS[kind], str(count), str(count - len(here)), tqdm.format_interval(seconds)])
    rows.append(["all", "", str(len(jobs)), str(len(jobs) - len(left)), tqdm.format_interval(total)])
    names = "\n".join(f"{'finished' if job not in left else 'to do':8}  {job.name}" for job in jobs)
    shared = tqdm.format_interval(total / workers)
    on_workers = f"\nwith {workers} workers at a time about {shared}" if workers > 1 else ""
    return f"{names}\n\n{text_table(rows)}{on_workers}"


_PLURALS = {"training": "trainings", "evaluation": "evaluations", "search": "searches"}


def _seconds(job: StudyJob, ledger: Ledger, samples: Samples, speed: Speed | None) -> float:
    work, known = passes(job, samples), ledger.seconds_per_pass(job.kind)
    if known is not None:
        return known * work
    assert speed is not None
    return speed.start * (work > 0) + speed.seconds_per_pass * work

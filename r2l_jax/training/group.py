"""A group of seeds: runs of one training recipe that differ only in their seeds."""

import functools
import pathlib
import time
from collections.abc import Mapping

import numpy as np

from r2l_jax import jobs
from r2l_jax.cli.progress import say
from r2l_jax.config import GroupSettings, TrainConfig
from r2l_jax.data.sets import datasets
from r2l_jax.devices.hosts import is_first, on_first_process, refuse_several_processes
from r2l_jax.errors import InputError
from r2l_jax.results.locks import writing_to
from r2l_jax.results.tables import table
from r2l_jax.training import tracking, train
from r2l_jax.training.record import fold_folders, read_record
from r2l_jax.training.steps import GradientDescent


def run(config: TrainConfig, settings: GroupSettings, rule: type[GradientDescent] = GradientDescent) -> None:
    """Trains the members of a group, or finishes the work of an earlier call, and prints their scores.

    Each member is an ordinary run in `<run>/seed_<s>/`. In one process, all of them share their compiled steps.
    """
    folder, started = config.run_dir, time.monotonic()
    members = settings.members(config)
    if fold_folders(folder):
        raise InputError(f"{folder} is a single run: choose another `run_name` for the group")
    with writing_to(folder):
        # Readers of the group can see how many runs it will have.
        on_first_process(lambda: [member.run_dir.mkdir(exist_ok=True) for member in members.values()])
        if settings.scheduler == "serial":
            for number, (name, member) in enumerate(members.items(), start=1):
                if is_first():
                    say(f"{name}, {number} of {len(members)}")
                train.run(member, rule, shows=False)
        else:
            _train_elsewhere(members, settings.scheduler, rule, folder / "logs")
        if is_first():
            print(f"{_table(members)}\n")
            print(tracking.closing(config, time.monotonic() - started))


def _train_elsewhere(
    members: Mapping[str, TrainConfig], scheduler: str, rule: type[GradientDescent], logs: pathlib.Path
) -> None:
    """Trains members as jobs, and prints the outcome of each. A failure does not stop the others."""
    refuse_several_processes()
    # Rendered or downloaded once here, not by each worker.
    data = next(iter(members.values())).data
    datasets.load(data.dataset, download=data.download, **data.source)
    work = [jobs.Job(name, functools.partial(train.run, member, rule, shows=False)) for name, member in members.items()]
    if failed := jobs.failures(work, scheduler, logs):
        raise InputError("; ".join(f"{name}: {error}" for name, error in failed.items()))


def _table(members: Mapping[str, TrainConfig]) -> str:
    """Formats the members' scores in points, averaged over folds, with the mean and range over members."""
    rows, scores, validated = [], [], 0
    for name, member in members.items():
        files = [folder / "metrics.json" for folder in fold_folders(member.run_dir)]
        folds = [read_record(file, "start over with `overwrite`") for file in files]
        validated, kinds = len(folds[0].valid_indices), [f"{each}val_{folds[0].scored_by}" for each in ("", "best_")]
        scores.append([100 * np.mean([fold.others[each] for fold in folds]) for each in kinds])
        rows = rows or [["", *(each.replace("_", " ") for each in kinds)]]
        rows.append([name, *(f"{score:.3g}" for score in scores[-1])])
    rows.append(["mean", *(f"{score:.3g}" for score in np.mean(scores, 0))])
    rows.append(["range", *(f"{min(each):.3g} to {max(each):.3g}" for each in zip(*scores, strict=True))])
    return f"{table(rows)}\nScores in points, on {validated} validation samples"

"""Trains the folds of a run, from a TrainConfig to metrics.json."""

import dataclasses
import functools
import pathlib
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils

from r2l_jax.cli import stop
from r2l_jax.cli.progress import Bar
from r2l_jax.cli.stop import Interrupted
from r2l_jax.config import TrainConfig
from r2l_jax.data import loader
from r2l_jax.data.loader import Batch
from r2l_jax.devices.hosts import any_process, is_first, on_first_process
from r2l_jax.devices.placement import OneAhead, each_on_devices, shardings, to_devices
from r2l_jax.errors import InputError, warn
from r2l_jax.model.normalized_heads import has_gradient
from r2l_jax.model.tasks import Task
from r2l_jax.results.files import EVENTS, check_output_folder, write_json, write_safetensors
from r2l_jax.results.locks import writing_to
from r2l_jax.training import tracking
from r2l_jax.training.artifact import Artifact
from r2l_jax.training.checkpoint import Checkpoints, Quality, drop_optimizer
from r2l_jax.training.model_io import CLEAN, NAME, named, restore, stored_arrays
from r2l_jax.training.plan import Plan
from r2l_jax.training.record import Fold, Record, fold_folders, read_record, seed_folders
from r2l_jax.training.results import write_result
from r2l_jax.training.start import initial_state
from r2l_jax.training.steps import Steps, TrainState, make_steps
from r2l_jax.training.update import GradientDescent

Numbers = dict[str, Any]

# Arrays `(S, ...)` of samples by name, see `Task.outcome`.
Outcome = dict[str, np.ndarray]

# Wider progress bars break on small terminals and in logs.
_COLUMNS = 80


def run(config: TrainConfig, rule: type[GradientDescent] = GradientDescent, shows: bool = True) -> Numbers:
    """Trains every fold of a run, or finishes the work of an earlier call with the same settings.

    Writes `<logdir>/<experiment_name>/<run_name>/fold_<k>/` and `summary.json`, whose content it returns: the mean and
    standard deviation over the folds of each final number. `shows` prints tables of the scores and the next commands.
    SIGINT and SIGTERM raise `Interrupted`; the same call resumes where this one stopped.
    """
    run_dir, started = config.run_dir, time.monotonic()
    on_first_process(lambda: check_output_folder(run_dir))
    plan = Plan(config, rule)
    config = plan.config
    if seed_folders(run_dir):
        raise InputError(f"{run_dir} is a group of seeds: choose another `run_name`")
    with writing_to(run_dir):
        plan.check_folders()
        if is_first() and config.tracking.overwrite:
            _remove(run_dir)
        multihost_utils.sync_global_devices("run folder prepared")
        steps, results = make_steps(plan.steps, rule), []
        with stop.after_step():
            for fold in plan.folds:
                with writing_to(fold.folder):
                    results.append(FoldTraining(plan, steps, fold).finish())
        summary = _summary(steps, results)
        if is_first():
            write_json(run_dir / "summary.json", summary)
            if shows:
                _show(config, steps, results, summary, time.monotonic() - started)
        return summary


def _remove(run_dir: pathlib.Path) -> None:
    """Removes an earlier run, except for folders without training files, which belong to the user."""
    for fold in fold_folders(run_dir):
        if any(any(fold.glob(pattern)) for pattern in ("metrics.json", "checkpoints", EVENTS)):
            with writing_to(fold):
                shutil.rmtree(fold)
    (run_dir / "summary.json").unlink(missing_ok=True)


def _summary(steps: Steps, results: Sequence[Numbers]) -> Numbers:
    """Computes the mean and the standard deviation of the final numbers over the folds."""
    by_default = [name for name in results[0] if name.startswith("default_val_")]
    names = [name for name in (*steps.summary, *by_default) if name in results[0]]
    values = {name: [result[name] for result in results] for name in names}
    return {
        name: {"mean": float(np.mean(each)), "std": float(np.std(each)), "folds": each} for name, each in values.items()
    }


def _show(config: TrainConfig, steps: Steps, results: Sequence[Numbers], summary: Numbers, seconds: float) -> None:
    task = steps.task
    if task.classes:
        print(tracking.class_table(results, task.class_metrics))
    if config.optimization.epochs > 0:
        print(f"\n{tracking.run_table(results, summary)}")
    elif task.score.name == "accuracy" and (found := summary["val_accuracy"]["mean"]) <= 0.2 + 0.8 / len(task.classes):
        warn(
            f"an accuracy of {found:.3f} is close to chance, so drift can hardly lower it: if the network should do "
            "better, check its mean and std, its size and the order of its classes"
        )
    head = steps.architecture.frozen_head
    print(f"\n{tracking.closing(config, seconds, head is None or has_gradient(head))}")


def _joined(batches: Sequence[Mapping[str, Any]]) -> Outcome:
    """Joins the outcomes of batches on the host, without samples that only pad a batch."""
    joined = jax.tree.map(lambda *parts: np.concatenate(parts), *map(dict, jax.device_get(batches)))
    return {name: array[joined["weight"] > 0] for name, array in joined.items()}


def _by_class(task: Task, outcome: Outcome) -> Numbers:
    """Returns the validation scores of each class, with its samples, and the confusion matrix if the task has one."""
    weights = outcome["weight"]
    scores, confusion = task.by_class(outcome, weights), task.confusion(outcome, weights)
    return {
        **{f"val_{name}": dict(zip(task.classes, values, strict=True)) for name, values in scores.items()},
        "val_samples": task.class_samples(outcome),
        **({} if confusion is None else {"val_confusion_matrix": confusion.tolist()}),
    }


class FoldTraining:
    """Trains one fold of a run."""

    def __init__(self, plan: Plan, steps: Steps, fold: Fold):
        self._plan, self._config, self._steps, self._fold = plan, plan.config, steps, fold
        self._task, self._rule, self._dataset, self._batches = steps.task, steps.rule, plan.dataset, plan.batches
        self._optimization, self._wanted = plan.config.optimization, plan.config.tracking
        self._finished, self._adds = None, False
        if fold.metrics_file.exists():
            earlier = read_record(fold.metrics_file, "start over with `overwrite`")
            if earlier.complete and earlier.flags == plan.described["flags"]:
                self._finished = earlier.content
            self._adds = earlier.complete  # pictures that this call requests and the earlier one did not
        self._history: list[Numbers] = []
        self._validated: Outcome | None = None  # the outcome of the last validation

    def finish(self) -> Numbers:
        """Trains from the start or the last checkpoint to the end, and returns the content of metrics.json."""
        content, folder = self._finished, self._fold.folder / "checkpoints"
        if content is None:
            with Checkpoints(folder, enabled=self._wanted.log_model) as checkpoints:
                state, final = self._train(checkpoints)
            content = self._content(final)
            if self._wanted.save_locally or self._optimization.camera_augmentation:
                # After the checkpoints are complete, and before the fold counts as finished.
                self._write_models(content, state)
            if is_first():
                write_result(self._fold, content, self._task, self._steps.architecture.abstract().processor)
            self._record(content)
        if is_first() and not self._rule.state_is_result:
            drop_optimizer(folder)
        return content

    def _train(self, checkpoints: Checkpoints) -> tuple[TrainState, Numbers]:
        """Returns the state after the last epoch, and the final numbers."""
        steps, wanted, dataset, batches = self._steps, self._wanted, self._dataset, self._batches
        epochs, seed, samples = self._optimization.epochs, self._optimization.seed, self._fold.split.train
        init_key, step_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), self._fold.number))
        state = initial_state(steps, self._config, dataset, self._fold, batches.size, init_key, checkpoints.found)
        start = None if checkpoints.found else jax.device_get(state.processor)
        state, self._history, earlier = checkpoints.restore(state)
        history, last_step = self._history, epochs * batches.per_epoch
        loaded = loader.train_batches(dataset, samples, batches.size, seed, int(state.step))
        tracker = tracking.Tracker(self._fold.folder, len(history), "arrays" in wanted.track, enabled=is_first())
        with self._bar(int(state.step), last_step) as bar, tracker:
            self._record(self._content())
            if start is not None:
                tracker.start(start)
            if not epochs and not history:
                started = time.perf_counter()
                history.append({"epoch": 0, **self._scores("val", self._validate(state))})
                history[0]["seconds"] = time.perf_counter() - started
                tracking.record_samples(tracker, wanted, dataset, steps, state, 0)
                checkpoints.save(state, history, self._quality(history[0]))
            for epoch in range(len(history), epochs):
                key = jax.random.fold_in(step_key, epoch)
                state, outcome, speed = self._epoch(state, loaded, key, earlier, bar, checkpoints)
                state, row, sums = self._end_epoch(state, outcome, epoch, speed)
                earlier = {}
                # Before the checkpoint: a call that resumes from it records only later epochs.
                rate = steps.settings.optimizer.rate.at(int(state.step) - 1)
                tracker.scalars({"learning_rate": rate, "images_per_second": speed}, epoch)
                if "every_epoch" in wanted.track or epoch + 1 == epochs:
                    tracking.record_samples(tracker, wanted, dataset, steps, state, epoch)
                tracker.epoch(steps, state, row, sums, batches.per_epoch)
                history.append(row)
                checkpoints.save(state, history, self._quality(row))
                self._say(bar, row)
                self._record(self._content())
                if epoch + 1 < epochs and any_process(stop.requested()):
                    raise self._interrupted(f"after epoch {epoch + 1} of {epochs}")
            final = self._final(state)
            if self._adds:
                tracking.record_samples(tracker, wanted, dataset, steps, state, history[-1]["epoch"])
        return state, final

    def _epoch(
        self,
        state: TrainState,
        loaded: Iterator[Batch],
        key: jax.Array,
        earlier: Outcome,
        bar: Bar,
        checkpoints: Checkpoints,
    ) -> tuple[TrainState, Outcome, float]:
        """Takes the steps of an epoch that are left, after those with the `earlier` outcome.

        Returns the next state, the outcome of the epoch, and the images per second.
        """
        ahead, started, first, per_epoch = OneAhead(), time.perf_counter(), int(state.step), self._batches.per_epoch
        last = (len(self._history) + 1) * per_epoch
        outcomes: list[Mapping[str, Any]] = [earlier] if earlier else []
        for step in range(first + 1, last + 1):
            batch = to_devices(next(loaded), shardings().split)
            state, outcome = self._steps.train(state, batch, key)
            outcomes.append(ahead.begun(outcome))
            if step == first + 1 < last:
                # The clock starts after the first call, which may compile.
                jax.block_until_ready(outcome)
                started = time.perf_counter()
            bar.update()
            # The validation at an epoch's end still belongs to the epoch.
            if step < last and jax.process_count() == 1 and stop.requested():
                checkpoints.save(state, self._history, None, _joined(outcomes))
                raise self._interrupted(f"at step {step} of {self._optimization.epochs * per_epoch}")
        # Waits for the last step, on which the device may still work, before the clock is read.
        jax.block_until_ready(state.sums)
        images = max(last - first - 1, 1) * self._batches.size
        return state, _joined(outcomes), images / (time.perf_counter() - started)

    def _bar(self, first_step: int, steps: int) -> Bar:
        return Bar(
            total=steps,
            initial=first_step,
            desc=f"fold {self._fold.number + 1}/{len(self._plan.folds)}",
            unit="step",
            disable=None if is_first() else True,
            ncols=min(shutil.get_terminal_size().columns, _COLUMNS),
            bar_format="{desc} {percentage:3.0f}%|{bar}| {n}/{total} [{elapsed}<{remaining}]",
        )

    def _say(self, bar: Bar, row: Numbers) -> None:
        """Prints the line of an epoch to stderr, above the progress bar if there is one."""
        if is_first():
            epochs, score = self._optimization.epochs, self._task.score.name
            bar.write(tracking.epoch_line(row, epochs, score, self._best is row), file=sys.stderr)

    def _end_epoch(
        self, state: TrainState, outcome: Outcome, epoch: int, speed: float
    ) -> tuple[TrainState, Numbers, Numbers]:
        """Validates if due, and returns the state of the next epoch, this one's numbers and its sums."""
        batches, epochs = self._batches, self._optimization.epochs
        sums, processor = jax.device_get((state.sums, state.processor))
        if not all(np.isfinite(array).all() for array in jax.tree.leaves((sums["loss"], processor))):
            raise InputError(f"training diverged in epoch {epoch + 1}: loss or parameters are not finite; lower `lr`")
        state = state.replace(sums=self._steps.zero_sums())
        weights, score = outcome["weight"], self._task.score
        row: Numbers = {"epoch": epoch}
        row |= {f"train_{name}": float(sums[name] / weights.sum()) for name in ("loss", *self._rule.metrics)}
        row |= {f"train_{score.name}": float(score(outcome, weights))}
        row["seconds"] = batches.per_epoch * batches.size / speed
        if (epoch + 1) % self._optimization.check_val_every_n_epoch == 0 or epoch + 1 == epochs:
            row |= self._scores("val", self._validate(state))
        return state, row, sums

    def _final(self, state: TrainState) -> Numbers:
        """Returns the numbers of the last and the best epoch, and of each class."""
        # The last epoch was validated in this state, unless an earlier call has trained it.
        steps, task, outcome = self._steps, self._task, self._validated or self._validate(state)
        last, best = self._history[-1], self._best
        assert best is not None  # the last epoch is always validated
        final = {
            **{name: last[name] for name in steps.summary if name in last},
            "best_epoch": best["epoch"],
            **{f"best_val_{name}": best[f"val_{name}"] for name in (task.score.name, "loss", *task.metrics)},
            **(_by_class(task, outcome) if task.classes else {}),
        }
        if (reference := self._rule.reference(state.model, state.opt_state)) is not None:
            by_default = self._scores("default_val", self._validate(state.replace(model=reference)))
            final |= {name: by_default[name] for name in by_default if name[12:] not in self._rule.metrics}
        return final

    def _validate(self, state: TrainState) -> Outcome:
        """Computes the outcomes of the validation samples, with the rule's metrics and the samples' `weight`."""
        batches = loader.eval_batches(self._dataset, self._fold.split.valid, self._batches.size)
        evaluate = functools.partial(self._steps.evaluate, state)
        self._validated = outcome = _joined([*each_on_devices(evaluate, batches)])
        return outcome

    def _scores(self, split: str, outcome: Outcome) -> dict[str, float]:
        """Computes the mean loss, the scores of the task, and the means of the rule's metrics, named by the split."""
        weights = outcome["weight"]
        scores = self._task.scores(outcome, weights)
        scores |= {name: float(np.average(outcome[name], weights=weights)) for name in self._rule.metrics}
        return {f"{split}_{name}": value for name, value in scores.items()}

    @property
    def _best(self) -> Numbers | None:
        """The numbers of the best epoch; None if none was validated."""
        ranked = [(quality, row) for row in self._history if (quality := self._quality(row)) is not None]
        return max(ranked, key=lambda pair: pair[0])[1] if ranked else None

    def _quality(self, row: Mapping[str, Any]) -> Quality | None:
        """Ranks an epoch by its score, then by its loss, then by its number; None if it was not validated."""
        score, sign = f"val_{self._task.score.name}", self._rule.sign
        if score not in row:
            return None
        numbers = np.array([sign * row[score], -sign * row["val_loss"], -row["epoch"]])
        return np.nan_to_num(numbers, nan=-np.inf).tolist()

    def _interrupted(self, where: str) -> Interrupted:
        left = "the same command resumes there" if self._wanted.log_model else "no checkpoint was written"
        return Interrupted(f"stopped {where}; {left}")

    def _content(self, final: Mapping[str, Any] | None = None) -> Numbers:
        """Returns the content of metrics.json; without final numbers, the fold is recorded as unfinished."""
        return {
            "complete": final is not None,
            **(final or {}),
            "history": self._history,
            **self._plan.described,
            **{f"{name}_indices": indices.tolist() for name, indices in self._fold.split._asdict().items()},
        }

    def _record(self, content: Numbers) -> None:
        if is_first():
            write_json(self._fold.metrics_file, content)

    def _write_models(self, content: Numbers, state: TrainState) -> None:
        """Writes the statistics of clean images after camera augmentation; if wanted, the best model to one file.

        Without checkpoints, the model of the last epoch is the only one.
        """
        fold, clean = self._fold, dict[str, np.ndarray]()
        for which in ("last", "best") if self._wanted.log_model else ("last",):
            if which == "best":
                stored = stored_arrays(fold.folder, shardings().everywhere, which, str(fold.folder))
                restore(state.model, stored, tuple(stored), str(fold.folder))
            if not is_first():
                continue
            about = Record.of({**content, "checkpoint": which, "fold": fold.number}, str(fold.folder))
            model = nnx.merge(nnx.graphdef(self._steps.architecture.abstract()), state.model)
            loading = (lambda _, model=model: model), (lambda: self._dataset)
            artifact = Artifact(fold.folder, about, self._config, fold.split, *loading)
            if self._optimization.camera_augmentation:
                known = artifact.observed()
                clean |= named(known, which)
                artifact = dataclasses.replace(artifact, load_clean=lambda known=known: known)
            if self._wanted.save_locally and which == ("best" if self._wanted.log_model else "last"):
                artifact.write(fold.folder / NAME)
        if clean:
            write_safetensors(fold.folder / CLEAN, clean, {})

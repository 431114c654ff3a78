"""Trains the folds of a run, from a TrainConfig to metrics.json."""

import dataclasses
import functools
import pathlib
import shutil
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils

from r2l_jax.cli import stop
from r2l_jax.cli.progress import Bar, say
from r2l_jax.cli.stop import Interrupted
from r2l_jax.config import TrainConfig
from r2l_jax.data import loader
from r2l_jax.devices.hosts import any_process, is_first, on_first_process
from r2l_jax.devices.placement import OneAhead, each_on_devices, shardings, to_devices
from r2l_jax.errors import InputError, warn
from r2l_jax.model.heads import has_gradient
from r2l_jax.model.tasks import Task
from r2l_jax.results.files import EVENTS, check_output_folder, write_json, write_safetensors
from r2l_jax.results.locks import writing_to
from r2l_jax.training.checkpoint import Checkpoints, Quality, drop_optimizer
from r2l_jax.training.model_io import CLEAN, NAME, PARTS, TEST, Trained, named, restore, stored
from r2l_jax.training.plan import Plan, initial_state
from r2l_jax.training.record import Fold, Record, fold_folders, read_record, seed_folders
from r2l_jax.training.steps import GradientDescent, Steps, TrainState, make_steps, processor_of
from r2l_jax.training.tracking import Tracker, class_table, closing, epoch_line, record_samples, run_table, write_result

Numbers = dict[str, Any]

# Arrays `(S, ...)` of samples by name, see `Task.outcome`.
Outcome = dict[str, np.ndarray]


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
            if not config.optimization.epochs:
                _warn_of_chance(steps.task, summary)
            if shows:
                _show(config, steps, results, summary, time.monotonic() - started)
        return summary


def _remove(run_dir: pathlib.Path) -> None:
    """Removes an earlier run, except for folders without training files, which belong to the user."""
    for fold in fold_folders(run_dir):
        if any(any(fold.glob(pattern)) for pattern in ("metrics.json", "checkpoints", EVENTS)):
            with writing_to(fold):
                shutil.rmtree(fold)
    for name in ("summary.json", TEST):
        (run_dir / name).unlink(missing_ok=True)


def _summary(steps: Steps, results: Sequence[Numbers]) -> Numbers:
    """Computes the mean and the standard deviation of the final numbers over the folds."""
    by_default = [name for name in results[0] if name.startswith("default_val_")]
    summary = {}
    for name in filter(results[0].__contains__, (*steps.summary, *by_default)):
        folds = [result[name] for result in results]
        summary[name] = {"mean": float(np.mean(folds)), "std": float(np.std(folds)), "folds": folds}
    return summary


def _warn_of_chance(task: Task, summary: Numbers) -> None:
    if task.score.name == "accuracy" and (found := summary["val_accuracy"]["mean"]) <= 0.2 + 0.8 / len(task.classes):
        warn(
            f"an accuracy of {found:.3f} is close to chance, so drift can hardly lower it: if the network should do "
            "better, check its mean and std, its size and the order of its classes"
        )


def _show(config: TrainConfig, steps: Steps, results: Sequence[Numbers], summary: Numbers, seconds: float) -> None:
    task = steps.task
    if task.classes:
        print(class_table(results, task.class_metrics))
    if config.optimization.epochs > 0:
        print(f"\n{run_table(results, summary)}")
    head = steps.architecture.frozen_head
    print(f"\n{closing(config, seconds, head is None or has_gradient(head))}")


def _joined(batches: Sequence[Mapping[str, Any]]) -> Outcome:
    """Joins the outcomes of batches on the host, without samples that only pad a batch."""
    joined = jax.tree.map(lambda *parts: np.concatenate(parts), *map(dict, jax.device_get(batches)))
    return {name: array[joined["weight"] > 0] for name, array in joined.items()}


class FoldTraining:
    """Trains one fold of a run."""

    def __init__(self, plan: Plan, steps: Steps, fold: Fold):
        self.plan, self.steps, self.fold, self.dataset = plan, steps, fold, plan.dataset
        self.task, self.rule, self.batches = steps.task, steps.rule, plan.batches
        self.optimization, self.tracking = plan.config.optimization, plan.config.tracking
        self.history: list[Numbers] = []
        self.validated: Outcome | None = None  # the outcome of the last validation

    def finish(self) -> Numbers:
        """Trains from the start or the last checkpoint to the end, and returns the content of metrics.json."""
        folder, file = self.fold.folder / "checkpoints", self.fold.folder / "metrics.json"
        earlier = read_record(file, "start over with `overwrite`") if file.exists() else None
        if earlier is not None and earlier.complete and earlier.flags == self.plan.described["flags"]:
            content = earlier.content
            if is_first():
                say(f"{self.fold.folder} is finished: nothing to train")
        else:
            with Checkpoints(folder, enabled=self.tracking.log_model) as checkpoints:
                # This call may request pictures that an earlier one did not.
                state, final = self._train(checkpoints, adds=earlier is not None and earlier.complete)
            content = self._content(final)
            if self.tracking.save_locally or self.optimization.camera_augmentation:
                # After the checkpoints are complete, and before the fold counts as finished.
                self._write_models(content, state)
            if is_first():
                write_result(self.fold, content, self.task, self.steps.architecture.abstract().processor)
            self._record(content)
        if is_first() and not self.rule.state_is_result:
            drop_optimizer(folder)
        return content

    def _train(self, checkpoints: Checkpoints, adds: bool) -> tuple[TrainState, Numbers]:
        """Returns the state after the last epoch, and the final numbers."""
        steps, dataset, history, fold, tracking = self.steps, self.dataset, self.history, self.fold, self.tracking
        epochs, seed, (size, per_epoch) = self.optimization.epochs, self.optimization.seed, self.batches
        every, rate = self.optimization.check_val_every_n_epoch, steps.settings.optimizer.rate

        # The model: fresh, of earlier runs, or of the last checkpoint, with the epochs and outcomes so far.
        init_key, step_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), fold.number))
        state = initial_state(self.plan, steps, fold, init_key, checkpoints.found)
        start = None if checkpoints.found else jax.device_get(processor_of(state.model))
        state, history[:], earlier = checkpoints.restore(state)

        loaded = loader.train_batches(dataset, fold.split.train, size, seed, int(state.step))
        tracker = Tracker(fold.folder, len(history), "arrays" in tracking.track, enabled=is_first())
        with self._bar(int(state.step)) as bar, tracker:
            self._record(self._content())
            if start is not None:
                tracker.start(start)
            if not epochs and not history:
                began = time.perf_counter()
                history.append({"epoch": 0, **self._scores("val", self._validate(state))})
                history[0]["seconds"] = time.perf_counter() - began
                record_samples(tracker, tracking, dataset, steps, state, 0)
                checkpoints.save(state, history, self._quality(history[0]))
            for epoch in range(len(history), epochs):
                # The steps of the epoch that are left.
                key = jax.random.fold_in(step_key, epoch)
                outcomes: list[Mapping[str, Any]] = [earlier] if earlier else []
                first, last = int(state.step), (epoch + 1) * per_epoch
                ahead, began, earlier = OneAhead(), time.perf_counter(), {}
                for step in range(first + 1, last + 1):
                    batch = to_devices(next(loaded), shardings().split)
                    state, outcome = steps.train(state, batch, key)
                    outcomes.append(ahead.begun(outcome))
                    if step == first + 1 < last:
                        # The clock starts after the first call, which may compile.
                        jax.block_until_ready(outcome)
                        began = time.perf_counter()
                    bar.update()
                    # The validation at an epoch's end still belongs to the epoch.
                    if step < last and jax.process_count() == 1 and stop.requested():
                        checkpoints.save(state, history, None, _joined(outcomes))
                        raise self._interrupted(f"at step {step} of {epochs * per_epoch}")
                # Waits for the last step, on which the device may still work, before the clock is read.
                sums, processor = jax.device_get((state.sums, processor_of(state.model)))
                speed = max(last - first - 1, 1) * size / (time.perf_counter() - began)

                # The numbers of the epoch.
                if not all(np.isfinite(array).all() for array in jax.tree.leaves((sums["loss"], processor))):
                    raise InputError(
                        f"training diverged in epoch {epoch + 1}: loss or parameters are not finite; lower `lr`"
                    )
                state, outcome = state.replace(sums=steps.zero_sums()), _joined(outcomes)
                weights, score = outcome["weight"], self.task.score
                means = {name: float(sums[name] / weights.sum()) for name in ("loss", *self.rule.metrics)}
                means[score.name] = float(score(outcome, weights))
                row: Numbers = {"epoch": epoch, **{f"train_{name}": value for name, value in means.items()}}
                row["seconds"] = per_epoch * size / speed
                if (epoch + 1) % every == 0 or epoch + 1 == epochs:
                    row |= self._scores("val", self._validate(state))

                # Before the checkpoint: a call that resumes from it records only later epochs.
                rates = {"learning_rate": rate.at(int(state.step) - 1), "images_per_second": speed}
                tracker.scalars(rates, epoch)
                if "every_epoch" in tracking.track or epoch + 1 == epochs:
                    record_samples(tracker, tracking, dataset, steps, state, epoch)
                tracker.epoch(steps, state, row, sums, per_epoch)
                history.append(row)
                checkpoints.save(state, history, self._quality(row))
                self._say(row)
                self._record(self._content())
                if epoch + 1 < epochs and any_process(stop.requested()):
                    raise self._interrupted(f"after epoch {epoch + 1} of {epochs}")
            final = self._final(state)
            if adds:
                record_samples(tracker, tracking, dataset, steps, state, history[-1]["epoch"])
        return state, final

    def _bar(self, done: int) -> Bar:
        return Bar(
            total=self.optimization.epochs * self.batches.per_epoch,
            initial=done,
            desc=f"fold {self.fold.number + 1}/{len(self.plan.folds)}",
            unit="step",
            disable=None if is_first() else True,
            ncols=min(shutil.get_terminal_size().columns, 80),  # wider bars break on small terminals and in logs
            bar_format="{desc} {percentage:3.0f}%|{bar}| {n}/{total} [{elapsed}<{remaining}]",
        )

    def _say(self, row: Numbers) -> None:
        """Prints the line of an epoch to stderr, above the progress bar if there is one."""
        if is_first():
            line = epoch_line(row, self.optimization.epochs, self.task.score.name, self._best is row)
            say(line)

    def _final(self, state: TrainState) -> Numbers:
        """Returns the numbers of the last and the best epoch, and of each class."""
        # The last epoch was validated in this state, unless an earlier call has trained it.
        steps, task, outcome = self.steps, self.task, self.validated or self._validate(state)
        last, best, weights = self.history[-1], self._best, outcome["weight"]
        assert best is not None  # the last epoch is always validated
        final: Numbers = {name: last[name] for name in steps.summary if name in last}
        final["best_epoch"] = best["epoch"]
        final |= {f"best_val_{name}": best[f"val_{name}"] for name in (task.score.name, "loss", *task.metrics)}
        if task.classes:
            by_class = task.by_class(outcome, weights).items()
            final |= {f"val_{name}": dict(zip(task.classes, values, strict=True)) for name, values in by_class}
            final["val_samples"] = task.class_samples(outcome)
            if (confusion := task.confusion(outcome, weights)) is not None:
                final["val_confusion_matrix"] = confusion.tolist()
        if (reference := self.rule.reference(state.model, state.opt_state)) is not None:
            by_default = self._scores("default_val", self._validate(state.replace(model=reference)))
            final |= {name: by_default[name] for name in by_default if name[12:] not in self.rule.metrics}
        return final

    def _validate(self, state: TrainState) -> Outcome:
        """Computes the outcomes of the validation samples, with the rule's metrics and the samples' `weight`."""
        batches = loader.eval_batches(self.dataset, self.fold.split.valid, self.batches.size)
        evaluate = functools.partial(self.steps.evaluate, state)
        self.validated = outcome = _joined([*each_on_devices(evaluate, batches)])
        return outcome

    def _scores(self, split: str, outcome: Outcome) -> dict[str, float]:
        """Computes the mean loss, the scores of the task, and the means of the rule's metrics, named by the split."""
        weights = outcome["weight"]
        scores = self.task.scores(outcome, weights)
        scores |= {name: float(np.average(outcome[name], weights=weights)) for name in self.rule.metrics}
        return {f"{split}_{name}": value for name, value in scores.items()}

    @property
    def _best(self) -> Numbers | None:
        """The numbers of the best epoch; None if none was validated."""
        return max(
            (row for row in self.history if self._quality(row)), key=lambda row: self._quality(row) or [], default=None
        )

    def _quality(self, row: Mapping[str, Any]) -> Quality | None:
        """Ranks an epoch by its score, then by its loss, then by its number; None if it was not validated."""
        score, sign = f"val_{self.task.score.name}", self.rule.sign
        if score not in row:
            return None
        numbers = np.array([sign * row[score], -sign * row["val_loss"], -row["epoch"]])
        return np.nan_to_num(numbers, nan=-np.inf).tolist()

    def _interrupted(self, where: str) -> Interrupted:
        left = "the same command resumes there" if self.tracking.log_model else "no checkpoint was written"
        return Interrupted(f"stopped {where}; {left}")

    def _content(self, final: Mapping[str, Any] | None = None) -> Numbers:
        """Returns the content of metrics.json; without final numbers, the fold is recorded as unfinished."""
        return {
            "complete": final is not None,
            **(final or {}),
            "history": self.history,
            **self.plan.described,
            **{f"{name}_indices": indices.tolist() for name, indices in self.fold.split._asdict().items()},
        }

    def _record(self, content: Numbers) -> None:
        if is_first():
            write_json(self.fold.folder / "metrics.json", content)

    def _write_models(self, content: Numbers, state: TrainState) -> None:
        """Writes the statistics of clean images after camera augmentation; if wanted, the best model to one file.

        Without checkpoints, the model of the last epoch is the only one.
        """
        folder, clean, best = self.fold.folder, dict[str, np.ndarray](), "best" if self.tracking.log_model else "last"
        for which in dict.fromkeys(("last", best)):
            if which == "best":
                arrays, _ = stored(folder, shardings().everywhere, which, str(folder))
                restore(state.model, arrays, PARTS, str(folder))
            if not is_first():
                continue
            about = Record.of({**content, "checkpoint": which, "fold": self.fold.number}, str(folder))
            model = nnx.merge(nnx.graphdef(self.steps.architecture.abstract()), state.model)
            trained = Trained(folder, about, self.plan.config, self.fold.split, model, in_memory=self.dataset)
            if self.optimization.camera_augmentation:
                trained = dataclasses.replace(trained, stored_clean=trained.observed())
                clean |= named(trained.stored_clean, which)
            if self.tracking.save_locally and which == best:
                trained.write(folder / NAME)
        if clean:
            write_safetensors(folder / CLEAN, clean, {})

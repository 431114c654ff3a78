"""Training, from a TrainConfig to metrics.json."""

import pathlib
import shutil
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from tqdm import tqdm

import tasks
from r2l_jax.config import TrainConfig
from r2l_jax.data import loader
from r2l_jax.data.loader import Batch
from r2l_jax.model.normalized_heads import has_gradient
from r2l_jax.model.tasks import Task
from r2l_jax.runtime.devices import OneAhead, shardings, to_devices
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.files import EVENTS, check_output_folder, write_json
from r2l_jax.runtime.hosts import is_first, no_bar, on_first_process
from r2l_jax.runtime.locks import locked, writing_to
from r2l_jax.runtime.stop import Interrupted, StopSignals
from r2l_jax.training import model_file, tracking
from r2l_jax.training.checkpoint import Checkpoints, best_of, drop_optimizer, out_of_patience, stored_model
from r2l_jax.training.plan import Plan
from r2l_jax.training.record import Fold, Record, fold_folders, other_makers, read_metrics, seed_folders
from r2l_jax.training.start import initial_state
from r2l_jax.training.steps import Steps, TrainState, make_steps
from r2l_jax.training.update import GradientDescent, UpdateRule

Numbers = dict[str, Any]

# After 60 updates the initial running statistics weigh 0.9**60 = 0.2%.
_LEAST_UPDATES = 60

# Wider progress bars break on small terminals and in logs.
_COLUMNS = 80

# A score that has come less than so much of the way from a guess to certainty is hardly better than a guess.
_LITTLE = 0.2


def run(config: TrainConfig, rule: type[UpdateRule] = GradientDescent, shows: bool = True) -> Numbers:
    """Trains every fold of a run, or finishes the work of an earlier call with the same settings.

    Writes `<logdir>/<experiment_name>/<run_name>/fold_<k>/`, and `summary.json` beside the folds.

    Args:
        config: the run.
        rule: how a step changes the model.
        shows: whether to print tables of the scores and the next commands at the end.

    Returns:
        The content of summary.json: the mean and standard deviation over the folds of each final number.

    Raises:
        InputError: settings, files or an earlier run that do not fit, or another program that writes to the run's
            folder.
        Interrupted: SIGINT or SIGTERM came; the same call resumes where this one stopped.
    """
    run_dir = config.run_dir
    on_first_process(lambda: check_output_folder(run_dir))
    plan = Plan(config, rule)
    if seed_folders(run_dir):
        raise InputError(f"{run_dir} holds a group of trainings: choose another --run_name")
    with writing_to(run_dir):
        begun = plan.check_folders(plan.folds)
        if is_first():
            _warn(config, plan, begun, plan.folds)
            if config.tracking.overwrite:
                _remove(run_dir)
        multihost_utils.sync_global_devices("run folder prepared")
        started = time.monotonic()
        trainer = Trainer(plan, make_steps(plan.steps, rule))
        results, are_new = zip(*trainer.train(plan.folds), strict=True)
        summary = _summary(trainer.steps, results)
        if is_first():
            write_json(run_dir / "summary.json", summary)
        if is_first() and shows:
            trains = config.optimization.epochs > 0
            tables = (
                tracking.class_table(results),
                tracking.intensity_table(summary),
                tracking.run_table(results, summary) if trains else "",
            )
            print(*filter(None, tables), sep="\n\n")
            seconds = time.monotonic() - started if any(are_new) else None
            if not trains and (said := _said_of_a_guess(trainer.steps.task, summary)):
                print(f"warning: {said}", file=sys.stderr)
            logdir, learns = config.tracking.logdir, config.processing.learns_pipeline
            head, work = plan.steps.architecture.frozen_head, "trained" if trains else "measured"
            searches = head is None or has_gradient(head)
            print(f"\n{tracking.closing(run_dir, logdir, learns, seconds, work, searches)}")
        return summary


def run_folds(config: TrainConfig, numbers: Collection[int], rule: type[UpdateRule] = GradientDescent) -> None:
    """Trains some folds of a run, or finishes them, while other programs may train its others.

    The folds belong to `run`, which writes `summary.json` once all of them are trained.

    Args:
        config: the run. It must not `overwrite`.
        numbers: the folds' numbers.
        rule: how a step changes the model.

    Raises:
        InputError: as `run`, or another program that trains one of these folds.
        Interrupted: as `run`.
    """
    if config.tracking.overwrite:
        raise ValueError("to overwrite a run would remove the folds that others train")
    plan = Plan(config, rule)
    chosen = [plan.folds[number] for number in numbers]
    begun = plan.check_folders(chosen)
    if is_first():
        _warn(config, plan, begun, chosen)
    Trainer(plan, make_steps(plan.steps, rule)).train(chosen)


def _warn(config: TrainConfig, plan: Plan, begun: Sequence[Fold], folds: Sequence[Fold]) -> None:
    """Prints warnings before training starts; `begun` are the folds that are continued."""
    warnings, attack = [], config.attack.adv_training
    if attack and not config.model.classifier_uri:
        warnings.append("--adv_training without --classifier_uri attacks a head untrained for the task")
    updates = config.optimization.epochs * plan.batches.per_epoch
    if len(begun) < len(folds) and 0 < updates < _LEAST_UPDATES and not attack:
        warnings.append(
            f"{updates} updates in all are few: the statistics of batch norm, by which validation normalizes, need "
            f"about {_LEAST_UPDATES}; lower --batch_size or raise --epochs"
        )
    for fold in begun:
        # Not refused: after an upgrade, refusing would lose days of training.
        if other_makers(read_metrics(fold.metrics_file, "start anew with --overwrite")):
            other = "was trained by different source code or another version of JAX"
            warnings.append(f"{fold.folder} {other}; --overwrite starts anew")
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)


def _remove(run_dir: pathlib.Path) -> None:
    """Removes an earlier run. A folder without files of a training is the user's, whatever its name."""
    for fold in fold_folders(run_dir):
        if any(any(fold.glob(pattern)) for pattern in ("metrics.json", "checkpoints", EVENTS)):
            with locked(fold):
                shutil.rmtree(fold)
    (run_dir / "summary.json").unlink(missing_ok=True)


def _summary(steps: Steps, results: Sequence[Numbers]) -> Numbers:
    """Computes the mean and the standard deviation of the final numbers over the folds."""
    further = [
        name
        for name in results[0]
        if name.startswith("default_val_") or name in steps.measured or tracking.is_at_intensity(name)
    ]
    names = [name for name in steps.summary if name in results[0]]
    values = {name: [result[name] for result in results] for name in (*names, *further)}
    return {
        name: {"mean": float(np.mean(each)), "std": float(np.std(each)), "folds": each} for name, each in values.items()
    }


def _said_of_a_guess(task: Task, summary: Numbers) -> str | None:
    """Returns a warning if a network that was taken as it is hardly does better than a guess."""
    if task.score != "accuracy":
        return None
    found, chance = summary["val_accuracy"]["mean"], 1 / len(task.classes)
    if found > chance + _LITTLE * (1 - chance):
        return None
    return (
        f"an accuracy of {found:.3f} is little better than a guess ({chance:.3f}), so that drift can cost little: if "
        "the network has done better, check its mean and std, its size and the order of the classes"
    )


class Trainer:
    """Trains folds of a run, one after the other.

    Args:
        plan: the run.
        steps: its compiled steps.
    """

    def __init__(self, plan: Plan, steps: Steps):
        self.steps, self._plan, self._tracking = steps, plan, plan.tracking
        # Nothing is measured on training samples that nothing was trained on.
        trains = plan.optimization.epochs > 0
        self._summary = [name for name in steps.summary if trains or not name.startswith("train_")]

    def train(self, folds: Sequence[Fold]) -> list[tuple[Numbers, bool]]:
        """Trains folds from their starts, or from their last checkpoints.

        Returns:
            The content of each metrics.json, and whether anything was left to do.
        """
        trained = []
        with StopSignals() as stop:
            for fold in folds:
                with writing_to(fold.folder):
                    trained.append(self._train(fold, stop))
        return trained

    def _train(self, fold: Fold, stop: StopSignals) -> tuple[Numbers, bool]:
        final_names = (*self._summary, "best_epoch", f"best_val_{self.steps.task.score}")
        record, folder = Record(fold, self._plan.described, final_names), fold.folder / "checkpoints"
        content = record.finished
        if content is None:
            with Checkpoints(folder, self._quality, enabled=self._tracking.log_model) as checkpoints:
                state, history, final = self._train_epochs(fold, record, checkpoints, stop)
            if self._tracking.save_locally:
                # After the checkpoints are complete, and before the fold counts as finished.
                self._write_model(fold, record.content(history, final), state)
            content = record.write(history, final)
        if is_first() and not (self._tracking.keep_optimizer or self.steps.rule.state_is_result):
            drop_optimizer(folder)
        return content, record.finished is None

    def _train_epochs(
        self, fold: Fold, record: Record, checkpoints: Checkpoints, stop: StopSignals
    ) -> tuple[TrainState, list[Numbers], Numbers]:
        """Returns the last state, the numbers of the epochs, and the final numbers."""
        plan, steps, epochs = self._plan, self.steps, self._plan.optimization.epochs
        init_key, step_key = (
            jax.random.split(jax.random.fold_in(jax.random.key(plan.optimization.seed_of(part)), fold.number))[place]
            for place, part in enumerate(("weights", "order"))
        )
        keys = init_key, step_key
        state = initial_state(
            steps, plan.sources, plan.dataset, fold, plan.batches.size, keys, checkpoints.found, trains=epochs > 0
        )
        state, history = checkpoints.restore_last(state, epochs, self._is_done)
        loop = _Loop(plan, steps, fold, step_key, stop, int(state.step))
        tracker = tracking.Tracker(fold.folder, len(history), "arrays" in self._tracking.track, enabled=is_first())
        with loop, tracker:
            record.write(history)
            if not epochs and not history:
                history.append(loop.measure(state))
                checkpoints.save(state, history)
                record.write(history)
            for epoch in range(len(history), epochs):
                if self._is_done(history):
                    break
                state, speed = loop.train_epoch(state, epoch)
                if speed is None:
                    checkpoints.save(state, history, ends_epoch=False)
                    raise self._interrupted(f"stopped at step {loop.step} of {loop.steps}")
                state, row, sums = loop.end_epoch(state, epoch, speed)
                history.append(row)
                checkpoints.save(state, history)
                is_best = best_of(history, self._quality) is row
                loop.say(tracking.epoch_line(row, epochs, steps.task.score, is_best))
                tracker.epoch(steps, state, row, sums, plan.batches.per_epoch)
                rate = plan.steps.optimizer.rate.at(int(state.step) - 1)
                tracker.scalars({"learning_rate": rate, "images_per_second": speed}, epoch)
                if "every_epoch" in self._tracking.track:
                    tracking.record_samples(tracker, self._tracking, plan.dataset, steps, state, epoch)
                tracker.flush()
                record.write(history)
                if epoch + 1 < epochs and stop.agreed():
                    raise self._interrupted(f"stopped after epoch {epoch + 1} of {epochs}")
            if "every_epoch" not in self._tracking.track:
                tracking.record_samples(tracker, self._tracking, plan.dataset, steps, state, history[-1]["epoch"])
            final = self._final_numbers(loop, state, history)
            confusion = np.array(final["val_confusion_matrix"])
            if (picture := steps.task.confusion_picture(confusion)) is not None:
                tracker.picture("confusion", picture, history[-1]["epoch"])
            tracker.hyperparameters(
                tracking.hyperparameters(plan.described["flags"], plan.steps.architecture.title),
                {name: history[-1][name] for name in self._summary},
            )
        return state, history, final

    def _final_numbers(self, loop: "_Loop", state: TrainState, history: list[Numbers]) -> Numbers:
        """Returns the numbers of the last and the best epoch, and of each class."""
        # The last epoch was validated in this state, unless an earlier call has trained it.
        steps, task, sums = self.steps, self.steps.task, loop.validated or loop.validate(state)
        best, confusion = best_of(history, self._quality), sums["confusion"]
        assert best is not None  # the last epoch is always validated
        names = (f"val_{task.score}", "val_loss", *steps.measured)
        final = {
            **{name: history[-1][name] for name in (*self._summary, *steps.measured)},
            "best_epoch": best["epoch"],
            **{f"best_{name}": best[name] for name in names},
            **{
                f"val_{name}": dict(zip(task.classes, map(float, getattr(tasks.metrics, name)(confusion)), strict=True))
                for name in ("precision", "recall", "f1")
            },
            "val_samples": dict(zip(task.classes, sums["samples"].tolist(), strict=True)),
            "val_confusion_matrix": confusion.tolist(),
            **loop.scores_by_intensity(state),
        }
        if (reference := steps.rule.reference(state.model, state.opt_state)) is not None:
            sums = loop.validate(state.replace(model=reference))
            by_default = {name: total for name, total in sums.items() if name not in steps.rule.metrics}
            final |= _means("default_val", by_default, steps)
        return final

    def _quality(self, row: Mapping[str, Any]) -> Numbers | None:
        """Returns the quality of an epoch (see `checkpoint.Quality`); None for an epoch that was not validated."""
        score, sign = f"val_{self.steps.task.score}", self.steps.rule.sign
        if score not in row:
            return None
        return {"score": sign * row[score], "loss": -sign * row["val_loss"], "epoch": row["epoch"]}

    def _is_done(self, history: list[Numbers]) -> bool:
        return out_of_patience(history, self._quality, self._plan.optimization.patience)

    def _interrupted(self, stopped: str) -> Interrupted:
        left = "the same command resumes there" if self._tracking.log_model else "nothing is kept"
        return Interrupted(f"{stopped}; {left}")

    def _write_model(self, fold: Fold, content: Mapping[str, Any], state: TrainState) -> None:
        """Writes the model of the best epoch to one file; without checkpoints, the model of the last epoch."""
        which, where, model = "last", str(fold.folder), state.model
        if self._tracking.log_model:
            which = "best"
            nnx.replace_by_pure_dict(model, stored_model(fold.folder, shardings().everywhere, which, where))
        if is_first():
            about, arrays = model_file.about_run(content, fold.number, which, where), model_file.named_arrays(model)
            identity = model_file.identity_of(about, self.steps.settings.architecture, arrays)
            model_file.write(fold.folder / model_file.NAME, arrays, about, identity)


class _Loop:
    """Takes the steps of a fold, and shows their progress.

    Attributes:
        step: the number of steps taken so far.
        steps: the total number of training steps.
        validated: the sums of the last validation; None before the first.
    """

    def __init__(self, plan: Plan, compiled: Steps, fold: Fold, key: jax.Array, stop: StopSignals, first_step: int):
        self._plan, self._batches, self._compiled, self._fold = plan, plan.batches, compiled, fold
        self._key, self._stop = key, stop
        self.step, self.steps = first_step, plan.optimization.epochs * plan.batches.per_epoch
        self.validated: Numbers | None = None
        self._left: Iterator[Batch] = loader.train_batches(
            plan.dataset, fold.train_indices, plan.batches.size, plan.optimization.seed_of("order"), first_step
        )

    def __enter__(self) -> "_Loop":
        self._bar = tqdm(
            total=self.steps,
            initial=self.step,
            desc=f"fold {self._fold.number + 1}/{len(self._plan.folds)}",
            unit="step",
            disable=no_bar(),
            ncols=min(shutil.get_terminal_size().columns, _COLUMNS),
            bar_format="{desc} {percentage:3.0f}%|{bar}| {n}/{total} [{elapsed}<{remaining}{postfix}]",
        )
        return self

    def __exit__(self, *exception) -> None:
        self._bar.close()

    def say(self, line: str) -> None:
        """Prints a line to stderr, above the progress bar if there is one."""
        if is_first():
            self._bar.write(line, file=sys.stderr)

    def train_epoch(self, state: TrainState, epoch: int) -> tuple[TrainState, float | None]:
        """Takes the steps that are left of an epoch.

        Returns:
            The state, and the images per second; None if the user or the scheduler asked to stop within the epoch.
        """
        first, last, ahead, started = self.step, (epoch + 1) * self._batches.per_epoch, OneAhead(), time.perf_counter()
        key, timed = jax.random.fold_in(self._key, epoch), last - first
        while self.step < last:
            batch = to_devices(next(self._left), shardings().split)
            state, loss = self._compiled.train(state, batch, key)
            if self.step == first and timed > 1:
                # The clock starts after the first call, which may compile.
                jax.block_until_ready(loss)
                started, timed = time.perf_counter(), timed - 1
            ahead.begun(loss)
            self.step += 1
            self._bar.update()
            # The validation at an epoch's end still belongs to the epoch.
            if self._stop.after_step() and self.step < last:
                return state, None
        # The device may still work on the last step: its sums are waited for before the clock is read.
        jax.block_until_ready(state.sums)
        return state, timed * self._batches.size / (time.perf_counter() - started)

    def end_epoch(self, state: TrainState, epoch: int, speed: float) -> tuple[TrainState, Numbers, Numbers]:
        """Validates if it is time to, and returns the state of the next epoch, this one's numbers and its sums.

        Raises:
            InputError: training has diverged.
        """
        steps, optimization = self._compiled, self._plan.optimization
        sums, processor = jax.device_get((state.sums, state.processor))
        if not all(np.isfinite(array).all() for array in jax.tree.leaves((sums["loss"], processor))):
            raise InputError(f"training diverged in epoch {epoch + 1}, to numbers that are not finite: lower --lr")
        state = state.replace(sums=steps.zero_sums())
        row = {"epoch": epoch, **_means("train", sums, steps)}
        row["seconds"] = self._batches.per_epoch * self._batches.size / speed
        if (epoch + 1) % optimization.check_val_every_n_epoch == 0 or epoch + 1 == optimization.epochs:
            row |= _means("val", self.validate(state), steps)
        shown = [name for name in (f"val_{steps.task.score}", "val_loss") if name in row]
        self._bar.set_postfix({name.removeprefix("val_"): f"{row[name]:.3f}" for name in shown})
        return state, row, sums

    def measure(self, state: TrainState) -> Numbers:
        """Measures a model that is not trained, and returns the numbers of the only row of its history."""
        started = time.perf_counter()
        val = _means("val", self.validate(state), self._compiled)
        return {"epoch": 0, **val, "seconds": time.perf_counter() - started}

    def validate(self, state: TrainState) -> Numbers:
        """Adds up the sums of the task and the rule over the validation samples."""
        self.validated = totals = self._measure(state, self._fold.valid_indices)
        return totals

    def scores_by_intensity(self, state: TrainState) -> dict[str, float]:
        """Returns the validation score at each intensity of a run of several, by `tracking.at_intensity`."""
        isos, task, valid, scores = self._plan.isos, self._compiled.task, self._fold.valid_indices, {}
        for place, iso in enumerate(isos if len(isos) > 1 else ()):
            # One batch of validation samples (--test_run) may lack an intensity.
            if len(indices := valid[valid % len(isos) == place]):
                score = task.score_of(self._measure(state, indices)["confusion"])
                scores[tracking.at_intensity(f"val_{task.score}", iso)] = float(score)
        return scores

    def _measure(self, state: TrainState, indices: np.ndarray) -> Numbers:
        """Adds up the sums over some samples."""
        sums = self._compiled.zero_evaluated()
        for batch in loader.eval_batches(self._plan.dataset, indices, self._batches.size):
            sums = self._compiled.evaluate(state, sums, to_devices(batch, shardings().split))
        return self._compiled.task.totals(jax.device_get(sums))


def _means(split: str, sums: Numbers, steps: Steps) -> dict[str, float]:
    """Computes the score, the mean loss and the means of the task's and the rule's metrics, named after the split."""
    task, count, names = steps.task, sums["confusion"].sum(), ("loss", *steps.task.metrics, *steps.rule.metrics)
    means = {f"{split}_{name}": float(sums[name] / count) for name in names if name in sums}
    return means | {f"{split}_{task.score}": float(task.score_of(sums["confusion"]))}

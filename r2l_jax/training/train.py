"""Training, from a TrainConfig to metrics.json."""

import functools
import pathlib
import shutil
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from tqdm import tqdm

import tasks
from r2l_jax.config import TrainConfig
from r2l_jax.data import loader
from r2l_jax.data.loader import Batch
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.data.sets import datasets
from r2l_jax.runtime.devices import OneAhead, shardings, to_devices
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.files import write_json
from r2l_jax.runtime.hosts import is_first, no_bar
from r2l_jax.runtime.locks import locked, writing_to
from r2l_jax.runtime.stop import Interrupted, StopSignals
from r2l_jax.training import model_file, plan, recording, report
from r2l_jax.training.about import about_run, identity_of, named_arrays
from r2l_jax.training.checkpoint import Checkpoints, Quality, best_of, drop_optimizer
from r2l_jax.training.folds import Fold, fold_folders
from r2l_jax.training.optimizer import steps_of_epoch
from r2l_jax.training.record import Record, other_makers, read_metrics
from r2l_jax.training.start import initial_state
from r2l_jax.training.steps import Steps, TrainState, make_steps
from r2l_jax.training.stored import stored_model
from r2l_jax.training.tracking import Tracker
from r2l_jax.training.update import GradientDescent, UpdateRule

Numbers = dict[str, Any]

# After so many updates, the start of the running statistics has a share of 0.9**60, 0.2%.
_LEAST_UPDATES = 60

# Wider progress bars break on small terminals and in logs.
_COLUMNS = 80


def run(config: TrainConfig, rule: type[UpdateRule] = GradientDescent) -> Numbers:
    """Trains every fold of a run, or what an earlier call with the same settings left undone.

    Writes `<logdir>/<experiment_name>/<run_name>/fold_<k>/`, and `summary.json` beside the folds.

    Args:
        config: the run.
        rule: how a step changes the model.

    Returns:
        The content of summary.json: of each final number the mean and standard deviation over the folds.

    Raises:
        InputError: settings, files or an earlier run that do not fit, or another program that writes to the run's
            folder.
        Interrupted: SIGINT or SIGTERM came; the same call goes on where this one stopped.
    """
    dataset, folds = _planned(config, rule)
    with writing_to(config.run_dir):
        plan.check_folders(config, dataset, folds)
        return _train_folds(config, dataset, folds, rule)


def run_folds(config: TrainConfig, numbers: Collection[int], rule: type[UpdateRule] = GradientDescent) -> None:
    """Trains some folds of a run, or what an earlier call left undone, while other programs may train its others.

    The folds are those of `run`, which writes `summary.json` once all of them are trained.

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
    dataset, folds = _planned(config, rule)
    chosen = [folds[number] for number in numbers]
    plan.check_folders(config, dataset, chosen)
    if jax.process_index() == 0:
        _warn(config, dataset, chosen, rule)
    _train_each(config, dataset, make_steps(config, dataset, rule), chosen)


def _planned(config: TrainConfig, rule: type[UpdateRule]) -> tuple[RawDataset, list[Fold]]:
    """Loads a run's data and makes its folds; raises an InputError for settings that would end the run later."""
    # A name or a file that is no pipeline ends the run before data is downloaded or rendered.
    _ = config.processing.named_pipeline
    dataset = datasets.load(config.data.dataset, download=config.data.download, **config.data.source)
    folds = plan.make_folds(config, dataset)
    plan.check_settings(config, dataset, rule)
    return dataset, folds


def _train_folds(config: TrainConfig, dataset: RawDataset, folds: list[Fold], rule: type[UpdateRule]) -> Numbers:
    """Trains the folds one after the other, and returns the content of summary.json."""
    if jax.process_index() == 0:
        _warn(config, dataset, folds, rule)
        if config.tracking.overwrite:
            for fold in fold_folders(config.run_dir):
                with locked(fold):
                    shutil.rmtree(fold)
            (config.run_dir / "summary.json").unlink(missing_ok=True)
    multihost_utils.sync_global_devices("run folder prepared")
    steps, started = make_steps(config, dataset, rule), time.monotonic()
    trained = _train_each(config, dataset, steps, folds)
    results = [result for result, _ in trained]
    # A fold that an earlier version has finished may lack some metrics.
    further = [name for name in results[0] if name.startswith("default_val_") or name in steps.measured]
    names = [*steps.summary, *(name for name in further if all(name in result for result in results))]
    summary = {name: _over_folds([result[name] for result in results]) for name in names}
    if jax.process_index() == 0:
        write_json(config.run_dir / "summary.json", summary)
        is_new = any(is_new for _, is_new in trained)
        print(report.class_table(results), report.run_table(results, summary), sep="\n\n")
        print(f"\n{report.closing(config, time.monotonic() - started if is_new else None)}")
    return summary


def _warn(config: TrainConfig, dataset: RawDataset, folds: list[Fold], rule: type[UpdateRule]) -> None:
    warnings = rule.warnings(config)
    continued = [fold for fold in folds if fold.metrics_file.exists() and not config.tracking.overwrite]
    updates = config.optimization.epochs * steps_of_epoch(config, len(dataset))
    if len(continued) < len(folds) and updates < _LEAST_UPDATES and not rule.keeps_statistics:
        warnings.append(
            f"{updates} updates in all are few: the statistics of batch norm, by which validation normalizes, need "
            f"about {_LEAST_UPDATES}; lower --batch_size or raise --epochs"
        )
    for fold in continued:
        # Not refused: after an upgrade, refusing would lose days of training.
        if other_makers(read_metrics(fold.metrics_file, "start anew with --overwrite")):
            other = "was trained by different source code or another version of JAX"
            warnings.append(f"{fold.folder} {other}; --overwrite starts anew")
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)


def _train_each(
    config: TrainConfig, dataset: RawDataset, steps: Steps, folds: Sequence[Fold]
) -> list[tuple[Numbers, bool]]:
    """Trains folds one after the other, and returns what `_train_fold` returns of each."""
    trained = []
    with StopSignals() as stop:
        for fold in folds:
            with writing_to(fold.folder):
                trained.append(_train_fold(config, dataset, steps, fold, stop))
    return trained


def _over_folds(values: list[float]) -> dict[str, Any]:
    return {"mean": float(np.mean(values)), "std": float(np.std(values)), "folds": values}


def _train_fold(
    config: TrainConfig, dataset: RawDataset, steps: Steps, fold: Fold, stop: StopSignals
) -> tuple[Numbers, bool]:
    """Trains one fold from its start, or from its last checkpoint.

    Returns:
        The content of its metrics.json, and whether anything was left to do.
    """
    record = Record(config, dataset, fold, (*steps.summary, "best_epoch", f"best_val_{steps.task.score}"))
    size, folder = _sizes(config, fold), fold.folder / "checkpoints"
    if record.finished:
        _leave(config, steps, folder)
        return record.finished, False
    init_key, step_key = jax.random.split(jax.random.fold_in(jax.random.key(config.optimization.seed), fold.number))
    epochs, writes = config.optimization.epochs, jax.process_index() == 0
    quality = functools.partial(_quality, steps)
    with Checkpoints(folder, quality, enabled=config.tracking.log_model) as checkpoints:
        state = initial_state(config, dataset, steps, fold, size.batch, (init_key, step_key), checkpoints.found)
        is_done = functools.partial(_out_of_patience, config, quality)
        state, history = checkpoints.restore_last(state, epochs, is_done)
        trainer = _Trainer(config, dataset, steps, fold, size, step_key, stop, int(state.step))
        tracker = Tracker(fold.folder, len(history), config.tracking.track_save_tensors, enabled=writes)
        with trainer, tracker:
            record.write(history)
            for epoch in range(len(history), epochs):
                if is_done(history):
                    break
                try:
                    state, speed = trainer.train_epoch(state, epoch)
                except _Stopped as stopped:
                    checkpoints.save(stopped.state, history, ends_epoch=False)
                    raise Interrupted(_farewell(config, f"stopped at step {trainer.step} of {trainer.steps}")) from None
                state, row, sums = trainer.end_epoch(state, epoch, speed)
                history.append(row)
                checkpoints.save(state, history)
                trainer.say(report.epoch_line(row, epochs, steps.task.score, best_of(history, quality) is row))
                recording.record_epoch(tracker, config, steps, state, row, sums, speed, size.steps)
                if config.tracking.track_every_epoch:
                    recording.record_samples(tracker, config, dataset, steps, state, epoch)
                tracker.flush()
                record.write(history)
                if epoch + 1 < epochs and stop.agreed():
                    raise Interrupted(_farewell(config, f"stopped after epoch {epoch + 1} of {epochs}"))

            if not config.tracking.track_every_epoch:
                recording.record_samples(tracker, config, dataset, steps, state, history[-1]["epoch"])
            final, confusion = _final_metrics(trainer, steps, state, history)
            if (picture := steps.task.confusion_picture(confusion)) is not None:
                tracker.picture("confusion", picture, history[-1]["epoch"])
            tracker.hyperparameters(
                recording.hyperparameters(config), {name: history[-1][name] for name in steps.summary}
            )
    if config.tracking.save_locally:
        # After the checkpoints are complete, and before the fold counts as finished.
        _write_model(config, fold, record.content(history, final), state)
    content = record.write(history, final)
    _leave(config, steps, folder)
    return content, True


def _out_of_patience(config: TrainConfig, quality: Quality, history: list[Numbers]) -> bool:
    """Tells whether the last validations, as many as --patience, have not improved on the best one before them."""
    patience, best = config.optimization.patience, best_of(history, quality)
    if not patience or best is None:
        return False
    since = [row for row in history if row["epoch"] > best["epoch"] and quality(row) is not None]
    return len(since) >= patience and since[-1] is history[-1]


def _leave(config: TrainConfig, steps: Steps, folder: pathlib.Path) -> None:
    """Drops the optimizer's state from the checkpoints of a finished fold, unless it is still needed."""
    kept = config.tracking.keep_optimizer or steps.rule.state_is_result
    if jax.process_index() == 0 and not kept:
        drop_optimizer(folder)


class _Sizes(NamedTuple):
    """The samples of a batch, over all devices, and the batches of an epoch."""

    batch: int
    steps: int


def _sizes(config: TrainConfig, fold: Fold) -> _Sizes:
    count, devices = len(fold.train_indices), jax.device_count()
    batch = min(config.optimization.batch_size, count // devices * devices)
    if batch == 0:
        raise InputError(f"{count} training samples are fewer than the {devices} devices")
    return _Sizes(batch, count // batch)


class _Stopped(Exception):  # noqa: N818 -- nothing went wrong
    """Training was asked to stop within an epoch, in this state."""

    def __init__(self, state: TrainState):
        super().__init__()
        self.state = state


class _Trainer:
    """Takes the steps of a fold and shows their progress.

    Attributes:
        step: the steps taken so far.
        steps: all that are to be taken.
        validated: the sums of the last validation; None before the first.
    """

    def __init__(
        self,
        config: TrainConfig,
        dataset: RawDataset,
        steps: Steps,
        fold: Fold,
        size: _Sizes,
        key: jax.Array,
        stop: StopSignals,
        first_step: int,
    ):
        self._config, self._dataset, self._compiled = config, dataset, steps
        self._fold, self._size, self._key, self._stop = fold, size, key, stop
        self.step, self.steps = first_step, config.optimization.epochs * size.steps
        self.validated: Numbers | None = None
        self._batches: Iterator[Batch] = loader.train_batches(
            dataset, fold.train_indices, size.batch, config.optimization.seed, first_step
        )

    def __enter__(self) -> "_Trainer":
        self._bar = tqdm(
            total=self.steps,
            initial=self.step,
            desc=f"fold {self._fold.number + 1}/{self._config.data.n_splits}",
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

    def train_epoch(self, state: TrainState, epoch: int) -> tuple[TrainState, float]:
        """Takes the steps that are left of an epoch, and returns the state and the images per second.

        Raises:
            _Stopped: the user or the scheduler asked to stop.
        """
        first, last, ahead, started = self.step, (epoch + 1) * self._size.steps, OneAhead(), time.perf_counter()
        key, timed = jax.random.fold_in(self._key, epoch), last - first
        while self.step < last:
            batch = to_devices(next(self._batches), shardings().split)
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
                raise _Stopped(state)
        # The device may still work on the last step: its sums are waited for before the clock is read.
        jax.block_until_ready(state.sums)
        return state, timed * self._size.batch / (time.perf_counter() - started)

    def end_epoch(self, state: TrainState, epoch: int, speed: float) -> tuple[TrainState, Numbers, Numbers]:
        """Validates if it is time to, and returns the state of the next epoch, this one's numbers and its sums.

        Raises:
            InputError: training has diverged.
        """
        steps, optimization = self._compiled, self._config.optimization
        sums, processor = jax.device_get((state.sums, state.processor))
        if not all(np.isfinite(array).all() for array in jax.tree.leaves((sums["loss"], processor))):
            raise InputError(f"training diverged in epoch {epoch + 1}, to numbers that are not finite: lower --lr")
        state = state.replace(sums=steps.zero_sums())
        row = {"epoch": epoch, **_means("train", sums, steps)}
        row["seconds"] = self._size.steps * self._size.batch / speed
        if (epoch + 1) % optimization.check_val_every_n_epoch == 0 or epoch + 1 == optimization.epochs:
            row |= _means("val", self.validate(state), steps)
        shown = [name for name in (f"val_{steps.task.score}", "val_loss") if name in row]
        self._bar.set_postfix({name.removeprefix("val_"): f"{row[name]:.3f}" for name in shown})
        return state, row, sums

    def validate(self, state: TrainState) -> Numbers:
        """Adds up a state's sums over the validation samples: the task's, and those of its and the rule's metrics."""
        sums = self._compiled.zero_evaluated()
        for batch in loader.eval_batches(self._dataset, self._fold.valid_indices, self._size.batch):
            sums = self._compiled.evaluate(state, sums, to_devices(batch, shardings().split))
        totals = self._compiled.task.totals(jax.device_get(sums))
        self.validated = totals
        return totals


def _farewell(config: TrainConfig, stopped: str) -> str:
    left = "the same command goes on from there" if config.tracking.log_model else "nothing is kept"
    return f"{stopped}; {left}"


def _means(split: str, sums: Numbers, steps: Steps) -> dict[str, float]:
    """Computes the score, the mean loss and the means of the task's and the rule's metrics, named after the split."""
    task, count, names = steps.task, sums["confusion"].sum(), ("loss", *steps.task.metrics, *steps.rule.metrics)
    means = {f"{split}_{name}": float(sums[name] / count) for name in names if name in sums}
    return means | {f"{split}_{task.score}": float(task.score_of(sums["confusion"]))}


def _quality(steps: Steps, row: Mapping[str, Any]) -> Numbers | None:
    """Returns what makes an epoch the best, see `checkpoint.Quality`; None for an epoch that was not validated."""
    score, sign = f"val_{steps.task.score}", steps.rule.sign
    if score not in row:
        return None
    return {"score": sign * row[score], "loss": -sign * row["val_loss"], "epoch": row["epoch"]}


def _final_metrics(
    trainer: _Trainer, steps: Steps, state: TrainState, history: list[Numbers]
) -> tuple[Numbers, np.ndarray]:
    """Returns the last epoch's numbers, those of each class and the best epoch's; and the confusion matrix."""
    # The last epoch was validated in this state, unless an earlier call has trained it.
    task, sums = steps.task, trainer.validated or trainer.validate(state)
    best, confusion = best_of(history, functools.partial(_quality, steps)), sums["confusion"]
    assert best is not None  # the last epoch is always validated
    final = {
        **{name: history[-1][name] for name in (*steps.summary, *steps.measured) if name in history[-1]},
        "best_epoch": best["epoch"],
        **{f"best_{name}": best[name] for name in (f"val_{task.score}", "val_loss", *steps.measured) if name in best},
        **{
            f"val_{name}": dict(zip(task.classes, map(float, getattr(tasks.metrics, name)(confusion)), strict=True))
            for name in ("precision", "recall", "f1")
        },
        "val_samples": dict(zip(task.classes, sums["samples"].tolist(), strict=True)),
        "val_confusion_matrix": confusion.tolist(),
    }
    if (reference := steps.rule.reference(state.model, state.opt_state)) is not None:
        sums = trainer.validate(state.replace(model=reference))
        by_default = {name: total for name, total in sums.items() if name not in steps.rule.metrics}
        final |= _means("default_val", by_default, steps)
    return final, confusion


def _write_model(config: TrainConfig, fold: Fold, content: Mapping[str, Any], state: TrainState) -> None:
    """Writes the model of the best epoch to one file; without checkpoints, that of the last epoch."""
    which, where, model = "last", str(fold.folder), state.model
    if config.tracking.log_model:
        which = "best"
        nnx.replace_by_pure_dict(model, stored_model(fold.folder, shardings().everywhere, which, where))
    if jax.process_index() == 0:
        about, arrays = about_run(content, fold.number, which, where), named_arrays(model)
        model_file.write(fold.folder / model_file.NAME, arrays, about, identity_of(about, config, arrays))

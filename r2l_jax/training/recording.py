"""Recording of a training by a `Tracker`: each epoch's numbers, pictures of samples, and the settings."""

from typing import Any

import jax
import numpy as np

from r2l_jax.config import TrainConfig
from r2l_jax.data.loader import Batch
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.runtime.devices import shardings, to_devices
from r2l_jax.runtime.flags import flat
from r2l_jax.training.optimizer import learning_rate
from r2l_jax.training.steps import Steps, TrainState
from r2l_jax.training.tracking import Tracker

Numbers = dict[str, Any]


def record_epoch(
    tracker: Tracker,
    config: TrainConfig,
    steps: Steps,
    state: TrainState,
    row: Numbers,
    sums: Numbers,
    speed: float,
    epoch_steps: int,
) -> None:
    """Records an epoch's numbers and the processing's parameters.

    Args:
        tracker: takes the record.
        config: the run.
        steps: its compiled functions.
        state: the state after the epoch.
        row: the epoch's row of the history.
        sums: the sums of the epoch's steps, see `TrainState`.
        speed: images per second.
        epoch_steps: the number of updates in an epoch.
    """
    epoch = row["epoch"]
    tracker.scalars({_tag(name): row[name] for name in (*steps.summary, *steps.measured) if name in row}, epoch)
    rate = float(learning_rate(config.optimization, epoch_steps)(int(state.step) - 1))
    tracker.scalars({"learning_rate": rate, "images_per_second": speed}, epoch)
    norms = {name: float(norm) / epoch_steps for name, norm in sums["gradient_norm"].items()}
    # A pipeline's parameters: a network's, in a dict of their own, are too many to look at.
    parameters = {name: value for name, value in state.processor.items() if not isinstance(value, dict)}
    tracker.processor(jax.device_get(parameters), norms, epoch)


def record_samples(
    tracker: Tracker, config: TrainConfig, dataset: RawDataset, steps: Steps, state: TrainState, epoch: int
) -> None:
    """Records what the flags ask for of the data set's first samples, such as stages, their gradients, predictions.

    Args:
        tracker: takes the record.
        config: the run.
        dataset: the samples.
        steps: the run's compiled functions.
        state: the state after the epoch.
        epoch: its number, from 0.
    """
    if not config.records:
        return
    tracking, indices = config.tracking, np.arange(min(config.tracking.track_n_images, len(dataset)), dtype=np.int32)
    raws, targets = dataset.samples(indices)
    samples: Batch = {"raw": raws, "target": targets, "index": indices, "weight": np.ones(len(indices), np.float32)}
    batch = to_devices(samples, shardings().everywhere)
    logits, images, gradients = jax.device_get(steps.trace(state.model, batch))
    if tracking.track_processing:
        tracker.images("stages", dict(zip(steps.stages, images, strict=True)), epoch)
    if tracking.track_processing_gradients:
        tracker.gradients(dict(zip(steps.stages, gradients, strict=True)), epoch)
    reference = steps.rule.reference(state.model, state.opt_state)
    if config.attack.adv_track_differences and reference is not None:
        _, (*_, default), _ = jax.device_get(steps.trace(reference, batch))
        tracker.differences(default, images[-1], epoch)
    if tracking.track_predictions:
        tracker.predictions(steps.task.predictions_picture(images[-1], logits, targets), logits, targets, epoch)


def hyperparameters(config: TrainConfig) -> dict[str, Any]:
    """Returns the settings to compare runs by: the most telling ones first, then all that differ from their default.

    The first ones are numbered, since TensorBoard sorts by name and shows the first five.
    """
    flags, defaults, named = flat(config), flat(TrainConfig()), config.processing.named_pipeline
    pipeline = config.processing.processing_mode if named is None else named.title
    first = {"1_lr": flags["lr"], "2_epochs": flags["epochs"], "3_pipeline": pipeline}
    left_out = ("logdir", "data_dir", "lr", "epochs", "pipeline")
    changed = {name: value for name, value in flags.items() if value != defaults[name] and name not in left_out}
    return first | changed


def _tag(name: str) -> str:
    """Returns TensorBoard's name of a metric, grouped so that training and validation stand side by side."""
    split, metric = name.split("_", 1)
    return f"{metric}/{split}"

"""Training output: lines and tables for the terminal; TensorBoard events, pictures and tensors."""

import json
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image
from tensorboardX import SummaryWriter

from isp.parameter import MOST_ELEMENTS
from r2l_jax.cli.commands import command, report_command
from r2l_jax.config import TrainConfig
from r2l_jax.data import loader
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.data.splits import varied
from r2l_jax.devices.placement import shardings, to_devices
from r2l_jax.model.pictures import row_of
from r2l_jax.results.files import EVENTS, clear_parts, naming, replacing
from r2l_jax.results.tables import table
from r2l_jax.training.settings import TrackingSettings
from r2l_jax.training.steps import Steps, TrainState

Numbers = dict[str, Any]
Row = Mapping[str, Any]

# The name of the TensorBoard text with the initial processing parameters.
START = "processor_start"


class Tracker:
    """Records one fold: TensorBoard events in its folder, pictures under `results/`, with `save_tensors` also as .npy.

    Events from `first_epoch` on are superseded. Only one process of several is `enabled` to write.
    """

    def __init__(self, folder: pathlib.Path, first_epoch: int, save_tensors: bool, enabled: bool = True):
        self._folder = folder
        self._save_tensors = save_tensors and enabled
        self._enabled = enabled
        if enabled:
            # Left behind by a call that was killed.
            for pictures in (folder / "results").glob("**/"):
                clear_parts(pictures, 0.0)
        self._writer = SummaryWriter(str(folder), purge_step=first_epoch, write_to_disk=enabled)

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, *exception) -> None:
        with naming(self._folder / EVENTS):
            self._writer.close()

    def epoch(self, steps: Steps, state: TrainState, row: Numbers, sums: Numbers, count: int) -> None:
        """Records the row of an epoch, the processing's parameters after it, and the means of `count` steps' sums."""
        epoch = row["epoch"]
        # Grouped so that training and validation stand side by side.
        names = {"/".join(reversed(name.split("_", 1))): name for name in steps.summary}
        self.scalars({tag: row[name] for tag, name in names.items() if name in row}, epoch)
        norms = {name: float(norm) / count for name, norm in sums["gradient_norm"].items()}
        self.processor(jax.device_get(_single(state.processor)), norms, epoch)
        with naming(self._folder / EVENTS):
            self._writer.flush()

    def start(self, parameters: Mapping[str, Any]) -> None:
        """Records the processing's parameters before the first step."""
        few = {name: value.tolist() for name, value in _single(parameters).items() if value.size <= MOST_ELEMENTS}
        self._writer.add_text(START, json.dumps(few), 0)

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """Records numbers by name."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, epoch)

    def processor(self, parameters: Mapping[str, np.ndarray], gradient_norms: Mapping[str, float], epoch: int) -> None:
        """Records the processing's parameters, by element or as a histogram, and the norm of each one's gradient."""
        for name, value in parameters.items():
            if value.size > MOST_ELEMENTS:
                self._writer.add_histogram(f"processor/{name}", value.ravel(), epoch)
                continue
            for index, element in np.ndenumerate(value):
                self._writer.add_scalar("/".join(["processor", name, *map(str, index)]), element, epoch)
        for name, norm in gradient_norms.items():
            self._writer.add_scalar(f"processor_gradient_norm/{name}", norm, epoch)

    def images(self, group: str, images: Mapping[str, np.ndarray], epoch: int) -> None:
        """Records batches `(N, H, W, 3)` or `(N, H, W)` in [0, 1], each as a row, numbered to keep their order."""
        for number, (name, batch) in enumerate(images.items()):
            self.picture(f"{group}/{number}_{name}", row_of(batch), epoch)
            self.tensor(f"{group}/{number}_{name}", batch, epoch)

    def gradients(self, gradients: Mapping[str, np.ndarray], epoch: int) -> None:
        """Records the magnitudes of gradients of such batches; the brightest 1% of each image has full brightness.

        Gradients of well and badly classified samples differ by orders of magnitude, so each image is scaled by itself.
        """
        for number, (name, gradient) in enumerate(gradients.items()):
            magnitude = np.abs(gradient)
            brightest = np.quantile(magnitude, 0.99, axis=tuple(range(1, magnitude.ndim)), keepdims=True)
            picture = np.clip(magnitude / np.maximum(brightest, np.finfo(np.float32).tiny), 0, 1)
            self.picture(f"gradients/{number}_{name}", row_of(picture), epoch)
            self.tensor(f"gradients/{number}_{name}", gradient, epoch)

    def picture(self, name: str, picture: np.ndarray, epoch: int) -> None:
        """Records a picture `(rows, cols)` or `(rows, cols, 3)` in [0, 1]."""
        self._writer.add_image(name, picture.astype(np.float32), epoch, dataformats="HWC"[: picture.ndim])
        if self._enabled:
            with replacing(self._path(f"{name}.png", epoch)) as part:
                Image.fromarray(np.round(255 * picture).astype(np.uint8)).save(part, "png")

    def tensor(self, name: str, tensor: np.ndarray, epoch: int) -> None:
        """Writes an array if `save_tensors` is set."""
        if self._save_tensors:
            with replacing(self._path(f"{name}.npy", epoch)) as part, part.open("wb") as file:
                np.save(file, tensor)

    def _path(self, name: str, epoch: int) -> pathlib.Path:
        return self._folder / "results" / f"epoch_{epoch:04d}" / name


def _single(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a pipeline's parameters, without network parameters (nested dicts), which are too many to view."""
    return {name: value for name, value in parameters.items() if not isinstance(value, dict)}


def record_samples(
    tracker: Tracker, wanted: TrackingSettings, dataset: RawDataset, steps: Steps, state: TrainState, epoch: int
) -> None:
    """Records stages, their gradients, and predictions for samples from all classes, as the flags request."""
    if not (wanted.records or steps.rule.records_differences):
        return
    samples = loader.batch_of(dataset, varied(dataset.labels, wanted.track_n_images))
    targets, batch = samples["target"], to_devices(samples, shardings().everywhere)
    logits, images, gradients = jax.device_get(steps.trace(state.model, batch))
    if "processing" in wanted.track:
        tracker.images("stages", dict(zip(steps.stages, images, strict=True)), epoch)
    if "gradients" in wanted.track:
        tracker.gradients(dict(zip(steps.stages, gradients, strict=True)), epoch)
    reference = steps.rule.reference(state.model, state.opt_state)
    if steps.rule.records_differences and reference is not None:
        _, (*_, default), _ = jax.device_get(steps.trace(reference, batch))
        # Half of the difference, centered on gray.
        shown = {"default": default, "adversarial": images[-1], "difference": 0.5 + (images[-1] - default) / 2}
        tracker.images("differences", shown, epoch)
    if "predictions" in wanted.track:
        tracker.picture("predictions", steps.task.predictions_picture(images[-1], logits, targets), epoch)
        # Of a detector, its boxes.
        tracker.tensor("predictions_logits", jax.tree.leaves(logits)[0], epoch)
        tracker.tensor("predictions_targets", targets, epoch)


def epoch_line(row: Row, epochs: int, score: str, is_best: bool) -> str:
    """Returns the summary line of an epoch, at most 80 characters: losses, scores, seconds, and * if best."""
    parts = [f"epoch {row['epoch'] + 1:>{len(str(epochs))}}/{epochs}"]
    for name in ("loss", score):
        validated = f" val {row[f'val_{name}']:.4f}" if f"val_{name}" in row else ""
        parts.append(f"{name} {row[f'train_{name}']:.4f}{validated}")
    return "  ".join([*parts, f"{row['seconds']:.1f} s", *(["*"] if is_best else [])])


def run_table(results: Sequence[Row], summary: Mapping[str, Row]) -> str:
    """Formats the final scores of a run: a row for each fold, and mean and standard deviation over several."""
    names, score = list(summary), next(iter(summary))  # of the validation
    rows = [["", *(name.replace("_", " ") for name in names), f"best {score.replace('_', ' ')}"]]
    for fold, result in enumerate(results):
        best = f"{result[f'best_{score}']:.4f} (epoch {result['best_epoch'] + 1})"
        rows.append([f"fold {fold}", *(f"{result[name]:.4f}" for name in names), best])
    if len(results) > 1:
        for title, key in (("mean", "mean"), ("standard deviation", "std")):
            rows.append([title, *(f"{summary[name][key]:.4f}" for name in names), ""])
    return table(rows)


def class_table(results: Sequence[Row], metrics: Sequence[str]) -> str:
    """Formats the last epoch's validation scores by class: means over the folds, and samples of all folds.

    A sample of several classes counts for each.
    """
    rows = [["class", "samples", *metrics]]
    for name in results[0]["val_samples"]:
        samples = f"{sum(result['val_samples'][name] for result in results):.0f}"
        means = (sum(result[f"val_{metric}"][name] for result in results) / len(results) for metric in metrics)
        rows.append([name, samples, *(f"{mean:.4f}" for mean in means)])
    return table(rows)


def closing(config: TrainConfig, seconds: float, has_gradient: bool = True) -> str:
    """Returns the closing lines of a call: its duration, the location of the results, and the next commands.

    The worst-case search needs a gradient, which some heads lack.
    """
    run, (minutes, rest) = shlex.quote(str(config.run_dir)), divmod(round(seconds), 60)
    run += f" --code={shlex.quote(','.join(config.code))}" if config.code else ""
    lines = [
        f"done in {minutes} min {rest} s; results in {config.run_dir}",
        f"curves and pictures:  tensorboard --logdir {shlex.quote(config.tracking.logdir)}",
        f"scores under drift:   {command('evaluate')} --run={run}",
    ]
    if config.processing.learns_pipeline and has_gradient:
        lines.append(f"worst-case search:    {command('forensics')} --run={run}")
    elif config.processing.learns_pipeline:
        lines.append(f"tolerances:           {command('forensics')} --run={run} --analyses=tolerances")
    return "\n".join([*lines, f"report:               {report_command([str(config.run_dir)])}"])

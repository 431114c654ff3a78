"""Training output: lines and tables for the terminal, TensorBoard events, pictures, and the result of a fold."""

import contextlib
import json
import operator
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from PIL import Image
from tensorboardX import summary

import isp
from isp.parameter import MOST_ELEMENTS
from r2l_jax.cli.commands import command, report_command
from r2l_jax.config import TrainConfig
from r2l_jax.data import loader
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.data.splits import varied
from r2l_jax.devices.placement import shardings, to_devices
from r2l_jax.model.pictures import row_of
from r2l_jax.model.processors import Processor
from r2l_jax.model.tasks import Task
from r2l_jax.results import result
from r2l_jax.results.contact_sheet import contact_sheet
from r2l_jax.results.events import Events
from r2l_jax.results.files import clear_parts, replacing
from r2l_jax.results.heat_map import heat_map
from r2l_jax.results.result import SCORE, Column, Figure, Result, Table
from r2l_jax.results.tables import table
from r2l_jax.training.record import Fold, Record, training_id
from r2l_jax.training.settings import TrackingSettings
from r2l_jax.training.steps import Steps, TrainState, processor_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Numbers = Mapping[str, Any]

# The name of a line, its epochs, and its values.
Line = tuple[str, Sequence[int], np.ndarray]

# The folder of a fold's result.
FOLDER = "training"

# The name of the TensorBoard text with the initial processing parameters.
START = "processor_start"


# The bins of a histogram.
_BINS = 64

# The colors of lines that are named after a channel.
_COLORS = {"red": "#c9403a", "green": "#3f9d5a", "green_1": "#3f9d5a", "green_2": "#8cc78f", "blue": "#3f6fd1"}


class Tracker(contextlib.AbstractContextManager):
    """Records one fold: TensorBoard events in its folder, pictures under `results/`, with `save_tensors` also as .npy.

    Events from `first_epoch` on are superseded. Only one process of several is `enabled` to write.
    """

    def __init__(self, folder: pathlib.Path, first_epoch: int, save_tensors: bool, enabled: bool = True):
        self._folder, self._save_tensors = folder, save_tensors and enabled
        if enabled:
            # Left behind by a call that was killed.
            for pictures in (folder / "results").glob("**/"):
                clear_parts(pictures, 0.0)
        self._events = Events(folder, first_epoch) if enabled else None

    def __exit__(self, *exception) -> None:
        if self._events is not None:
            self._events.__exit__(*exception)

    def epoch(self, steps: Steps, state: TrainState, row: Numbers, sums: Numbers, count: int) -> None:
        """Records the row of an epoch, the processing's parameters after it, and the means of `count` steps' sums."""
        epoch = row["epoch"]
        # Grouped so that training and validation stand side by side.
        tags = {name: "/".join(reversed(name.split("_", 1))) for name in steps.summary if name in row}
        self.scalars({tag: row[name] for name, tag in tags.items()}, epoch)
        norms = {name: float(norm) / count for name, norm in sums["gradient_norm"].items()}
        self.processor(jax.device_get(_single(processor_of(state.model))), norms, epoch)
        if self._events is not None:
            self._events.flush()

    def start(self, parameters: Mapping[str, Any]) -> None:
        """Records the processing's parameters before the first step."""
        few = {name: value.tolist() for name, value in _single(parameters).items() if value.size <= MOST_ELEMENTS}
        self._add(summary.text(START, json.dumps(few)), 0)

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """Records numbers by name."""
        for name, value in values.items():
            self._add(summary.scalar(name, value), epoch)

    def processor(self, parameters: Mapping[str, np.ndarray], gradient_norms: Mapping[str, float], epoch: int) -> None:
        """Records the processing's parameters, by element or as a histogram, and the norm of each one's gradient."""
        for name, value in parameters.items():
            if value.size > MOST_ELEMENTS:
                self._add(summary.histogram(f"processor/{name}", value.ravel(), _BINS), epoch)
                continue
            for index, element in np.ndenumerate(value):
                self._add(summary.scalar("/".join(["processor", name, *map(str, index)]), element), epoch)
        for name, norm in gradient_norms.items():
            self._add(summary.scalar(f"processor_gradient_norm/{name}", norm), epoch)

    def images(self, group: str, images: Mapping[str, np.ndarray], epoch: int) -> None:
        """Records batches `(N, H, W, 3)` or `(N, H, W)` in [0, 1], each as a row, numbered to keep their order.

        Of the group `gradients`, the magnitudes are shown; the brightest 1% of each image has full brightness, since
        gradients of well and badly classified samples differ by orders of magnitude.
        """
        for number, (name, batch) in enumerate(images.items()):
            shown = batch
            if group == "gradients":
                brightest = np.quantile(np.abs(batch), 0.99, tuple(range(1, batch.ndim)), keepdims=True)
                shown = np.abs(batch) / np.maximum(brightest, np.finfo(np.float32).tiny)
            self.picture(f"{group}/{number}_{name}", row_of(shown), epoch)
            self.tensor(f"{group}/{number}_{name}", batch, epoch)

    def picture(self, name: str, picture: np.ndarray, epoch: int) -> None:
        """Records a picture `(rows, cols)` or `(rows, cols, 3)` in [0, 1]."""
        self._add(summary.image(name, picture.astype(np.float32), dataformats="HWC"[: picture.ndim]), epoch)
        if self._events is not None:
            with replacing(self._path(name, epoch, "png")) as part:
                Image.fromarray(np.round(255 * picture).astype(np.uint8)).save(part, "png")

    def tensor(self, name: str, tensor: np.ndarray, epoch: int) -> None:
        """Writes an array if `save_tensors` is set."""
        if self._save_tensors:
            with replacing(self._path(name, epoch, "npy")) as part, part.open("wb") as file:
                np.save(file, tensor)

    def _add(self, content: Any, epoch: int) -> None:
        if self._events is not None:
            self._events.add(content, epoch)

    def _path(self, name: str, epoch: int, suffix: str) -> pathlib.Path:
        return self._folder / "results" / f"epoch_{epoch:04d}" / f"{name}.{suffix}"


def _single(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a pipeline's parameters, without network parameters (nested dicts), which are too many to view."""
    return {name: value for name, value in parameters.items() if not isinstance(value, dict)}


def record_samples(
    tracker: Tracker, wanted: TrackingSettings, dataset: RawDataset, steps: Steps, state: TrainState, epoch: int
) -> None:
    """Records stages, their gradients, and predictions for samples from all classes, as the flags request."""
    if {"processing", "gradients", "predictions"}.isdisjoint(wanted.track) and not steps.rule.records_differences:
        return
    samples = loader.batch_of(dataset, varied(dataset.labels, wanted.track_n_images))
    targets, height = samples["target"], samples["raw"].shape[1]
    batch = to_devices(samples, shardings().everywhere)
    logits, images, gradients = jax.device_get(steps.trace(state.model, batch))
    if "processing" in wanted.track:
        tracker.images("stages", dict(zip(steps.stages, images, strict=True)), epoch)
    if "gradients" in wanted.track:
        tracker.images("gradients", dict(zip(steps.stages, gradients, strict=True)), epoch)
    reference = steps.rule.reference(state.model, state.opt_state)
    if steps.rule.records_differences and reference is not None:
        _, (*_, default), _ = jax.device_get(steps.trace(reference, batch))
        # Half of the difference, centered on gray.
        shown = {"default": default, "adversarial": images[-1], "difference": 0.5 + (images[-1] - default) / 2}
        tracker.images("differences", shown, epoch)
    if "predictions" in wanted.track:
        judged = [
            steps.task.judged(image, jax.tree.map(operator.itemgetter(number), logits), targets[number], height)
            for number, image in enumerate(images[-1])
        ]
        shown = {f"image {number}: {words}": image for number, (image, words) in enumerate(judged, start=1)}
        tracker.picture("predictions", np.asarray(contact_sheet(shown, len(shown), panel=256)) / 255, epoch)
        # Of a detector, its boxes.
        tracker.tensor("predictions_logits", jax.tree.leaves(logits)[0], epoch)
        tracker.tensor("predictions_targets", targets, epoch)


def epoch_line(row: Numbers, epochs: int, score: str, is_best: bool) -> str:
    """Returns the summary line of an epoch, at most 80 characters: losses, scores, seconds, and * if best."""
    parts = [f"epoch {row['epoch'] + 1:>{len(str(epochs))}}/{epochs}"]
    for name in ("loss", score):
        validated = f" val {row[f'val_{name}']:.4f}" if f"val_{name}" in row else ""
        parts.append(f"{name} {row[f'train_{name}']:.4f}{validated}")
    return "  ".join([*parts, f"{row['seconds']:.1f} s", *(["*"] if is_best else [])])


def run_table(results: Sequence[Numbers], summary: Mapping[str, Numbers]) -> str:
    """Formats the final scores of a run: a row for each fold, and mean and standard deviation over several."""
    names, score = list(summary), next(iter(summary))  # of the validation
    rows = [["", *(name.replace("_", " ") for name in names), f"best {score.replace('_', ' ')}"]]
    for fold, numbers in enumerate(results):
        best = f"{numbers[f'best_{score}']:.4f} (epoch {numbers['best_epoch'] + 1})"
        rows.append([f"fold {fold}", *(f"{numbers[name]:.4f}" for name in names), best])
    if len(results) > 1:
        for title, key in (("mean", "mean"), ("standard deviation", "std")):
            rows.append([title, *(f"{summary[name][key]:.4f}" for name in names), ""])
    return table(rows)


def class_table(results: Sequence[Numbers], metrics: Sequence[str]) -> str:
    """Formats the last epoch's validation scores by class: means over the folds, and samples of all folds."""
    rows = [["class", "samples", *metrics]]
    for name in results[0]["val_samples"]:
        samples = f"{sum(result['val_samples'][name] for result in results):.0f}"
        means = (sum(result[f"val_{metric}"][name] for result in results) / len(results) for metric in metrics)
        rows.append([name, samples, *(f"{mean:.4f}" for mean in means)])
    return table(rows)


def closing(config: TrainConfig, seconds: float, has_gradient: bool = True) -> str:
    """Returns the closing lines of a call: its duration, the location of the results, and the next commands."""
    run, (minutes, rest) = shlex.quote(str(config.run_dir)), divmod(round(seconds), 60)
    run += f" --code={shlex.quote(','.join(config.code))}" if config.code else ""
    lines = [
        f"done in {minutes} min {rest} s; results in {config.run_dir}",
        f"curves and pictures:  tensorboard --logdir {shlex.quote(config.tracking.logdir)}",
        f"scores under drift:   {command('evaluate')} --run={run}",
    ]
    if config.processing.learns_pipeline:
        title, more = ("worst-case search: ", "") if has_gradient else ("tolerances:        ", " --analyses=tolerances")
        lines.append(f"{title}   {command('forensics')} --run={run}{more}")
    return "\n".join([*lines, f"report:               {report_command([str(config.run_dir)])}"])


def write_result(fold: Fold, content: Numbers, task: Task, processor: Processor) -> None:
    """Writes the result of a completed training to `fold_<k>/training/`, from metrics.json, events and pictures."""
    history, tables = content["history"], dict[str, Table]()
    figures: dict[str, Figure | Image.Image] = {}
    if task.classes:
        scores = [Column(each, "", SCORE) for each in task.class_metrics]
        rows = [
            [name, samples, *(content[f"val_{each}"][name] for each in task.class_metrics)]
            for name, samples in content["val_samples"].items()
        ]
        columns = [Column("class"), Column("samples", "", ".0f"), *scores]
        tables["classes"] = Table("Validation scores by class", columns, rows, "At the last checkpoint.")
    if content["flags"]["epochs"]:
        tables["epochs"] = _epochs(history, task.score.name)
    if len(history) > 1:
        figures |= _curves(history, task) | _processing(fold.folder, processor)
    if task.has_labels:
        figures["confusion"] = _confusion(np.array(content["val_confusion_matrix"]), task.classes)
    pictures, captions = _pictures(fold.folder / "results")
    figures |= pictures
    ids = {f"fold_{fold.number}": training_id(Record.of(content, str(fold.folder)))}
    metadata = {"title": "Training curves", "training": ids}
    result.write(fold.folder / FOLDER, Result(metadata, tables, figures, captions=captions))


def _epochs(history: Sequence[Numbers], score: str) -> Table:
    names = [*dict.fromkeys(name for row in history for name in row if name not in ("epoch", "seconds")), "seconds"]
    columns = [Column(name.replace("_", " "), "", SCORE if name.endswith(score) else ".3g") for name in names]
    rows = [[row["epoch"] + 1, *(row.get(name) for name in names)] for row in history]
    return Table("Losses and scores by epoch", [Column("epoch"), *columns], rows)


def _curves(history: Sequence[Numbers], task: Task) -> dict[str, Figure]:
    figures = {}
    for metric in dict.fromkeys(name.partition("_")[2] for row in history for name in row if "_" in name):
        in_points, lines = metric.endswith(task.score.name), []
        for split, name in (("validation", f"val_{metric}"), ("training", f"train_{metric}")):
            known = {row["epoch"] + 1: row[name] for row in history if name in row}
            lines.append((split, [*known], np.array([*known.values()]) * (100 if in_points else 1)))
        words = metric.replace("_", " ")
        chance = 100 / len(task.classes) if metric == "accuracy" else None
        figures[metric] = _plot(words, f"{words}, points" if in_points else words, lines, chance=chance)
    return figures


def _processing(folder: pathlib.Path, processor: Processor) -> dict[str, Figure]:
    """Draws the change of each parameter that changes, and the norms of the gradients."""
    start, parameters, norms = _recorded(folder)
    known = processor.declarations if isinstance(processor, isp.Pipeline) else {}
    since, figures = "the end of the first epoch" if start is None else "the start", {}
    for name, courses in parameters.items():
        shape = [max(places) + 1 for places in zip(*courses, strict=True)]
        parameter = known.get(name, isp.Parameter(0.0))
        titles = dict(zip(np.ndindex(*shape), parameter.element_names(name, shape), strict=True))
        lines = []
        for place, (epochs, values) in sorted(courses.items()):
            if start is not None:
                epochs, values = [0, *epochs], np.array([np.array(start[name])[place], *values])
            lines.append((titles[place].removeprefix(f"{name}."), epochs, values - values[0]))
        if any(values.any() for _, _, values in lines):
            words = f"{name.replace('_', ' ')}: change since {since}"
            figures[f"parameter_{name}"] = _plot(words, parameter.unit or "change", lines)
    if moved := [(name, *course) for name, course in norms.items() if course[1].any()]:
        figures["gradient_norms"] = _plot("gradient norms of the loss", "mean norm", moved, scale="log")
    return figures


def _recorded(folder: pathlib.Path) -> tuple[dict | None, dict[str, dict[tuple[int, ...], Any]], dict[str, Any]]:
    """Reads the initial processing parameters, and the epochs and values of each element and gradient norm."""
    from tensorboard.backend.event_processing import event_accumulator

    # Keeps all scalars, and as little as possible of the rest.
    sizes = dict.fromkeys(event_accumulator.DEFAULT_SIZE_GUIDANCE, 1) | {event_accumulator.SCALARS: 0}
    events = event_accumulator.EventAccumulator(str(folder), sizes).Reload()
    start, parameters, norms = None, {}, {}
    if (tag := f"{START}/text_summary") in events.Tags()["tensors"]:  # Absent if its event file was deleted.
        start = json.loads(events.Tensors(tag)[0].tensor_proto.string_val[0])
    for tag in events.Tags()["scalars"]:
        kind, *parts = tag.split("/")
        course = [each.step + 1 for each in events.Scalars(tag)], np.array([each.value for each in events.Scalars(tag)])
        if kind == "processor":
            parameters.setdefault(parts[0], {})[tuple(map(int, parts[1:]))] = course
        elif kind == "processor_gradient_norm":
            norms[parts[0]] = course
    return start, parameters, norms


def _plot(caption: str, label: str, lines: Sequence[Line], scale="linear", chance: float | None = None) -> Figure:
    def draw(axes: "Axes") -> None:
        for number, (name, epochs, values) in enumerate(lines):
            # After seven lines, the colors repeat with dashes.
            form = "C0--" if name == "training" else "-" if number < 7 else "--"
            (line,) = axes.plot(epochs, values, form, marker="o" if len(epochs) <= 40 else "", markersize=3, label=name)
            if name in _COLORS:
                line.set_color(_COLORS[name])
        if chance is not None:
            axes.axhline(chance, color="gray", linestyle=":", label="chance")
        axes.set(xlabel="epoch", ylabel=label, yscale=scale)
        axes.locator_params("x", integer=True)
        axes.spines[["top", "right"]].set_visible(False)
        if len(lines) > 1:
            axes.figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize="small")

    return Figure(draw, (4.5, 3.0), caption)


def _confusion(matrix: np.ndarray, classes: Sequence[str]) -> Figure:
    # Class names must not be read as formulas.
    names = [name.replace("$", r"\$") for name in classes]
    return heat_map(
        100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1),
        [f"{name} ({count:.0f})" for name, count in zip(names, matrix.sum(1), strict=True)],
        names,
        label="% of the samples of a target",
        row_title="target (samples)",
        column_title="prediction",
        number=".0f",
        caption="validation confusion matrix, last checkpoint",
    )


def _pictures(folder: pathlib.Path) -> tuple[dict[str, Image.Image], dict[str, str]]:
    """Reads the pictures of the first and last recorded epochs by name, and captions; gradients go below stages."""
    epochs, pictures, captions = sorted(folder.glob("epoch_*")), {}, {}
    for epoch in dict.fromkeys([*epochs[:1], *epochs[-1:]]):
        stages = sorted(epoch.glob("stages/*.png"), key=lambda file: int(file.stem.partition("_")[0]))
        for file in [*stages, *sorted(epoch.glob("differences/*.png")), *sorted(epoch.glob("*.png"))]:
            words = file.stem.lstrip("0123456789_").replace("_", " ")
            gradient = epoch / "gradients" / file.name
            parts = [file, *([gradient] if gradient.exists() else [])]
            if len(parts) > 1:
                words += ", and the magnitude of the loss gradient"
            joined = np.concatenate([np.asarray(Image.open(part).convert("RGB")) for part in parts])
            pictures[name := f"{epoch.name}_{file.stem}"] = Image.fromarray(joined)
            captions[name] = f"{words}, epoch {int(epoch.name[6:]) + 1}"
    return pictures, captions

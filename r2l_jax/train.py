"""Training, from a TrainConfig to metrics.json."""

import dataclasses
import json
import pathlib
import shutil
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import nnx
from jax.experimental import multihost_utils
from tqdm import tqdm

import tasks
from r2l_jax import checkpoint, report
from r2l_jax.checkpoint import Checkpoints, load_parts
from r2l_jax.config import TrainConfig
from r2l_jax.data import datasets, loader
from r2l_jax.data.datasets import STATIC_STATISTICS
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.data.splits import Split, stratified_splits
from r2l_jax.errors import InputError
from r2l_jax.files import replacing, write_json
from r2l_jax.objective import SEGMENTATION_MULTIPLE, Objective, enlarged
from r2l_jax.processing import processing
from r2l_jax.steps import Steps, TrainState, make_steps, shardings, to_devices
from r2l_jax.stop import Interrupted, StopSignals
from r2l_jax.tracking import Tracker


class Fold(NamedTuple):
    """One of a run's splits, and where its files go."""

    number: int
    train_indices: np.ndarray
    valid_indices: np.ndarray
    folder: pathlib.Path

    @property
    def metrics_file(self) -> pathlib.Path:
        """The numbers so far, and how to reproduce them."""
        return self.folder / "metrics.json"


def run(config: TrainConfig) -> dict:
    """Trains every fold of a run, or what an earlier call with the same settings left undone.

    Writes `<logdir>/<experiment_name>/<run_name>/fold_<k>/`, and `summary.json` beside the folds.

    Returns:
        What summary.json holds: of each final number the mean and standard deviation over the folds.

    Raises:
        InputError: settings, files or an earlier run that do not fit.
        Interrupted: SIGINT or SIGTERM came; the same call goes on where this one stopped.
    """
    dataset = datasets.load(
        config.dataset,
        data_dir=config.data_dir,
        iso=config.iso,
        camera=config.camera,
        tile_size=config.tile_size,
        synthetic_images=config.synthetic_images,
        synthetic_size=config.synthetic_size,
        download=config.download,
    )
    _check_network(config, dataset)
    folds = _folds(config, dataset)
    _check(config, dataset, folds)
    if config.overwrite and jax.process_index() == 0:
        for fold in config.run_dir.glob("fold_*"):
            shutil.rmtree(fold)
        (config.run_dir / "summary.json").unlink(missing_ok=True)
    multihost_utils.sync_global_devices("run folder prepared")
    steps = make_steps(config, dataset)
    with StopSignals() as stop:
        results = [_train_fold(config, dataset, steps, fold, stop) for fold in folds]

    summary = {}
    for name in steps.objective.summary:
        values = [result[name] for result in results]
        summary[name] = {"mean": float(np.mean(values)), "std": float(np.std(values)), "folds": values}
    if jax.process_index() == 0:
        write_json(config.run_dir / "summary.json", summary)
        print(report.run_table(results, summary))
        print(f"\nresults in {config.run_dir}\ntensorboard --logdir '{config.logdir}'")
    return summary


def _folds(config: TrainConfig, dataset: RawDataset) -> list[Fold]:
    """The run's splits: drawn from the seed, or an earlier run's."""
    if config.state_dict_uri:
        pairs = [_earlier_split(config.state_dict_uri, fold, dataset) for fold in range(config.n_splits)]
    else:
        pairs = stratified_splits(dataset.labels, config.n_splits, config.train_size, config.seed)
    if config.test_run:
        pairs = [(train[: config.batch_size], valid[: config.batch_size]) for train, valid in pairs]
    return [Fold(number, *pair, config.run_dir / f"fold_{number}") for number, pair in enumerate(pairs)]


def _earlier_split(uri: str, fold: int, dataset: RawDataset) -> Split:
    """The training and validation indices of an earlier run."""
    file = checkpoint.fold_folder(uri, fold, "state_dict_uri") / "metrics.json"
    earlier = _read_metrics(file, f"--state_dict_uri={uri}")
    if earlier["fingerprint"] != dataset.fingerprint:
        raise InputError(f"--state_dict_uri={uri} splits other data: its samples or classes are not {dataset.name}'s")
    return np.array(earlier["train_indices"]), np.array(earlier["valid_indices"])


def _check_network(config: TrainConfig, dataset: RawDataset) -> None:
    """Raises an InputError unless the head that the settings name does the data set's task, at its size."""
    if dataset.task == "classification":
        if config.smp_encoder:
            raise InputError(f"--smp_encoder is for segmentation; --dataset={dataset.name} is classified")
        return
    if config.classifier_network != TrainConfig().classifier_network:
        raise InputError(f"--classifier_network is for classification; --dataset={dataset.name} is segmented")
    raw, _ = dataset[0]
    multiple = SEGMENTATION_MULTIPLE * (2 if config.processing_mode == "none" else 1)
    if any(side % multiple for side in raw.shape):
        raise InputError(
            f"--dataset={dataset.name}: height and width must be multiples of {multiple} for "
            f"--processing_mode={config.processing_mode} and a U-Net++, got {raw.shape[0]}x{raw.shape[1]}"
        )


def _check(config: TrainConfig, dataset: RawDataset, folds: list[Fold]) -> None:
    """Raises an InputError for all that would end the run later, before anything is trained or removed."""
    if config.batch_size % jax.device_count():
        raise InputError(
            f"--batch_size must be a multiple of the {jax.device_count()} devices, got {config.batch_size}"
        )
    try:
        config.run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{config.run_dir}: no folder to write to ({error.strerror})") from None
    for fold in folds:
        if fold.metrics_file.exists() and not config.overwrite:
            _check_earlier(config, dataset, fold)
            continue
        for flag in ("processor_uri", "classifier_uri"):
            if uri := getattr(config, flag):
                folder = checkpoint.fold_folder(uri, fold.number, flag).resolve()
                if config.overwrite and config.run_dir.resolve() in folder.parents:
                    raise InputError(f"--{flag}={uri} is in the run that --overwrite is to remove")


def _check_earlier(config: TrainConfig, dataset: RawDataset, fold: Fold) -> None:
    """Raises an InputError unless what a fold's folder holds can be continued by this run."""
    earlier = _read_metrics(fold.metrics_file, "start anew with --overwrite")
    differences = config.differences(earlier["flags"])
    if earlier["fingerprint"] != dataset.fingerprint:
        differences.append("the samples or classes are others")
    if len(earlier["history"]) > config.epochs:
        differences.append(f"it has {len(earlier['history'])} epochs, more than {config.epochs}")
    if differences:
        raise InputError(
            f"{config.run_dir} holds another run ({'; '.join(differences)}): "
            "choose another --run_name, or start anew with --overwrite"
        )


def _read_metrics(file: pathlib.Path, context: str) -> dict:
    """What a metrics.json holds; an InputError with the context if it is not one."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read ({error}); {context}") from None
    needed = {"complete", "flags", "history", "fingerprint", "train_indices", "valid_indices"}
    if not isinstance(content, dict) or needed - content.keys():
        raise InputError(f"{file} is not what a run of this program writes; {context}")
    return content


def _train_fold(config: TrainConfig, dataset: RawDataset, steps: Steps, fold: Fold, stop: StopSignals) -> dict:
    """Trains one fold from its start, or from its last checkpoint, and returns what its metrics.json holds."""
    if fold.metrics_file.exists():
        earlier = _read_metrics(fold.metrics_file, "start anew with --overwrite")
        # A flag that an earlier version did not have stood at its default.
        flags = dataclasses.asdict(TrainConfig()) | earlier["flags"]
        if earlier["complete"] and flags == dataclasses.asdict(config):
            return earlier
    devices = jax.device_count()
    batch_size = min(config.batch_size, len(fold.train_indices) // devices * devices)
    if batch_size == 0:
        raise InputError(f"{len(fold.train_indices)} training samples are fewer than the {devices} devices")
    epoch_steps = len(fold.train_indices) // batch_size
    init_key, step_key = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), fold.number))
    main_process = jax.process_index() == 0

    with Checkpoints(fold.folder / "checkpoints", enabled=config.log_model) as checkpoints:
        state = _initial_state(config, dataset, steps, fold, batch_size, init_key, resumes=checkpoints.found)
        state, history = checkpoints.restore_last(state)
        step, last_step = int(state.step), config.epochs * epoch_steps
        batches = loader.train_batches(dataset, fold.train_indices, batch_size, config.seed, step)
        progress = tqdm(
            total=last_step,
            initial=step,
            desc=f"fold {fold.number + 1}/{config.n_splits}",
            unit="step",
            disable=not main_process,
        )
        with progress, Tracker(fold.folder, len(history), config.track_save_tensors, enabled=main_process) as tracker:
            _write_metrics(config, dataset, fold, history)
            for epoch in range(len(history), config.epochs):
                started, first_step, previous_loss = time.perf_counter(), step, None
                while step < (epoch + 1) * epoch_steps:
                    state, loss = steps.train(state, to_devices(next(batches), shardings().split), step_key)
                    # The device works on one step while the next is prepared, and no further ahead: the bar tells the
                    # truth, and a request to stop is met within a step.
                    jax.block_until_ready(previous_loss)
                    previous_loss = loss
                    step += 1
                    progress.update()
                    # At an epoch's end, its validation still belongs to it.
                    if stop.after_step() and step < (epoch + 1) * epoch_steps:
                        checkpoints.save("last", state, history)
                        raise Interrupted(_farewell(config, f"stopped at step {step} of {last_step}"))

                # The first transfer from the devices since the epoch began.
                sums = jax.device_get(state.sums)
                parameters = _processor_parameters(state)
                if not all(np.isfinite(array).all() for array in (sums["loss"], *parameters.values())):
                    raise InputError(
                        f"training diverged in epoch {epoch + 1}, to numbers that are not finite: lower --lr"
                    )
                speed = (step - first_step) * batch_size / (time.perf_counter() - started)
                state = state.replace(sums=steps.zero_sums())
                row = {"epoch": epoch, **_means("train", sums, steps.objective)}
                if (epoch + 1) % config.check_val_every_n_epoch == 0 or epoch + 1 == config.epochs:
                    sums_of_validation = _evaluate(steps, state, dataset, fold.valid_indices, batch_size)
                    row |= _means("val", sums_of_validation, steps.objective)
                history.append(row)
                # The best first: a run that ends between the two does this epoch's end again.
                if _best(history, steps.objective.score) is row:
                    checkpoints.save("best", state, history)
                checkpoints.save("last", state, history)

                progress.set_postfix({name: f"{row[name]:.3f}" for name in steps.objective.summary if name in row})
                tracker.scalars({_tag(name): row[name] for name in steps.objective.summary if name in row}, epoch)
                tracker.scalars({"learning_rate": config.lr, "images_per_second": speed}, epoch)
                norms = {name: float(norm) / epoch_steps for name, norm in sums["gradient_norm"].items()}
                tracker.processor(parameters, norms, epoch)
                if config.track_every_epoch:
                    _track(config, dataset, steps, state, tracker, epoch)
                tracker.flush()
                _write_metrics(config, dataset, fold, history)
                if epoch + 1 < config.epochs and stop.after_epoch():
                    raise Interrupted(_farewell(config, f"stopped after epoch {epoch + 1} of {config.epochs}"))

            if not config.track_every_epoch:
                _track(config, dataset, steps, state, tracker, config.epochs - 1)
            sums = _evaluate(steps, state, dataset, fold.valid_indices, batch_size)
            final = _final_metrics(history, sums["confusion"], steps.objective)
            if dataset.task == "classification":
                figure = report.confusion_figure(sums["confusion"], dataset.classes)
                tracker.figure("confusion", figure, config.epochs - 1)
            numbers = {name: history[-1][name] for name in steps.objective.summary}
            tracker.hyperparameters(dataclasses.asdict(config), numbers)
            if config.save_locally and main_process:
                with replacing(fold.folder / "model.safetensors") as part:
                    safetensors.numpy.save_file(_named_arrays(state), part)
    return _write_metrics(config, dataset, fold, history, final)


def _farewell(config: TrainConfig, stopped: str) -> str:
    return f"{stopped}; {'the same command goes on from there' if config.log_model else 'nothing is kept'}"


def _initial_state(
    config: TrainConfig, dataset: RawDataset, steps: Steps, fold: Fold, batch_size: int, key: jax.Array, resumes: bool
) -> TrainState:
    """A fresh state, with the parts that earlier runs provide; one that will be restored needs its shapes only."""
    statistics = None
    if not config.learns_processing:
        statistics = jnp.zeros(3), jnp.ones(3)
        if not resumes:
            statistics = fixed_statistics(config, dataset, fold.train_indices, batch_size)
    state = steps.init(key, statistics)
    if resumes:
        return state
    for parts, flag in ((("processor", "normalizer"), "processor_uri"), (("head",), "classifier_uri")):
        if uri := getattr(config, flag):
            load_parts(state.model, parts, uri, fold.number, flag)
    return state


def fixed_statistics(
    config: TrainConfig, dataset: RawDataset, indices: np.ndarray, batch_size: int
) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation of each channel over the processed training images, or the published ones."""
    if config.processing_mode == "static" and dataset.name in STATIC_STATISTICS:
        mean, std = STATIC_STATISTICS[dataset.name]
        return jnp.array(mean), jnp.array(std)
    processor = processing(config.processing_mode, config.static_algorithms)(dataset.camera)

    @jax.jit
    def add(moments, batch):
        images, weight = processor(batch["raw"]), batch["weight"]
        return moments + jnp.stack([(weight @ (images**power).mean((1, 2))) for power in (1, 2)])

    moments = jnp.zeros((2, 3))
    for batch in loader.eval_batches(dataset, indices, batch_size):
        moments = add(moments, to_devices(batch, shardings().split))
    mean, mean_square = moments / len(indices)
    # As a batch norm's epsilon, for a channel that is constant.
    return mean, jnp.sqrt(jnp.maximum(mean_square - mean**2, 0) + 1e-5)


def _evaluate(steps: Steps, state: TrainState, dataset: RawDataset, indices: np.ndarray, batch_size: int) -> dict:
    """The summed loss and the confusion matrix over the samples named."""
    sums = {name: total for name, total in steps.zero_sums().items() if name != "gradient_norm"}
    for batch in loader.eval_batches(dataset, indices, batch_size):
        sums = steps.evaluate(state.model, sums, to_devices(batch, shardings().split))
    return jax.device_get(sums)


def _means(split: str, sums: dict, objective: Objective) -> dict[str, float]:
    """Mean loss and score from sums, named after the split."""
    count = sums["confusion"].sum()
    score = objective.score_of(sums["confusion"])
    return {f"{split}_loss": float(sums["loss"] / count), f"{split}_{objective.score}": float(score)}


def _tag(name: str) -> str:
    """TensorBoard's name of a metric, grouped so that training and validation stand side by side."""
    split, metric = name.split("_")
    return f"{metric}/{split}"


def _best(history: list[dict], score: str) -> dict | None:
    """The epoch of the highest validation score, of those the one of the lowest loss."""
    validated = [row for row in history if f"val_{score}" in row]
    return max(validated, key=lambda row: (row[f"val_{score}"], -row["val_loss"]), default=None)


def _final_metrics(history: list[dict], confusion: np.ndarray, objective: Objective) -> dict:
    """The last epoch's numbers, those of each class, and the best epoch."""
    best = _best(history, objective.score)
    return {
        **{name: history[-1][name] for name in objective.summary},
        "best_epoch": best["epoch"],
        **{f"best_{name}": best[name] for name in (f"val_{objective.score}", "val_loss")},
        **{
            f"val_{metric.__name__}": dict(zip(objective.classes, map(float, metric(confusion)), strict=True))
            for metric in (tasks.metrics.precision, tasks.metrics.recall, tasks.metrics.f1)
        },
        "val_confusion_matrix": confusion.tolist(),
    }


def _write_metrics(
    config: TrainConfig, dataset: RawDataset, fold: Fold, history: list[dict], final: dict | None = None
) -> dict:
    """Writes a fold's metrics.json and returns what it holds; without final numbers it is that of a run under way."""
    content = {
        "complete": final is not None,
        **(final or {}),
        "history": history,
        **report.reproduction(config),
        "seed": config.seed,
        "classes": dataset.classes,
        "fingerprint": dataset.fingerprint,
        "train_indices": fold.train_indices.tolist(),
        "valid_indices": fold.valid_indices.tolist(),
    }
    if jax.process_index() == 0:
        write_json(fold.metrics_file, content)
    return content


def _processor_parameters(state: TrainState) -> dict[str, np.ndarray]:
    return jax.device_get(nnx.to_pure_dict(state.model).get("processor", {}))


def _named_arrays(state: TrainState) -> dict[str, np.ndarray]:
    """The model's variables by their dotted paths."""
    return {".".join(map(str, path)): np.asarray(variable[...]) for path, variable in nnx.to_flat_state(state.model)}


def _track(
    config: TrainConfig, dataset: RawDataset, steps: Steps, state: TrainState, tracker: Tracker, epoch: int
) -> None:
    """Records what the flags ask for of the data set's first samples: stages, their gradients, predictions."""
    if not (config.track_processing or config.track_processing_gradients or config.track_predictions):
        return
    count = min(config.track_n_images, len(dataset))
    raws, targets = map(np.stack, zip(*(dataset[index] for index in range(count)), strict=True))
    batch = {"raw": raws, "target": targets, "weight": np.ones(count, np.float32)}
    logits, images, gradients = jax.device_get(steps.trace(state.model, to_devices(batch, shardings().everywhere)))
    if config.track_processing:
        tracker.images("stages", dict(zip(steps.stages, images, strict=True)), epoch)
    if config.track_processing_gradients:
        tracker.gradients(dict(zip(steps.stages, gradients, strict=True)), epoch)
    if config.track_predictions and dataset.task == "segmentation":
        images, logits = (enlarged(array, targets.shape[1]) for array in (images[-1], logits))
        tracker.masks(images, logits, targets, epoch)
    elif config.track_predictions:
        tracker.predictions(images[-1], logits, targets, dataset.classes, epoch)

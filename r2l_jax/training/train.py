"""Training, from a TrainConfig to metrics.json."""

import dataclasses
import shutil
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import nnx
from jax.experimental import multihost_utils
from tqdm import tqdm

import tasks
from isp.published import ADDITIVE_LAYER
from r2l_jax.config import TrainConfig
from r2l_jax.data import loader
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.data.sets import datasets, published
from r2l_jax.drift.forensics.attack import with_parameters
from r2l_jax.model.pretrained import load_weights
from r2l_jax.model.processors import half_size
from r2l_jax.model.tasks import Objective, enlarged
from r2l_jax.processing import HALF_SIZE_MODES
from r2l_jax.runtime import store
from r2l_jax.runtime.devices import shardings, to_devices
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.files import replacing, write_json
from r2l_jax.runtime.stop import Interrupted, StopSignals
from r2l_jax.training import report
from r2l_jax.training.checkpoint import Checkpoints, load_parts
from r2l_jax.training.folds import Fold, check, describe_data, make_folds, other_makers, read_metrics
from r2l_jax.training.steps import Steps, TrainState, make_steps, unknown_statistics
from r2l_jax.training.tracking import Tracker


def run(config: TrainConfig) -> dict:
    """Trains every fold of a run, or what an earlier call with the same settings left undone.

    Writes `<logdir>/<experiment_name>/<run_name>/fold_<k>/`, and `summary.json` beside the folds.

    Returns:
        What summary.json holds: of each final number the mean and standard deviation over the folds.

    Raises:
        InputError: settings, files or an earlier run that do not fit.
        Interrupted: SIGINT or SIGTERM came; the same call goes on where this one stopped.
    """
    config.named_pipeline  # noqa: B018 -- a name or a file that is no pipeline ends it before data is downloaded or made
    dataset = datasets.load(config.dataset, download=config.download, **config.data_settings)
    folds = make_folds(config, dataset)
    check(config, dataset, folds)
    if config.adv_training and not config.classifier_uri and jax.process_index() == 0:
        print("warning: --adv_training without --classifier_uri attacks a head untrained for the task", file=sys.stderr)
    if config.overwrite and jax.process_index() == 0:
        for fold in config.run_dir.glob("fold_*"):
            shutil.rmtree(fold)
        (config.run_dir / "summary.json").unlink(missing_ok=True)
    multihost_utils.sync_global_devices("run folder prepared")
    steps = make_steps(config, dataset)
    with StopSignals() as stop:
        results = [_train_fold(config, dataset, steps, fold, stop) for fold in folds]

    summary = {}
    by_default = [f"default_val_{name}" for name in (steps.objective.score, "loss")] if config.adv_training else []
    for name in (*steps.summary, *by_default):
        values = [result[name] for result in results]
        summary[name] = {"mean": float(np.mean(values)), "std": float(np.std(values)), "folds": values}
    if jax.process_index() == 0:
        write_json(config.run_dir / "summary.json", summary)
        print(report.run_table(results, summary))
        print(f"\nresults in {config.run_dir}\ntensorboard --logdir '{config.logdir}'")
    return summary


def _train_fold(config: TrainConfig, dataset: RawDataset, steps: Steps, fold: Fold, stop: StopSignals) -> dict:
    """Trains one fold from its start, or from its last checkpoint, and returns what its metrics.json holds."""
    made_by = [store.made_by()]
    if fold.metrics_file.exists():
        earlier = read_metrics(fold.metrics_file, "start anew with --overwrite")
        # A flag that an earlier version did not have stood at its default.
        flags = dataclasses.asdict(TrainConfig()) | earlier["flags"]
        if other_makers(earlier) and jax.process_index() == 0:
            # Not refused: after an upgrade, that would lose days of training.
            other = "was trained by different source code or another version of JAX"
            print(f"warning: {fold.folder} {other}; --overwrite starts anew", file=sys.stderr)
        made_by = [*(maker for maker in earlier.get("made_by", []) if maker not in made_by), *made_by]
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
            _write_metrics(config, dataset, fold, made_by, history)
            for epoch in range(len(history), config.epochs):
                first_step, previous_loss = step, None
                while step < (epoch + 1) * epoch_steps:
                    state, loss = steps.train(state, to_devices(next(batches), shardings().split), step_key)
                    if step == first_step:
                        # The call has compiled, if need be, and the device has begun.
                        started = time.perf_counter()
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
                processor = jax.device_get(nnx.to_pure_dict(state.model).get("processor", {}))
                if not all(np.isfinite(array).all() for array in jax.tree.leaves((sums["loss"], processor))):
                    raise InputError(
                        f"training diverged in epoch {epoch + 1}, to numbers that are not finite: lower --lr"
                    )
                speed = (step - first_step) * batch_size / (time.perf_counter() - started)
                state = state.replace(sums=steps.zero_sums())
                row = {"epoch": epoch, **_means("train", sums, steps.objective)}
                row["seconds"] = epoch_steps * batch_size / speed
                if (epoch + 1) % config.check_val_every_n_epoch == 0 or epoch + 1 == config.epochs:
                    sums_of_validation = _evaluate(steps, state, dataset, fold.valid_indices, batch_size)
                    row |= _means("val", sums_of_validation, steps.objective)
                history.append(row)
                # The best first: a run that ends between the two does this epoch's end again.
                if _best(config, history, steps.objective.score) is row:
                    checkpoints.save("best", state, history)
                checkpoints.save("last", state, history)

                progress.set_postfix({name: f"{row[name]:.3f}" for name in steps.summary if name in row})
                tracker.scalars({_tag(name): row[name] for name in steps.summary if name in row}, epoch)
                tracker.scalars({"learning_rate": config.lr, "images_per_second": speed}, epoch)
                norms = {name: float(norm) / epoch_steps for name, norm in sums["gradient_norm"].items()}
                # Those of a pipeline: a network's, in a dict of their own, are too many to look at.
                parameters = {name: value for name, value in processor.items() if not isinstance(value, dict)}
                tracker.processor(parameters, norms, epoch)
                if config.track_every_epoch:
                    _track(config, dataset, steps, state, tracker, epoch)
                tracker.flush()
                _write_metrics(config, dataset, fold, made_by, history)
                if epoch + 1 < config.epochs and stop.after_epoch():
                    raise Interrupted(_farewell(config, f"stopped after epoch {epoch + 1} of {config.epochs}"))

            if not config.track_every_epoch:
                _track(config, dataset, steps, state, tracker, config.epochs - 1)
            sums = _evaluate(steps, state, dataset, fold.valid_indices, batch_size)
            final = _final_metrics(config, history, sums["confusion"], steps)
            if config.adv_training:
                by_default = state.replace(model=with_parameters(state.model, state.opt_state.default))
                sums_by_default = _evaluate(steps, by_default, dataset, fold.valid_indices, batch_size)
                del sums_by_default["deviation"]
                final |= _means("default_val", sums_by_default, steps.objective)
            if dataset.task == "classification":
                figure = report.confusion_figure(sums["confusion"], dataset.classes)
                tracker.figure("confusion", figure, config.epochs - 1)
            numbers = {name: history[-1][name] for name in steps.summary}
            tracker.hyperparameters(dataclasses.asdict(config), numbers)
            if config.save_locally and main_process:
                with replacing(fold.folder / "model.safetensors") as part:
                    safetensors.numpy.save_file(_named_arrays(state), part)
    return _write_metrics(config, dataset, fold, made_by, history, final)


def _farewell(config: TrainConfig, stopped: str) -> str:
    return f"{stopped}; {'the same command goes on from there' if config.log_model else 'nothing is kept'}"


def _initial_state(
    config: TrainConfig, dataset: RawDataset, steps: Steps, fold: Fold, batch_size: int, key: jax.Array, resumes: bool
) -> TrainState:
    """A fresh state, with what earlier runs or ImageNet provide; one that will be restored needs its shapes only."""
    statistics = None
    if config.takes_statistics:
        statistics = unknown_statistics()
        if not resumes:
            statistics = fixed_statistics(config, dataset, fold.train_indices, batch_size)
    model = steps.init(key, statistics)
    if resumes:
        return steps.begin(model)
    for parts, flag in ((("processor", "normalizer"), "processor_uri"), (("head",), "classifier_uri")):
        if uri := getattr(config, flag):
            load_parts(model, parts, uri, fold.number, flag, optional=(ADDITIVE_LAYER,))
    if config.adv_training and not config.processor_uri:
        # Nothing will move them, and without any the head would see images as it never does.
        processor = config.named_pipeline(dataset.camera)
        mean, var = _moments(processor, dataset, fold.train_indices, batch_size)
        nnx.replace_by_pure_dict(model, nnx.to_pure_dict(model) | {"normalizer": {"mean": mean, "var": var}})
    if config.classifier_pretrained:
        head = nnx.eval_shape(lambda: steps.objective.make_head(nnx.Rngs(0)))
        nnx.update(head, model["head"])
        load_weights(head, steps.objective.network, config.pretrained_weights)
        loaded = jax.device_put(nnx.to_pure_dict(nnx.state(head)), shardings().everywhere)
        nnx.replace_by_pure_dict(model, nnx.to_pure_dict(model) | {"head": loaded})
    return steps.begin(model)


def fixed_statistics(
    config: TrainConfig, dataset: RawDataset, indices: np.ndarray, batch_size: int
) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation of each channel over the training images, or the published ones.

    The images are the processed ones, or those that a neural network processes.
    """
    half = config.processing_mode in HALF_SIZE_MODES
    known = published.MOSAIC_STATISTICS if half else published.STATIC_STATISTICS
    if dataset.name in known:
        mean, std = known[dataset.name]
        return jnp.array(mean), jnp.array(std)
    processor = (config.named_pipeline or half_size)(dataset.camera)
    mean, var = _moments(processor, dataset, indices, batch_size)
    # As a batch norm's epsilon, for a channel that is constant.
    return mean, jnp.sqrt(var + 1e-5)


def _moments(
    processor: nnx.Module, dataset: RawDataset, indices: np.ndarray, batch_size: int
) -> tuple[jax.Array, jax.Array]:
    """Mean and variance of each channel over the processed images of some samples."""

    @jax.jit
    def add(moments, batch):
        images, weight = processor(batch["raw"]), batch["weight"]
        return moments + jnp.stack([(weight @ (images**power).mean((1, 2))) for power in (1, 2)])

    moments = jnp.zeros((2, 3))
    for batch in loader.eval_batches(dataset, indices, batch_size):
        moments = add(moments, to_devices(batch, shardings().split))
    mean, mean_square = moments / len(indices)
    return mean, jnp.maximum(mean_square - mean**2, 0)


def _evaluate(steps: Steps, state: TrainState, dataset: RawDataset, indices: np.ndarray, batch_size: int) -> dict:
    """What a state comes to over the samples named: all of a step's sums but the gradients' norms."""
    sums = {name: total for name, total in steps.zero_sums().items() if name != "gradient_norm"}
    for batch in loader.eval_batches(dataset, indices, batch_size):
        sums = steps.evaluate(state, sums, to_devices(batch, shardings().split))
    return jax.device_get(sums)


def _means(split: str, sums: dict, objective: Objective) -> dict[str, float]:
    """Score, mean loss, and mean deviation if there is one, from sums; named after the split."""
    count = sums["confusion"].sum()
    means = {f"{split}_{name}": float(sums[name] / count) for name in ("loss", "deviation") if name in sums}
    return means | {f"{split}_{objective.score}": float(objective.score_of(sums["confusion"]))}


def _tag(name: str) -> str:
    """TensorBoard's name of a metric, grouped so that training and validation stand side by side."""
    split, metric = name.split("_")
    return f"{metric}/{split}"


def _best(config: TrainConfig, history: list[dict], score: str) -> dict | None:
    """The epoch of the highest validation score, of those the one of the lowest loss; for an attack the opposite."""
    sign = -1 if config.adv_training else 1
    validated = [row for row in history if f"val_{score}" in row]
    return max(validated, key=lambda row: (sign * row[f"val_{score}"], -sign * row["val_loss"]), default=None)


def _final_metrics(config: TrainConfig, history: list[dict], confusion: np.ndarray, steps: Steps) -> dict:
    """The last epoch's numbers, those of each class, and the best epoch."""
    objective = steps.objective
    best = _best(config, history, objective.score)
    return {
        **{name: history[-1][name] for name in steps.summary},
        "best_epoch": best["epoch"],
        **{f"best_{name}": best[name] for name in (f"val_{objective.score}", "val_loss")},
        **{
            f"val_{metric.__name__}": dict(zip(objective.classes, map(float, metric(confusion)), strict=True))
            for metric in (tasks.metrics.precision, tasks.metrics.recall, tasks.metrics.f1)
        },
        "val_confusion_matrix": confusion.tolist(),
    }


def _write_metrics(
    config: TrainConfig,
    dataset: RawDataset,
    fold: Fold,
    made_by: list[dict[str, str]],
    history: list[dict],
    final: dict | None = None,
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
        **describe_data(dataset),
        "made_by": made_by,
        "train_indices": fold.train_indices.tolist(),
        "valid_indices": fold.valid_indices.tolist(),
    }
    if jax.process_index() == 0:
        write_json(fold.metrics_file, content)
    return content


def _named_arrays(state: TrainState) -> dict[str, np.ndarray]:
    """The model's variables by their dotted paths."""
    return {".".join(map(str, path)): np.asarray(variable[...]) for path, variable in nnx.to_flat_state(state.model)}


def _track(
    config: TrainConfig, dataset: RawDataset, steps: Steps, state: TrainState, tracker: Tracker, epoch: int
) -> None:
    """Records what the flags ask for of the data set's first samples, such as stages, their gradients, predictions."""
    if not config.records:
        return
    count = min(config.track_n_images, len(dataset))
    raws, targets = dataset.samples(np.arange(count))
    batch = {"raw": raws, "target": targets, "weight": np.ones(count, np.float32)}
    batch = to_devices(batch, shardings().everywhere)
    logits, images, gradients = jax.device_get(steps.trace(state.model, batch))
    if config.track_processing:
        tracker.images("stages", dict(zip(steps.stages, images, strict=True)), epoch)
    if config.track_processing_gradients:
        tracker.gradients(dict(zip(steps.stages, gradients, strict=True)), epoch)
    if config.adv_track_differences:
        by_default = with_parameters(state.model, state.opt_state.default)
        _, (*_, default), _ = jax.device_get(steps.trace(by_default, batch))
        tracker.differences(default, images[-1], epoch)
    if config.track_predictions and dataset.task == "segmentation":
        images, logits = (enlarged(array, targets.shape[1]) for array in (images[-1], logits))
        tracker.masks(images, logits, targets, epoch)
    elif config.track_predictions:
        tracker.predictions(images[-1], logits, targets, dataset.classes, epoch)

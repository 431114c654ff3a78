"""Plans a run, so that everything that would make it fail later is detected before, and makes its initial models."""

import functools
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import isp
from isp.published import ADDITIVE_LAYER
from r2l_jax.cli.flags import flat, replace
from r2l_jax.config import TrainConfig
from r2l_jax.data import loader
from r2l_jax.data.files import tiles
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.data.sets import datasets
from r2l_jax.data.sets.published import MOSAIC_STATISTICS, STATIC_STATISTICS
from r2l_jax.data.settings import TrainingDataSettings
from r2l_jax.data.splits import Split, check_groups, given_splits, named_parts, random_splits
from r2l_jax.devices.hosts import is_first
from r2l_jax.devices.placement import each_on_devices, shardings, to_devices
from r2l_jax.errors import InputError, spelled, warn
from r2l_jax.model.adaptation import LEAST
from r2l_jax.model.heads import load_weights
from r2l_jax.model.processors import Processor
from r2l_jax.model.raw_to_logit import Architecture, Statistics, unknown_statistics
from r2l_jax.model.settings import HALF_SIZE_MODES
from r2l_jax.model.tasks import Task, task_of
from r2l_jax.names import AUTO
from r2l_jax.pipelines import metered, metering_of
from r2l_jax.training.model_io import restore, stored
from r2l_jax.training.record import Fold, check_split, describe, differences, fold_folder, read_record
from r2l_jax.training.steps import GradientDescent, Steps, StepSettings, TrainState
from tasks.layers import EPSILON

# The number of samples that initialize the running statistics of a learned processing.
_SAMPLES = 256

# The number of samples that set the target of metering.
_METERED = 64


class Batches(NamedTuple):
    """The number of samples in a training batch, over all devices, and of batches in an epoch."""

    size: int
    per_epoch: int

    @classmethod
    def of(cls, samples: int, batch_size: int) -> "Batches":
        """Divides the training samples of a fold."""
        devices = jax.device_count()
        size = min(batch_size, samples // devices * devices)
        if size == 0:
            raise InputError(f"there must be at least one training sample per device ({devices}), got {samples}")
        return cls(size, samples // size)


class Plan:
    """A run before training: its settings, completed from the data, and its data, folds and steps."""

    def __init__(self, config: TrainConfig, rule: type[GradientDescent] = GradientDescent):
        # A wrong pipeline name ends the run before data is downloaded or rendered.
        _ = config.processing.named_pipeline
        self.dataset = datasets.load(config.data.dataset, download=config.data.download, **config.data.source)
        batch_size = config.optimization.batch_size
        self.config = config = _completed(config, self.dataset.camera)
        seed, split_seed = config.optimization.seed, config.optimization.split_seed
        trains = config.optimization.epochs > 0
        splits = splits_of(config.data, seed if split_seed is None else split_seed, self.dataset, trains)
        if config.data.test_run:
            splits = [Split(*(self.dataset.taking_turns(part)[:batch_size] for part in split)) for split in splits]
        self.folds = [Fold(number, split, config.run_dir / f"fold_{number}") for number, split in enumerate(splits)]
        # Folds of groups differ in size, and each must fill a batch.
        size = Batches.of(min(len(split.train) for split in splits), batch_size).size
        self.batches = Batches(size, len(splits[0].train) // size)
        self.steps = StepSettings.of(config, self.dataset, self.batches.per_epoch)
        _check(config, self.steps, self.dataset, rule)
        if batch_size % jax.device_count():
            raise InputError(f"`batch_size` must be a multiple of {jax.device_count()} devices, got {batch_size}")
        # Last, because this hashes the data.
        self.described = describe(config, self.dataset)

    def check_folders(self) -> None:
        """Raises an InputError if an earlier run conflicts with this one, before anything is trained or removed."""
        config, new = self.config, []
        for fold in self.folds:
            file = fold.folder / "metrics.json"
            if config.tracking.overwrite or not file.exists():
                new.append(fold)
                continue
            earlier = read_record(file, "start over with `overwrite`")
            found = differences(earlier.content, self.described)
            if not found and not all(map(np.array_equal, earlier.split, fold.split)):
                found = ["another split"]
            if found:
                raise InputError(
                    f"{fold.folder.parent} is a different run ({'; '.join(found)}): "
                    "choose another `run_name`, or start over with `overwrite`"
                )
        for fold in new:
            check_origins(config, self.steps.architecture, self.dataset, fold)
        if new:
            pretrained_head(config, self.steps.task)
        fewest = min([len(fold.split.train) for fold in new], default=LEAST)
        if config.optimization.camera_augmentation and fewest < LEAST and is_first():
            warn(
                f"{fewest} training samples are too few for statistics of clean images, which need {LEAST}: after "
                "training with `camera_augmentation`, the model cannot be adapted to new images"
            )


def splits_of(data: TrainingDataSettings, seed: int, dataset: RawDataset, trains: bool = True) -> Sequence[Split]:
    """Draws a run's splits from the seed, or takes a custom split or an earlier run's; no part divides a group."""
    if data.state_dict_uri is not None:
        return [_earlier_split(data.state_dict_uri, fold, dataset, trains) for fold in range(int(data.n_splits))]
    sizes, labels, where = (data.n_splits, data.train_size, seed), dataset.labels, f"`split={data.split}`"
    parts = None
    if data.test_groups:
        where = f"`test_groups={','.join(data.test_groups)}`"
        parts = np.where(_in_groups(data.test_groups, dataset, where), "test", "train")
    if data.split is not None:
        # A sample, or all samples of a frame, whatever their intensity.
        names = [name.partition("@iso=")[0] for name in dataset.names]
        known = [[name, tiles.frame_of(name)] if task_of(dataset).has_masks else [name] for name in names]
        parts = named_parts(pathlib.Path(data.split), known)
        if dataset.groups is not None:
            check_groups(parts, dataset.groups, dataset.names, where)
    if not trains and isinstance(data.n_splits, str):
        raise InputError(f"`n_splits={data.n_splits}` needs training, got `epochs=0`")
    if trains and parts is not None:
        splits = given_splits(parts, labels, dataset.groups, *sizes, dataset.classes, where)
    elif trains or data.test_size:
        splits = random_splits(labels, dataset.groups, *sizes, dataset.classes, data.test_size)
    else:
        everything = np.arange(len(labels)) if parts is None else np.flatnonzero(parts != "")
        kept = np.zeros(0, np.int64) if parts is None else np.flatnonzero(parts == "test")
        splits = [Split(everything, everything, kept)] * int(data.n_splits)
    return splits if trains else [_untrained(split) for split in splits]


def _in_groups(names: Sequence[str], dataset: RawDataset, where: str) -> np.ndarray:
    """Returns which samples are in the groups of these names."""
    known = dataset.group_names
    if not known:
        raise InputError(f"{where} needs groups, and all images of {dataset.name} are independent")
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"{where} must be among {len(known)} groups such as {known[0]}, got {unknown[0]}")
    return np.isin(np.array(known)[dataset.groups], names)


def _untrained(split: Split) -> Split:
    """Returns the split of a run without training: test samples, or else all, are measured; searches use the rest."""
    others = np.setdiff1d(np.concatenate([split.train, split.valid]), split.test)
    measured = split.test if len(split.test) else others
    return Split(others if len(others) else measured, measured, measured)


def _earlier_split(uri: str, fold: int, dataset: RawDataset, trains: bool) -> Split:
    where = f"`state_dict_uri={uri}`"
    file = fold_folder(uri, fold, where) / "metrics.json"
    earlier = read_record(file, where)
    if earlier.fingerprint != dataset.fingerprint:
        raise InputError(f"{where} must have the samples and classes of {dataset.name}, got other data")
    check_split(earlier, dataset, str(file))
    if trains and np.intersect1d(earlier.split.train, earlier.split.valid).size:
        raise InputError(f"{where} has no separate training samples, because it was run with `epochs=0`")
    if dataset.groups is not None:
        parts = np.full(len(dataset), "", "<U5")
        for part, indices in earlier.split._asdict().items():
            parts[indices] = part
        check_groups(parts, dataset.groups, dataset.names, where)
    return earlier.split


def _completed(config: TrainConfig, camera: isp.Camera | None) -> TrainConfig:
    """Returns the settings with metering, as in the run that the processor or head comes from, and augmentation."""
    named, auto = config.processing.named_pipeline, config.processing.auto
    meters = named is not None and camera is not None and bool(metering_of(named(camera)))
    head_is_frozen = config.model.freeze_classifier or config.attack.adv_training or not config.optimization.epochs
    if named is None or camera is None:
        auto = ()
    elif uri := config.processing.processor_uri:
        known = _metering_of_run(config, f"`processor_uri={uri}`", uri)
        if auto not in (None, known):
            raise InputError(
                f"`auto` must be {','.join(known) or 'none'}, as in `processor_uri={uri}`, got "
                f"{','.join(auto or ()) or 'none'}"
            )
        auto = known
    elif auto is None and head_is_frozen and not meters and (uri := config.model.classifier_uri):
        auto = _metering_of_run(config, f"`classifier_uri={uri}`", uri)
    elif auto is None:
        auto = () if head_is_frozen or meters else AUTO
    if (purposes := config.optimization.camera_augmentation) is None:
        purposes = ("exposure",) if (auto or meters) and not head_is_frozen else ()
    return replace(config, auto=auto, camera_augmentation=purposes)


def _metering_of_run(config: TrainConfig, where: str, uri: str) -> tuple[str, ...]:
    begun = config.run_dir / "fold_0/metrics.json"
    if config.tracking.overwrite or not begun.exists():
        begun = fold_folder(uri, 0, where) / "metrics.json"
    return tuple(read_record(begun, where).flags.get("auto") or ())


def _check(config: TrainConfig, steps: StepSettings, dataset: RawDataset, rule: type[GradientDescent]) -> None:
    """Raises an InputError unless processing, head and update rule fit the data set, the task and one another."""
    architecture, task, camera, network = steps.architecture, steps.task, dataset.camera, config.model
    processing, pipeline = architecture.processing, None
    if camera is None and processing.processing_mode != "none":
        raise InputError(
            f"`dataset={dataset.name}` has processed images and needs `processing_mode=none`, got {processing.flag}"
        )
    height, width = dataset.shape[:2]
    for part, multiple in architecture.multiples.items():
        if height % multiple or width % multiple:
            raise InputError(
                f"`dataset={dataset.name}`: height and width must be multiples of {multiple} for {part}, got "
                f"{height}x{width}"
            )
    if architecture.pipeline is not None and camera is not None:
        pipeline, (raw, _) = architecture.pipeline(camera), dataset[0]
        architecture.pipeline.check(camera, *raw.shape)
        if not pipeline.declarations and (steps.freezes_head or steps.attack) and processing.learns:
            raise InputError(f"{processing.flag} has no learned parameters, and everything else is frozen")
        pipeline = metered(pipeline, camera, processing.auto or ())
    rule.check(steps, pipeline)
    if config.optimization.epochs and not task.trains:
        raise InputError(f"`epochs` must be 0 for {task.title}, which trains nothing, got {config.optimization.epochs}")
    given, default = flat(config), flat(TrainConfig())
    for flag in task.unused + (() if network.has_custom_head else task.unused_with_own_head):
        if given[flag] and given[flag] != default[flag]:
            raise InputError(f"`{flag}={given[flag]}` has no effect on {task.title}: omit it")
    architecture.check_head()
    if architecture.frozen_head is not None and not network.freeze_classifier and config.optimization.epochs:
        raise InputError(
            f"`classifier_network={network.classifier_network}` is a frozen network: add `freeze_classifier` to train "
            "the processing for it, or `epochs=0` to evaluate it"
        )


def _origins(config: TrainConfig, architecture: Architecture) -> list[tuple[str, str, tuple[str, ...]]]:
    """Lists the arguments that name earlier runs, the runs, and the parts of the model that they provide."""
    of_processor = ("processor", "normalizer") if architecture.measures_normalization else ("processor",)
    given = (
        ("processor_uri", config.processing.processor_uri, of_processor),
        ("classifier_uri", config.model.classifier_uri, ("head",)),
    )
    return [(f"`{name}={uri}`", uri, parts) for name, uri, parts in given if uri]


def check_origins(config: TrainConfig, architecture: Architecture, dataset: RawDataset, fold: Fold) -> None:
    """Raises an InputError unless the runs that a fold starts from are trained, and not in a folder to be removed."""
    for where, uri, _ in _origins(config, architecture):
        folder = fold_folder(uri, fold.number, where).resolve()
        if config.tracking.overwrite and fold.folder.parent.resolve() in folder.parents:
            raise InputError(f"{where} is inside the run that `overwrite` would remove")
        earlier = read_record(folder / "metrics.json", where)
        stored(folder, shardings().everywhere, "best", where)
        seen = [
            f"{count} of {len(indices)} {name} samples"
            for name, indices in (("validation", fold.split.valid), ("test", fold.split.test))
            if (count := np.isin(indices, earlier.train_indices).sum())
        ]
        if seen and earlier.flags.get("epochs") and earlier.fingerprint == dataset.fingerprint and is_first():
            warn(
                f"{where} was trained on {' and '.join(seen)} of this run, which inflates their scores: "
                f"`state_dict_uri={uri}` reuses its splits"
            )


def pretrained_head(config: TrainConfig, task: Task, own: nnx.State | None = None) -> nnx.Module | None:
    """Makes a head with the ImageNet weights, if they are wanted, and the rest of its `own` state, or shapes."""
    if not config.model.classifier_pretrained:
        return None
    head = nnx.eval_shape(lambda: task.make_head(nnx.Rngs(0)))
    if own is not None:
        nnx.update(head, own)
    load_weights(head, task.network, config.model.pretrained_weights)
    return head


def provide(model: nnx.State, config: TrainConfig, architecture: Architecture, fold: int) -> None:
    """Replaces the parts of a fresh model that come from earlier runs or from ImageNet, in place."""
    everywhere, task = shardings().everywhere, architecture.task
    for where, uri, parts in _origins(config, architecture):
        arrays, _ = stored(fold_folder(uri, fold, where), everywhere, "best", where)
        fresh = restore(model, arrays, parts, where, (ADDITIVE_LAYER,), task.class_layers)
        if fresh and is_first():
            print(f"{spelled(where)} has different classes: layer {', '.join(fresh)} of the head keeps random weights")
    if (head := pretrained_head(config, task, model.get("head"))) is not None:
        weights = jax.device_put(nnx.to_pure_dict(nnx.state(head)), everywhere)
        restore(model, {"head": weights}, ("head",))


def initial_state(plan: Plan, steps: Steps, fold: Fold, key: jax.Array, resumes: bool = False) -> TrainState:
    """Makes a fresh state, with the parts that earlier runs or ImageNet provide; only its shapes if it `resumes`."""
    config, architecture, everywhere, train = plan.config, steps.architecture, shardings().everywhere, fold.split.train
    observed = functools.partial(moments, dataset=plan.dataset, batch_size=plan.batches.size)
    processing, measures = architecture.processing, architecture.measures_normalization
    from_run = config.processing.processor_uri
    # If no step updates the statistics, the head would see images unlike its training images. If steps do, initial
    # values of 0 and 1 would outweigh the variance of dark images, such as 0.0007, for the first hundred steps.
    some = train if steps.rule.keeps_statistics else train[:_SAMPLES]
    statistics = None if processing.learns_pipeline else to_devices(unknown_statistics(), everywhere)
    if resumes:
        return steps.begin(steps.init(key, statistics))
    processor = start_of_processor(architecture, plan.dataset, train)
    # A neural network normalizes its input, whatever the head does with its output.
    if statistics is not None and (measures or processing.learns):
        statistics = published_statistics(config) or observed(processor, train, deviations=True)
    model = steps.init(key, statistics)
    if processing.auto and not from_run:
        start = to_devices(nnx.to_pure_dict(nnx.state(processor)), everywhere)
        restore(model, {"processor": start}, ("processor",), optional=(ADDITIVE_LAYER,))
    if processing.learns_pipeline and measures and not from_run:
        mean, var = observed(processor, some)
        restore(model, {"normalizer": {"mean": mean, "var": var}}, ("normalizer",))
    provide(model, config, architecture, fold.number)
    if not measures:
        processor = nnx.merge(nnx.graphdef(architecture.abstract()), model).processor
        mean, var = observed(processor, some if config.optimization.epochs else train)
        known = {"known_mean": mean, "known_var": var}
        restore(model, {"normalizer": known}, ("normalizer",), optional=("mean", "std"))
    return steps.begin(model)


def start_of_processor(architecture: Architecture, dataset: RawDataset, indices: np.ndarray) -> Processor:
    """Returns the processor of a fresh model; if it meters, its target is the training images' level and color."""
    pipeline, auto = architecture.processor(), architecture.processing.auto
    if architecture.pipeline is None or architecture.camera is None or not auto:
        return pipeline
    # Spread over the training samples, which may be sorted by class.
    chosen = indices[np.linspace(0, len(indices) - 1, min(_METERED, len(indices))).astype(int)]
    raws, _ = dataset.samples(chosen)
    return metered(architecture.pipeline(architecture.camera), architecture.camera, auto, raws)


def published_statistics(config: TrainConfig) -> Statistics | None:
    """Returns the published mean and standard deviation of each channel; None for data or processing without them.

    They are those of images in full light: of raw images at half size, and of static pipelines without metering.
    """
    processing = config.processing
    halves = processing.processing_mode in HALF_SIZE_MODES
    if config.data.iso != (1.0,) or (not halves and (processing.auto or processing.half_size)):
        return None
    known = (MOSAIC_STATISTICS if halves else STATIC_STATISTICS).get(config.data.dataset)
    return known and to_devices(tuple(np.array(each, np.float32) for each in known), shardings().everywhere)


def moments(
    processor: Processor, indices: np.ndarray, dataset: RawDataset, batch_size: int, deviations: bool = False
) -> Statistics:
    """Computes the mean and the variance, or the standard deviation, of each channel over processed samples."""

    @functools.partial(jax.jit, out_shardings=shardings().everywhere)
    def of_images(batch):
        images = processor(batch["raw"])
        means = images.mean((1, 2))
        return means, jnp.square(images - means[:, None, None]).mean((1, 2)), batch["weight"]

    batches = loader.eval_batches(dataset, indices, batch_size)
    parts = jax.device_get([*each_on_devices(of_images, batches)])
    # In float64, since the variance of the means is a small difference of large sums.
    means, variances, weights = (np.concatenate(each).astype(np.float64) for each in zip(*parts, strict=True))
    mean = np.average(means, 0, weights)
    var = np.average(variances + np.square(means - mean), 0, weights)
    # The epsilon of a batch norm, for a channel that is constant.
    var = np.sqrt(var + EPSILON) if deviations else var
    return to_devices((mean.astype(np.float32), var.astype(np.float32)), shardings().everywhere)

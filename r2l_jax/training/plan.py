"""Plans a run: makes its folds, and checks that its settings fit the data, the devices and earlier runs.

Everything that would make a run fail later, or overwrite another one, is detected here, before anything is trained.
"""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

import isp
from r2l_jax.cli.flags import flat, replace
from r2l_jax.config import TrainConfig
from r2l_jax.data.files import tiles
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.data.sets import datasets
from r2l_jax.data.settings import TrainingDataSettings
from r2l_jax.data.splits import Split, check_groups, given_splits, named_parts, random_splits
from r2l_jax.devices.hosts import is_first
from r2l_jax.errors import InputError, warn
from r2l_jax.model.adaptation import LEAST
from r2l_jax.model.tasks import task_of
from r2l_jax.names import AUTO
from r2l_jax.pipelines import metered, metering_of
from r2l_jax.training.record import Fold, check_split, describe, differences, fold_folder, read_record
from r2l_jax.training.start import check_origins, check_weights
from r2l_jax.training.update import GradientDescent, StepSettings


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
        auto = _metering(config, self.dataset.camera)
        augmentation = _camera_augmentation(config, self.dataset.camera, auto)
        config = replace(config, auto=auto, camera_augmentation=augmentation)
        batch_size = config.optimization.batch_size
        trains = config.optimization.epochs > 0
        seed, split_seed = config.optimization.seed, config.optimization.split_seed
        splits = splits_of(config.data, seed if split_seed is None else split_seed, self.dataset, trains)
        self.config = config
        if config.data.test_run:
            splits = [Split(*(self.dataset.taking_turns(part)[:batch_size] for part in split)) for split in splits]
        self.folds = [Fold(number, split, config.run_dir / f"fold_{number}") for number, split in enumerate(splits)]
        # Folds of groups differ in size, and each must fill a batch.
        size = Batches.of(min(len(fold.split.train) for fold in self.folds), batch_size).size
        self.batches = Batches(size, len(self.folds[0].split.train) // size)
        self.steps = StepSettings.of(config, self.dataset, self.batches.per_epoch)
        _check_networks(self.steps, self.dataset)
        _check_pipeline(self.steps, self.dataset, rule)
        _check_head(config, self.steps)
        if batch_size % jax.device_count():
            raise InputError(f"`batch_size` must be a multiple of {jax.device_count()} devices, got {batch_size}")
        # Last, because this hashes the data.
        self.described = describe(config, self.dataset)

    def check_folders(self) -> None:
        """Raises an InputError if an earlier run conflicts with this one, before anything is trained or removed."""
        begun = [fold for fold in self.folds if fold.metrics_file.exists() and not self.config.tracking.overwrite]
        for fold in begun:
            earlier = read_record(fold.metrics_file, "start over with `overwrite`")
            found = differences(earlier.content, self.described)
            if not found and not all(map(np.array_equal, earlier.split, fold.split)):
                found = ["another split"]
            if found:
                raise InputError(
                    f"{fold.folder.parent} is a different run ({'; '.join(found)}): "
                    "choose another `run_name`, or start over with `overwrite`"
                )
        others = [fold for fold in self.folds if fold not in begun]
        for fold in others:
            check_origins(self.config, self.steps.architecture, self.dataset, fold)
        if others:
            check_weights(self.config, self.steps.task)
            self._warn_of_few_samples(others)

    def _warn_of_few_samples(self, folds: Sequence[Fold]) -> None:
        fewest = min(len(fold.split.train) for fold in folds)
        if self.config.optimization.camera_augmentation and fewest < LEAST and is_first():
            warn(
                f"{fewest} training samples are too few for statistics of clean images, which need {LEAST}: after "
                "training with `camera_augmentation`, the model cannot be adapted to new images"
            )


def splits_of(data: TrainingDataSettings, seed: int, dataset: RawDataset, trains: bool = True) -> Sequence[Split]:
    """Draws a run's splits from the seed, or takes a custom split or an earlier run's.

    All samples of a group go to the same part. If nothing is trained, see `_untrained`.
    """
    if data.state_dict_uri is not None:
        return [_earlier_split(data.state_dict_uri, fold, dataset, trains) for fold in range(int(data.n_splits))]
    sizes, labels, where = (data.n_splits, data.train_size, seed), dataset.labels, f"`split={data.split}`"
    parts = None if data.split is None else named_parts(pathlib.Path(data.split), _names(dataset))
    if parts is not None and dataset.groups is not None:
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


def _untrained(split: Split) -> Split:
    """Returns the split of a run without training: test samples, or else all, are measured; searches use the rest."""
    others = np.setdiff1d(np.concatenate([split.train, split.valid]), split.test)
    if not len(split.test):
        return Split(others, others, others)
    return Split(others if len(others) else split.test, split.test, split.test)


def _names(dataset: RawDataset) -> list[list[str]]:
    """Returns the names that a user may use for each sample."""
    names = [name.partition("@iso=")[0] for name in dataset.names]
    return [[name, tiles.frame_of(name)] if task_of(dataset).has_masks else [name] for name in names]


def _earlier_split(uri: str, fold: int, dataset: RawDataset, trains: bool) -> Split:
    file = fold_folder(uri, fold, f"`state_dict_uri={uri}`") / "metrics.json"
    earlier = read_record(file, f"`state_dict_uri={uri}`")
    if earlier.fingerprint != dataset.fingerprint:
        raise InputError(f"`state_dict_uri={uri}` must have the samples and classes of {dataset.name}, got other data")
    check_split(earlier, dataset, str(file))
    if trains and np.intersect1d(earlier.split.train, earlier.split.valid).size:
        raise InputError(f"`state_dict_uri={uri}` has no separate training samples, because it was run with `epochs=0`")
    if dataset.groups is not None:
        parts = np.full(len(dataset), "", "<U5")
        for part, indices in earlier.split._asdict().items():
            parts[indices] = part
        check_groups(parts, dataset.groups, dataset.names, f"`state_dict_uri={uri}`")
    return earlier.split


def _metering(config: TrainConfig, camera: isp.Camera | None) -> tuple[str, ...]:
    """Returns the metering of the run that the processor or a frozen head comes from, or the setting, or both kinds."""
    processing, named = config.processing, config.processing.named_pipeline
    if named is None or camera is None:
        return ()
    is_frozen = _is_head_frozen(config)
    if uri := processing.processor_uri:
        known = _metering_of_run(config, f"`processor_uri={uri}`", uri)
        if processing.auto not in (None, known):
            raise InputError(
                f"`auto` must be {','.join(known) or 'none'}, as in `processor_uri={uri}`, got "
                f"{','.join(processing.auto or ()) or 'none'}"
            )
        return known
    if processing.auto is not None:
        return processing.auto
    if metering_of(named(camera)):
        return ()
    if is_frozen and (uri := config.model.classifier_uri):
        return _metering_of_run(config, f"`classifier_uri={uri}`", uri)
    return () if is_frozen else AUTO


def _camera_augmentation(config: TrainConfig, camera: isp.Camera | None, auto: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the setting, or where raw images are metered and the head is trained, the purpose `exposure`."""
    if config.optimization.camera_augmentation is not None:
        return config.optimization.camera_augmentation
    named = config.processing.named_pipeline
    meters = bool(auto) or (named is not None and camera is not None and bool(metering_of(named(camera))))
    return ("exposure",) if meters and not _is_head_frozen(config) else ()


def _is_head_frozen(config: TrainConfig) -> bool:
    return config.model.freeze_classifier or config.attack.adv_training or not config.optimization.epochs


def _metering_of_run(config: TrainConfig, where: str, uri: str) -> tuple[str, ...]:
    begun = config.run_dir / "fold_0/metrics.json"
    if config.tracking.overwrite or not begun.exists():
        begun = fold_folder(uri, 0, where) / "metrics.json"
    return tuple(read_record(begun, where).flags.get("auto") or ())


def _check_networks(steps: StepSettings, dataset: RawDataset) -> None:
    """Raises an InputError unless processor and head fit the data set, its task and the size of its samples."""
    processing = steps.architecture.processing
    if dataset.camera is None and processing.processing_mode != "none":
        raise InputError(
            f"`dataset={dataset.name}` has processed images and needs `processing_mode=none`, got {processing.flag}"
        )
    height, width = dataset.shape[:2]
    for part, multiple in steps.architecture.multiples.items():
        if height % multiple or width % multiple:
            raise InputError(
                f"`dataset={dataset.name}`: height and width must be multiples of {multiple} for {part}, got "
                f"{height}x{width}"
            )


def _check_pipeline(steps: StepSettings, dataset: RawDataset, rule: type[GradientDescent]) -> None:
    """Raises an InputError unless the pipeline fits the data set, and the rule can update it."""
    named, camera = steps.architecture.pipeline, dataset.camera
    if named is None or camera is None:
        rule.check(steps, None)
        return
    pipeline, (raw, _) = named(camera), dataset[0]
    named.check(camera, *raw.shape)
    processing = steps.architecture.processing
    if not pipeline.declarations and (steps.freezes_head or steps.attack) and processing.learns:
        raise InputError(f"{processing.flag} has no learned parameters, and everything else is frozen")
    rule.check(steps, metered(pipeline, camera, processing.auto or ()))


def _check_head(config: TrainConfig, steps: StepSettings) -> None:
    """Raises an InputError unless the head's settings and the custom head fit the task, and it can be trained."""
    architecture, network = steps.architecture, config.model
    if config.optimization.epochs and not steps.task.trains:
        raise InputError(
            f"`epochs` must be 0 for {steps.task.title}, which trains nothing, got {config.optimization.epochs}"
        )
    unused = steps.task.unused + (() if network.has_custom_head else steps.task.unused_with_own_head)
    for flag in unused:
        if (value := flat(config)[flag]) and value != flat(TrainConfig())[flag]:
            raise InputError(f"`{flag}={value}` has no effect on {steps.task.title}: omit it")
    architecture.check_head()
    if architecture.frozen_head is not None and not network.freeze_classifier and config.optimization.epochs:
        raise InputError(
            f"`classifier_network={network.classifier_network}` is a frozen network: add `freeze_classifier` to train "
            "the processing for it, or `epochs=0` to evaluate it"
        )

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
from r2l_jax.training.start import check_origins, pretrained_head
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
        data, batch_size = config.data, config.optimization.batch_size
        self.dataset = datasets.load(data.dataset, download=data.download, **data.source)
        self.config = config = _completed(config, self.dataset.camera)
        seed, split_seed = config.optimization.seed, config.optimization.split_seed
        trains = config.optimization.epochs > 0
        splits = splits_of(data, seed if split_seed is None else split_seed, self.dataset, trains)
        if data.test_run:
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
    measured = split.test if len(split.test) else others
    return Split(others if len(others) else measured, measured, measured)


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


def _completed(config: TrainConfig, camera: isp.Camera | None) -> TrainConfig:
    """Returns the settings with metering and camera augmentation.

    The metering is that of the run that the processor or a frozen head comes from, the setting, or both kinds. Where
    raw images are metered and the head is trained, the purpose of the augmentation is `exposure`.
    """
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

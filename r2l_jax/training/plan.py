"""Plans a run: makes its folds, and checks that its settings fit the data, the devices and earlier runs.

Everything that would end a run later, or overwrite another one, is found out here, before anything is trained.
"""

from collections.abc import Sequence

import jax
from flax import nnx

from r2l_jax.config import ModelSettings, TrainConfig
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.data.splits import Split, stratified_splits
from r2l_jax.model.build import needed_multiples
from r2l_jax.model.pretrained import load_weights
from r2l_jax.model.tasks import TASKS, task_of
from r2l_jax.runtime.errors import InputError
from r2l_jax.training.folds import Fold
from r2l_jax.training.record import changes, read_metrics, recorded_split
from r2l_jax.training.stored import fold_folder
from r2l_jax.training.update import UpdateRule


def make_folds(config: TrainConfig, dataset: RawDataset) -> list[Fold]:
    """Makes a run's folds: drawn from the seed, or an earlier run's.

    Raises:
        InputError: an earlier run that cannot be read, or that splits other data.
    """
    data, count = config.data, config.optimization.batch_size
    if data.state_dict_uri:
        pairs = [_earlier_split(data.state_dict_uri, fold, dataset) for fold in range(data.n_splits)]
    else:
        pairs = stratified_splits(
            dataset.labels, data.n_splits, data.train_size, config.optimization.seed, dataset.classes
        )
    if data.test_run:
        pairs = [(train[:count], valid[:count]) for train, valid in pairs]
    return [Fold(number, *pair, config.run_dir / f"fold_{number}") for number, pair in enumerate(pairs)]


def _earlier_split(uri: str, fold: int, dataset: RawDataset) -> Split:
    """Returns the training and validation indices of an earlier run."""
    file = fold_folder(uri, fold, f"--state_dict_uri={uri}") / "metrics.json"
    earlier = read_metrics(file, f"--state_dict_uri={uri}")
    if earlier["fingerprint"] != dataset.fingerprint:
        raise InputError(f"--state_dict_uri={uri} splits other data: its samples or classes are not {dataset.name}'s")
    return recorded_split(earlier, dataset, file)


def check_settings(config: TrainConfig, dataset: RawDataset, rule: type[UpdateRule]) -> None:
    """Raises an InputError for settings that would end the run later."""
    _check_networks(config, dataset)
    _check_pipeline(config, dataset, rule)
    if config.optimization.batch_size % jax.device_count():
        raise InputError(
            f"--batch_size must be a multiple of the {jax.device_count()} devices, got {config.optimization.batch_size}"
        )


def check_folders(config: TrainConfig, dataset: RawDataset, folds: Sequence[Fold]) -> None:
    """Raises an InputError for earlier runs that would end this one later, before anything is trained or removed."""
    begun = [fold for fold in folds if fold.metrics_file.exists() and not config.tracking.overwrite]
    for fold in begun:
        _check_earlier(config, dataset, fold)
    for fold in folds:
        if fold not in begun:
            _check_sources(config, fold)
    if len(begun) < len(folds) and config.model.classifier_pretrained:
        task = task_of(dataset, config.model)
        head = nnx.eval_shape(lambda: task.make_head(nnx.Rngs(0)))
        load_weights(head, task.network, config.model.pretrained_weights)


def _check_networks(config: TrainConfig, dataset: RawDataset) -> None:
    """Raises an InputError unless processor and head fit the data set, its task and the size of its samples."""
    task, processing = task_of(dataset, config.model), config.processing
    if dataset.camera is None and processing.processing_mode != "none":
        raise InputError(
            f"--dataset={dataset.name} holds images that are processed already: it needs --processing_mode=none, "
            f"got {processing.flag}"
        )
    for other in TASKS:
        flag = other.network_flag
        if other.name != task.name and getattr(config.model, flag) != getattr(ModelSettings(), flag):
            raise InputError(f"--{flag} is for {other.name}; --dataset={dataset.name} is {task.participle}")
    for part, multiple in needed_multiples(config, dataset.camera, task).items():
        if any(side % multiple for side in dataset.shape[:2]):
            raise InputError(
                f"--dataset={dataset.name}: height and width must be multiples of {multiple} for {part}, "
                f"got {dataset.shape[0]}x{dataset.shape[1]}"
            )


def _check_pipeline(config: TrainConfig, dataset: RawDataset, rule: type[UpdateRule]) -> None:
    """Raises an InputError unless the pipeline fits the data set, and the rule can update it."""
    named = config.processing.named_pipeline
    if named is None or dataset.camera is None:
        rule.check(config, None)
        return
    pipeline, (raw, _) = named(dataset.camera), dataset[0]
    named.check(dataset.camera, *raw.shape)
    if config.processing.pipeline and not pipeline.facts:
        given = {
            "freeze_classifier": config.model.freeze_classifier,
            "processor_uri": config.processing.processor_uri,
            "adv_training": config.attack.adv_training,
        }
        for flag, value in given.items():
            if value:
                raise InputError(
                    f"--pipeline={config.processing.pipeline} has no parameters to learn: leave --{flag} out"
                )
    rule.check(config, pipeline)


def _check_earlier(config: TrainConfig, dataset: RawDataset, fold: Fold) -> None:
    """Raises an InputError unless this run can continue what a fold's folder holds."""
    if differences := changes(config, dataset, read_metrics(fold.metrics_file, "start anew with --overwrite")):
        raise InputError(
            f"{config.run_dir} holds another run ({'; '.join(differences)}): "
            "choose another --run_name, or start anew with --overwrite"
        )


def _check_sources(config: TrainConfig, fold: Fold) -> None:
    """Raises an InputError unless the runs that a fold starts from are there, and stay there."""
    sources = {"processor_uri": config.processing.processor_uri, "classifier_uri": config.model.classifier_uri}
    for flag, uri in sources.items():
        if uri:
            folder = fold_folder(uri, fold.number, f"--{flag}={uri}").resolve()
            if config.tracking.overwrite and config.run_dir.resolve() in folder.parents:
                raise InputError(f"--{flag}={uri} is in the run that --overwrite is to remove")

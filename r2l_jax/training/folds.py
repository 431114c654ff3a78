"""A run's folds: how they split the data, and whether a run of these settings can train them.

Everything that would end a run later, or overwrite another one, is found out here, before anything is trained.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from r2l_jax.config import TrainConfig
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.data.splits import Split, stratified_splits
from r2l_jax.drift.forensics import attack as adversarial
from r2l_jax.model.pretrained import load_weights
from r2l_jax.model.processors import NeuralProcessor
from r2l_jax.model.tasks import SEGMENTATION_MULTIPLE, make_objective
from r2l_jax.processing import HALF_SIZE_MODES
from r2l_jax.runtime import store
from r2l_jax.runtime.errors import InputError
from r2l_jax.training import checkpoint


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


def make_folds(config: TrainConfig, dataset: RawDataset) -> list[Fold]:
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
    earlier = read_metrics(file, f"--state_dict_uri={uri}")
    if earlier["fingerprint"] != dataset.fingerprint:
        raise InputError(f"--state_dict_uri={uri} splits other data: its samples or classes are not {dataset.name}'s")
    return np.array(earlier["train_indices"]), np.array(earlier["valid_indices"])


def _check_pipeline(config: TrainConfig, dataset: RawDataset) -> None:
    """Raises an InputError unless the pipeline fits the data set, and has the parameters that flags name."""
    if config.named_pipeline is None or dataset.camera is None:
        return
    pipeline, (raw, _) = config.named_pipeline(dataset.camera), dataset[0]
    config.named_pipeline.check(dataset.camera, *raw.shape)
    if config.pipeline and not pipeline.facts:
        for flag in ("freeze_classifier", "processor_uri", "adv_training"):
            if getattr(config, flag):
                raise InputError(f"--pipeline={config.pipeline} has no parameters to learn: leave --{flag} out")
    if config.adv_training:
        adversarial.check(config, pipeline)


def _check_networks(config: TrainConfig, dataset: RawDataset) -> None:
    """Raises an InputError unless processor and head that the settings name fit the data set, its task and size."""
    if dataset.camera is None and config.processing_mode != "none":
        raise InputError(
            f"--dataset={dataset.name} holds images that are processed already: it needs --processing_mode=none, "
            f"got {config.processing}"
        )
    multiples = {}
    if config.processing_mode == "neural_network":
        multiples["--processing_mode=neural_network"] = NeuralProcessor.MULTIPLE
    if dataset.task == "classification":
        if config.smp_encoder:
            raise InputError(f"--smp_encoder is for segmentation; --dataset={dataset.name} is classified")
    else:
        if config.classifier_network != TrainConfig().classifier_network:
            raise InputError(f"--classifier_network is for classification; --dataset={dataset.name} is segmented")
        halved = 2 if config.processing_mode in HALF_SIZE_MODES else 1
        multiples[f"a U-Net++ after {config.processing}"] = halved * SEGMENTATION_MULTIPLE
    raw, _ = dataset[0]
    for what, multiple in multiples.items():
        if any(side % multiple for side in raw.shape):
            raise InputError(
                f"--dataset={dataset.name}: height and width must be multiples of {multiple} for {what}, "
                f"got {raw.shape[0]}x{raw.shape[1]}"
            )


def check(config: TrainConfig, dataset: RawDataset, folds: list[Fold]) -> None:
    """Raises an InputError for all that would end the run later, before anything is trained or removed."""
    _check_networks(config, dataset)
    _check_pipeline(config, dataset)
    if config.batch_size % jax.device_count():
        raise InputError(
            f"--batch_size must be a multiple of the {jax.device_count()} devices, got {config.batch_size}"
        )
    try:
        config.run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{config.run_dir}: no folder to write to ({error.strerror})") from None
    begins = False
    for fold in folds:
        if fold.metrics_file.exists() and not config.overwrite:
            _check_earlier(config, dataset, fold)
            continue
        begins = True
        for flag in ("processor_uri", "classifier_uri"):
            if uri := getattr(config, flag):
                folder = checkpoint.fold_folder(uri, fold.number, flag).resolve()
                if config.overwrite and config.run_dir.resolve() in folder.parents:
                    raise InputError(f"--{flag}={uri} is in the run that --overwrite is to remove")
    if begins and config.classifier_pretrained:
        objective = make_objective(config, dataset)
        head = nnx.eval_shape(lambda: objective.make_head(nnx.Rngs(0)))
        load_weights(head, objective.network, config.pretrained_weights)


def _check_earlier(config: TrainConfig, dataset: RawDataset, fold: Fold) -> None:
    """Raises an InputError unless what a fold's folder holds can be continued by this run."""
    if differences := changes(config, dataset, read_metrics(fold.metrics_file, "start anew with --overwrite")):
        raise InputError(
            f"{config.run_dir} holds another run ({'; '.join(differences)}): "
            "choose another --run_name, or start anew with --overwrite"
        )


def changes(config: TrainConfig, dataset: RawDataset, earlier: Mapping[str, Any]) -> list[str]:
    """Says what keeps a run from continuing what an earlier one has recorded of a fold."""
    differences = config.differences(earlier["flags"]) + _other_pipeline(config, earlier)
    if earlier["fingerprint"] != dataset.fingerprint:
        differences.append("it has other samples or classes")
    else:
        differences += changed_data(dataset, earlier)
    if len(earlier["history"]) > config.epochs:
        differences.append(f"it has {len(earlier['history'])} epochs, more than {config.epochs}")
    return differences


def other_makers(earlier: Mapping[str, Any]) -> bool:
    """Tells whether other code has trained a fold, wholly or in part; earlier versions did not record it."""
    return any(maker != store.made_by() for maker in earlier.get("made_by", []))


def _other_pipeline(config: TrainConfig, earlier: Mapping[str, Any]) -> list[str]:
    """Says whether the pipeline is another; where the user's file of it is does not matter, but what is in it."""
    source, recorded = config.named_pipeline and config.named_pipeline.source, earlier.get("pipeline")
    if source and recorded:
        was, now = (
            f"{function} of a file of SHA-256 {digest[:12]}"
            for function, digest in ((recorded["function"], recorded["sha256"]), (source.function, source.sha256))
        )
    else:
        was, now = repr(earlier["flags"].get("pipeline")), repr(config.pipeline)
    return [f"pipeline was {was}, is {now}"] if was != now else []


def describe_data(dataset: RawDataset) -> dict[str, Any]:
    """Describes the data that a run records: its content, and the camera's figures as JSON gives them back."""
    camera = dataset.camera and json.loads(dataset.camera.to_json())
    return {"data": dataset.content, "camera": camera}


def changed_data(dataset: RawDataset, earlier: Mapping[str, Any]) -> list[str]:
    """Says which of the data has changed since a run recorded it; earlier versions recorded nothing."""
    return [
        store.WORDS[name]
        for name, value in describe_data(dataset).items()
        if name in earlier and earlier[name] != value
    ]


def read_metrics(file: pathlib.Path, context: str) -> dict:
    """What a metrics.json holds; an InputError with the context if it is not one."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read ({error}); {context}") from None
    needed = {"complete", "flags", "history", "fingerprint", "train_indices", "valid_indices"}
    if not isinstance(content, dict) or needed - content.keys():
        raise InputError(f"{file} is not what a run of this program writes; {context}")
    return content

"""Finished runs, to be measured: their models as they were trained, with the data that they were trained on."""

import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import isp
from r2l_jax.config import TrainConfig
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.data.sets import datasets
from r2l_jax.model.model_hash import model_hash
from r2l_jax.model.raw_to_logit import RawToLogit
from r2l_jax.model.tasks import Task, task_of
from r2l_jax.pipelines import NamedPipeline, find_pipeline
from r2l_jax.runtime.devices import shardings
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.flags import replace
from r2l_jax.runtime.hosts import is_first, on_every_process
from r2l_jax.training import finished
from r2l_jax.training.folds import Fold, fold_folders, fold_number
from r2l_jax.training.record import recorded_split, training_id
from r2l_jax.training.stored import stored_model


class TrainedFold(NamedTuple):
    """One fold of a finished run.

    Attributes:
        config: the settings of the training, with the present place of the data.
        dataset: the data set.
        task: the task.
        fold: the split of the data, and the fold's folder.
        training: the id of the training, which results record (see `record.training_id`).
        model: the model of a checkpoint, in evaluation: batch norms use their running statistics.
    """

    config: TrainConfig
    dataset: RawDataset
    task: Task
    fold: Fold
    training: str
    model: RawToLogit

    @property
    def fingerprint(self) -> str:
        """A hash of the model (see `model_hash`) and of the file of its pipeline."""
        return fingerprint_of(self.config, self.model)


def fingerprint_of(config: TrainConfig, model: RawToLogit) -> str:
    """Hashes a model in evaluation (see `model_hash`) and the file of its pipeline; results record this hash."""
    pipeline = config.processing.named_pipeline
    return hashlib.sha256("\n".join([model_hash(model), *(pipeline.identity if pipeline else ())]).encode()).hexdigest()


_Description = tuple[TrainConfig, RawDataset, Task, Fold, str]


def load_runs(
    uris: Sequence[str], data_dir: str | None = None, pipelines: Sequence[str] = (), checkpoint: str = "best"
) -> list[list[TrainedFold]]:
    """Loads the folds of finished runs, and prints which checkpoint of each. Folds of the same data share its data set.

    A run whose pipeline comes from a user's file needs a file of the same content: the original one in its place, or
    one of `pipelines`. A file that this user has never named is not run, see `named_code`.

    Args:
        uris: runs' folders, of which all folds are taken, or folds' folders.
        data_dir: the present folder of the data; None if it has not moved.
        pipelines: the user's pipelines that runs were trained with, by the present places of their files.
        checkpoint: "best" or "last".

    Raises:
        InputError: a folder that is no run's, a fold that is not trained to its end, data that is not what it was
            trained on, a pipeline that is not the one that it was trained with or that is not needed, or a checkpoint
            that cannot be read; named.
    """

    def describe() -> list[list[_Description]]:
        loaded, named = {}, {name: find_pipeline(name) for name in pipelines}
        runs = [[_describe_fold(folder, data_dir, loaded, named) for folder in _fold_folders(uri)] for uri in uris]
        used = {config.processing.pipeline for folds in runs for config, *_ in folds}
        for name in pipelines:
            if name not in used:
                raise InputError(f"--pipeline={name}: no --run was trained with this pipeline; leave it out")
        return runs

    # Orbax reads checkpoints in all processes together, so that one which has failed must not leave the others alone.
    runs = on_every_process(describe)
    if is_first():
        for *_, fold, _ in (description for folds in runs for description in folds):
            print(f"{fold.folder}: the {checkpoint} checkpoint")
    return [
        [TrainedFold(*description, _load_model(*description[:-1], checkpoint)) for description in folds]
        for folds in runs
    ]


def load_pipelines(
    uri: str, data_dir: str | None = None, pipelines: Sequence[str] = (), checkpoint: str = "best"
) -> list[TrainedFold]:
    """Loads the folds of a finished run whose processing has parameters, for all processes.

    Args:
        uri: the run's folder, or a fold's.
        data_dir: as for `load_runs`.
        pipelines: as for `load_runs`.
        checkpoint: as for `load_runs`.

    Raises:
        InputError: as `load_runs`; or a processing without parameters.
    """
    (folds,) = load_runs([uri], data_dir, pipelines, checkpoint)
    for fold in folds:
        processor = fold.model.processor
        if not isinstance(processor, isp.Pipeline) or not processor.parameters():
            raise InputError(
                f"--run={uri} was trained with {fold.config.processing.flag}, which has no processing parameters"
            )
    return folds


def _fold_folders(uri: str) -> list[pathlib.Path]:
    root = pathlib.Path(uri)
    # The folder that is meant, for a link of another name and for ".".
    if fold_number(root.resolve()) is not None:
        return [root]
    folders = fold_folders(root)
    if not folders:
        raise InputError(f"--run={uri} is no run's folder: {'it has no fold_0' if root.is_dir() else 'not found'}")
    return folders


def _describe_fold(
    folder: pathlib.Path, data_dir: str | None, loaded: dict[str, RawDataset], named: Mapping[str, NamedPipeline]
) -> _Description:
    """Finds the settings, the data set, the task, the split and the training of a fold."""
    where = f"--run={folder}"
    metrics = finished.read(folder, where)
    config = finished.settings_of(metrics, named, where)
    if data_dir is not None:
        config = replace(config, data_dir=data_dir, camera=_present_camera(config.data.camera, data_dir, where))
    settings = repr((config.data.dataset, config.data.source))
    dataset = loaded.get(settings) or datasets.load(config.data.dataset, **config.data.source)
    loaded[settings] = dataset
    if dataset.fingerprint != metrics["fingerprint"]:
        raise InputError(
            f"--run={folder} was trained on other data: the samples or classes of "
            f"{dataset.name} in {config.data.data_dir} are not those"
        )
    task = task_of(dataset, config.model)
    number = fold_number(folder.resolve())
    assert number is not None
    split = recorded_split(metrics, dataset, folder / "metrics.json")
    return config, dataset, task, Fold(number, *split, folder), training_id(metrics)


def _present_camera(name: str | None, data_dir: str, where: str) -> str | None:
    """Returns a run's camera, whose file may have moved into the folder of the data.

    Raises:
        InputError: the file is neither where it was nor there.
    """
    if name is None or name == "auto" or name in isp.CAMERAS or pathlib.Path(name).is_file():
        return name
    moved = pathlib.Path(data_dir) / pathlib.Path(name).name
    if not moved.is_file():
        raise InputError(f"{where} was trained with --camera={name}, which is not found here: put it at {moved}")
    return str(moved)


def _load_model(config: TrainConfig, dataset: RawDataset, task: Task, fold: Fold, checkpoint: str) -> RawToLogit:
    where = f"--run={fold.folder}"
    stored = stored_model(fold.folder, shardings().everywhere, checkpoint, where)
    return finished.make(config, dataset, task, stored, where)

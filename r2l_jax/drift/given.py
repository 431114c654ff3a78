"""Trained models on data that a Python caller holds, see `r2l_jax.evaluate`."""

import dataclasses

import msgspec
import numpy as np

from r2l_jax.cli.flags import replace
from r2l_jax.data.files.reference_camera import Reference
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.data.sets import datasets
from r2l_jax.data.splits import Split
from r2l_jax.drift import acquisition
from r2l_jax.errors import InputError
from r2l_jax.training.model_io import Trained


def check_fits(dataset: RawDataset, fold: Trained) -> None:
    """Raises an InputError unless a data set has the targets, the classes and the kind of images of a model."""
    about = fold.about
    if dataset.task != about.task:
        raise InputError(f"`data` must have targets for {about.task}, as in training, got {dataset.task}")
    if list(dataset.classes) != list(about.classes):
        raise InputError(
            f"`data` must have the classes {', '.join(about.classes)} in this order, got {', '.join(dataset.classes)}"
        )
    if (dataset.camera is None) != (fold.camera is None):
        raise InputError(f"`data` must be {'processed' if fold.camera is None else 'raw'} images, as in training")
    if dataset.camera is not None and fold.camera is not None and dataset.camera.pattern != fold.camera.pattern:
        raise InputError(f"`data` must have the pattern {fold.camera.pattern}, got {dataset.camera.pattern}")


def on_data(fold: Trained, dataset: RawDataset) -> tuple[Trained, RawDataset]:
    """Returns a model with other samples, and their data set, which must be held as long as the model is used.

    The samples are scaled to the model's camera. If they are the samples of its training, the split stays; otherwise,
    all of them are measured.

    Raises:
        InputError: the data does not fit the model.
    """
    check_fits(dataset, fold)
    if dataset.camera != fold.camera and fold.camera is not None:
        dataset = acquisition.converted(dataset, Reference(fold.camera, fold.cameras))
    about, split = fold.about, fold.split
    if dataset.fingerprint != about.fingerprint:
        split = Split(*[np.arange(len(dataset))] * 3)
    changed = {"dataset": datasets.given(dataset), "data_dir": None}
    about = msgspec.structs.replace(
        about,
        flags={**about.flags, **changed},
        shape=tuple(dataset.shape),
        in_parts=dataset.in_parts,
        fingerprint=dataset.fingerprint,
        **{f"{name}_indices": indices.tolist() for name, indices in split._asdict().items()},
    )
    config = replace(fold.config, **changed)
    return dataclasses.replace(fold, about=about, config=config, split=split, in_memory=dataset), dataset

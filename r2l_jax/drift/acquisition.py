"""Replaces the data set of a run with the same scenes under another acquisition."""

import dataclasses
import json
from collections.abc import Collection
from typing import Any

import jax
import numpy as np

from r2l_jax.data.files.reference_camera import Reference
from r2l_jax.data.raw_dataset import RawDataset, Sample
from r2l_jax.data.sets import datasets
from r2l_jax.data.settings import TrainingDataSettings
from r2l_jax.drift.cases import Case, camera_of
from r2l_jax.drift.renderer import Renderer
from r2l_jax.errors import InputError


def at_intensity(data: TrainingDataSettings, iso: float, fingerprint: str) -> RawDataset:
    """Loads the data set of a run at another measured intensity.

    If the run has several intensities, each sample is replaced by the raw image of the same scene at the given one.

    Raises:
        InputError: the intensity is missing, or its data has another fingerprint.
    """
    settings: dict[str, Any] = {**data.source, "iso": iso}
    dataset = datasets.pooled(dict.fromkeys(data.iso, datasets.load(data.dataset, **settings)))
    if dataset.fingerprint != fingerprint:
        own = ",".join(map("{:g}".format, data.iso))
        raise InputError(f"`intensities={iso:g}` and `iso={own}` have different samples")
    return dataset


def drifted(data: TrainingDataSettings, dataset: RawDataset, drift: Case, seed: int) -> RawDataset:
    """Returns a run's data set under the acquisition of a case, whose processing changes nothing.

    Noise depends on the seed and the state of the camera.

    Raises:
        InputError: the intensity is missing.
    """
    if drift.iso is not None:
        dataset = at_intensity(data, drift.iso, dataset.fingerprint)
    state, renderer = drift.state_of(dataset.camera), Renderer(seed)
    if not state.given:
        return dataset
    camera = camera_of(dataset)

    def read(index: int) -> Sample:
        raw, target = dataset[index]

        def taken(raw: np.ndarray) -> np.ndarray:
            return np.asarray(renderer.mosaics(state, raw[None], np.array([index]), camera))[0]

        moved = renderer.targets(state, np.asarray(target)[None], dataset.shape[:2])
        return jax.tree.map(taken, raw), np.asarray(moved)[0]

    # The provenance identifies the new raw images, since hashing them would require drawing all their noise first.
    provenance = json.dumps([dataset.provenance, state.given, camera.to_json(), seed])
    return dataclasses.replace(dataset, read=read, provenance=provenance)


def converted(dataset: RawDataset, reference: Reference, stated: Collection[str] | None = None) -> RawDataset:
    """Scales a data set to the camera of a model, as files that the model predicts are scaled.

    `stated` names the values of the data's camera that are known; by default, all.
    """
    own = camera_of(dataset)
    known = [field.name for field in dataclasses.fields(own)] if stated is None else sorted(stated)

    def read(index: int) -> Sample:
        raw, target = dataset.read(index)
        return jax.tree.map(lambda each: reference.scaled(each, own, known), raw), target

    cameras = {name: camera.to_json() for name, camera in reference.cameras.items()}
    provenance = json.dumps([dataset.provenance, own.to_json(), reference.camera.to_json(), cameras, known])
    return dataclasses.replace(dataset, camera=reference.camera, read=read, provenance=provenance)

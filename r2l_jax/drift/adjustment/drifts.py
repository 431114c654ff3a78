"""A trained model under a drift: the start of an adaptation."""

import dataclasses
import pathlib
from typing import Any, NamedTuple

import numpy as np

import isp
from r2l_jax.data.files.known_camera import KnownCamera, find_known_camera
from r2l_jax.data.files.rawfile import RAW_SUFFIXES, READERS
from r2l_jax.data.files.reference_camera import Reference
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.data.sets import datasets, folder
from r2l_jax.data.settings import IN_MEMORY, PUBLISHED_SETS
from r2l_jax.drift import acquisition, cases
from r2l_jax.drift.adjustment.config import DATA, AdjustmentConfig
from r2l_jax.drift.cases import Case
from r2l_jax.drift.given import check_fits
from r2l_jax.drift.search.ranges import tuned
from r2l_jax.errors import InputError, warn
from r2l_jax.model.raw_to_logit import RawToLogit, pipeline_of
from r2l_jax.results.files import cache_dir
from r2l_jax.training.model_io import Trained
from r2l_jax.training.run import Run


class Drifted(NamedTuple):
    """A model under a drift.

    Attributes:
        model: the model, with the pipeline of a processing drift.
        dataset: the raw images, under an acquisition drift.
        unlabeled: the samples to adapt to without labels, of as many groups as possible.
        labeled: the samples to adapt to with labels: the first of `unlabeled`, or all of these and more.
        samples: the samples to measure on.
        measured: the kind of `samples`: the run's "test" or "validation" samples, or "other" ones of drifted data.
    """

    model: RawToLogit
    dataset: RawDataset
    unlabeled: np.ndarray
    labeled: np.ndarray
    samples: np.ndarray
    measured: str

    @property
    def pipeline(self) -> isp.Pipeline:
        """The model's pipeline."""
        return pipeline_of(self.model)


def drifted(config: AdjustmentConfig, fold: Trained, drift: Case) -> Drifted:
    """Puts a fold's model under a drift.

    Raises:
        InputError: the drift does not fit the run's data, or has too few samples.
    """
    wanted, unlabeled, seed = config.searches.labeled, config.searches.unlabeled, config.searches.seed
    rng = np.random.default_rng(seed)
    if drift.group == DATA:
        dataset = _other_data(config, fold)
    else:
        dataset = acquisition.drifted(fold.config.data, fold.dataset, drift, seed)
    every, measured = np.arange(len(dataset)), "other"
    source, tested = every, every
    if dataset.fingerprint == fold.dataset.fingerprint:
        # The data are the run's own, so training samples must not be measured.
        source, tested, measured = fold.split.train, fold.measured_indices, fold.measured
    order = rng.permutation(source)
    groups = list(dict.fromkeys(dataset.groups_of(order).tolist()))
    # Half of the groups are left to measure on, unless others are measured.
    most = len(groups) // 2 if np.isin(tested, source).any() else len(groups)
    is_first = np.isin(dataset.groups_of(order), groups[:most])
    first, others = (dataset.taking_turns(order[each]) for each in (is_first, ~is_first))
    drawn = np.concatenate([first, others])
    labeled, unlabeled = drawn[:wanted], first[:unlabeled]
    used = dataset.groups_of(max(labeled, unlabeled, key=len))
    samples = tested[~np.isin(dataset.groups_of(tested), used)]
    if len(labeled) < wanted or len(samples) < 2:
        raise InputError(
            f"`labeled={wanted}` is too many for {drift.name}: it has {len(labeled)} images to adapt to and "
            f"{len(samples)} others to measure on"
        )
    if dataset.groups is not None and np.isin(tested, source).any() and not 1 <= most < len(groups) - 1:
        raise InputError(
            f"{drift.name} has {len(groups)} groups of images, such as frames or patients: too few to adapt to some "
            "and to measure on two others"
        )
    return Drifted(_model(fold, drift), dataset, unlabeled, labeled, samples, measured)


def free_parameters(names: tuple[str, ...], pipeline: isp.Pipeline) -> tuple[str, ...]:
    """Returns the parameters that an adaptation may move: the named ones or "all"; by default, all tuned by hand.

    Raises:
        InputError: a name that no parameter of the pipeline has.
    """
    known = tuple(pipeline.parameters())
    if "all" in names:
        return known
    for name in names:
        if name not in known:
            raise InputError(f"`parameters` must be one of all, {', '.join(known)}, got {name!r}")
    return names or tuned(pipeline.declarations)


def _model(fold: Trained, drift: Case) -> RawToLogit:
    """Returns a fold's model; under a processing drift, with that drift's pipeline."""
    pipeline = cases.for_run(drift, fold.config.processing).pipeline
    if pipeline is None:
        return fold.model
    return fold.model.processed_by(pipeline.metered_as(fold.model.processor)(cases.camera_of(fold.dataset)))


def _other_data(config: AdjustmentConfig, fold: Trained) -> RawDataset:
    """Loads the data of --drifted_data_dir, which must have the classes and the pattern of the run's data."""
    name, source = config.drifted_data_dir, fold.config.data.source
    assert fold.camera is not None
    reference = Reference(fold.camera, fold.cameras)
    if name is not None and name.startswith(IN_MEMORY):
        dataset = datasets.load(name)
        check_fits(dataset, fold)
        return acquisition.converted(dataset, reference)
    if name is None or not pathlib.Path(name).is_dir():
        raise InputError(f"`drifted_data_dir={name}` is not a folder")
    if fold.config.data.dataset in PUBLISHED_SETS:
        if config.drifted_camera:
            raise InputError(f"`drifted_camera`: {fold.config.data.dataset} has its own camera: leave it out")
        dataset = datasets.load(fold.config.data.dataset, **(source | dict[str, Any](data_dir=name)))
    else:
        if fold.config.data.dataset == "Folder":
            camera, side = config.drifted_camera or source["camera"], source["tile_size"]
        else:
            camera, side = config.drifted_camera or _camera_in(pathlib.Path(name), fold), fold.about.shape[0]
        # Masks have the same classes as those of the run.
        classes = fold.dataset.classes if fold.task.class_scores else None
        try:
            # The folder is the user's: nothing is written to it.
            dataset = folder.load(name, camera, side, cache_dir() / "tiles", source["group"], classes=classes)
        except InputError as error:
            raise InputError(str(error).replace(f"`tile_size={side}`", "the raw images in training")) from None
    if dataset.task != fold.dataset.task:
        raise InputError(
            f"`drifted_data_dir={name}` is for {dataset.task}, and the run for {fold.dataset.task}: it must have "
            + ("images/ and masks/" if fold.task.has_masks else "a sub-folder of raw files for each class")
        )
    if fold.task.has_masks:
        # A folder of masks does not name its object.
        dataset = dataclasses.replace(dataset, classes=fold.dataset.classes)
    if dataset.classes != fold.dataset.classes:
        raise InputError(
            f"`drifted_data_dir={name}` must have the classes {', '.join(fold.dataset.classes)}, "
            f"got {', '.join(dataset.classes)}"
        )
    pattern, wanted = cases.camera_of(dataset).pattern, cases.camera_of(fold.dataset).pattern
    if pattern != wanted:
        raise InputError(
            f"`drifted_data_dir={name}` must have the pattern {wanted}, got {pattern}; no processing parameter adjusts "
            "that"
        )
    stated = find_known_camera(config.drifted_camera or "auto", "drifted_camera").figures
    if ignored := reference.explain_ignored(cases.camera_of(dataset), stated):
        warn(f"`drifted_camera`: {ignored}")
    return acquisition.converted(dataset, reference, stated)


def _camera_in(files: pathlib.Path, fold: Trained) -> str | KnownCamera:
    """Returns the known calibration of raw files: the file's for camera formats, else the training's."""
    suffixes = {file.suffix.lower() for file in files.glob("*/*")}
    if suffixes & ({*RAW_SUFFIXES} - {*READERS}):
        return "auto"
    return KnownCamera.of(Run([fold]).calibration)

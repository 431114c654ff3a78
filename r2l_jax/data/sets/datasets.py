"""Data sets by name."""

import dataclasses
import hashlib
import json
import pathlib
import weakref
from collections.abc import Mapping

import numpy as np

from r2l_jax.data.files.shot import Shot
from r2l_jax.data.raw_dataset import RawDataset, Sample
from r2l_jax.data.sets import folder, published, synthetic
from r2l_jax.data.settings import DATASETS, IN_MEMORY, SYNTHETIC_SETS
from r2l_jax.devices.hosts import on_first_process
from r2l_jax.errors import InputError
from r2l_jax.names import INTENSITIES
from r2l_jax.results.files import cache_dir

# Data sets that callers hold in memory, by name.
_given: weakref.WeakValueDictionary[str, RawDataset] = weakref.WeakValueDictionary()


def given(dataset: RawDataset) -> str:
    """Returns the name under which `load` finds a data set in memory, for as long as somebody holds it.

    The name is a hash of the content: where equal data is made again, even in a later process, it has the same name.
    """
    content = dataset.fingerprint if dataset.source else dataset.content
    groups = None if dataset.groups is None else dataset.groups.tolist()
    digest = hashlib.sha256(json.dumps([content, groups, dataset.camera and dataset.camera.to_json()]).encode())
    name = f"{IN_MEMORY}{digest.hexdigest()[:16]}"
    _given[name] = dataset
    return name


def load(
    name: str,
    *,
    data_dir: str | pathlib.Path | None = None,
    iso: float | tuple[float, ...] = 1.0,
    camera: str = "auto",
    tile_size: int | None = None,
    group: str | None = None,
    annotations: str | pathlib.Path | None = None,
    classes: tuple[str, ...] | None = None,
    synthetic_images: int = 600,
    synthetic_size: int = 128,
    download: bool = False,
) -> RawDataset:
    """Loads a data set by the name that `train.py --dataset` takes; renders or downloads it first if needed.

    The arguments are flags of `train.py`; those for other data sets are ignored. `iso` is one of the seven intensities,
    such as 0.05, or several, whose data sets are pooled.
    """
    if name.startswith(IN_MEMORY):
        if (dataset := _given.get(name)) is None:
            raise InputError(
                "the run was trained on arrays that are not in memory: make them again with r2l_jax.data.from_arrays"
            )
        return dataset
    if name not in DATASETS:
        raise InputError(f"`dataset` must be one of {', '.join(DATASETS)}, got {name!r}")
    if name == "Folder":
        return folder.load(data_dir, camera, tile_size, group=group, annotations=annotations, classes=classes)
    isos = iso if isinstance(iso, tuple) else (iso,)
    if unknown := [each for each in isos if each not in INTENSITIES]:
        measured = ", ".join(f"{intensity:g}" for intensity in INTENSITIES)
        raise InputError(f"`iso` must be one of the published intensities {measured}, got {unknown[0]:g}")
    root = data_dir or cache_dir()

    def at(intensity: float) -> RawDataset:
        if name in SYNTHETIC_SETS:
            return synthetic.load(name, root, intensity, synthetic_images, synthetic_size, classes)
        folder_name = synthetic.intensity_folder(intensity)
        if download:
            on_first_process(lambda: _download_missing(name, root, folder_name))
        return published.load(name, root, folder_name)

    return pooled({each: at(each) for each in isos})


def pooled(found: Mapping[float, RawDataset]) -> RawDataset:
    """Pools the data sets of several intensities, which hold the same scenes in the same order.

    The samples of a scene are adjacent, in the order of the intensities, and are called `<scene>@iso=<intensity>`. A
    single data set stays unchanged.
    """
    (first, dataset), *others = found.items()
    if not others:
        return dataset
    for iso, other in others:
        if other.fingerprint != dataset.fingerprint:
            raise InputError(f"`iso={iso:g}` and `iso={first:g}` must have the same samples")
    isos, each = list(found), list(found.values())

    def read(index: int) -> Sample:
        scene, place = divmod(index, len(isos))
        return each[place].read(scene)

    files = zip(*(other.files for other in each if other.files is not None), strict=True)
    return dataclasses.replace(
        dataset,
        names=tuple(f"{name}@iso={iso:g}" for name in dataset.names for iso in isos),
        labels=np.repeat(dataset.labels, len(isos)),
        read=read,
        files=dataset.files and tuple(paths for of_scene in files for paths in of_scene),
        shot=lambda index: Shot(iso=isos[index % len(isos)]),
        groups=np.repeat(dataset.groups_of(np.arange(len(dataset))), len(isos)),
    )


def _download_missing(name: str, data_dir: str | pathlib.Path, intensity: str) -> None:
    # Imported here, because b2sdk takes a fifth of a second, and most programs download nothing.
    from r2l_jax.data.fetch import download as downloads

    if not published.is_there(name, data_dir, intensity):
        downloads.download(published.download_name(name), data_dir)

"""Writes a raw data set as pictures that other pipelines, exposures and corruptions make of it."""

import collections
import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

import isp
from r2l_jax.data import loader
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.data.sets import datasets
from r2l_jax.drift import cases
from r2l_jax.drift.cases import camera_of
from r2l_jax.drift.renderer import Processor, Recipe, Renderer
from r2l_jax.drift.synthesis import picture_sets
from r2l_jax.drift.synthesis.config import SynthesisConfig
from r2l_jax.drift.synthesis.picture_sets import FORMATS, PictureSet, SetFolder, encoded
from r2l_jax.model.model_hash import described, function_name, processor_hash
from r2l_jax.model.tasks import task_of
from r2l_jax.pipelines import NamedPipeline
from r2l_jax.runtime import compiler, jobs, remote, stop, store
from r2l_jax.runtime.contact_sheet import quantized
from r2l_jax.runtime.devices import shardings, to_devices
from r2l_jax.runtime.environment import environment
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.flags import build, flat
from r2l_jax.runtime.jobs import Ended, in_chunks, in_threads
from r2l_jax.runtime.locks import writing_to

# The number of pixels in a batch: 16 mosaics of 256x256, or one large frame.
_PIXELS = 2**20


def run(config: SynthesisConfig) -> None:
    """Writes sets of pictures, except for pictures that earlier calls have finished.

    Pictures are clipped to [0, 1]. TIFF files have 16 bits, so that 65535 is white, and PNG files have 8. Noise depends
    on the seed, on the names of the exposure and the corruption, and on the sample's index in the data set: an
    evaluation with the same seed uses the same noise.

    An output folder may already hold sets of the same samples, format and seed. If a set in it was made by other code
    or with other calibration values of the camera, asking for it again makes it anew. The same is true of each picture
    whose sample has changed.

    Raises:
        InputError: data is missing or processed already, or the output folder holds something else or cannot be
            written to.
        Interrupted: SIGINT or SIGTERM arrived; the same call resumes where this one stopped.
    """
    jobs.prepare(config.scheduler)
    sets, output, sources = config.sets(), remote.on_disk("output", config.output), load(config)
    dataset = next(iter(sources.values()))
    cases.check_pipelines([pictures.pipeline for pictures in sets], dataset)
    cases.check_sensor([pictures.acquisition for pictures in sets], dataset)
    if output.is_file():
        raise InputError(f"--output={output} is a file: choose another folder")
    try:
        with writing_to(output):
            identities = {pictures.name: _identity(config, pictures, sources[pictures.iso]) for pictures in sets}
            folders = _folders(config, sources)
            _describe(config, folders, dataset, identities)
            _write(config, sources, folders)
    except OSError as error:
        raise InputError(f"{error.filename or output}: {error.strerror or error}") from None
    print(f"{len(sets)} sets of {len(dataset)} pictures each in {output}")


def load(config: SynthesisConfig) -> dict[float | None, RawDataset]:
    """Loads the data set at each intensity of the sets.

    Raises:
        InputError: data is missing or processed already, or two intensities have different samples.
    """
    settings: dict[str, Any] = {**config.source, "download": config.download}
    isos = dict.fromkeys(pictures.iso for pictures in config.sets())
    loaded = {iso: datasets.load(config.dataset, iso=iso or 1.0, **settings) for iso in isos}
    first = next(iter(loaded.values()))
    if first.camera is None:
        raise InputError(f"--dataset={config.dataset} is processed already: there is no raw data")
    for iso, dataset in loaded.items():
        if dataset.fingerprint != first.fingerprint:
            raise InputError(f"--intensities={iso:g} has other samples than the other intensities")
    return loaded


def _folders(config: SynthesisConfig, sources: Mapping[float | None, RawDataset]) -> list[SetFolder]:
    """Returns the folders of all sets."""
    files = picture_sets.file_names(next(iter(sources.values())), config.format)
    output = pathlib.Path(config.output)
    return [SetFolder(pictures, output, sources[pictures.iso], files, config.seed) for pictures in config.sets()]


def _identity(config: SynthesisConfig, pictures: PictureSet, dataset: RawDataset) -> store.Identity:
    """Collects everything that a set depends on."""
    pipeline, camera = pictures.named_pipeline, camera_of(dataset)
    # The camera counts here, since only changes of the data leave other pictures of the set as they are.
    rendered_by = [*pipeline.identity, processor_hash(pipeline(camera)), dataclasses.asdict(camera)]
    return store.identity(
        {**pictures.settings, "seed": config.seed, "format": config.format}, dataset.content, rendered_by
    )


def _describe(
    config: SynthesisConfig,
    folders: Sequence[SetFolder],
    dataset: RawDataset,
    identities: Mapping[str, store.Identity],
) -> None:
    """Collects the entries of `manifest.json`, and writes them with `picture_sets.describe`."""
    camera = camera_of(dataset)
    fixed = {
        "dataset": dataset.name,
        "task": dataset.task,
        "samples": {"count": len(dataset), "classes": dataset.classes, "fingerprint": dataset.fingerprint},
        "size": "x".join(map(str, dataset.read(0)[0].shape)),
        "format": config.format,
        "seed": config.seed,
    }
    added = {
        "pipelines": {
            folder.pictures.pipeline.name: _described(folder.pictures.named_pipeline(camera)) for folder in folders
        },
        "sets": {folder.pictures.name: folder.pictures.settings for folder in folders},
        "identities": identities,
    }
    current = {"data_dir": config.data_dir, "camera": dataclasses.asdict(camera), **environment()}
    picture_sets.describe(pathlib.Path(config.output), fixed, current, added, folders)


def _described(pipeline: isp.Pipeline) -> dict[str, Any]:
    """Describes a pipeline by everything on which its images depend."""
    return {
        "stages": [
            {
                "name": stage.name,
                "function": function_name(stage.function),
                "parameters": list(stage.parameters),
                "options": {name: described(value) for name, value in stage.options.items()},
            }
            for stage in pipeline.stages
        ],
        "parameters": {name: np.asarray(value).tolist() for name, value in pipeline.parameters().items()},
    }


def _write(
    config: SynthesisConfig,
    sources: Mapping[float | None, RawDataset],
    folders: Sequence[SetFolder],
) -> None:
    """Writes the missing pictures of all sets, with a progress bar on stderr."""
    samples = len(next(iter(sources.values())))
    total, errors = len(folders) * samples, list[str]()
    with tqdm(total=total, unit="picture", disable=None) as bar:
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            for folder in folders:
                for valid in pool.map(folder.check, range(samples)):
                    bar.update(valid)
        todo = {folder.pictures.name: folder for folder in folders if folder.missing}
        for folder in todo.values():
            folder.begin()
        for picture, digests, error, *_ in _written(config, sources, todo):
            if digests is not None:
                todo[picture.set].add({picture.sample: digests})
                bar.update()
            errors += [error] if error is not None else []
        for folder in todo.values():
            folder.finish()
        if errors:
            raise InputError(f"{len(errors)} of {total} pictures could not be made: {errors[0]}")


class Picture(NamedTuple):
    """A picture to make.

    Attributes:
        set: the name of its set.
        sample: the index of its sample.
    """

    set: str
    sample: int

    def __str__(self) -> str:
        return f"{self.set}, sample {self.sample}"


class _Loaded(NamedTuple):
    """Holds the data and the code with which a process makes pictures.

    Attributes:
        config: the settings.
        sources: the data set at each intensity.
        folders: the folders of the sets by their names.
        maker: makes the pictures.
    """

    config: SynthesisConfig
    sources: Mapping[float | None, RawDataset]
    folders: Mapping[str, SetFolder]
    maker: "_Maker"


def _written(
    config: SynthesisConfig, sources: Mapping[float | None, RawDataset], folders: Mapping[str, SetFolder]
) -> Iterator[Ended]:
    """Writes the missing pictures of sets; yields the results of `SetFolder.write`."""
    units = [
        [
            Picture(name, index)
            for name, folder in folders.items()
            if folder.pictures.iso == iso
            for index in sorted(folder.missing.intersection(samples))
        ]
        for iso, dataset in sources.items()
        for samples in _batches(dataset)
    ]
    load = functools.partial(_load, tuple(flat(config).items()))
    loaded = _Loaded(config, sources, folders, _Maker.of(config, sources)) if config.scheduler == "serial" else None
    return in_chunks(_make, [unit for unit in units if unit], loaded, config.scheduler, load)


@functools.lru_cache(maxsize=1)
def _load(settings: tuple[tuple[str, Any], ...]) -> _Loaded:
    """Loads, once in a worker, the data and the code with which it makes pictures.

    Args:
        settings: the names and values of flags.
    """
    config = build(SynthesisConfig, dict(settings))
    sources = load(config)
    folders = {folder.pictures.name: folder for folder in _folders(config, sources)}
    return _Loaded(config, sources, folders, _Maker.of(config, sources))


def _make(loaded: _Loaded, pictures: Sequence[Picture]) -> Iterator[Ended]:
    """Makes and writes pictures, one intensity after the other; threads write while the device works."""
    write, threads = functools.partial(_write_begun, loaded.config.format), os.cpu_count() or 1
    missing = collections.defaultdict(set)
    for picture in pictures:
        missing[picture.set].add(picture.sample)
    for iso, dataset in loaded.sources.items():
        todo = {
            folder.pictures.recipe: (folder, missing[name])
            for name, folder in loaded.folders.items()
            if folder.pictures.iso == iso and name in missing
        }
        begun = loaded.maker.begin(todo, dataset)
        for _, written, error, *_ in in_threads(write, begun, threads + 1, threads, stop.requested):
            if written is None:
                raise InputError(error)
            yield from written


def _batch_size(dataset: RawDataset) -> int:
    """Returns the number of samples in a batch, over all devices."""
    devices, (height, width) = jax.device_count(), dataset.shape
    return -(-min(max(_PIXELS // (height * width), 1), len(dataset)) // devices) * devices


def _batches(dataset: RawDataset) -> list[range]:
    """Divides the samples into batches.

    A sample always has the same place in the same batch, so that its pictures are the same to the last bit.
    """
    size = _batch_size(dataset)
    return [range(start, min(start + size, len(dataset))) for start in range(0, len(dataset), size)]


class _Begun(NamedTuple):
    """Holds the pictures of a batch for one set, which the device may still be computing, and the samples' masks.

    Attributes:
        folder: the set's folder.
        missing: the indices of the set's missing samples.
        pictures: `(B, H, W, 3)`; pictures after the last sample only fill up the batch.
        samples: the samples' indices.
        masks: for each sample, the content of its mask's file; empty without a mask.
    """

    folder: SetFolder
    missing: Set[int]
    pictures: jax.Array
    samples: list[int]
    masks: list[list[bytes]]

    def __str__(self) -> str:
        return self.folder.pictures.name


def _write_begun(file_format: str, begun: _Begun) -> list[Ended]:
    """Waits for the pictures of a batch, and writes those that are missing."""
    # `begun.pictures` may be longer than `begun.samples`: the last batch is filled up with other pictures.
    pictures = zip(begun.samples, np.asarray(begun.pictures), begun.masks, strict=False)
    return [
        Ended(
            Picture(begun.folder.pictures.name, index),
            begun.folder.write(index, [encoded(picture, file_format), *masks]),
        )
        for index, picture, masks in pictures
        if index in begun.missing
    ]


class _Maker:
    """Makes the pictures of sets.

    Args:
        camera: the camera at whose calibration values the pipelines process.
        config: gives the format and the seed.
        pipelines: the pipelines of all sets.
    """

    def __init__(self, camera: isp.Camera, config: SynthesisConfig, pipelines: Iterable[NamedPipeline]):
        self._camera, self._renderer = camera, Renderer(config.seed, shardings().split)
        self._processors: dict[NamedPipeline | None, Processor] = {
            pipeline: Processor.of(pipeline(camera)) for pipeline in pipelines
        }
        self._quantize = jax.jit(
            functools.partial(quantized, dtype=FORMATS[config.format]),
            out_shardings=shardings().split,
            compiler_options=compiler.options(),
        )

    @classmethod
    def of(cls, config: SynthesisConfig, sources: Mapping[float | None, RawDataset]) -> "_Maker":
        """Returns the maker of all sets of some settings."""
        camera = camera_of(next(iter(sources.values())))
        return cls(camera, config, {pictures.named_pipeline for pictures in config.sets()})

    def begin(self, sets: Mapping[Recipe, tuple[SetFolder, Set[int]]], dataset: RawDataset) -> Iterator[_Begun]:
        """Yields the pictures of each batch for each set that lacks some of them.

        Args:
            sets: the sets' folders, of one intensity, and their missing samples.
            dataset: the mosaics at this intensity.
        """
        task, missing = task_of(dataset), set().union(*(each for _, each in sets.values()))
        chosen = [index for batch in _batches(dataset) if not missing.isdisjoint(batch) for index in batch]

        def masks_of(targets: np.ndarray) -> list[list[bytes]]:
            return [[encoded(mask, "png") for mask in task.mask_pictures(target)] for target in targets]

        for batch in loader.eval_batches(dataset, np.array(chosen, np.int64), _batch_size(dataset), keep_decoded=False):
            samples = batch["index"][batch["weight"] > 0].tolist()
            raw, index = to_devices((batch["raw"], batch["index"]), shardings().split)
            todo = [recipe for recipe, (_, each) in sets.items() if not each.isdisjoint(samples)]
            images = self._renderer.images(todo, raw, index, self._camera, self._processors)
            masks = masks_of(batch["target"])
            for recipe, values in images:
                moved = self._renderer.targets(recipe.acquisition, batch["target"])
                of_recipe = masks if moved is batch["target"] else masks_of(np.asarray(moved))
                yield _Begun(*sets[recipe], self._quantize(values), samples, of_recipe)

"""Writes a raw data set as pictures that other pipelines, exposures and corruptions make of it."""

import collections
import dataclasses
import functools
import itertools
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from tqdm import tqdm

import isp
from r2l_jax.data import loader
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.data.sets import datasets
from r2l_jax.drift import cases
from r2l_jax.drift.cases import camera_of
from r2l_jax.drift.renderer import Processor, Renderer
from r2l_jax.drift.synthesis import picture_sets
from r2l_jax.drift.synthesis.config import SynthesisConfig
from r2l_jax.drift.synthesis.picture_sets import FORMATS, PictureSet, SetFolder, encoded
from r2l_jax.model.model_hash import described, function_name, processor_hash
from r2l_jax.model.tasks import task_of
from r2l_jax.pipelines import NamedPipeline
from r2l_jax.runtime import cluster, compiler, manifests, remote, startup, store
from r2l_jax.runtime.chunks import Workers, spread
from r2l_jax.runtime.contact_sheet import quantized
from r2l_jax.runtime.devices import shardings, to_devices
from r2l_jax.runtime.environment import environment
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.flags import build, flat
from r2l_jax.runtime.hosts import refuse_several_processes
from r2l_jax.runtime.stop import Interrupted, StopSignals

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
        InputError: data is missing or processed already, the output folder holds something else or cannot be written
            to, or there are several processes.
        Interrupted: SIGINT or SIGTERM arrived; the same call goes on where this one stopped.
    """
    cluster.prepare(config.scheduler)
    refuse_several_processes()
    sets, output, sources = config.sets(), remote.place(config.output), load(config)
    dataset = next(iter(sources.values()))
    cases.check_pipelines([pictures.pipeline for pictures in sets], dataset)
    if isinstance(output, pathlib.Path) and output.is_file():
        raise InputError(f"--output={output} is a file: choose another folder")
    try:
        with remote.working(output, [manifests.NAME, *map(picture_sets.table_of, sets)]) as work:
            identities = {pictures.name: _identity(config, pictures, sources[pictures.iso]) for pictures in sets}
            folders = _folders(config, sources, work.path)
            _describe(config, folders, dataset, identities, work.path)
            _write(config, sources, folders, work)
    except OSError as error:
        raise InputError(f"{error.filename or output}: {error.strerror or error}") from None
    print(f"{len(sets)} sets of {len(dataset)} pictures each in {output}")


def load(config: SynthesisConfig) -> dict[float | None, RawDataset]:
    """Loads the data set at each intensity of the sets.

    Raises:
        InputError: data is missing or processed already, or two intensities have different samples.
    """
    settings: dict[str, Any] = {**config.source, "download": config.download}
    if isinstance(place := remote.place(config.data_dir or ""), remote.Url):
        settings["data_dir"] = remote.copied(place, startup.cache_dir() / "copied")
    isos = dict.fromkeys(pictures.iso for pictures in config.sets())
    loaded = {iso: datasets.load(config.dataset, iso=iso or 1.0, **settings) for iso in isos}
    first = next(iter(loaded.values()))
    if first.camera is None:
        raise InputError(f"--dataset={config.dataset} is processed already: there is no raw data")
    for iso, dataset in loaded.items():
        if dataset.fingerprint != first.fingerprint:
            raise InputError(f"--intensities={iso:g}: its samples are not those of the other intensities")
    return loaded


def _folders(
    config: SynthesisConfig, sources: Mapping[float | None, RawDataset], tables: pathlib.Path
) -> list[SetFolder]:
    """Returns the folders of all sets, whose manifests are kept in the folder `tables`."""
    files = picture_sets.file_names(next(iter(sources.values())), config.format)
    output = remote.place(config.output)
    return [
        SetFolder(pictures, output, tables, sources[pictures.iso], files, config.seed) for pictures in config.sets()
    ]


def _identity(config: SynthesisConfig, pictures: PictureSet, dataset: RawDataset) -> store.Identity:
    """Collects everything that a set depends on."""
    pipeline, camera = pictures.named_pipeline, camera_of(dataset)
    processing = [*pipeline.identity, processor_hash(pipeline(camera))]
    return store.identity(
        {**pictures.settings, "seed": config.seed, "format": config.format},
        data=dataset.content,
        camera=dataclasses.asdict(camera),
        processing=processing,
    )


def _describe(
    config: SynthesisConfig,
    folders: Sequence[SetFolder],
    dataset: RawDataset,
    identities: Mapping[str, store.Identity],
    tables: pathlib.Path,
) -> None:
    """Collects the entries of `manifest.json`, and writes them by `picture_sets.describe`."""
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
    picture_sets.describe(remote.place(config.output), tables, fixed, current, added, folders)


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
    work: remote.Workplace,
) -> None:
    """Writes the missing pictures of all sets, with a progress bar on stderr."""
    first = next(iter(sources.values()))
    total, failed = len(folders) * len(first), list[str]()
    with StopSignals() as stop, tqdm(total=total, unit="picture", disable=None) as bar:
        done = 0

        def add(count: int) -> None:
            # A bar that is not shown does not count.
            nonlocal done
            done += count
            bar.update(count)

        def interrupted() -> Interrupted:
            return Interrupted(f"stopped after {done} of {total} pictures; the same command goes on from there")

        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            for folder in folders:
                for valid in pool.map(folder.check, range(len(first))):
                    add(valid)
                    if stop.after_step():
                        raise interrupted()
        todo = [folder for folder in folders if folder.missing]
        for folder in todo:
            folder.begin()
        if config.scheduler == "serial":
            written = _by_this_process(_Loaded(config, sources, todo, _Maker.of(config, sources)), stop)
        else:
            written = _by_workers(config, sources, todo)
        for folder, digests, error in written:
            if error:
                failed.append(error)
                continue
            folder.add(digests)
            add(len(digests))
            work.save()
            if stop.after_step() and config.scheduler != "serial":
                # The batches that workers have begun are given up. In this process, a begun batch is finished.
                break
        for folder in todo:
            folder.finish()
        if failed:
            raise InputError(f"{total - done} of {total} pictures could not be made: {failed[0]}")
        if any(folder.missing for folder in todo):
            raise interrupted()


# The folder of a set, the digests of `SetFolder.write` by the samples' indices, and why others could not be made.
_Written = Iterator[tuple[SetFolder, dict[int, list[str]], str]]


class _Loaded(NamedTuple):
    """Holds by what a process makes pictures.

    Attributes:
        config: the settings.
        sources: the data set at each intensity.
        folders: the folders of the sets.
        maker: makes the pictures.
    """

    config: SynthesisConfig
    sources: Mapping[float | None, RawDataset]
    folders: Sequence[SetFolder]
    maker: "_Maker"


def _by_this_process(loaded: _Loaded, stop: StopSignals | None = None) -> _Written:
    """Writes the missing pictures of sets, one intensity after the other; threads write while the device works.

    After a request to stop, pictures that were begun are still written.
    """
    config, sources, folders, maker = loaded
    write, workers = functools.partial(_write_begun, config.format), os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        for iso, dataset in sources.items():
            todo = [folder for folder in folders if folder.pictures.iso == iso and folder.missing]
            begun = itertools.takewhile(lambda _: not (stop and stop.after_step()), maker.begin(todo, dataset))
            for folder, digests in _work_ahead(pool, write, begun, workers + 1):
                yield folder, digests, ""


class _Batch(NamedTuple):
    """Holds the pictures of a batch that are missing.

    Attributes:
        missing: the samples' indices by the names of sets of one intensity.
        sites: how many sites these samples have, counted once for each picture.
    """

    missing: dict[str, list[int]]
    sites: int


def _by_workers(
    config: SynthesisConfig, sources: Mapping[float | None, RawDataset], folders: Sequence[SetFolder]
) -> _Written:
    """Writes the missing pictures of sets by the workers of `--scheduler`, some batches a job."""
    units = list[list[_Batch]]()
    for iso, dataset in sources.items():
        sites = int(np.prod(dataset.shape))
        for samples in _batches(dataset):
            missing = {
                folder.pictures.name: sorted(some)
                for folder in folders
                if folder.pictures.iso == iso and (some := folder.missing.intersection(samples))
            }
            if missing:
                units.append([_Batch(missing, sites * sum(map(len, missing.values())))])
    by_name = {folder.pictures.name: folder for folder in folders}
    workers = Workers(config.scheduler, functools.partial(_load, tuple(flat(config).items())))
    for _, written, error in spread(workers, _make_chunk, units, lambda batch: 4 * batch.sites):
        if error:
            yield folders[0], {}, error
        for name, digests in written or ():
            yield by_name[name], digests, ""


@functools.lru_cache(maxsize=1)
def _load(settings: tuple[tuple[str, Any], ...]) -> _Loaded:
    """Loads, once in a worker, by what it makes pictures.

    Args:
        settings: the names and values of flags.
    """
    config = build(SynthesisConfig, dict(settings))
    sources = load(config)
    # Manifests are read and written by the program alone.
    folders = _folders(config, sources, pathlib.Path(os.devnull))
    return _Loaded(config, sources, folders, _Maker.of(config, sources))


def _make_chunk(loaded: _Loaded, batches: list[_Batch]) -> list[tuple[str, dict[int, list[str]]]]:
    """Writes the missing pictures of batches in a worker, and returns their digests by sets and samples."""
    for folder in loaded.folders:
        folder.missing = {index for batch in batches for index in batch.missing.get(folder.pictures.name, ())}
    return [(folder.pictures.name, digests) for folder, digests, _ in _by_this_process(loaded)]


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
        pictures: `(B, H, W, 3)`; pictures after the last sample only fill up the batch.
        samples: the samples' indices.
        masks: for each sample, the content of its mask's file; empty without a mask.
    """

    folder: SetFolder
    pictures: jax.Array
    samples: list[int]
    masks: list[list[bytes]]


def _write_begun(file_format: str, begun: _Begun) -> tuple[SetFolder, dict[int, list[str]]]:
    """Waits for the pictures of a batch, and writes those that are missing.

    Returns:
        The folder, and the digests of `SetFolder.write` by the samples' indices.
    """
    # `begun.pictures` may be longer than `begun.samples`: the last batch is filled up with other pictures.
    pictures = zip(begun.samples, np.asarray(begun.pictures), begun.masks, strict=False)
    return begun.folder, {
        index: begun.folder.write(index, [encoded(picture, file_format), *masks])
        for index, picture, masks in pictures
        if index in begun.folder.missing
    }


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
            pipeline: nnx.split(pipeline(camera)) for pipeline in pipelines
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

    def begin(self, folders: Sequence[SetFolder], dataset: RawDataset) -> Iterator[_Begun]:
        """Yields the pictures of each batch for each set that lacks some of them.

        Args:
            folders: the sets' folders, of one intensity.
            dataset: the mosaics at this intensity.
        """
        task, missing = task_of(dataset), set().union(*(folder.missing for folder in folders))
        chosen = [index for batch in _batches(dataset) if not missing.isdisjoint(batch) for index in batch]
        for batch in loader.eval_batches(dataset, np.array(chosen, np.int64), _batch_size(dataset), keep_decoded=False):
            samples = batch["index"][batch["weight"] > 0].tolist()
            masks = [[encoded(mask, "png") for mask in task.mask_pictures(target)] for target in batch["target"]]
            arrays = to_devices({name: batch[name] for name in ("raw", "index")}, shardings().split)
            todo = {folder.pictures.recipe: folder for folder in folders if not folder.missing.isdisjoint(samples)}
            images = self._renderer.images(todo, arrays["raw"], arrays["index"], self._camera, self._processors)
            for recipe, values in images:
                yield _Begun(todo[recipe], self._quantize(values), samples, masks)


def _work_ahead(pool: Executor, work: Callable, items: Iterable, count: int) -> Iterator:
    """Yields the results of `work` for all items, in their order.

    Args:
        pool: runs the work.
        work: a function of one item.
        items: the items, each of which is only taken when there is room for it.
        count: the greatest number of items in work at once.
    """
    pending = collections.deque()
    for item in items:
        pending.append(pool.submit(work, item))
        if len(pending) == count:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()

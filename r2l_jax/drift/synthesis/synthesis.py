"""Writes a raw data set as pictures under other pipelines, exposures and corruptions.

<output>/<pipeline>/<acquisition>/<corruption>/         a set, such as parametrized/iso=0.05/gaussian_noise.3
<set>/<class>/<sample>.tiff                             its pictures, for classification
<set>/images/<sample>.tiff  <set>/masks/<sample>.png    the same for segmentation; masks are 255 on the object
<set>/result.json  <set>/manifest.csv                   the origin of the set, and a row for each sample
"""

import dataclasses
import functools
import io
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import tifffile
from PIL import Image
from tqdm import tqdm

from r2l_jax import jobs
from r2l_jax.cli.flags import build, flat
from r2l_jax.data import loader
from r2l_jax.data.files import remote
from r2l_jax.data.files.masks import CLASSES_FILE
from r2l_jax.data.files.rawfile import RAW_SUFFIXES
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.data.sets import datasets
from r2l_jax.devices import compiler
from r2l_jax.devices.placement import shardings, to_devices
from r2l_jax.drift import cases
from r2l_jax.drift.cases import Case, camera_of
from r2l_jax.drift.renderer import Processor, Renderer, grouped
from r2l_jax.drift.synthesis.config import SynthesisConfig
from r2l_jax.errors import InputError, in_words
from r2l_jax.jobs import Job, in_threads
from r2l_jax.model.model_hash import processor_hash
from r2l_jax.model.tasks import Task, task_of
from r2l_jax.pipelines import NamedPipeline
from r2l_jax.results import result, store
from r2l_jax.results.contact_sheet import quantized
from r2l_jax.results.files import clear_parts, replacing, write_json
from r2l_jax.results.locks import writing_to
from r2l_jax.results.result import Column, Result, Table

FORMATS = {"tiff": np.uint16, "png": np.uint8}

# The number of pixels in a batch: 16 raw images of 256x256, or one large frame.
_PIXELS = 2**20

# The most sets of one pipeline and acquisition that are made together from the same processed images.
_TOGETHER = 6


def run(config: SynthesisConfig) -> None:
    """Writes sets of pictures, except for those that earlier calls have finished.

    Pictures are clipped to [0, 1]. TIFF files have 16 bits, so that 65535 is white, and PNG files have 8. Noise depends
    on the seed, on the state of the camera and the corruption, and on the sample's index in the data set: an evaluation
    with the same seed uses the same noise. A set of other settings, data, calibration values or code is
    computed again.

    Raises:
        InputError: data is missing or processed already, or the output folder cannot be written to.
    """
    jobs.prepare(config.scheduler)
    sets, output = config.sets, remote.on_disk("output", config.output)
    settings = tuple(flat(config).items())
    _load.cache_clear()
    dataset = next(iter(_load(settings).sources.values()))
    cases.check_camera(sets, dataset)
    if output.is_file():
        raise InputError(f"`output={output}` is a file: choose another folder")
    together = [
        [case.name for case in alike[start : start + _TOGETHER]]
        for _, alike in grouped(sets, lambda case: case._replace(name="", corruption=None))
        for start in range(0, len(alike), _TOGETHER)
    ]
    sizes = {", ".join(names): len(names) for names in together}
    errors = []
    with writing_to(output), tqdm(total=len(sets), unit="set", disable=None) as bar:
        given = [Job(", ".join(names), functools.partial(_make, settings, names)) for names in together]
        for names, _, error, *_ in jobs.run(given, config.scheduler):
            if error is not None:
                errors += [f"{names}: {error}"] * sizes[names]
            bar.update(sizes[names])
    if errors:
        raise InputError(f"{len(errors)} of {len(sets)} sets could not be made: {errors[0]}")
    print(f"{len(sets)} sets of {len(dataset)} pictures each in {output}")


def load(config: SynthesisConfig) -> dict[float, RawDataset]:
    """Loads the data set at each intensity of the sets.

    Raises:
        InputError: data is missing or processed already, or two intensities have different samples.
    """
    settings: dict[str, Any] = {**config.source, "download": config.download}
    isos = dict.fromkeys(map(_iso, config.sets))
    loaded = {iso: datasets.load(config.dataset, iso=iso, **settings) for iso in isos}
    first = next(iter(loaded.values()))
    if first.camera is None:
        raise InputError(f"`dataset={config.dataset}` is already processed and has no raw data")
    task = task_of(first)
    if not (task.has_labels or task.has_masks):
        raise InputError(f"`dataset={config.dataset}` must have classes or masks, got data for {task.title}")
    for iso, dataset in loaded.items():
        if dataset.fingerprint != first.fingerprint:
            raise InputError(f"`intensities={iso:g}` and the other intensities have different samples")
    return loaded


def _iso(case: Case) -> float:
    """Returns the measured intensity from which a set starts: its own, or else full intensity."""
    return case.iso or 1.0


def _pipeline_of(case: Case) -> NamedPipeline:
    assert case.pipeline is not None
    return case.pipeline


class _Loaded(NamedTuple):
    """Holds the data and the functions with which a process makes sets.

    Attributes:
        config: the settings.
        sources: the data set at each intensity.
        files: the names of each sample's files in a set, see `file_names`.
        renderer: makes images.
        quantize: turns images into the integers of pictures.
    """

    config: SynthesisConfig
    sources: Mapping[float, RawDataset]
    files: Sequence[tuple[str, ...]]
    renderer: Renderer
    quantize: Any


@functools.lru_cache(maxsize=1)
def _load(settings: tuple[tuple[str, Any], ...]) -> _Loaded:
    """Loads, once per process, the data and the functions with which it makes the sets of some settings."""
    config = build(SynthesisConfig, dict(settings))
    sources = load(config)
    files = file_names(next(iter(sources.values())), config.format)
    split = shardings().split
    quantize = jax.jit(
        functools.partial(quantized, dtype=FORMATS[config.format]),
        out_shardings=split,
        compiler_options=compiler.options(),
    )
    return _Loaded(config, sources, files, Renderer(config.seed, split), quantize)


def _make(settings: tuple[tuple[str, Any], ...], names: Sequence[str]) -> None:
    """Makes sets of one pipeline and acquisition, unless they exist; threads write while the device works."""
    loaded = _load(settings)
    config, output = loaded.config, pathlib.Path(loaded.config.output)
    sets = {case.name: case for case in config.sets}
    identities = {name: _identity(config, sets[name], loaded.sources[_iso(sets[name])]) for name in names}
    try:
        left = [sets[name] for name in names if not result.holds(output / name, identities[name])]
        if not left:
            return
        dataset, threads = loaded.sources[_iso(left[0])], os.cpu_count() or 1
        write = functools.partial(_write, loaded)
        with tqdm(total=len(left) * len(dataset), unit="picture", leave=False, disable=None) as bar:
            for _, written, error, *_ in in_threads(write, _begun(loaded, left), threads + 1, threads):
                if error is not None:
                    raise InputError(error)
                bar.update(written)
        for case in left:
            # Killed programs may have left temporary files.
            for folder in {(output / case.name / file).parent for files in loaded.files for file in files}:
                clear_parts(folder, 0.0)
            if task_of(dataset).has_masks and len(dataset.classes) > 1:
                colors = dict(zip(dataset.classes, dataset.colors, strict=False))
                write_json(output / case.name / CLASSES_FILE, colors or [*dataset.classes])
            made = _described(config, case, dataset, loaded.files)
            result.write(output / case.name, made, identities[case.name])
    except OSError as error:
        raise InputError(in_words(error)) from None


def _identity(config: SynthesisConfig, case: Case, dataset: RawDataset) -> store.Identity:
    """Collects everything that a set depends on."""
    pipeline, camera = _pipeline_of(case), camera_of(dataset)
    return store.identity(
        {"set": case.identity, "seed": config.seed, "format": config.format},
        [dataset.content, dataclasses.asdict(camera)],
        [*pipeline.identity, processor_hash(pipeline(camera))],
    )


def _described(
    config: SynthesisConfig,
    case: Case,
    dataset: RawDataset,
    files: Sequence[tuple[str, ...]],
) -> Result:
    """Describes a set: its origin, and the files and the class of each sample."""
    pipeline, camera = _pipeline_of(case), camera_of(dataset)
    _, acquisition, corruption = case.name.rsplit("/", 2)
    metadata = {
        "title": f"{dataset.name}: {case.name}",
        "pipeline": pipeline.description,
        "parameters": {name: np.asarray(value) for name, value in pipeline(camera).parameters().items()},
        "acquisition": acquisition,
        "state": case.state_of(camera).given,
        "corruption": case.corruption and corruption,
        "dataset": {"name": dataset.name, "task": dataset.task, "classes": dataset.classes},
        "size": dataset.shape,
        "camera": camera,
        "flags": flat(config),
    }
    names = ["file", "mask" if len(files[0]) > 1 else "class", "sample", "index"]
    cells = [
        [file, *(mask or [file.split("/")[0]]), name, index]
        for index, ((file, *mask), name) in enumerate(zip(files, dataset.names, strict=True))
    ]
    table = Table("Pictures", [Column(name) for name in names], cells)
    return Result(metadata, {"manifest": table}, files=[name for of_sample in files for name in of_sample])


class _Begun(NamedTuple):
    """Holds the pictures of a batch for one set, which the device may still be computing, and the samples' targets.

    Attributes:
        name: the name of the set.
        task: the data set's task.
        samples: the samples' indices.
        pictures: `(B, H, W, 3)`; pictures after the last sample only pad the batch.
        targets: the labels or masks of the samples.
    """

    name: str
    task: Task
    samples: list[int]
    pictures: jax.Array
    targets: np.ndarray

    def __str__(self) -> str:
        return self.name


def _begun(loaded: _Loaded, sets: Sequence[Case]) -> Iterator[_Begun]:
    """Yields the pictures of each batch for each of some sets of one pipeline and acquisition."""
    dataset, pipeline = loaded.sources[_iso(sets[0])], _pipeline_of(sets[0])
    camera, task, renderer = camera_of(dataset), task_of(dataset), loaded.renderer
    processors: dict[NamedPipeline | None, Processor] = {pipeline: Processor.of(pipeline(camera))}
    every, devices, (height, width) = np.arange(len(dataset)), jax.device_count(), dataset.shape
    size = -(-min(max(_PIXELS // (height * width), 1), len(dataset)) // devices) * devices
    for batch in loader.eval_batches(dataset, every, size, keep_decoded=False):
        samples = batch["index"][batch["weight"] > 0].tolist()
        raw, index = to_devices((batch["raw"], batch["index"]), shardings().split)
        moved = np.asarray(renderer.targets(sets[0].state_of(camera), batch["target"], dataset.shape))
        for case, images in renderer.images(sets, raw, index, camera, processors):
            yield _Begun(case.name, task, samples, loaded.quantize(images), moved)


def _write(loaded: _Loaded, begun: _Begun) -> int:
    """Waits for the pictures of a batch, and writes them; returns their number."""
    folder = pathlib.Path(loaded.config.output) / begun.name
    # The last batch may be padded, and then has more pictures than samples.
    for index, picture, target in zip(begun.samples, np.asarray(begun.pictures), begun.targets, strict=False):
        contents = [encoded(picture, loaded.config.format)]
        contents += [encoded(mask, "png") for mask in begun.task.mask_pictures(target)]
        for name, content in zip(loaded.files[index], contents, strict=True):
            with replacing(folder / name) as part:
                part.write_bytes(content)
    return len(begun.samples)


def file_names(dataset: RawDataset, suffix: str) -> list[tuple[str, ...]]:
    """Returns the paths of each sample's picture, and of its mask if there is one, within a set's folder.

    A file is named after its sample, without the folder and the suffix of a raw file, with "_" for characters that a
    file name should not have. Where two samples would get the same name, the sample's index is appended.
    """
    task = task_of(dataset)
    taken: set[str] = set()
    files = []
    for index, (name, label) in enumerate(zip(dataset.names, dataset.labels.tolist(), strict=True)):
        path = pathlib.PurePath(name)
        stem = path.stem if path.suffix.lower() in RAW_SUFFIXES else path.name
        stem = re.sub(r"[^\w.+=-]", "_", stem).lstrip(".") or "_"
        # Some file systems ignore case.
        while task.picture_files(label, stem, suffix)[0].casefold() in taken:
            stem += f"_{index}"
        files.append(task.picture_files(label, stem, suffix))
        taken.add(files[-1][0].casefold())
    return files


def encoded(values: np.ndarray, file_format: str) -> bytes:
    """Encodes a picture `(H, W, 3)` or a mask `(H, W)` as the content of a file.

    Args:
        values: the pixels, of the data type that `FORMATS` gives for the format.
        file_format: one of `FORMATS`.
    """
    file = io.BytesIO()
    if file_format == "png":
        # For noisy pictures, higher levels save at most a tenth of the size, and take twice the time.
        Image.fromarray(values).save(file, format="png", compress_level=1)
    else:
        tifffile.imwrite(file, values, photometric="rgb", metadata=None)
    return file.getvalue()

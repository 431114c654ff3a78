"""Writes a raw data set as pictures under other pipelines, exposures and corruptions.

<output>/<pipeline>/<acquisition>/<corruption>/         a set, such as parametrized/iso=0.05/gaussian_noise.3
<set>/<class>/<sample>.tiff                             its pictures, for classification
<set>/images/<sample>.tiff  <set>/masks/<sample>.png    the same for segmentation; masks are 255 on the object
raw/<acquisition>/uncorrupted/                          a set of raw images as DNG
<set>/result.json  <set>/manifest.csv                   the origin of the set, and a row for each sample
"""

import dataclasses
import functools
import io
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import tifffile
from PIL import Image
from tqdm import tqdm

from r2l_jax import jobs
from r2l_jax.cli.flags import build, flat
from r2l_jax.data import loader
from r2l_jax.data.files import dng_writer, remote
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
from r2l_jax.model.processor_hash import processor_hash
from r2l_jax.model.tasks import task_of
from r2l_jax.pipelines import NamedPipeline
from r2l_jax.results import result, store
from r2l_jax.results.contact_sheet import quantized
from r2l_jax.results.files import clear_parts, replacing, write_json
from r2l_jax.results.locks import writing_to
from r2l_jax.results.result import Column, Result, Table

FORMATS = {"tiff": np.uint16, "png": np.uint8, "dng": np.uint16}

# The number of pixels in a batch: 16 raw images of 256x256, or one large frame.
_PIXELS = 2**20

# The most sets of one pipeline and acquisition that are made together from the same processed images.
_TOGETHER = 6


def run(config: SynthesisConfig) -> None:
    """Writes sets of pictures or raw images, except for those that earlier calls have finished.

    Pictures and raw images are clipped to [0, 1]. TIFF and DNG files have 16 bits, so that 65535 is white, and PNG
    files have 8. DNG files hold the data set's camera. Noise depends on the seed, on the state of the camera and the
    corruption, and on the sample's index in the data set: an evaluation with the same seed uses the same noise. A set
    of other settings, data, calibration values or code is computed again.

    Raises:
        InputError: data is missing or processed already, or the output folder cannot be written to.
    """
    jobs.prepare(config.scheduler)
    sets, output = config.sets, remote.on_disk("output", config.output)
    settings = tuple(flat(config).items())
    _maker.cache_clear()
    dataset = _maker(settings).dataset
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


class _Batch(NamedTuple):
    """The pictures `(B, H, W, 3)` or raw images of a batch for one set, which the device may still be computing.

    Pictures after the last of the `samples` only pad the batch; `targets` are the samples' labels or masks.
    """

    name: str
    samples: list[int]
    pictures: jax.Array
    targets: np.ndarray

    def __str__(self) -> str:
        return self.name


class _Maker:
    """Makes sets with the data and the functions that a process has loaded and compiled once."""

    def __init__(self, config: SynthesisConfig):
        self._config, self._sources, self._output = config, load(config), pathlib.Path(config.output)
        self.dataset, split = next(iter(self._sources.values())), shardings().split
        self._files, self._task = file_names(self.dataset, config.format), task_of(self.dataset)
        self._renderer = Renderer(config.seed, split)
        # Written raw images have their own white level, whatever that of those read.
        self._camera = dataclasses.replace(camera_of(self.dataset), white_level=None)
        if config.format == "dng":
            dng_writer.tags(self._camera)
        self._quantize = jax.jit(
            functools.partial(quantized, dtype=FORMATS[config.format]),
            out_shardings=split,
            compiler_options=compiler.options(),
        )

    def make(self, names: Sequence[str]) -> None:
        """Makes sets of one pipeline and acquisition, unless they exist; threads write while the device works."""
        sets = {case.name: case for case in self._config.sets}
        identities = {name: self._identity(sets[name]) for name in names}
        left = [sets[name] for name in names if not result.holds(self._output / name, identities[name])]
        if not left:
            return
        dataset, threads = self._sources[_iso(left[0])], os.cpu_count() or 1
        with tqdm(total=len(left) * len(dataset), unit="picture", leave=False, disable=None) as bar:
            for _, written, error, *_ in in_threads(self._write, self._batches(left), threads + 1, threads):
                if error is not None:
                    raise InputError(error)
                bar.update(written)
        for case in left:
            # Killed programs may have left temporary files.
            for folder in {(self._output / case.name / file).parent for files in self._files for file in files}:
                clear_parts(folder, 0.0)
            if self._task.has_masks and len(dataset.classes) > 1:
                colors = dict(zip(dataset.classes, dataset.colors, strict=False))
                write_json(self._output / case.name / CLASSES_FILE, colors or [*dataset.classes])
            result.write(self._output / case.name, self._described(case), identities[case.name])

    def _identity(self, case: Case) -> store.Identity:
        """Collects everything that a set depends on."""
        dataset, pipeline = self._sources[_iso(case)], case.pipeline
        camera = camera_of(dataset)
        return store.identity(
            {"set": case.identity, "seed": self._config.seed, "format": self._config.format},
            [dataset.content, dataclasses.asdict(camera)],
            pipeline and [*pipeline.identity, processor_hash(pipeline(camera))],
        )

    def _described(self, case: Case) -> Result:
        """Describes a set: its origin, and the files and the class of each sample."""
        dataset, pipeline = self._sources[_iso(case)], case.pipeline
        camera, (_, acquisition, corruption) = camera_of(dataset), case.name.rsplit("/", 2)
        parameters = pipeline(camera).parameters() if pipeline else {}
        metadata = {
            "title": f"{dataset.name}: {case.name}",
            "pipeline": pipeline and pipeline.description,
            "parameters": {name: np.asarray(value) for name, value in parameters.items()},
            "acquisition": acquisition,
            "state": case.state_of(camera).given,
            "corruption": case.corruption and corruption,
            "dataset": {"name": dataset.name, "task": dataset.task, "classes": dataset.classes},
            "size": dataset.shape,
            "camera": camera,
            "flags": flat(self._config),
        }
        names = ["file", "mask" if self._task.has_masks else "class", "sample", "index"]
        names += [] if dataset.groups is None else ["group"]
        groups = [[]] * len(dataset)
        if dataset.groups is not None:
            groups = [[dataset.group_names[group]] for group in dataset.groups]
        cells = [
            [file, *(mask or [file.split("/")[0]]), name, index, *groups[index]]
            for index, ((file, *mask), name) in enumerate(zip(self._files, dataset.names, strict=True))
        ]
        table = Table("Pictures", [Column(name) for name in names], cells)
        return Result(metadata, {"manifest": table}, files=[name for of_sample in self._files for name in of_sample])

    def _batches(self, sets: Sequence[Case]) -> Iterator[_Batch]:
        """Yields the pictures of each batch for each of some sets of one pipeline and acquisition."""
        dataset, pipeline = self._sources[_iso(sets[0])], sets[0].pipeline
        camera, renderer, (height, width) = camera_of(dataset), self._renderer, dataset.shape
        processors: dict[NamedPipeline | None, list[Processor]] = {}
        if pipeline is not None:
            processors[pipeline] = [Processor.of(pipeline(camera))]
        devices, every = jax.device_count(), np.arange(len(dataset))
        size = -(-min(max(_PIXELS // (height * width), 1), len(dataset)) // devices) * devices
        for batch in loader.eval_batches(dataset, every, size, keep_decoded=False):
            samples = batch["index"][batch["weight"] > 0].tolist()
            raw, index = to_devices((batch["raw"], batch["index"]), shardings().split)
            state = sets[0].state_of(camera)
            moved = np.asarray(renderer.targets(state, batch["target"], dataset.shape))
            if pipeline is None:
                made = [(sets[0], [renderer.mosaics(state, raw, index, camera)])]
            else:
                made = renderer.images(sets, raw, index, camera, processors)
            for case, (images,) in made:
                yield _Batch(case.name, samples, self._quantize(images), moved)

    def _write(self, batch: _Batch) -> int:
        """Waits for the pictures of a batch, and writes them; returns their number."""
        for index, picture, target in zip(batch.samples, np.asarray(batch.pictures), batch.targets, strict=False):
            name, *others = self._files[index]
            masks = [encoded(mask, "png") for mask in self._task.mask_pictures(target)]
            contents = dict(zip(others, masks, strict=True))
            if self._config.format == "dng":
                dng_writer.write(self._output / batch.name / name, picture, self._camera)
            else:
                contents[name] = encoded(picture, self._config.format)
            for file, content in contents.items():
                with replacing(self._output / batch.name / file) as part:
                    part.write_bytes(content)
        return len(batch.samples)


@functools.lru_cache(maxsize=1)
def _maker(settings: tuple[tuple[str, Any], ...]) -> _Maker:
    """Returns the maker of the sets of some settings, one in each process."""
    return _Maker(build(SynthesisConfig, dict(settings)))


def _make(settings: tuple[tuple[str, Any], ...], names: Sequence[str]) -> None:
    """Makes sets, in this process or in that of a worker."""
    try:
        _maker(settings).make(names)
    except OSError as error:
        raise InputError(in_words(error)) from None


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

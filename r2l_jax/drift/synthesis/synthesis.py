"""Drift synthesis: a raw data set as other pipelines, exposures and corruptions make it, written as pictures."""

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
from r2l_jax.config import INTENSITIES, PIPELINE_NAMES, DataSettings
from r2l_jax.data import loader
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.data.sets import datasets
from r2l_jax.drift import cases as variants
from r2l_jax.drift.cases import OWN
from r2l_jax.drift.corruptions import CORRUPTIONS, SEVERITIES
from r2l_jax.drift.synthesis import picture_sets
from r2l_jax.drift.synthesis.picture_sets import FORMATS, PictureSet, SetFolder, encoded
from r2l_jax.model.model_hash import described, function_name, processor_hash
from r2l_jax.pipelines import NamedPipeline
from r2l_jax.runtime import compiler, store
from r2l_jax.runtime.devices import shardings, to_devices
from r2l_jax.runtime.environment import environment
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.flags import NOT_NEGATIVE, setting
from r2l_jax.runtime.hosts import refuse_several_processes
from r2l_jax.runtime.pictures import quantized
from r2l_jax.runtime.stop import Interrupted, StopSignals

# Of a batch: 16 mosaics of 256x256, or one large frame.
_PIXELS = 2**20


@dataclasses.dataclass(frozen=True, kw_only=True)
class SynthesisConfig(DataSettings):
    """Sets of pictures.

    Raises:
        InputError: values that are not known or out of range.
    """

    output: str = setting("folder for the sets")
    pipelines: tuple[str, ...] = setting(PIPELINE_NAMES, ("parametrized",))
    pipeline: str | None = setting("in place of --pipelines: a single one", None)
    intensities: tuple[float, ...] | None = setting(
        f"measured ones, of {', '.join(map('{:g}'.format, INTENSITIES))}; default: 1; not for Folder, which has one",
        None,
    )
    exposures: tuple[float, ...] = setting(
        "by the model of the sensor, as factors on the light of the mosaics at full intensity, or of a Folder's", ()
    )
    corruptions: tuple[str, ...] = setting(f"besides none, of {', '.join(CORRUPTIONS)}", ())
    severities: tuple[int, ...] = setting(
        f"of the corruptions, of {', '.join(map(str, SEVERITIES))}", tuple(SEVERITIES)
    )
    format: str = setting("16-bit TIFF or 8-bit PNG", "tiff", choices=tuple(FORMATS))
    seed: int = setting("of the noise of exposures and corruptions", 0, bound=NOT_NEGATIVE)

    def __post_init__(self):
        super().__post_init__()
        if self.dataset == "Folder" and self.intensities is not None:
            raise InputError("--intensities: a Folder holds one intensity, its own; --exposures computes others")
        for name in ("pipelines", *(["severities"] if self.corruptions else [])):
            if not getattr(self, name):
                raise InputError(f"--{name} is empty")
        if not self.sets():
            raise InputError("--intensities is empty, and so is --exposures")

    def without_effect(self) -> dict[str, str]:
        """Returns the flags that others replace, or that have nothing to apply to."""
        ignored = {"pipelines": "with --pipeline"} if self.pipeline is not None else {}
        return ignored if self.corruptions else {**ignored, "severities": "without --corruptions"}

    def sets(self) -> list[PictureSet]:
        """Every pipeline's of every intensity and exposure, uncorrupted and under every corruption; each once.

        Exposures are of the mosaics at full intensity, or of a Folder's.
        """
        return list(self._sets)

    @functools.cached_property
    def _sets(self) -> tuple[PictureSet, ...]:
        if self.dataset == "Folder":
            full, measured = None, [OWN]
        else:
            full, measured = 1.0, variants.intensities([1.0] if self.intensities is None else self.intensities)
        sets = [
            PictureSet(pipeline, acquisition, corruption, acquisition.iso or full)
            for acquisition in [*measured, *variants.exposures(self.exposures)]
            for pipeline in variants.pipelines((self.pipeline,) if self.pipeline is not None else self.pipelines)
            for corruption in [None, *variants.corruptions(self.corruptions, self.severities)]
        ]
        return tuple(dict.fromkeys(sets))

    def load(self) -> dict[float | None, RawDataset]:
        """The data set at each of the sets' intensities.

        Raises:
            InputError: data that is not there, is processed already, or has other samples at another intensity.
        """
        settings = {**self.source, "download": self.download}
        isos = dict.fromkeys(pictures.iso for pictures in self.sets())
        loaded = {iso: datasets.load(self.dataset, iso=iso or 1.0, **settings) for iso in isos}
        first = next(iter(loaded.values()))
        if first.camera is None:
            raise InputError(f"--dataset={self.dataset} is processed already: there is no raw data")
        for iso, dataset in loaded.items():
            if dataset.fingerprint != first.fingerprint:
                raise InputError(f"--intensities={iso:g}: its samples are not those of the other intensities")
        return loaded


def run(config: SynthesisConfig) -> None:
    """Writes sets of pictures, or what earlier calls left undone of them.

    Pictures are clipped to [0, 1]; as TIFF they have 16 bits, value / 65535, as PNG 8. What is random in one depends on
    the seed, on the names of its exposure and its corruption, and on the sample's index in the data set: an evaluation
    of the same seed sees the same.

    To an output folder that has sets already, others can be added, of the same samples, format and seed. A set that was
    made by other code or of another camera's figures is made anew when it is asked for again, and so is each picture
    whose sample has changed.

    Raises:
        InputError: data that is not there or that is processed already, an output folder that holds something else or
            cannot be written to, or several processes.
        Interrupted: SIGINT or SIGTERM came; the same call goes on where this one stopped.
    """
    refuse_several_processes()
    sets, output, sources = config.sets(), pathlib.Path(config.output), config.load()
    dataset = next(iter(sources.values()))
    variants.check_pipelines([pictures.pipeline for pictures in sets], dataset)
    files = picture_sets.file_names(dataset, config.format)
    try:
        identities = {pictures.name: _identity(config, pictures, sources[pictures.iso]) for pictures in sets}
        folders = [SetFolder(pictures, output, sources[pictures.iso], files, config.seed) for pictures in sets]
        _describe(config, folders, dataset, identities)
        _write(config, sources, folders)
    except OSError as error:
        raise InputError(f"{error.filename or output}: {error.strerror or error}") from None
    print(f"{len(sets)} sets of {len(dataset)} pictures each in {output}")


def _identity(config: SynthesisConfig, pictures: PictureSet, dataset: RawDataset) -> store.Identity:
    """Collects all that a set depends on."""
    pipeline = pictures.pipeline.pipeline
    processing = [*pipeline.identity, processor_hash(pipeline(dataset.camera))]
    return store.identity(
        {**pictures.settings, "seed": config.seed, "format": config.format},
        data=dataset.content,
        camera=dataclasses.asdict(dataset.camera),
        processing=processing,
    )


def _describe(
    config: SynthesisConfig, folders: Sequence[SetFolder], dataset: RawDataset, identities: Mapping[str, store.Identity]
) -> None:
    """Writes manifest.json, or adds to it; before it does, sets of another identity are removed."""
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
            folder.pictures.pipeline.name: _figures(folder.pictures.pipeline.pipeline(dataset.camera))
            for folder in folders
        },
        "sets": {folder.pictures.name: folder.pictures.settings for folder in folders},
        "identities": identities,
    }
    camera = dataclasses.asdict(dataset.camera)
    current = {"data_dir": config.data_dir, "camera": camera, **environment()}
    picture_sets.describe(pathlib.Path(config.output), fixed, current, added, folders)


def _figures(pipeline: isp.Pipeline) -> dict[str, Any]:
    """All that a pipeline's images depend on."""
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


def _write(config: SynthesisConfig, sources: Mapping[float | None, RawDataset], folders: Sequence[SetFolder]) -> None:
    """Writes what is missing of sets, those of one intensity after those of another, with a progress bar on stderr.

    Files are checked, encoded and written in threads, while the device is at work on the next pictures.
    """
    first = next(iter(sources.values()))
    pipelines = {folder.pictures.pipeline.pipeline for folder in folders}
    maker = Maker(first.camera, pipelines, FORMATS[config.format], config.seed)
    total, workers = len(folders) * len(first), os.cpu_count()

    def write(begun: _Begun) -> tuple[SetFolder, dict[int, list[str]]]:
        # The pictures that fill up the last batch are of no sample.
        pictures = zip(begun.samples, np.asarray(begun.pictures), begun.masks, strict=False)
        return begun.folder, {
            index: begun.folder.write(index, [encoded(picture, config.format), *masks])
            for index, picture, masks in pictures
            if index in begun.folder.missing
        }

    with ThreadPoolExecutor(workers) as pool, StopSignals() as stop, tqdm(total=total, unit="picture") as bar:
        interrupted = f"stopped after {{}} of {total} pictures; the same command goes on from there"
        for folder in folders:
            for whole in pool.map(folder.check, range(len(first))):
                bar.update(whole)
                if stop.after_step():
                    raise Interrupted(interrupted.format(bar.n))
        for iso, dataset in sources.items():
            todo = [folder for folder in folders if folder.pictures.iso == iso and folder.missing]
            for folder in todo:
                folder.begin()
            # Once stopped, what has been begun is still written.
            begun = itertools.takewhile(lambda _: not stop.after_step(), _begin(maker, todo, dataset))
            for folder, digests in _work_ahead(pool, write, begun, workers + 1):
                folder.add(digests)
                bar.update(len(digests))
            for folder in todo:
                folder.finish()
            if any(folder.missing for folder in todo):
                raise Interrupted(interrupted.format(bar.n))


class _Begun(NamedTuple):
    """The pictures of a batch of samples for one set, perhaps not computed yet, and what is written beside them.

    Attributes:
        folder: the set's.
        pictures: `(B, H, W, 3)`; those beyond the samples only fill up.
        samples: the samples' indices.
        masks: of each sample, its mask's file, or nothing if it has none.
    """

    folder: SetFolder
    pictures: jax.Array
    samples: list[int]
    masks: list[list[bytes]]


def _begin(maker: "Maker", folders: Sequence[SetFolder], dataset: RawDataset) -> Iterator[_Begun]:
    """Begins the pictures of each batch and set of which some are missing.

    A sample is always at the same place of the same batch, so that it comes to the same to the last bit.
    """
    devices, (height, width) = jax.device_count(), dataset.read(0)[0].shape
    size = -(-min(max(_PIXELS // (height * width), 1), len(dataset)) // devices) * devices
    missing = set().union(*(folder.missing for folder in folders))
    batches = [range(start, min(start + size, len(dataset))) for start in range(0, len(dataset), size)]
    chosen = [index for batch in batches if not missing.isdisjoint(batch) for index in batch]
    for batch in loader.eval_batches(dataset, np.array(chosen, np.int64), size, keep_decoded=False):
        target, index = batch["target"], batch["index"]
        samples = index[batch["weight"] > 0].tolist()
        masks = [[encoded(255 * mask, "png")] if dataset.task == "segmentation" else [] for mask in target]
        arrays = to_devices({"raw": batch["raw"], "index": index}, shardings().split)
        todo = {folder.pictures: folder for folder in folders if not folder.missing.isdisjoint(samples)}
        for pictures, values in maker.pictures(list(todo), arrays["raw"], arrays["index"]):
            yield _Begun(todo[pictures], values, samples, masks)


def _work_ahead(pool: Executor, work: Callable, items: Iterable, count: int) -> Iterator:
    """What `work` makes of items, in their order, in a pool; of which no more than `count` at once are taken."""
    pending = collections.deque()
    for item in items:
        pending.append(pool.submit(work, item))
        if len(pending) == count:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


class Maker:
    """Makes pictures: a pipeline's once for all corruptions, and each function compiled once for all batches.

    Args:
        camera: at whose figures the pipelines are.
        pipelines: the pipelines.
        dtype: of the pictures, an unsigned integer.
        seed: of what is random.
    """

    def __init__(
        self, camera: isp.Camera, pipelines: Iterable[NamedPipeline], dtype: type[np.unsignedinteger], seed: int
    ):
        self._camera, self._seed = camera, seed
        self._pipelines = {pipeline: nnx.split(pipeline(camera)) for pipeline in pipelines}
        jit = functools.partial(jax.jit, compiler_options=compiler.options(), out_shardings=shardings().split)
        self._process = jit(variants.process, static_argnums=0)
        self._expose = jit(variants.expose, static_argnames="camera")
        self._corrupt = jit(variants.corrupt, static_argnums=0)
        self._quantize = jit(functools.partial(quantized, dtype=dtype))

    def pictures(
        self, sets: Sequence[PictureSet], raw: jax.Array, index: jax.Array
    ) -> Iterator[tuple[PictureSet, jax.Array]]:
        """The pictures of each set `(B, H, W, 3)`, begun, and perhaps not computed yet.

        Args:
            sets: of one intensity; those of one acquisition together, and within them those of one pipeline.
            raw: the mosaics `(B, H, W)` at this intensity.
            index: which samples they are, `(B,)`.
        """
        for acquisition, of_acquisition in itertools.groupby(sets, lambda pictures: pictures.acquisition):
            exposed = raw
            if acquisition.exposure is not None:
                key = variants.random_key(acquisition, self._seed)
                exposed = self._expose(raw, index, key, acquisition.exposure, camera=self._camera)
            for pipeline, of_pipeline in itertools.groupby(of_acquisition, lambda pictures: pictures.pipeline):
                images = self._process(*self._pipelines[pipeline.pipeline], exposed)
                for pictures in of_pipeline:
                    corrupted = images
                    if pictures.corruption is not None:
                        key = variants.random_key(pictures.corruption, self._seed)
                        corrupted = self._corrupt(*pictures.corruption.corruption, images, index, key)
                    yield pictures, self._quantize(corrupted)

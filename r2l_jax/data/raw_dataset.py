"""The data set that the rest of the program works with: mosaics and targets by index."""

import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterable

import numpy as np

import isp
from r2l_jax.data.files.file_hashes import hash_files
from r2l_jax.data.files.shot import Shot
from r2l_jax.runtime.errors import InputError

# A mosaic or image, and its target.
Sample = tuple[np.ndarray, np.ndarray | np.integer]


@dataclasses.dataclass(frozen=True)
class RawDataset:
    """Mosaics of one size, or images that are processed already, with their targets.

    Attributes:
        name: the data set's name.
        task: "classification" or "segmentation".
        classes: the names of the classes; the target of class i is the number i.
        camera: the camera that the processing starts from; None for images.
        names: the name of each sample.
        labels: the class of each sample, or of its main object; splits are stratified by it.
        read: decodes sample i: its mosaic `(H, W)` or image `(H, W, 3)`, float32 in [0, 1], and its target, an int32 or
            a mask `(H, W)` uint8.
        files: for each sample, the files that `read` decodes, such as a raw file and a mask; None for samples that are
            computed or held in memory.
        recipe: describes everything else that `read` depends on, such as a drift and its seed. Code that replaces
            `read` must replace this or `files`.
        white_level: by which the samples of files without levels of their own were divided; None is their full range.
        shot: reads the facts of the shot of sample i; None where samples have none.
    """

    name: str
    task: str
    classes: tuple[str, ...]
    camera: isp.Camera | None
    names: tuple[str, ...]
    labels: np.ndarray
    read: Callable[[int], Sample]
    files: tuple[tuple[pathlib.Path, ...], ...] | None = None
    recipe: str = ""
    shot: Callable[[int], Shot] | None = None
    white_level: float | int | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        if self.decoded is None:
            return self.read(index)
        raws, targets = self.decoded
        return raws[index], targets[index]

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """The shape of a sample's mosaic `(H, W)` or image `(H, W, 3)`, found by reading one of them."""
        raw, _ = self[0] if "decoded" in vars(self) else self.read(0)
        return raw.shape

    def samples(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the mosaics and the targets of some samples, stacked in the order of the indices."""
        indices = np.asarray(indices).tolist()
        samples = [self[index] for index in indices]
        for index, sample in zip(indices, samples, strict=True):
            self._check_like(samples[0], sample, index)
        raws, targets = zip(*samples, strict=True)
        return np.stack(raws), np.stack(targets)

    @functools.cached_property
    def decoded(self) -> tuple[np.ndarray, np.ndarray] | None:
        """All mosaics and all targets, decoded once; None if they would take more than half of the machine's memory."""
        if self.files is not None:
            # Hashed before they are read: if a file changes in between, the next start notices the difference.
            self.sample_hashes(range(len(self)))
        first = raw, target = self.read(0)
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if len(self) * (raw.nbytes + target.nbytes) > memory // 2:
            return None
        raws, targets = (np.empty((len(self), *array.shape), array.dtype) for array in (raw, target))

        def fill(index: int) -> None:
            sample = self.read(index)
            # NumPy would fill a whole mosaic with a sample of one value.
            self._check_like(first, sample, index)
            raws[index], targets[index] = sample

        with concurrent.futures.ThreadPoolExecutor() as pool:
            # Going through the results raises the errors of the reads.
            for _ in pool.map(fill, range(len(self))):
                pass
        return raws, targets

    def _check_like(self, first: Sample, sample: Sample, index: int) -> None:
        """Raises an InputError unless a sample has the shapes of another one."""
        for wanted, found in zip(first, sample, strict=True):
            if np.shape(found) != np.shape(wanted):
                raise InputError(
                    f"{self.name}: all samples must have one shape, {np.shape(wanted)}; {self.names[index]} has "
                    f"{np.shape(found)}"
                )

    @property
    def fingerprint(self) -> str:
        """A hash of the samples' names and labels. Data sets with one fingerprint can share splits and checkpoints."""
        lines = [*self.classes, *(f"{name} {label}" for name, label in zip(self.names, self.labels, strict=True))]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    @property
    def content(self) -> str:
        """A hash of all samples (see `content_of`)."""
        return self.content_of(range(len(self)))

    def content_of(self, indices: Iterable[int | np.integer]) -> str:
        """Hashes some samples: their indices, names, mosaics and targets, but not the camera.

        Raises:
            InputError: a file cannot be read.
        """
        indices = [int(index) for index in indices]
        hashes = self.sample_hashes(indices)
        lines = [[index, self.names[index], digest] for index, digest in zip(indices, hashes, strict=True)]
        return hashlib.sha256(json.dumps([self.task, self.classes, lines]).encode()).hexdigest()

    def sample_hashes(self, indices: Iterable[int | np.integer]) -> list[str]:
        """Hashes each of some samples: its files or, without files, its mosaic and target; its label; and the recipe.

        Raises:
            InputError: a file cannot be read.
        """
        indices = [int(index) for index in indices]
        missing = [index for index in dict.fromkeys(indices) if index not in self._known_hashes]
        if self.files is None:
            with concurrent.futures.ThreadPoolExecutor() as pool:
                digests = [[digest] for digest in pool.map(self._hash_of_arrays, missing)]
        else:
            files = [self.files[index] for index in missing]
            of_files = iter(hash_files([path for paths in files for path in paths]))
            digests = [[next(of_files) for _ in paths] for paths in files]
        for index, of_sample in zip(missing, digests, strict=True):
            parts = [self.recipe, int(self.labels[index]), *of_sample]
            self._known_hashes[index] = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        return [self._known_hashes[index] for index in indices]

    @functools.cached_property
    def _known_hashes(self) -> dict[int, str]:
        """The hashes of the samples that have been hashed so far."""
        return {}

    def _hash_of_arrays(self, index: int) -> str:
        digest = hashlib.sha256()
        for array in map(np.asarray, self.read(index)):
            digest.update(f"{array.dtype} {array.shape} ".encode() + array.tobytes())
        return digest.hexdigest()

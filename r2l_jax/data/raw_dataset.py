"""What every data set is to the rest of the program: mosaics and targets by index."""

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

Sample = tuple[np.ndarray, np.ndarray | np.integer]


@dataclasses.dataclass(frozen=True)
class RawDataset:
    """Mosaics of one size with their targets, by index; or images, if they are processed already.

    Attributes:
        name: what it is called.
        task: "classification" or "segmentation".
        classes: the classes' names; a target of class i is the number i.
        camera: what the processing starts from; None for images.
        names: what each sample is called.
        labels: the class of each sample, or of each sample's main object, to stratify splits by.
        read: decodes sample i: its mosaic `(H, W)` or image `(H, W, 3)`, float32 in [0, 1], and its target, an int32 or
            a mask `(H, W)` uint8.
        files: of each sample, the files that `read` decodes, such as its raw file and its mask; None for samples that
            are in memory or made there.
        recipe: all else that `read` makes samples by, such as a drift and its seed, in any words. Whoever replaces
            `read` replaces this, or `files`.
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

    def __len__(self):
        return len(self.labels)

    @property
    def fingerprint(self) -> str:
        """A hash of the samples' names and labels: two data sets that share it can share splits and checkpoints."""
        lines = [*self.classes, *(f"{name} {label}" for name, label in zip(self.names, self.labels, strict=True))]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    @property
    def content(self) -> str:
        """A hash of all samples, see `content_of`."""
        return self.content_of(range(len(self)))

    def content_of(self, indices: Iterable[int | np.integer]) -> str:
        """A hash of some samples: their indices, names, mosaics and targets. The camera's figures are no part of it.

        Raises:
            InputError: a file that cannot be read.
        """
        indices = [int(index) for index in indices]
        hashes = self.sample_hashes(indices)
        lines = [[index, self.names[index], digest] for index, digest in zip(indices, hashes, strict=True)]
        return hashlib.sha256(json.dumps([self.task, self.classes, lines]).encode()).hexdigest()

    def sample_hashes(self, indices: Iterable[int | np.integer]) -> list[str]:
        """A hash of each of some samples: of its files, its label and the recipe, or of itself if it has no files.

        Raises:
            InputError: a file that cannot be read.
        """
        indices = [int(index) for index in indices]
        missing = [index for index in dict.fromkeys(indices) if index not in self._hashes]
        if self.files is None:
            with concurrent.futures.ThreadPoolExecutor() as pool:
                digests = [[digest] for digest in pool.map(self._hash_of_values, missing)]
        else:
            files = [self.files[index] for index in missing]
            left = iter(hash_files([path for paths in files for path in paths]))
            digests = [[next(left) for _ in paths] for paths in files]
        for index, of_sample in zip(missing, digests, strict=True):
            parts = [self.recipe, int(self.labels[index]), *of_sample]
            self._hashes[index] = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        return [self._hashes[index] for index in indices]

    @functools.cached_property
    def _hashes(self) -> dict[int, str]:
        """The samples' hashes, as far as they are known."""
        return {}

    def _hash_of_values(self, index: int) -> str:
        digest = hashlib.sha256()
        for array in map(np.asarray, self.read(index)):
            digest.update(f"{array.dtype} {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array))
        return digest.hexdigest()

    def __getitem__(self, index: int) -> Sample:
        if self.decoded is None:
            return self.read(index)
        raws, targets = self.decoded
        return raws[index], targets[index]

    def samples(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The mosaics and the targets of some samples, in their order."""
        raws, targets = zip(*(self[index] for index in np.asarray(indices).tolist()), strict=True)
        return np.stack(raws), np.stack(targets)

    @functools.cached_property
    def decoded(self) -> tuple[np.ndarray, np.ndarray] | None:
        """All mosaics and all targets, decoded once; None if they would take more than half of the machine's memory."""
        if self.files is not None:
            # Hashed first: if a file changes while it is read, the next start sees the difference.
            self.sample_hashes(range(len(self)))
        raw, target = self.read(0)
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if len(self) * (raw.nbytes + target.nbytes) > memory // 2:
            return None
        raws, targets = (np.empty((len(self), *array.shape), array.dtype) for array in (raw, target))

        def fill(index: int) -> None:
            raws[index], targets[index] = self.read(index)

        with concurrent.futures.ThreadPoolExecutor() as pool:
            for _ in pool.map(fill, range(len(self))):  # which raises a read's errors
                pass
        return raws, targets

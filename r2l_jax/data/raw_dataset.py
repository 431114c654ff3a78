"""What every data set is to the rest of the program: mosaics and targets by index."""

import concurrent.futures
import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable

import numpy as np

import isp

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
    """

    name: str
    task: str
    classes: tuple[str, ...]
    camera: isp.Camera | None
    names: tuple[str, ...]
    labels: np.ndarray
    read: Callable[[int], Sample]

    def __len__(self):
        return len(self.labels)

    @property
    def fingerprint(self) -> str:
        """A hash of the samples' names and labels: two data sets that share it can share splits and checkpoints."""
        lines = [*self.classes, *(f"{name} {label}" for name, label in zip(self.names, self.labels, strict=True))]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    @functools.cached_property
    def content(self) -> str:
        """A hash of the mosaics and targets themselves; of the first alone if they are more than memory takes."""
        digest = hashlib.sha256()
        for array in self.decoded or self.read(0):
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

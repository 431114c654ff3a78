"""A data set: raw images and targets by index."""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

import isp
from isp.metering import Part
from r2l_jax.data.files.decoding import check_finite
from r2l_jax.data.files.file_metadata import hash_files
from r2l_jax.data.files.shot import Shot
from r2l_jax.data.groups import numbered, turns
from r2l_jax.devices import memory
from r2l_jax.errors import InputError
from r2l_jax.jobs import mapped

# A raw image or image, and its target.
Sample = tuple[np.ndarray | Part, np.ndarray | np.integer]


@dataclasses.dataclass(frozen=True, repr=False)
class RawDataset:
    """Raw images or processed images of one size, with their targets.

    Attributes:
        task: what the targets are: "classification", "segmentation", "detection" or "numbers".
        classes: the names of the classes; for segmentation, of the object, or of several classes by their indices.
        camera: the camera that the processing starts from; None for images.
        labels: the class of each sample, or of its main object, by its place in `classes`; splits are stratified by it.
        read: decodes sample i: its raw image `(H, W)` or image `(H, W, 3)`, float32 in [0, 1], and its target: an
            int32, boxes `(N, 6)` float32, numbers `(N,)` float32, or a mask `(H, W)` uint8: 1 where the object is, or
            indices of classes, and 255 where pixels are ignored.
        files: the files that `read` decodes for each sample; None for samples that are computed or held in memory.
        provenance: describes everything else that `read` depends on, such as a drift and its seed. Code that replaces
            `read` must replace this or `files`.
        white_level: the divisor of samples from files without levels; None is their full range.
        shot: reads the metadata of sample i's shot; None if samples have none.
        groups: the group of each sample, any values, kept as numbers from 0: samples of one group depend on each other,
            such as the cells of a patient, the tiles of a frame, or a scene at several intensities. None if all samples
            are independent.
        group_names: the names of the groups, if `groups` are their places in it; by default, the groups themselves.
        in_parts: whether raw images are parts of frames, which `read` returns with the frame's summary.
        cameras: several cameras by name, if samples are converted to the first of them, `camera`.
        colors: the colors of the classes in pictures, such as "#ff8000"; empty for the default colors.
        source: a hash of the arrays that samples come from, if their names do not tell data sets apart.
    """

    name: str
    task: str
    classes: tuple[str, ...]
    camera: isp.Camera | None
    names: tuple[str, ...]
    labels: np.ndarray
    read: Callable[[int], Sample]
    files: tuple[tuple[pathlib.Path, ...], ...] | None = None
    provenance: str = ""
    shot: Callable[[int], Shot] | None = None
    white_level: float | int | None = None
    groups: Any = None
    group_names: tuple[str, ...] = ()
    in_parts: bool = False
    cameras: Mapping[str, isp.Camera] = dataclasses.field(default_factory=dict)
    colors: tuple[str, ...] = ()
    source: str = ""

    def __post_init__(self):
        if self.groups is None:
            object.__setattr__(self, "group_names", ())
            return
        if len(self.groups) != len(self.labels):
            raise InputError(
                f"{self.name}: groups must have one for each of {len(self)} samples, got {len(self.groups)}"
            )
        numbers, distinct = numbered(list(self.groups)), dict.fromkeys(self.groups)
        names = tuple(self.group_names[each] if self.group_names else str(each) for each in distinct)
        depend = len(distinct) < len(self)
        object.__setattr__(self, "groups", numbers if depend else None)
        object.__setattr__(self, "group_names", names if depend else ())

    def __repr__(self) -> str:
        groups = "" if self.groups is None else f" of {self.groups.max() + 1} groups"
        return f"RawDataset {self.name}: {len(self)} samples{groups}, {self.task} of {', '.join(self.classes)}"

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        """Returns sample i; keeps it if all samples would fit in half of this process's memory."""
        if self._kept is None:
            return self.read(index)
        if index not in self._kept:
            self._kept[index] = self._checked(self.read(index), index)
        return self._kept[index]

    @functools.cached_property
    def _first(self) -> Sample:
        """Sample 0, whose shapes all other samples must have."""
        return self.read(0)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of each raw image `(H, W)` or image `(H, W, 3)`, from the first sample."""
        return self._first[0].shape

    def samples(self, indices: np.ndarray) -> tuple[Any, np.ndarray]:
        """Returns the raw images, or the `Part`, and the targets of some samples, stacked in the indices' order."""
        indices = np.asarray(indices).tolist()
        samples = [self._checked(self[index], index) for index in indices]
        return jax.tree.map(lambda *each: np.stack(each), *samples)

    def groups_of(self, indices: np.ndarray) -> np.ndarray:
        """Returns the number of each sample's group; the samples themselves if all are independent."""
        indices = np.asarray(indices)
        return indices if self.groups is None else self.groups[indices]

    def taking_turns(self, indices: np.ndarray) -> np.ndarray:
        """Orders samples so that their groups take turns, in the order in which the groups appear."""
        return np.asarray(indices)[turns(numbered(self.groups_of(indices).tolist()))]

    @functools.cached_property
    def _kept(self) -> dict[int, Sample] | None:
        """The samples that have been decoded so far; None if all would take over half of this process's memory."""
        fit = len(self) * sum(array.nbytes for array in self._first) <= memory.of_process() // 2
        return {0: self._checked(self._first, 0)} if fit else None

    def _checked(self, sample: Sample, index: int) -> Sample:
        for wanted, found in zip(self._first, sample, strict=True):
            if np.shape(found) != np.shape(wanted):
                raise InputError(
                    f"{self.name}: all samples must have the shape {np.shape(wanted)}, got {np.shape(found)} for "
                    f"{self.names[index]}"
                )
        check_finite(np.asarray(sample[0]), f"{self.name}: {self.names[index]}")
        return sample

    @property
    def fingerprint(self) -> str:
        """A hash of the samples' names and labels. Data sets with the same one can share splits and checkpoints."""
        samples = (f"{name} {label}" for name, label in zip(self.names, self.labels, strict=True))
        lines = [*self.classes, *samples, *filter(None, [self.source])]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    @property
    def content(self) -> str:
        """A hash of all samples (see `content_of`)."""
        return self.content_of(range(len(self)))

    def content_of(self, indices: Iterable[int | np.integer]) -> str:
        """Hashes some samples: their indices, names, groups, raw images and targets, but not the camera."""
        indices = [int(index) for index in indices]
        hashes = self.sample_hashes(indices)
        lines = [[index, self.names[index], digest] for index, digest in zip(indices, hashes, strict=True)]
        groups = [] if self.groups is None else [self.groups[indices].tolist()]
        return hashlib.sha256(json.dumps([self.task, self.classes, lines, *groups]).encode()).hexdigest()

    def sample_hashes(self, indices: Iterable[int | np.integer]) -> list[str]:
        """Hashes each sample's label and files, or arrays if it has no files, with the data set's provenance."""
        indices = [int(index) for index in indices]
        missing = [index for index in dict.fromkeys(indices) if index not in self._known_hashes]
        if self.files is None:
            digests = [[digest] for digest in mapped(self._hash_of_arrays, missing)]
        else:
            files = [self.files[index] for index in missing]
            of_files = iter(hash_files([path for paths in files for path in paths]))
            digests = [[next(of_files) for _ in paths] for paths in files]
        for index, of_sample in zip(missing, digests, strict=True):
            parts = [self.provenance, int(self.labels[index]), *of_sample]
            self._known_hashes[index] = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        return [self._known_hashes[index] for index in indices]

    @functools.cached_property
    def _known_hashes(self) -> dict[int, str]:
        return {}

    def _hash_of_arrays(self, index: int) -> str:
        digest = hashlib.sha256()
        for array in map(np.asarray, jax.tree.leaves(self.read(index))):
            digest.update(f"{array.dtype} {array.shape} ".encode() + array.tobytes())
        return digest.hexdigest()

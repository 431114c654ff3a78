"""Manages the sets of pictures that drift synthesis writes: their names, their files and their manifests.

<output>/manifest.json                                  the settings that all sets share, and of each set
<output>/<pipeline>/<acquisition>/<corruption>/         a set, such as parametrized/iso=0.05/gaussian_noise.3
<set>/<class>/<sample>.tiff                             the pictures of a set for classification
<set>/images/<sample>.tiff  <set>/masks/<sample>.png    the same for segmentation; masks are 255 on the object
<set>/manifest.csv                                      a row for each picture that has been written
"""

import functools
import hashlib
import io
import json
import pathlib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tifffile
from PIL import Image

from r2l_jax.data.files.rawfile import RAW_SUFFIXES
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.drift.cases import OWN, Case
from r2l_jax.drift.renderer import Recipe
from r2l_jax.model.tasks import task_of
from r2l_jax.pipelines import NamedPipeline
from r2l_jax.runtime import store
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.files import clear_parts, replacing, write_json
from r2l_jax.runtime.resume import MANIFEST, Table, read_manifest

FORMATS = {"tiff": np.uint16, "png": np.uint8}


class PictureSet(NamedTuple):
    """Describes a set, which holds one picture of each sample of a data set.

    Attributes:
        pipeline: the case of the pipeline.
        acquisition: the case of a measured intensity, of an exposure by the sensor model or of a drift of the sensor,
            or `OWN`.
        corruption: the case of a corruption; None leaves the images as they are.
        iso: the measured intensity of the mosaics to start from; None for a data set with only one intensity.
    """

    pipeline: Case
    acquisition: Case
    corruption: Case | None
    iso: float | None

    @property
    def name(self) -> str:
        """The path of the set's folder within the output folder."""
        corruption = self.corruption.name if self.corruption else "uncorrupted"
        return f"{self.pipeline.name}/{self.acquisition.name}/{corruption}"

    @property
    def named_pipeline(self) -> NamedPipeline:
        """The pipeline that makes the pictures."""
        if self.pipeline.pipeline is None:
            raise ValueError(f"a set's pipeline must be a case with a pipeline, got {self.pipeline.name!r}")
        return self.pipeline.pipeline

    @property
    def recipe(self) -> Recipe:
        """The three steps that make the pictures."""
        return Recipe(self.acquisition, self.pipeline, self.corruption or OWN)

    @property
    def settings(self) -> dict[str, str | float | None]:
        """The settings that distinguish the set, for manifests."""
        corruption, severity = (self.corruption and self.corruption.corruption) or (None, None)
        # Sets of versions without sensor drifts stay as they are.
        sensor = {"sensor": self.acquisition.name} if self.acquisition.sensor else {}
        return {
            "pipeline": self.pipeline.name,
            "iso": self.iso,
            "exposure": self.acquisition.exposure,
            **sensor,
            "corruption": corruption,
            "severity": severity,
        }


class SetFolder:
    """Checks and writes the files of a set. `check` and `write` may be called from several threads at once.

    A file is valid if it has the SHA-256 that the manifest lists, and if its sample has not changed since.

    Args:
        pictures: the set.
        output: the output folder, which contains the set's folder.
        dataset: the samples.
        files: the files of each sample, from `file_names`.
        seed: the seed of the noise.

    Attributes:
        pictures: the set.
        missing: the samples whose files have been neither found valid nor written.
    """

    def __init__(
        self,
        pictures: PictureSet,
        output: pathlib.Path,
        dataset: RawDataset,
        files: Sequence[tuple[str, ...]],
        seed: int,
    ):
        self.pictures = pictures
        self._folder = output / pictures.name
        self._files, self._names = files, dataset.names
        self._samples = dataset.sample_hashes(range(len(files)))
        self._common = {"dataset": dataset.name, **pictures.settings, "seed": seed}
        self._table = Table(self._folder / "manifest.csv", list(self._row(0, [""] * len(files[0]))))
        self._done: dict[int, dict[str, Any]] = {}
        self.missing = set(range(len(files)))

    def check(self, index: int) -> bool:
        """Tells whether a sample's files exist and are valid."""
        names = self._files[index]
        row = self._listed.get(names[0])
        if row is None or row["sample_hash"] != self._samples[index]:
            return False
        digests = [row[column] for column in _DIGESTS if column in row]
        if any(not self._has(name, digest) for name, digest in zip(names, digests, strict=True)):
            return False
        self._done[index] = self._row(index, digests)
        self.missing.discard(index)
        return True

    def discard(self) -> None:
        """Forgets all pictures that the manifest lists, because the set has another identity."""
        self._table.file.unlink(missing_ok=True)
        self._listed = {}

    @property
    def listed(self) -> bool:
        """Whether the manifest of an earlier call lists pictures."""
        return bool(self._listed)

    @property
    def changed(self) -> int:
        """The number of listed samples that have changed since."""
        kept = zip(self._files, self._samples, strict=True)
        return sum(names[0] in self._listed and self._listed[names[0]]["sample_hash"] != now for names, now in kept)

    def begin(self) -> None:
        """Prepares for `add`: removes the files of missing samples, and writes a manifest of the valid ones."""
        for name in {name for index in self.missing for name in self._files[index]}:
            (self._folder / name).unlink(missing_ok=True)
        self.finish()

    def write(self, index: int, contents: Sequence[bytes]) -> list[str]:
        """Writes the files of a sample, and returns the SHA-256 of each."""
        for name, content in zip(self._files[index], contents, strict=True):
            with replacing(self._folder / name) as part:
                part.write_bytes(content)
        return [hashlib.sha256(content).hexdigest() for content in contents]

    def add(self, digests: Mapping[int, list[str]]) -> None:
        """Adds written pictures to the manifest.

        Args:
            digests: the results of `write`, by the samples' indices.
        """
        rows = {index: self._row(index, each) for index, each in digests.items()}
        self._done |= rows
        self.missing -= rows.keys()
        self._table.add(rows.values())

    def finish(self) -> None:
        """Writes the manifest anew in the order of the samples, after the last `add`."""
        # Workers that were lost have left them.
        for folder in {(self._folder / name).parent for names in self._files for name in names}:
            clear_parts(folder)
        self._table.write(self._done[index] for index in sorted(self._done))

    @functools.cached_property
    def _listed(self) -> dict[str, dict[str, str]]:
        """The rows of the manifest of an earlier call, by their pictures."""
        return self._table.rows()

    def _row(self, index: int, digests: Sequence[str]) -> dict[str, Any]:
        picture, *mask = self._files[index]
        target = {"mask": mask[0], _DIGESTS[1]: digests[1]} if mask else {"class": picture.split("/")[0]}
        sample = {"sample": self._names[index], "index": index, "sample_hash": self._samples[index]}
        return {"file": picture, _DIGESTS[0]: digests[0], **target, **sample, **self._common}

    def _has(self, name: str, digest: str) -> bool:
        """Tells whether a file has a SHA-256."""
        try:
            return hashlib.sha256((self._folder / name).read_bytes()).hexdigest() == digest
        except FileNotFoundError:
            return False


# The columns of the SHA-256 of a picture and of its mask.
_DIGESTS = ("sha256", "mask_sha256")


def file_names(dataset: RawDataset, suffix: str) -> list[tuple[str, ...]]:
    """Returns the paths of each sample's picture, and of its mask if there is one, within a set's folder.

    A file is named as its sample, without the folder and the suffix of a raw file, with "_" for characters that a file
    name should not have. Where two samples would get the same name, the sample's index is appended.
    """
    task = task_of(dataset)
    taken: set[tuple[pathlib.PurePath, str]] = set()
    files = []

    def place(label: int, stem: str) -> tuple[pathlib.PurePath, str]:
        """Returns a picture's folder, and its name as in a file system that ignores case."""
        picture = pathlib.PurePath(task.picture_files(label, stem, suffix)[0])
        return picture.parent, picture.name.casefold()

    for index, (name, label) in enumerate(zip(dataset.names, dataset.labels.tolist(), strict=True)):
        path = pathlib.PurePath(name)
        stem = path.stem if path.suffix.lower() in RAW_SUFFIXES else path.name
        stem = re.sub(r"[^\w.+=-]", "_", stem).lstrip(".") or "_"
        while place(label, stem) in taken:
            stem += f"_{index}"
        taken.add(place(label, stem))
        files.append(task.picture_files(label, stem, suffix))
    return files


def describe(
    output: pathlib.Path,
    fixed: Mapping[str, Any],
    current: Mapping[str, Any],
    added: Mapping[str, Mapping[str, Any]],
    folders: Collection[SetFolder],
) -> None:
    """Writes `manifest.json`, or adds to an earlier one, after removing the sets that have another identity.

    Args:
        output: the folder of all sets.
        fixed: entries that must be the same in all calls.
        current: entries that replace earlier ones.
        added: entries that are added to earlier ones, among them the `identities` of the sets.
        folders: the folders of the sets.

    Raises:
        InputError: the output folder holds sets of other settings or something else.
    """
    file = output / MANIFEST
    content = json.loads(json.dumps({**fixed, **current, **added}))
    earlier = read_manifest(file, {name: content[name] for name in fixed}, "sets")
    if earlier is None:
        if any(not file.name.startswith(".") for file in output.iterdir()):
            raise InputError(f"--output={output} holds something else: choose another folder")
        write_json(file, content)
        return
    try:
        identities = earlier["identities"]
        content |= {name: earlier[name] | content[name] for name in added}
    except (LookupError, TypeError):
        raise InputError(f"{file} is damaged: choose another --output") from None
    _discard_others(folders, identities, added["identities"])
    write_json(file, content)


def _discard_others(
    folders: Collection[SetFolder], earlier: Mapping[str, Any], wanted: Mapping[str, store.Identity]
) -> None:
    """Removes the sets that have another identity, and prints which and why.

    Changed samples do not discard a set, because `SetFolder.check` finds the pictures of these samples. The removal
    comes before the new identities are written, so that a program that is killed in between makes the sets anew.
    """
    reasons, changed = {}, []
    for folder in folders:
        name = folder.pictures.name
        if folder.listed:
            old = earlier.get(name)
            same_data = {**old, "data": wanted[name]["data"]} if isinstance(old, dict) else old
            if why := store.differences(same_data, wanted[name]):
                reasons.setdefault(tuple(why), []).append(name)
                folder.discard()
            elif folder.changed:
                changed.append(f"{folder.changed} of the pictures of {name}")
    for why, names in reasons.items():
        store.say_anew(", ".join(names), why)
    if changed:
        store.say_anew(", ".join(changed), ["their samples have changed"])


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

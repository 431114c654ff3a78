"""Sets of pictures in a folder, as drift synthesis leaves them: their names, their files and their manifests.

<output>/manifest.json                                  what all sets have in common, and what each is made by
<output>/<pipeline>/<acquisition>/<corruption>/         a set, such as parametrized/iso=0.05/gaussian_noise.3
<set>/<class>/<sample>.tiff                             its pictures, to classify
<set>/images/<sample>.tiff  <set>/masks/<sample>.png    or to segment; 255 where the object is
<set>/manifest.csv                                      a line for each picture that is there
"""

import csv
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
from r2l_jax.runtime.files import clear_parts, replacing, write_csv, write_json

FORMATS = {"tiff": np.uint16, "png": np.uint8}


class PictureSet(NamedTuple):
    """A picture of each sample of a data set.

    Attributes:
        pipeline: what processes.
        acquisition: what is processed: an intensity as measured, an exposure by the model of the sensor, or "own".
        corruption: what is done to the images; None is nothing.
        iso: the measured intensity of the mosaics that all begins with; None for a data set that has but one.
    """

    pipeline: Case
    acquisition: Case
    corruption: Case | None
    iso: float | None

    @property
    def name(self) -> str:
        """Its folder within the output's."""
        corruption = self.corruption.name if self.corruption else "uncorrupted"
        return f"{self.pipeline.name}/{self.acquisition.name}/{corruption}"

    @property
    def named_pipeline(self) -> NamedPipeline:
        """The pipeline of the case that processes."""
        if self.pipeline.pipeline is None:
            raise ValueError(f"{self.pipeline.name} is no case of a pipeline")
        return self.pipeline.pipeline

    @property
    def recipe(self) -> Recipe:
        """The three steps by which its pictures are made."""
        return Recipe(self.acquisition, self.pipeline, self.corruption or OWN)

    @property
    def settings(self) -> dict[str, str | float | None]:
        """What it is made by."""
        corruption, severity = (self.corruption and self.corruption.corruption) or (None, None)
        return {
            "pipeline": self.pipeline.name,
            "iso": self.iso,
            "exposure": self.acquisition.exposure,
            "corruption": corruption,
            "severity": severity,
        }


class SetFolder:
    """A set's folder. `check` and `write` may be called in several threads at once.

    Its manifest lists pictures as they are written: when a program is killed, all but the last few. A file is whole if
    it has the SHA-256 that is listed, and the sample that it was made of is as it was.

    Args:
        pictures: what set it is.
        output: the folder that its folder is in.
        dataset: the samples.
        files: theirs, as `file_names` gives them.
        seed: of what is random.

    Attributes:
        pictures: what set it is.
        missing: the samples whose files have neither been found whole nor been written.
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
        self._manifest = self._folder / "manifest.csv"
        self._files, self._names = files, dataset.names
        self._samples = dataset.sample_hashes(range(len(files)))
        self._common = {"dataset": dataset.name, **pictures.settings, "seed": seed}
        self._columns = list(self._row(0, [""] * len(files[0])))
        self._listed = self._read_manifest()
        self._digests: dict[int, list[str]] = {}
        self.missing = set(range(len(files)))

    def check(self, index: int) -> bool:
        """Whether a sample's files are there and whole."""
        names = self._files[index]
        try:
            # Files that are not listed need not be read.
            whole = all(
                self._listed.get(name, ("", ""))[1] == self._samples[index]
                and self._listed[name][0] == self._digest(name)
                for name in names
            )
        except FileNotFoundError:
            return False
        if whole:
            self._digests[index] = [self._listed[name][0] for name in names]
            self.missing.discard(index)
        return whole

    def discard(self) -> None:
        """Removes all pictures that are listed, and the list: they are of another identity."""
        for name in {name for names in self._files for name in names} & self._listed.keys():
            (self._folder / name).unlink(missing_ok=True)
        self._manifest.unlink(missing_ok=True)
        self._listed = {}

    @property
    def listed(self) -> bool:
        """Whether an earlier call has listed pictures."""
        return bool(self._listed)

    @property
    def changed(self) -> int:
        """How many samples are listed and have changed since."""
        kept = zip(self._files, self._samples, strict=True)
        return sum(names[0] in self._listed and self._listed[names[0]][1] != sample for names, sample in kept)

    def begin(self) -> None:
        """To be called before the first `add`: the manifest lists no more than is whole, and no more is there."""
        for folder in {(self._folder / name).parent for names in self._files for name in names}:
            clear_parts(folder)
        for index in self.missing:
            for name in self._files[index]:
                (self._folder / name).unlink(missing_ok=True)
        self.finish()

    def write(self, index: int, contents: Sequence[bytes]) -> list[str]:
        """Writes the files of a sample, and returns the SHA-256 of each."""
        for name, content in zip(self._files[index], contents, strict=True):
            with replacing(self._folder / name) as part:
                part.write_bytes(content)
        return [hashlib.sha256(content).hexdigest() for content in contents]

    def add(self, digests: Mapping[int, list[str]]) -> None:
        """Lists what `write` has written: what it returned, by the samples' indices."""
        self._digests |= digests
        self.missing -= digests.keys()
        with self._manifest.open("a", newline="") as file:
            csv.DictWriter(file, self._columns).writerows(self._row(*item) for item in digests.items())

    def finish(self) -> None:
        """To be called after the last `add`: the manifest lists all in order."""
        rows = [self._row(index, self._digests[index]) for index in sorted(self._digests)]
        write_csv(self._manifest, rows, self._columns)

    def _row(self, index: int, digests: list[str]) -> dict[str, Any]:
        picture, *mask = self._files[index]
        target = {"mask": mask[0], "mask_sha256": digests[1]} if mask else {"class": picture.split("/")[0]}
        sample = {"sample": self._names[index], "index": index, "sample_hash": self._samples[index]}
        return {"file": picture, "sha256": digests[0], **target, **sample, **self._common}

    def _read_manifest(self) -> dict[str, tuple[str, str]]:
        """The SHA-256 and the sample's hash of each file that is listed; none if the manifest cannot be read."""
        try:
            with self._manifest.open(newline="") as file:
                rows = list(csv.DictReader(file))
        except (FileNotFoundError, NotADirectoryError, ValueError, csv.Error):
            return {}
        kinds = (("file", "sha256"), ("mask", "mask_sha256"))
        return {
            row[name]: (row[digest], row.get("sample_hash") or "")
            for row in rows
            for name, digest in kinds
            if row.get(name) and row.get(digest)
        }

    def _digest(self, name: str) -> str:
        return hashlib.sha256((self._folder / name).read_bytes()).hexdigest()


def file_names(dataset: RawDataset, suffix: str) -> list[tuple[str, ...]]:
    """For each sample, where its picture, and its mask if it has one, go within a set.

    They are called as the sample is, without its folder and the suffix of a raw file, and with "_" for what is not good
    in a file's name. So that no two are called the same, some get their sample's index besides.
    """
    task, taken, files = task_of(dataset), set(), []

    def place(label: int, stem: str) -> tuple[pathlib.PurePath, str]:
        """Returns a picture's folder, and its name where the file system does not distinguish upper from lower case."""
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
    """Writes manifest.json, or adds to it, and before it does removes the sets that are of another identity.

    Args:
        output: the folder of all sets.
        fixed: what earlier calls must have given, too.
        current: what takes the place of what an earlier call gave.
        added: what is added to what earlier calls gave; among it the sets' `identities`.
        folders: the sets'.

    Raises:
        InputError: the folder holds sets of other settings, or something else; or it is a file.
    """
    if output.is_file():
        raise InputError(f"--output={output} is a file: choose another folder")
    file = output / "manifest.json"
    content = json.loads(json.dumps({**fixed, **current, **added}))
    if not file.exists():
        if any(output.glob("[!.]*")):
            raise InputError(f"--output={output} holds something else: choose another folder")
        write_json(file, content)
        return
    try:
        earlier = json.loads(file.read_text())
        changed = {name: earlier[name] for name in fixed if earlier[name] != content[name]}
        # An earlier version knew no identities.
        identities = earlier.get("identities", {})
        content |= {name: (identities if name == "identities" else earlier[name]) | content[name] for name in added}
    except (ValueError, LookupError, TypeError):
        raise InputError(f"--output={output}: its manifest.json is damaged: choose another folder") from None
    if changed:
        differences = [
            f"other {name}" if isinstance(value, dict) else f"{name}={value}, not {content[name]}"
            for name, value in changed.items()
        ]
        raise InputError(f"--output={output} holds sets of {' and '.join(differences)}: choose another folder")
    _discard_others(folders, identities, added["identities"])
    write_json(file, content)


def _discard_others(
    folders: Collection[SetFolder], earlier: Mapping[str, Any], wanted: Mapping[str, store.Identity]
) -> None:
    """Removes the sets of another identity, and says which and why.

    Changed samples do not discard a set; each picture is checked by itself.

    It comes before the new identities are written: a program that is killed in between makes the sets anew.
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
        store.say_anew(", ".join(changed), ["their samples are other"])


def encoded(values: np.ndarray, file_format: str) -> bytes:
    """The content of a file of `FORMATS`, of a picture `(H, W, 3)` or a mask `(H, W)` of that format's type."""
    file = io.BytesIO()
    if file_format == "png":
        # Of pictures with noise, more effort would save a tenth at most, in twice the time.
        Image.fromarray(values).save(file, format="png", compress_level=1)
    else:
        tifffile.imwrite(file, values, photometric="rgb", metadata=None)
    return file.getvalue()

"""Croissant 1.1 metadata of a data set in a folder: files, classes, masks, boxes, groups, cameras and making."""

import contextlib
import dataclasses
import importlib.resources
import json
import mimetypes
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pooch

import isp
from r2l_jax.data.files.masks import CLASSES_FILE
from r2l_jax.data.settings import SYNTHETIC_SETS

# The names of the metadata, and of the table of samples that is written if the folder has no manifest.csv.
FILE, TABLE = "croissant.json", "croissant.csv"

_CONFORMS_TO = ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"]

# What only a person can state, except for the creator, and the Croissant property for it.
SAID = {
    "description": "description",
    "license": "license",
    "citation": "citeAs",
    "collection": "rai:dataCollection",
    "annotation": "rai:dataAnnotationProtocol",
    "sensitive": "rai:personalSensitiveInformation",
    "limitations": "rai:dataLimitations",
}

# Begins the limitation that images were not photographed.
_SIMULATED = "Simulated, not photographed: "

_TEXT = "sc:Text"

# The kinds of the fields of a COCO file that are described.
_COCO = {
    "images": {"id": "sc:Integer", "file_name": _TEXT},
    "annotations": {"image_id": "sc:Integer", "category_id": "sc:Integer", "bbox": "cr:BoundingBox"},
    "categories": {"id": "sc:Integer", "name": _TEXT},
}


@dataclasses.dataclass(frozen=True)
class DataFolder:
    """Describes the data set in a folder.

    Attributes:
        name: its name.
        task: what the targets are, see `RawDataset.task`.
        classes: the names of the classes.
        samples: the cells of each sample by column: `file`, then `class` or `mask`, and others such as `group`.
        cameras: the cameras of raw images by name, or those from which pictures were rendered.
        table: the CSV file of the samples in the folder.
        simulated: how the images were simulated; empty if they were photographed, for all that is known.
        processing: what was done to the images.
        annotations: the COCO file of boxes, or the CSV file of numbers, in the folder.
    """

    name: str
    task: str
    classes: Sequence[str]
    samples: Sequence[Mapping[str, str]]
    cameras: Mapping[str, isp.Camera]
    table: str = TABLE
    simulated: str = ""
    processing: str = ""
    annotations: str | None = None

    @property
    def has_boxes(self) -> bool:
        """Whether the annotations are boxes."""
        return self.annotations is not None and self.annotations.endswith(".json")


def metadata(root: pathlib.Path, data: DataFolder, said: Mapping[str, str]) -> dict[str, Any]:
    """Describes a data set in Croissant's JSON-LD. What nobody knows or has said, see `SAID`, is left out."""
    context = importlib.resources.files("r2l_jax.apps.share") / "templates" / "croissant_context.json"
    files = {"samples.csv": data.table, "camera.json": "camera.json", "classes.json": CLASSES_FILE}
    if data.annotations is not None:
        # mlcroissant reads all fields of a file at once, as columns of one length.
        files |= {f"{name}_file": data.annotations for name in (_COCO if data.has_boxes else ["numbers"])}
    known = {
        "description": f"{len(data.samples)} images for {data.task}: {', '.join(data.classes)}.",
        **{SAID[name]: text for name, text in said.items() if name in SAID},
        "creator": _person(said["creator"]) if "creator" in said else None,
        "rai:dataPreprocessingProtocol": data.processing,
        "rai:dataLimitations": [
            *[_SIMULATED + data.simulated] * bool(data.simulated),
            *(text for name, text in said.items() if name == "limitations"),
        ],
    }
    return {
        "@context": json.loads(context.read_text()),
        "@type": "sc:Dataset",
        "conformsTo": _CONFORMS_TO,
        "name": data.name,
        **{name: value for name, value in known.items() if value},
        "keywords": ["camera drift", data.task, *["simulated"] * bool(data.simulated)],
        "distribution": [
            *(_file(root, name, place) for name, place in files.items() if (root / place).is_file()),
            *(_file_set(column, data.samples) for column in ("file", "mask") if column in data.samples[0]),
        ],
        "recordSet": list(_record_sets(data)),
    }


def simulation(dataset: str, folder: str | os.PathLike | None) -> str:
    """Returns how the images of a data set were simulated, as its folder's metadata says; empty if they were not."""
    if dataset in SYNTHETIC_SETS:
        return "The embedded data set renders blood cells and a camera's noise from random numbers."
    if folder is None:
        return ""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
        first = json.loads(pathlib.Path(folder, FILE).read_text())["rai:dataLimitations"][0]
        return first.removeprefix(_SIMULATED) if first.startswith(_SIMULATED) else ""
    return ""


def _person(text: str) -> dict[str, str]:
    """Describes a person by a name, and by an e-mail address if it follows, as in "Jane Doe, jane@example.org"."""
    name, _, address = text.rpartition(",")
    about = {"name": name, "email": address.strip()} if "@" in address else {"name": text}
    return {"@type": "sc:Person", **about}


def _format(name: str) -> str:
    return mimetypes.guess_type(name)[0] or "application/octet-stream"


def _file(root: pathlib.Path, name: str, place: str) -> dict[str, Any]:
    about = {"@id": name, "name": name, "contentUrl": place, "encodingFormat": _format(place)}
    return {"@type": "cr:FileObject", **about, "sha256": pooch.file_hash(str(root / place))}


def _file_set(column: str, samples: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Describes the files in a column of the samples by their folders and suffixes."""
    paths = [pathlib.PurePosixPath(row[column]) for row in samples]
    about = {
        "@id": f"{column}s",
        "name": f"{column}s",
        "encodingFormat": sorted({_format(path.name) for path in paths}),
    }
    return {
        "@type": "cr:FileSet",
        **about,
        "includes": sorted({str(path.parent / f"*{path.suffix}") for path in paths}),
    }


def _record_sets(data: DataFolder) -> Iterator[dict[str, Any]]:
    names = [{"classes/name": name} for name in data.classes]
    yield _records("classes", {"name": _TEXT}, key={"@id": "classes/name"}, dataType="sc:Enumeration", data=names)
    if data.cameras:
        rows = [{"cameras/name": name, "cameras/values": each.to_json()} for name, each in data.cameras.items()]
        yield _records("cameras", {"name": _TEXT, "values": _TEXT}, key={"@id": "cameras/name"}, data=rows)
    kinds = {name: [_TEXT, "cr:Label"] if name == "class" else _TEXT for name in data.samples[0]}
    yield _records("samples", kinds, {"fileObject": {"@id": "samples.csv"}}, {name: {"column": name} for name in kinds})
    if "mask" in kinds:
        kinds = {"file": _TEXT, "mask": ["cr:SegmentationMask", "sc:ImageObject"]}
        extracts = {"file": {"fileProperty": "fullpath"}, "mask": {"fileProperty": "content"}}
        yield _records("mask_files", kinds, {"fileSet": {"@id": "masks"}}, extracts)
    if data.annotations and not data.has_boxes:
        kinds = {"name": _TEXT, **dict.fromkeys(data.classes, "sc:Float")}
        columns = {name: {"column": name} for name in kinds}
        yield _records("numbers", kinds, {"fileObject": {"@id": "numbers_file"}}, columns)
    for name, kinds in _COCO.items() if data.has_boxes else ():
        paths = {each: {"jsonPath": f"$.{name}[*].{each}"} for each in kinds}
        yield _records(name, kinds, {"fileObject": {"@id": f"{name}_file"}}, paths)


def _records(
    name: str, kinds: Mapping[str, Any], source: Any = None, extracts: Any = None, **more: Any
) -> dict[str, Any]:
    """Describes records by the kinds of their fields, and by how these are extracted from a source of files."""
    fields = []
    for each, kind in kinds.items():
        place = {"source": {**source, "extract": extracts[each]}} if source else {}
        # Ids have no spaces.
        about = {"@id": f"{name}/{re.sub(r'[^-.0-9A-Za-z]', '_', each)}", "name": each, "dataType": kind}
        fields.append({"@type": "cr:Field", **about, **place})
    return {"@type": "cr:RecordSet", "@id": name, "name": name, "field": fields, **more}

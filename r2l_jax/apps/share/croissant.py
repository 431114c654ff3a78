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

# The metadata in the folder of a data set, and its table of samples, if the folder has none.
FILE, TABLE = "croissant.json", "croissant.csv"

_CONFORMS_TO = ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"]

# What a person says besides the creator, and the properties that hold it.
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

_COCO = {
    "images": {"id": "sc:Integer", "file_name": "sc:Text"},
    "annotations": {"image_id": "sc:Integer", "category_id": "sc:Integer", "bbox": "cr:BoundingBox"},
    "categories": {"id": "sc:Integer", "name": "sc:Text"},
}


@dataclasses.dataclass(frozen=True)
class DataFolder:
    """What is known of the data set in a folder.

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


def metadata(root: pathlib.Path, data: DataFolder, said: Mapping[str, str]) -> dict[str, Any]:
    """Describes a data set in Croissant's JSON-LD. What nobody knows or has said, see `SAID`, is left out."""
    context = importlib.resources.files("r2l_jax.apps.share") / "templates" / "croissant_context.json"
    described = {SAID[name]: text for name, text in said.items() if name in SAID}
    limitations = [_SIMULATED + data.simulated] * bool(data.simulated)
    limitations += [text for name, text in said.items() if name == "limitations"]
    files = {"samples.csv": data.table, "camera.json": "camera.json", "classes.json": CLASSES_FILE}
    if data.annotations is not None:
        # mlcroissant reads all fields of a file at once, as columns of one length.
        files |= {f"{name}_file": data.annotations for name in ([*_COCO] if data.task == "detection" else ["numbers"])}
    optional = {
        "creator": {"@type": "sc:Person", "name": said["creator"]} if "creator" in said else None,
        "rai:dataPreprocessingProtocol": data.processing,
        "rai:dataLimitations": limitations,
    }
    return {
        "@context": json.loads(context.read_text()),
        "@type": "sc:Dataset",
        "conformsTo": _CONFORMS_TO,
        "name": data.name,
        "description": f"{len(data.samples)} images for {data.task}: {', '.join(data.classes)}.",
        **described,
        **{name: value for name, value in optional.items() if value},
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


def _file(root: pathlib.Path, name: str, place: str) -> dict[str, Any]:
    about = {"@id": name, "name": name, "contentUrl": place, "encodingFormat": _format(place)}
    return {"@type": "cr:FileObject", **about, "sha256": pooch.file_hash(str(root / place))}


def _file_set(column: str, samples: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Describes the files in a column of the samples by their folders and suffixes."""
    paths = [pathlib.PurePosixPath(row[column]) for row in samples]
    about = {"@id": f"{column}s", "name": f"{column}s", "encodingFormat": sorted({_format(row.name) for row in paths})}
    return {
        "@type": "cr:FileSet",
        **about,
        "includes": sorted({str(path.parent / f"*{path.suffix}") for path in paths}),
    }


def _format(name: str) -> str:
    return mimetypes.guess_type(name)[0] or "application/octet-stream"


def _record_sets(data: DataFolder) -> Iterator[dict[str, Any]]:
    yield _inline("classes", [{"name": name} for name in data.classes]) | {"dataType": "sc:Enumeration"}
    if data.cameras:
        yield _inline("cameras", [{"name": name, "values": each.to_json()} for name, each in data.cameras.items()])
    label = ["sc:Text", "cr:Label"]
    columns = {name: (label if name == "class" else "sc:Text", {"column": name}) for name in data.samples[0]}
    yield _extracted("samples", {"fileObject": {"@id": "samples.csv"}}, columns)
    if "mask" in columns:
        mask = ["cr:SegmentationMask", "sc:ImageObject"], {"fileProperty": "content"}
        fields = {"file": ("sc:Text", {"fileProperty": "fullpath"}), "mask": mask}
        yield _extracted("mask_files", {"fileSet": {"@id": "masks"}}, fields)
    if data.task == "numbers":
        kinds = {"name": "sc:Text", **dict.fromkeys(data.classes, "sc:Float")}
        fields = {name: (kind, {"column": name}) for name, kind in kinds.items()}
        yield _extracted("numbers", {"fileObject": {"@id": "numbers_file"}}, fields)
    elif data.annotations is not None:
        for name, kinds in _COCO.items():
            fields = {each: (kind, {"jsonPath": f"$.{name}[*].{each}"}) for each, kind in kinds.items()}
            yield _extracted(name, {"fileObject": {"@id": f"{name}_file"}}, fields)


def _inline(name: str, rows: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Describes records that are in the metadata."""
    about = {"@type": "cr:RecordSet", "@id": name, "name": name, "key": {"@id": f"{name}/name"}}
    data = [{f"{name}/{field}": text for field, text in row.items()} for row in rows]
    return about | {"field": [_field(name, field, "sc:Text") for field in rows[0]], "data": data}


def _extracted(name: str, source: Mapping[str, Any], fields: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
    """Describes records that are read from files, by the kind of each field and how it is extracted."""
    found = [
        {**_field(name, field, kind), "source": {**source, "extract": extract}}
        for field, (kind, extract) in fields.items()
    ]
    return {"@type": "cr:RecordSet", "@id": name, "name": name, "field": found}


def _field(records: str, name: str, kind: Any) -> dict[str, Any]:
    # Ids have no spaces.
    return {
        "@type": "cr:Field",
        "@id": f"{records}/{re.sub(r'[^-.0-9A-Za-z]', '_', name)}",
        "name": name,
        "dataType": kind,
    }

"""Folders of your own raw files: one sub-folder per class, frames and masks, or frames and a file of their boxes."""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import msgspec
import numpy as np

import isp
from r2l_jax.data.files import file_metadata, tiles
from r2l_jax.data.files.boxes import read_boxes
from r2l_jax.data.files.known_camera import (
    KnownCamera,
    common_camera,
    find_known_camera,
    read_known_camera,
)
from r2l_jax.data.files.masks import (
    CLASSES_FILE,
    Classes,
    Pair,
    check_masks,
    check_names,
    pair_masks,
    read_classes,
    refuse_boxes,
)
from r2l_jax.data.files.numbers import read_numbers
from r2l_jax.data.files.rawfile import RAW_SUFFIXES, from_pictures, read_raw, warn_of_others
from r2l_jax.data.files.reference_camera import scaled
from r2l_jax.data.files.shot import Shot, read_shot
from r2l_jax.data.groups import FOLDER, named_groups
from r2l_jax.data.raw_dataset import RawDataset, Sample
from r2l_jax.runtime.errors import InputError, collected_warnings, warn, warn_once
from r2l_jax.runtime.hosts import on_first_process

TILE_SIZE = 256

# The file of the camera of a sub-folder.
CAMERA_FILE = "camera.json"

# Increase this whenever the same files give different metadata.
_VERSION = 2

# The object of masks without names.
_OBJECT = ("object",)


def load(
    data_dir: str | pathlib.Path | None,
    camera: str | KnownCamera,
    tile_size: int | None,
    tiles_dir: pathlib.Path | None = None,
    group: str | None = None,
    annotations: str | pathlib.Path | None = None,
    classes: tuple[str, ...] | None = None,
) -> RawDataset:
    """Loads the raw files of a folder.

    - If there are `annotations`, they are of whole frames of one size. A COCO JSON file is for detection of boxes, see
      `boxes.read_boxes`: the targets are arrays `(N, 6)`: x1, y1, x2, y2, the class or -1, and 1 for a crowd. A CSV
      file has the columns `name`, of a file, and numbers to predict, for a task of one's own.
    - If the folder has the sub-folders `images` and `masks`, the task is segmentation. The name of a mask contains the
      name of its frame; a mask is greater than 0 where the object is, or holds the index of each pixel's class, if
      `classes`, or the folder's `classes.json`, name several. The first call cuts the frames into adjacent tiles, and
      writes them to the sub-folder `tiles_<side>`, or to one of `tiles_dir`.
    - Otherwise the task is classification: each sub-folder is a class, and each file is cropped to its center.
    - For several cameras, each sub-folder holds the files of one, in one of these layouts, and its `camera.json`.
      Samples are converted to the first camera by name, see `reference_camera`. If no camera is stated, files that name
      different models also count as several cameras.

    `camera` is the name of a known camera, a JSON file, or "auto" for the cameras that files or sub-folders name; or
    the values of a single camera for all files. `tile_size` is the side of tiles or crops, even. None is 256 or,
    if smaller, the shortest side of any file to classify. `group` tells which files depend on each other (see
    `groups.named_groups`); "folder" is for classification, where each class then has a sub-folder for each group. By
    default, the tiles of a frame are a group.
    """
    if data_dir is None or not pathlib.Path(data_dir).is_dir():
        raise InputError(
            "--dataset=Folder needs --data_dir, a folder with one sub-folder per class, with images/ and masks/, or "
            f"with the frames of --annotations, got {data_dir}"
        )
    if tile_size is not None and (tile_size < 2 or tile_size % 2):
        raise InputError(f"--tile_size must be positive and even, to keep whole 2x2 tiles of colors, got {tile_size}")
    root = pathlib.Path(data_dir)
    folders = "*/*/" if group == FOLDER else "*/"
    parts = {"": camera} if isinstance(camera, KnownCamera) else _parts(root, camera, folders)
    if annotations is not None:
        if tile_size is not None or "" not in parts:
            refused = f"--tile_size={tile_size}" if tile_size is not None else "a camera.json in sub-folders"
            raise InputError(f"--annotations={annotations} is for whole frames of one camera: omit {refused}")
        dataset = _annotated(root, pathlib.Path(annotations), parts[""])
        given = named_groups(group, list(map(pathlib.PurePath, dataset.names))) if group else None
        return dataclasses.replace(dataset, groups=given)
    layouts = {_has_masks(root / name) for name in parts}
    if len(layouts) > 1:
        raise InputError(f"{root}: all sub-folders must have the same layout; only some have images/ and masks/")
    segmentation = layouts == {True}
    if segmentation and group == FOLDER:
        raise InputError(f"--group={group} is for classification: for frames and masks, give a pattern or a CSV file")
    if segmentation:
        dataset = _segmentation(root, parts, tile_size, tiles_dir or root, _named(root, classes))
    elif classes is not None:
        raise InputError(f"--classes is for masks: the classes of {root} are its sub-folders")
    else:
        dataset = _classification(root, parts, tile_size, folders)
    images = list(map(tiles.frame_of, dataset.names)) if segmentation else dataset.names
    given = images if segmentation else None
    if group is not None:
        given = named_groups(group, list(map(pathlib.PurePath, images)))
    return dataclasses.replace(dataset, groups=given)


def _named(root: pathlib.Path, given: tuple[str, ...] | None) -> Classes:
    """Returns the classes of a folder's masks, as given or as its file names them."""
    try:
        names = check_names(given or _OBJECT)
    except InputError as error:
        raise InputError(f"--classes: {error}") from None
    known = read_classes(root)
    if known and given and known.names != given:
        raise InputError(f"--classes={','.join(given)} differs from {root / CLASSES_FILE}: {', '.join(known.names)}")
    return known or Classes(names)


def _parts(root: pathlib.Path, camera: str, levels: str) -> dict[str, KnownCamera]:
    """Returns the cameras by sub-folder, or one under "" for all files; a sub-folder of raw files is a class."""
    folders = [
        folder
        for folder in sorted(root.glob("[!.]*/"))
        if not any(_raw_files(folder.iterdir())) and any(_raw_files(folder.glob(f"{levels}*")))
    ]
    with_camera = [folder for folder in folders if (folder / CAMERA_FILE).is_file()]
    if not with_camera:
        return {"": find_known_camera(camera)}
    if lacking := [folder for folder in folders if folder not in with_camera]:
        raise InputError(f"{lacking[0]} must contain a {CAMERA_FILE}, as {with_camera[0]} does")
    if camera != "auto":
        raise InputError(
            f"--camera must be auto for {root}, whose sub-folders state their cameras, such as "
            f"{with_camera[0] / CAMERA_FILE}, got {camera}"
        )
    return {folder.name: read_known_camera(folder / CAMERA_FILE) for folder in folders}


def _raw_files(paths: Iterable[pathlib.Path]) -> Iterator[pathlib.Path]:
    return (
        path
        for path in paths
        if path.suffix.lower() in RAW_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def _has_masks(folder: pathlib.Path) -> bool:
    there = [name for name in ("images", "masks") if (folder / name).is_dir()]
    if len(there) == 1:
        refuse_boxes(folder)
        missing = "masks" if there == ["images"] else "images"
        raise InputError(f"{folder} has a sub-folder {there[0]} but no {missing}: segmentation needs both")
    return bool(there)


def _classification(
    root: pathlib.Path, parts: Mapping[str, KnownCamera], tile_size: int | None, folders: str
) -> RawDataset:
    """Loads the files in a sub-folder for each class; `folders` is "*/", or "*/*/" if these have one for each group."""
    there = {part: sorted((root / part).glob(f"{folders}[!.]*")) for part in parts}
    of_parts = {part: list(_raw_files(paths)) for part, paths in there.items()}
    files = [path for of_part in of_parts.values() for path in of_part]
    owners = [part for part, of_part in of_parts.items() for _ in of_part]

    def class_of(file: pathlib.Path) -> str:
        return file.parts[-1 - folders.count("/")]

    class_names = list(map(class_of, files))
    if folders != "*/" and (ungrouped := [file for part in parts for file in _raw_files((root / part).glob("*/*"))]):
        raise InputError(f"--group={FOLDER}: {min(ungrouped)} must be in the folder of a group")
    classes = tuple(sorted(set(class_names)))
    if len(classes) < 2:
        refuse_boxes(root)
        raise InputError(
            f"{root} must have a sub-folder of raw files for each of at least two classes, or images/ and masks/; "
            f"found {len(files)} raw files in {len(classes)} sub-folders; {from_pictures()}"
        )
    warn_of_others(path for paths in there.values() for path in paths if class_of(path) in classes and path.is_file())
    empty = [folder for part in parts for folder in (root / part).glob("[!.]*/") if folder.name not in classes]
    if empty:
        others = f" (likewise {len(empty) - 1} others)" if len(empty) > 1 else ""
        warn(f"{min(empty)} contains no raw files{others}, so it is not a class")
    metadata = [each for part, of_part in of_parts.items() for each in _metadata_of(of_part, parts[part])]
    for path, each in zip(files, metadata, strict=True):
        if tile_size and min(each.shape) < tile_size:
            raise InputError(f"{path} is {each.shape[0]}x{each.shape[1]}, smaller than --tile_size={tile_size}")
    warn_once(
        [f"{path}: {text}" for path, each in zip(files, metadata, strict=True) for text in each.warnings], len(files)
    )
    sides = [min(tile_size or TILE_SIZE, *each.shape) for each in metadata]
    side = min(sides)
    if cropped := sum(each > side for each in sides):
        warn(
            f"{cropped} of {len(files)} files are cropped to {side}x{side}, because {files[sides.index(side)]} is that "
            "small and all samples must have the same size: remove it to keep more of the others"
        )

    def read_middle(index: int) -> Sample:
        with collected_warnings():  # `_metadata_of` has warned.
            raw, file_camera = read_raw(files[index], parts[owners[index]])
        return center_crop(raw, side, side, file_camera.pattern), labels[index]

    labels = np.array([classes.index(name) for name in class_names], np.int32)
    decoding = [_decoding_identity(known) for known in parts.values()]
    dataset = RawDataset(
        name="Folder",
        task="classification",
        classes=classes,
        camera=None,
        names=tuple(os.path.relpath(path, root) for path in files),
        labels=labels,
        read=read_middle,
        files=tuple((path,) for path in files),
        provenance=json.dumps([side, *(decoding[0] if len(parts) == 1 else decoding)]),
        shot=lambda index: read_shot(files[index]),
        white_level=next(iter(parts.values())).figures.get("white_level"),
    )
    names = [part or each.model for part, each in zip(owners, metadata, strict=True)]
    return _with_cameras(dataset, names, files, [each.camera for each in metadata])


def _annotated(root: pathlib.Path, annotations: pathlib.Path, known: KnownCamera) -> RawDataset:
    """Loads the frames that a file lists, with their boxes or numbers."""
    there = [path for path in root.rglob("[!.]*") if not path.is_dir()]

    def shapes_of(frames: Sequence[pathlib.Path]) -> list[tuple[int, int]]:
        metadata.extend(_metadata_of(frames, known))
        return [each.shape for each in metadata]

    metadata: list[_Metadata] = []
    if annotations.suffix.lower() == ".csv":
        task, (files, targets, classes) = "numbers", read_numbers(annotations, root)
        first = shapes_of(files)[0]
    else:
        boxes = read_boxes(annotations, root, _raw_files(there), shapes_of)
        task, files, targets, classes = "detection", boxes.frames, boxes.padded(), boxes.classes
        first = metadata[0].shape
    for path, each in zip(files, metadata, strict=True):
        if each.shape != first:
            raise InputError(
                f"{root}: all frames must have one size, got {first[0]}x{first[1]} for {files[0]} and "
                f"{each.shape[0]}x{each.shape[1]} for {path}"
            )
    warn_once(
        [f"{path}: {text}" for path, each in zip(files, metadata, strict=True) for text in each.warnings], len(files)
    )

    def read_frame(index: int) -> Sample:
        with collected_warnings():  # `_metadata_of` has warned.
            return read_raw(files[index], known)[0], targets[index]

    dataset = RawDataset(
        name="Folder",
        task=task,
        classes=classes,
        camera=None,
        names=tuple(os.path.relpath(path, root) for path in files),
        labels=np.zeros(len(files), np.int32),
        read=read_frame,
        files=tuple((path,) for path in files),
        provenance=json.dumps([hashlib.sha256(targets.tobytes()).hexdigest(), *_decoding_identity(known)]),
        shot=lambda index: read_shot(files[index]),
        white_level=known.figures.get("white_level"),
    )
    return _with_cameras(dataset, [each.model for each in metadata], files, [each.camera for each in metadata])


def _with_cameras(
    dataset: RawDataset,
    names: Sequence[str],
    files: Sequence[pathlib.Path],
    cameras: Sequence[isp.Camera],
) -> RawDataset:
    """Sets the camera of a data set; if there are several, converts all samples to the first one by name."""
    groups: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        groups.setdefault(name, []).append(index)
    found = {
        name: common_camera([files[index] for index in group], [cameras[index] for index in group])
        for name, group in sorted(groups.items())
    }
    first = next(iter(found.values()))
    if len(found) == 1:
        return dataclasses.replace(dataset, camera=first)
    for name, camera in found.items():
        try:
            scaled(np.zeros((2, 2), np.float32), camera, first)
        except InputError as error:
            raise InputError(f"camera {name}: {error}, to be converted to the camera {next(iter(found))}") from None
    shot = dataset.shot
    assert shot is not None

    def read(index: int) -> Sample:
        raw, target = dataset.read(index)
        return jax.tree.map(lambda each: scaled(each, found[names[index]], first), raw), target

    described = {name: json.loads(camera.to_json()) for name, camera in found.items()}
    return dataclasses.replace(
        dataset,
        camera=first,
        cameras=found,
        read=read,
        provenance=json.dumps([dataset.provenance, described]),
        shot=lambda index: dataclasses.replace(shot(index), camera=names[index]),
        # The white levels of files that state none differ.
        white_level=None,
    )


def _decoding_identity(camera: KnownCamera) -> list[Any]:
    """Lists the stated camera values that affect raw images, as JSON values."""
    layout = None if camera.layout is None else msgspec.structs.asdict(camera.layout)
    corrections = None if camera.corrections is None else camera.corrections.identity
    return [*map(camera.figures.get, ("white_level", "pattern")), layout, corrections]


class _Metadata(NamedTuple):
    """The metadata of a file that a data set needs before reading its samples.

    `model` is the name of the camera; empty if a whole camera is stated for all files.
    """

    shape: tuple[int, int]
    camera: isp.Camera
    model: str
    warnings: list[str]


def _metadata_of(files: Sequence[pathlib.Path], camera: KnownCamera) -> list[_Metadata]:
    """Returns the metadata of each file; decodes only files that are new or have changed."""

    def find(path: pathlib.Path) -> list[Any]:
        with collected_warnings() as warnings:
            raw, file_camera = read_raw(path, camera)
        # Leaves out the path, which may be spelled differently next time.
        texts = [text.removeprefix(f"{path}: ") for text in warnings]
        model = read_shot(path).title if camera.camera is None else ""
        return [raw.shape, dataclasses.asdict(file_camera), model, texts]

    described = hashlib.sha256(json.dumps([_VERSION, camera.described]).encode()).hexdigest()[:16]
    found = file_metadata.of_files(f"mosaic_metadata/{described}", files, find, "reading raw files")
    return [_Metadata(tuple(shape), isp.Camera(**camera), model, texts) for shape, camera, model, texts in found]


def center_crop(raw: np.ndarray, height: int, width: int, pattern: str) -> np.ndarray:
    """Crops a raw image to `(height, width)` around its center, starting with a whole color filter tile."""
    periods = isp.cfa.tile(pattern).shape
    wanted = zip(raw.shape, (height, width), periods, strict=True)
    top, left = ((have - want) // 2 // period * period for have, want, period in wanted)
    return raw[top : top + height, left : left + width]


def _segmentation(
    root: pathlib.Path,
    parts: Mapping[str, KnownCamera],
    tile_size: int | None,
    tiles_dir: pathlib.Path,
    classes: Classes,
) -> RawDataset:
    """Cuts the frames of each camera separately, and joins their tiles."""
    warn_of_others(file for part in parts for file in (root / part / "images").iterdir() if file.is_file())
    groups: dict[tuple[str, str], list[Pair]] = {}
    for part, known in parts.items():
        pairs = pair_masks(root / part / "images", root / part / "masks", RAW_SUFFIXES)
        models = [""] * len(pairs)
        if not part and known.camera is None:
            frames = [frame for frame, _ in pairs]
            models = file_metadata.of_files("cameras", frames, lambda path: read_shot(path).title, "reading cameras")
        for pair, model in zip(pairs, models, strict=True):
            groups.setdefault((part, model), []).append(pair)
    check_masks([mask for pairs in groups.values() for _, mask in pairs], classes.names)
    side, indices = tile_size or TILE_SIZE, len(classes.names) > 1
    tiled = {
        group: _cut(tiles_dir / group[0], pairs, side, parts[group[0]], indices) for group, pairs in groups.items()
    }
    places = [(group, index) for group, of_group in tiled.items() for index in range(len(of_group))]
    frames = {(group, frame.stem): frame for group, pairs in groups.items() for frame, _ in pairs}
    shot_of_frame = functools.cache(read_shot)

    def read(index: int) -> Sample:
        group, place = places[index]
        return tiled[group].read(place)

    def shot(index: int) -> Shot:
        group, place = places[index]
        return shot_of_frame(frames[group, tiles.frame_of(tiled[group].names[place])])

    paths = tuple(paths for of_group in tiled.values() for paths in of_group.files or ())
    dataset = dataclasses.replace(
        tiled[places[0][0]],
        classes=classes.names,
        colors=classes.colors,
        names=tuple(os.path.join(group[0], tiled[group].names[place]) for group, place in places),
        labels=np.concatenate([of_group.labels for of_group in tiled.values()]),
        groups=None,  # `load` sets them.
        read=read,
        files=paths,
        shot=shot,
        white_level=next(iter(parts.values())).figures.get("white_level"),
    )
    cameras = [camera for group, _ in places if (camera := tiled[group].camera) is not None]
    names = [part or model for (part, model), _ in places]
    return _with_cameras(dataset, names, [image for image, *_ in paths], cameras)


def _cut(root: pathlib.Path, pairs: Sequence[Pair], side: int, camera: KnownCamera, indices: bool) -> RawDataset:
    """Cuts frames into tiles unless these exist, and loads them."""
    folder = root / f"tiles_{side}" / tiles.version(pairs, camera, indices)

    def every_tile(fractions: list[float]) -> list[tuple[int, str]]:
        return [(index, *_OBJECT) for index in range(len(fractions))]

    on_first_process(lambda: tiles.cut(pairs, folder, side, camera, every_tile, indices))
    return tiles.load("Folder", folder, side, _OBJECT, True, indices=indices)

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
from r2l_jax.data.files.annotations import read_boxes, read_numbers
from r2l_jax.data.files.known_camera import (
    KnownCamera,
    common_camera,
    find_known_camera,
    read_known_camera,
)
from r2l_jax.data.files.masks import (
    CLASSES_FILE,
    FOR_BOXES,
    Classes,
    Pair,
    check_masks,
    check_names,
    pair_masks,
    read_classes,
)
from r2l_jax.data.files.pictures import from_pictures
from r2l_jax.data.files.rawfile import RAW_SUFFIXES, describe, read_raw, warn_of_others
from r2l_jax.data.files.reference_camera import scaled
from r2l_jax.data.files.shot import read_shot
from r2l_jax.data.groups import FOLDER, named_groups
from r2l_jax.data.raw_dataset import RawDataset, Sample
from r2l_jax.errors import InputError, collected_warnings, warn, warn_once

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

    - With `annotations`, they are whole frames of one size, with boxes for detection from a COCO JSON file, or numbers
      to predict from a CSV file; see `files.annotations`.
    - With the sub-folders `images` and `masks`, the task is segmentation (see `masks.pair_masks`), of one object or of
      the classes that `classes` or the folder's `classes.json` name. The first call cuts the frames into adjacent
      tiles, and writes them to the sub-folder `tiles_<side>`, or to one of `tiles_dir`.
    - Otherwise the task is classification: each sub-folder is a class, and each file is cropped to its center.
    - For several cameras, each sub-folder holds the files of one, in one of the last two layouts, and its
      `camera.json`. Samples are converted to the first camera by name, see `reference_camera`. If no camera is stated,
      files that name different models also count as several cameras.

    `camera` is the name of a known camera, a JSON file, or "auto" for the cameras that files or sub-folders name; or
    the values of a single camera for all files. `tile_size` is the side of tiles or crops, even. None is 256 or, if
    smaller, the shortest side of any file to classify. `group` tells which files depend on each other (see
    `groups.named_groups`); by default, the tiles of a frame do.
    """
    if data_dir is None or not pathlib.Path(data_dir).is_dir():
        raise InputError(
            "`dataset=Folder` needs `data_dir`, a folder with one sub-folder per class, with images/ and masks/, or "
            f"with the frames of `annotations`, got {data_dir}"
        )
    if tile_size is not None and (tile_size < 2 or tile_size % 2):
        raise InputError(f"`tile_size` must be positive and even, to keep whole 2x2 tiles of colors, got {tile_size}")
    root = pathlib.Path(data_dir)
    folders = "*/*/" if group == FOLDER else "*/"
    parts = {"": camera} if isinstance(camera, KnownCamera) else _parts(root, camera, folders)
    grouped = None  # the names that have groups, if not those of the samples
    if annotations is not None:
        if tile_size is not None or "" not in parts:
            refused = f"`tile_size={tile_size}`" if tile_size is not None else "a camera.json in sub-folders"
            raise InputError(f"`annotations={annotations}` is for whole frames of one camera: omit {refused}")
        dataset = _annotated(root, pathlib.Path(annotations), parts[""])
    elif _has_masks(root, parts):
        if group == FOLDER:
            raise InputError(
                f"`group={group}` is for classification: for frames and masks, give a pattern or a CSV file"
            )
        dataset = _segmentation(root, parts, tile_size or TILE_SIZE, tiles_dir or root, _named(root, classes))
        grouped = list(map(tiles.frame_of, dataset.names))
    elif classes is not None:
        raise InputError(f"`classes` is for masks: the classes of {root} are its sub-folders")
    else:
        dataset = _classification(root, parts, tile_size, folders)
    if group is not None:
        grouped = named_groups(group, list(map(pathlib.PurePath, grouped or dataset.names)))
    return dataclasses.replace(dataset, groups=grouped, group_names=())


def _named(root: pathlib.Path, given: tuple[str, ...] | None) -> Classes:
    """Returns the classes of a folder's masks, as given or as its file names them."""
    try:
        names = check_names(given or _OBJECT)
    except InputError as error:
        raise InputError(f"`classes`: {error}") from None
    known = read_classes(root)
    if known and given and known.names != given:
        raise InputError(f"`classes={','.join(given)}` differs from {root / CLASSES_FILE}: {', '.join(known.names)}")
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
            f"`camera` must be auto for {root}, whose sub-folders state their cameras, such as "
            f"{with_camera[0] / CAMERA_FILE}, got {camera}"
        )
    return {folder.name: read_known_camera(folder / CAMERA_FILE) for folder in folders}


def _raw_files(paths: Iterable[pathlib.Path]) -> Iterator[pathlib.Path]:
    return (
        path
        for path in paths
        if path.suffix.lower() in RAW_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def _has_masks(root: pathlib.Path, parts: Iterable[str]) -> bool:
    layouts = set()
    for folder in (root / part for part in parts):
        there = [name for name in ("images", "masks") if (folder / name).is_dir()]
        if len(there) == 1:
            missing = "masks" if there == ["images"] else "images"
            raise InputError(
                f"{folder} has a sub-folder {there[0]} but no {missing}: segmentation needs both; {FOR_BOXES}"
            )
        layouts.add(bool(there))
    if len(layouts) > 1:
        raise InputError(f"{root}: all sub-folders must have the same layout; only some have images/ and masks/")
    return layouts.pop()


class _File(NamedTuple):
    """A raw file, with the metadata that a data set needs before reading its samples.

    `stated` are the values of its camera that the user states. `model` is the name of the camera: that of its
    sub-folder, or in the file; empty if a whole camera is stated for all files.
    """

    path: pathlib.Path
    stated: KnownCamera
    model: str
    shape: tuple[int, int]
    camera: isp.Camera


def _classification(
    root: pathlib.Path, parts: Mapping[str, KnownCamera], tile_size: int | None, folders: str
) -> RawDataset:
    """Loads the files in a sub-folder for each class; `folders` is "*/", or "*/*/" if these have one for each group."""
    there = {part: sorted((root / part).glob(f"{folders}[!.]*")) for part in parts}
    raw_files = {part: list(_raw_files(paths)) for part, paths in there.items()}
    if folders != "*/" and (ungrouped := [file for part in parts for file in _raw_files((root / part).glob("*/*"))]):
        raise InputError(f"`group={FOLDER}`: {min(ungrouped)} must be in the folder of a group")

    def class_of(path: pathlib.Path) -> str:
        return path.parts[-1 - folders.count("/")]

    classes = tuple(sorted({class_of(path) for paths in raw_files.values() for path in paths}))
    if len(classes) < 2:
        raise InputError(
            f"{root} must have a sub-folder of raw files for each of at least two classes, or images/ and masks/; "
            f"found {sum(map(len, raw_files.values()))} raw files in {len(classes)} sub-folders; {from_pictures()}; "
            f"{FOR_BOXES}"
        )
    warn_of_others(path for paths in there.values() for path in paths if class_of(path) in classes and path.is_file())
    empty = [folder for part in parts for folder in (root / part).glob("[!.]*/") if folder.name not in classes]
    if empty:
        others = f" (likewise {len(empty) - 1} others)" if len(empty) > 1 else ""
        warn(f"{min(empty)} contains no raw files{others}, so it is not a class")
    files = _described(raw_files, parts)
    for file in files:
        if tile_size and min(file.shape) < tile_size:
            raise InputError(f"{file.path} is {file.shape[0]}x{file.shape[1]}, smaller than `tile_size={tile_size}`")
    sides = [min(tile_size or TILE_SIZE, *file.shape) for file in files]
    side = min(sides)
    if cropped := sum(each > side for each in sides):
        warn(
            f"{cropped} of {len(files)} files are cropped to {side}x{side}, because {files[sides.index(side)].path} is "
            "that small and all samples must have the same size: remove it to keep more of the others"
        )
    labels = np.array([classes.index(class_of(file.path)) for file in files], np.int32)
    return _of_files(root, files, labels, side, task="classification", classes=classes, labels=labels)


def _annotated(root: pathlib.Path, annotations: pathlib.Path, known: KnownCamera) -> RawDataset:
    """Loads the frames that a file lists, with their boxes or numbers."""
    files: list[_File] = []

    def shape_of(frames: Sequence[pathlib.Path]) -> tuple[int, int]:
        files.extend(_described({"": frames}, {"": known}))
        first = files[0]
        for file in files:
            if file.shape != first.shape:
                raise InputError(
                    f"{root}: all frames must have one size, got {first.shape[0]}x{first.shape[1]} for {first.path} "
                    f"and {file.shape[0]}x{file.shape[1]} for {file.path}"
                )
        return first.shape

    if annotations.suffix.lower() == ".csv":
        found = read_numbers(annotations, root)
        shape_of(found.frames)
    else:
        found = read_boxes(annotations, root, _raw_files(root.rglob("[!.]*")), shape_of)
    labels = np.zeros(len(files), np.int32)
    return _of_files(root, files, found.targets, None, task=found.task, classes=found.classes, labels=labels)


def _of_files(
    root: pathlib.Path, files: Sequence[_File], targets: np.ndarray, side: int | None, **fields: Any
) -> RawDataset:
    """Makes a data set of raw files, whole ones or the middles of a `side`, with their targets."""

    def read(index: int) -> Sample:
        with collected_warnings():  # `_described` has warned.
            raw, camera = read_raw(files[index].path, files[index].stated)
        return (center_crop(raw, side, side, camera.pattern) if side else raw), targets[index]

    paths = [file.path for file in files]
    stated = list({id(file.stated): file.stated for file in files}.values())
    # The labels of other files do not matter.
    of_targets = None if side else hashlib.sha256(targets.tobytes()).hexdigest()
    dataset = RawDataset(
        name="Folder",
        camera=None,
        names=tuple(os.path.relpath(path, root) for path in paths),
        read=read,
        files=tuple((path,) for path in paths),
        provenance=json.dumps([side, of_targets, *map(_decoding_identity, stated)]),
        shot=lambda index: read_shot(paths[index]),
        white_level=stated[0].figures.get("white_level"),
        **fields,
    )
    return _with_cameras(dataset, [file.model for file in files], paths, [file.camera for file in files])


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


def _described(raw_files: Mapping[str, Sequence[pathlib.Path]], parts: Mapping[str, KnownCamera]) -> list[_File]:
    """Returns the metadata of the raw files of each part, from headers where possible (see `rawfile.describe`).

    The first file of each part is decoded, whose samples may show that the white level is wrong. Files that have not
    changed since an earlier call are not opened.
    """
    files, warned = list[_File](), list[str]()
    for part, paths in raw_files.items():
        stated = parts[part]

        def find(path: pathlib.Path, stated: KnownCamera = stated, first: Any = paths[:1]) -> list[Any]:
            with collected_warnings() as warnings:
                shape, camera = describe(path, stated)
                if path in first and stated.camera is not None:
                    read_raw(path, stated)
            # Leaves out the path, which may be spelled differently next time.
            texts = [text.removeprefix(f"{path}: ") for text in warnings]
            return [shape, dataclasses.asdict(camera), "" if stated.camera else read_shot(path).title, texts]

        described = hashlib.sha256(json.dumps([_VERSION, stated.described]).encode()).hexdigest()[:16]
        found = file_metadata.of_files(f"mosaic_metadata/{described}", paths, find, "reading raw files")
        for path, (shape, camera, model, texts) in zip(paths, found, strict=True):
            files.append(_File(path, stated, part or model, tuple(shape), isp.Camera(**camera)))
            warned += [f"{path}: {text}" for text in texts]
    warn_once(warned, len(files))
    return files


def center_crop(raw: np.ndarray, height: int, width: int, pattern: str) -> np.ndarray:
    """Crops a raw image to `(height, width)` around its center, starting with a whole color filter tile."""
    periods = isp.cfa.tile(pattern).shape
    wanted = zip(raw.shape, (height, width), periods, strict=True)
    top, left = ((have - want) // 2 // period * period for have, want, period in wanted)
    return raw[top : top + height, left : left + width]


def _segmentation(
    root: pathlib.Path, parts: Mapping[str, KnownCamera], side: int, tiles_dir: pathlib.Path, classes: Classes
) -> RawDataset:
    """Cuts the frames of each camera separately, and joins their tiles."""
    warn_of_others(file for part in parts for file in (root / part / "images").iterdir() if file.is_file())
    groups: dict[tuple[str, str], list[Pair]] = {}
    for part, stated in parts.items():
        pairs = pair_masks(root / part / "images", root / part / "masks", RAW_SUFFIXES)
        models = [part] * len(pairs)
        if not part and stated.camera is None:
            frames = [frame for frame, _ in pairs]
            models = file_metadata.of_files("cameras", frames, lambda path: read_shot(path).title, "reading cameras")
        for pair, model in zip(pairs, models, strict=True):
            groups.setdefault((part, model), []).append(pair)
    check_masks([mask for pairs in groups.values() for _, mask in pairs], classes.names)
    tiling = tiles.Tiling(side, _OBJECT, _every_tile, indices=len(classes.names) > 1)
    tiled = [
        tiles.cut(tiles_dir / part / f"tiles_{side}", pairs, parts[part], tiling) for (part, _), pairs in groups.items()
    ]
    # The camera's name, the frame and the camera of each tile.
    shots = []
    for (part, model), pairs, each in zip(groups, groups.values(), tiled, strict=True):
        frames = {frame.stem: frame for frame, _ in pairs}
        shots += [(part, model, frames[tiles.frame_of(name)], each.camera) for name in each.names]
    dataset = tiles.joined("Folder", tiled, tiling)
    shot_of = functools.cache(read_shot)
    joined = dataclasses.replace(
        dataset,
        classes=classes.names,
        colors=classes.colors,
        names=tuple(os.path.join(part, name) for (part, *_), name in zip(shots, dataset.names, strict=True)),
        shot=lambda index: shot_of(shots[index][2]),
        white_level=next(iter(parts.values())).figures.get("white_level"),
    )
    _, models, frames_of, cameras = zip(*shots, strict=True)
    return _with_cameras(joined, models, frames_of, cameras)


def _every_tile(fractions: Sequence[float]) -> list[tuple[int, str]]:
    return [(index, *_OBJECT) for index in range(len(fractions))]

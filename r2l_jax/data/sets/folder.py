"""The user's own raw files: one sub-folder per class, or frames and masks."""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

import isp
from r2l_jax.data.files import file_facts, tiles
from r2l_jax.data.files.known_camera import KnownCamera, common_camera, find_known_camera
from r2l_jax.data.files.masks import pair_masks
from r2l_jax.data.files.rawfile import RAW_SUFFIXES, read_mosaic
from r2l_jax.data.files.shot import read_shot
from r2l_jax.data.raw_dataset import RawDataset, Sample
from r2l_jax.runtime.errors import InputError, warn
from r2l_jax.runtime.hosts import on_first_process

TILE_SIZE = 256

# Raise this whenever the same files give different facts.
_VERSION = 1

# The class of segmentation.
_CLASSES = ("object",)

# A side that every network can halve as often as it needs, even after processing at half size.
_MULTIPLE = 64


def load(data_dir: str | pathlib.Path | None, camera: str | None, tile_size: int | None) -> RawDataset:
    """Loads the raw files of a folder.

    - If the folder has the sub-folders `images` and `masks`, the task is segmentation. The name of a mask contains the
      name of its frame; a mask is greater than 0 where the object is. The first call cuts the frames into adjacent
      tiles, and writes them to the sub-folder `tiles_<side>`.
    - Otherwise the task is classification: each sub-folder is a class, and each file is cropped to its middle.

    Args:
        data_dir: the folder.
        camera: the name of a known camera, a JSON file, or "auto" for the cameras that the files name.
        tile_size: the side of tiles or crops, even. None is 256 or, if less, the shortest side of any file to classify,
            or the largest multiple of 64 (if there is one) that fits in the first frame.

    Raises:
        InputError: a setting, a file or a folder is wrong or missing; the message names it.
    """
    if data_dir is None or not pathlib.Path(data_dir).is_dir():
        raise InputError(
            "--dataset=Folder needs --data_dir, a folder with one sub-folder per class, or with images/ and masks/, "
            f"got {data_dir}"
        )
    if camera is None:
        raise InputError(f"--dataset=Folder needs --camera: {', '.join(isp.CAMERAS)}, auto or a JSON file")
    if tile_size is not None and (tile_size < 2 or tile_size % 2):
        raise InputError(f"--tile_size must be positive and even, to stay on the grid of the mosaic, got {tile_size}")
    root, given = pathlib.Path(data_dir), find_known_camera(camera)
    there = [name for name in ("images", "masks") if (root / name).is_dir()]
    if len(there) == 2:
        return _segmentation(root, given, tile_size)
    if there:
        missing = "masks" if there == ["images"] else "images"
        raise InputError(f"{root} has the sub-folder {there[0]}, and lacks {missing}: segmentation needs both")
    return _classification(root, given, tile_size)


def _classification(root: pathlib.Path, camera: KnownCamera, tile_size: int | None) -> RawDataset:
    files = sorted(path for path in root.glob("*/[!.]*") if path.is_file() and path.suffix.lower() in RAW_SUFFIXES)
    class_names = [path.parts[-2] for path in files]
    classes = tuple(sorted(set(class_names)))
    if len(classes) < 2:
        raise InputError(
            f"{root} must have a sub-folder of raw files for each of at least two classes, or images/ and masks/; "
            f"found {len(files)} raw files in {len(classes)} sub-folders (scripts/unprocess.py makes raw files of JPEG)"
        )

    facts = _facts_of_mosaics(files, camera)
    for path, (shape, *_) in zip(files, facts, strict=True):
        if tile_size and min(shape) < tile_size:
            raise InputError(f"{path} is {shape[0]}x{shape[1]}, smaller than --tile_size={tile_size}")
    _warn_of_dim([warning for own in facts for warning in own.warnings], len(files))
    most = tile_size or TILE_SIZE
    sides = [min(most, *own.shape) for own in facts]
    side = min(sides)
    if cropped := sum(own > side for own in sides):
        warn(
            f"{files[sides.index(side)]} has a side of only {side}, to which {cropped} of {len(files)} files are "
            "cropped: all must have one size; leave it out to keep more of the others"
        )

    def read_middle(index: int) -> Sample:
        raw, own = read_mosaic(files[index], camera, _ignore)
        height, width = raw.shape
        middle = center_crop(raw, min(most, height), min(most, width), own.pattern)
        return center_crop(middle, side, side, own.pattern), labels[index]

    labels = np.array([classes.index(name) for name in class_names], np.int32)
    return RawDataset(
        name="Folder",
        task="classification",
        classes=classes,
        camera=common_camera(files, [own.camera for own in facts]),
        names=tuple(os.path.join(name, path.name) for name, path in zip(class_names, files, strict=True)),
        labels=labels,
        read=read_middle,
        files=tuple((path,) for path in files),
        recipe=json.dumps([most, side, *_decoding_identity(camera)]),
        shot=lambda index: read_shot(files[index]),
        white_level=camera.figures.get("white_level"),
    )


def _decoding_identity(camera: KnownCamera) -> list[Any]:
    """Lists the stated facts about a camera that mosaics depend on, as JSON values."""
    layout = None if camera.layout is None else dataclasses.asdict(camera.layout)
    corrections = None if camera.corrections is None else camera.corrections.identity
    return [*map(camera.figures.get, ("white_level", "pattern")), layout, corrections]


class _MosaicFacts(NamedTuple):
    """The facts about a mosaic that a data set needs before it reads its samples.

    Attributes:
        shape: its height and width.
        camera: the camera that took it.
        warnings: warnings for the user, such as one about using little of its range.
    """

    shape: tuple[int, int]
    camera: isp.Camera
    warnings: list[str]


def _facts_of_mosaics(files: Sequence[pathlib.Path], camera: KnownCamera) -> list[_MosaicFacts]:
    """Returns the facts about each file's mosaic, and decodes only files that are new or have changed."""

    def find(path: pathlib.Path) -> list[Any]:
        warnings: list[str] = []
        raw, own = read_mosaic(path, camera, warnings.append)
        # Without the path, which may be spelled differently next time.
        return [raw.shape, text_of(own), [text.removeprefix(f"{path}: ") for text in warnings]]

    @functools.cache
    def text_of(own: isp.Camera) -> str:
        return json.dumps(dataclasses.asdict(own))

    @functools.cache
    def camera_of(text: str) -> isp.Camera:
        return isp.Camera(**json.loads(text))

    described = hashlib.sha256(json.dumps([_VERSION, camera.described]).encode()).hexdigest()[:16]
    found = file_facts.of_files(f"mosaic_facts/{described}", files, find, "reading raw files")
    return [
        _MosaicFacts((height, width), camera_of(text), [f"{path}: {warning}" for warning in warnings])
        for path, ((height, width), text, warnings) in zip(files, found, strict=True)
    ]


def _warn_of_dim(dim: Sequence[str], files: int) -> None:
    """Warns once for all files that use little of their range."""
    if dim:
        others = f" (and so for {len(dim) - 1} more of {files} files)" if len(dim) > 1 else ""
        warn(f"{min(dim)}{others}")


def center_crop(raw: np.ndarray, height: int, width: int, pattern: str) -> np.ndarray:
    """Crops a mosaic to `(height, width)` around its middle, starting with a whole tile of the color filter array."""
    periods = isp.cfa.tile(pattern).shape
    wanted = zip(raw.shape, (height, width), periods, strict=True)
    top, left = ((have - want) // 2 // period * period for have, want, period in wanted)
    return raw[top : top + height, left : left + width]


def _segmentation(root: pathlib.Path, camera: KnownCamera, tile_size: int | None) -> RawDataset:
    pairs = pair_masks(root / "images", root / "masks", RAW_SUFFIXES)
    side = tile_size
    if side is None:
        raw, own = read_mosaic(pairs[0][0], camera, _ignore)
        side, multiple = min(TILE_SIZE, *raw.shape), int(np.lcm.reduce([_MULTIPLE, *isp.cfa.tile(own.pattern).shape]))
        side = side // multiple * multiple or side
    folder = root / f"tiles_{side}" / tiles.version(pairs, camera)
    dim: list[str] = []
    on_first_process(lambda: tiles.cut(pairs, folder, side, camera, _every_tile, dim.append))
    _warn_of_dim(dim, len(pairs))
    dataset = tiles.load("Folder", folder, side, _CLASSES, True)
    frames = {frame.stem: frame for frame, _ in pairs}
    shot_of_frame = functools.cache(read_shot)
    return dataclasses.replace(
        dataset,
        shot=lambda index: shot_of_frame(frames[tiles.frame_of(dataset.names[index])]),
        white_level=camera.figures.get("white_level"),
    )


def _ignore(_: str) -> None:
    """Ignores a warning, which reading all frames repeats."""


def _every_tile(fractions: list[float]) -> list[tuple[int, str]]:
    """Keeps all tiles, with or without an object."""
    return [(index, *_CLASSES) for index in range(len(fractions))]

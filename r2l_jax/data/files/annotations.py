"""Targets of whole frames, from a file that names their raw files: boxes from COCO JSON, or numbers from CSV."""

import operator
import pathlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
from jaxtyping import Float32

from r2l_jax.data.files.decoding import read_table, read_text, reading
from r2l_jax.data.files.rawfile import RAW_SUFFIXES
from r2l_jax.errors import InputError, warn

# Enough bytes for a million objects with outlines.
_LONGEST = 2**30

# A box may extend this many pixels beyond its frame: readers drop the last row or column of a raw file with an odd
# height or width, and some programs count pixels from 1.
_OUTSIDE = 1.0

_by_id = operator.attrgetter("id")


class Annotations(NamedTuple):
    """The targets of raw files.

    Attributes:
        task: "detection" or "numbers".
        classes: the names of the categories, in the order of their ids; or of the numbers.
        frames: the raw files, boxes' in the order of the images' ids.
        targets: boxes `(frames, N, 6)`: x1, y1, x2, y2 in pixels, the class, and 1 for a crowd, in which empty rows
            have the class -1; or numbers `(frames, N)`.
    """

    task: str
    classes: tuple[str, ...]
    frames: Sequence[pathlib.Path]
    targets: Float32[np.ndarray, "frames ..."]


def read_numbers(table: pathlib.Path, root: pathlib.Path) -> Annotations:
    """Reads a CSV file: its column `name` has paths from `root`, and all others have finite numbers.

    Raises:
        InputError: a missing column or file, a name that is given twice, or a value that is not a finite number.
    """
    with reading(table):
        columns, rows = read_table(table)
        names = tuple(name for name in columns if name != "name")
        if not names or "name" not in columns:
            raise InputError(
                f"must have the column name and at least one of numbers, got {', '.join(columns) or 'none'}"
            )
        for name in rows:
            if not (root / name).is_file():
                raise InputError(f"names {name}, which is not a file in {root}")
            if pathlib.PurePath(name).suffix.lower() not in RAW_SUFFIXES:
                raise InputError(f"names {name}, which is not a raw file")
        if not rows:
            raise InputError("must name at least one raw file")
        numbers = [[_number(row[column], column, name) for column in names] for name, row in rows.items()]
    return Annotations("numbers", names, [root / name for name in rows], np.array(numbers, np.float32))


def _number(text: str | None, column: str, name: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise InputError(f"must have a finite number for {column} of {name}, got {text!r}")
    return value


class _Image(msgspec.Struct):
    id: int
    file_name: str
    width: float | None = None
    height: float | None = None


class _Annotation(msgspec.Struct):
    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    iscrowd: Literal[0, 1] = 0

    def __str__(self) -> str:
        return f"[{', '.join(f'{value:g}' for value in self.bbox)}] for annotation {self.id}"


class _Category(msgspec.Struct):
    id: int
    name: str


class _Coco(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


def read_boxes(
    file: pathlib.Path,
    root: pathlib.Path,
    raw_files: Iterable[pathlib.Path],
    shape_of: Callable[[Sequence[pathlib.Path]], tuple[int, int]],
) -> Annotations:
    """Reads the boxes of a COCO JSON file, and finds the raw file of each of its images.

    The name of an image is a path from `root`, or from `images` in it; suffixes need not match.
    `shape_of` returns the common height and width of raw files.

    Raises:
        InputError: the file cannot be read; ids or names repeat; an image, category or raw file is missing; the size of
            an image differs from that of its raw file by more than the cropping to even size; or a box is not in pixels
            inside its frame.
    """
    with reading(file):
        coco = msgspec.json.decode(read_text(file, _LONGEST), type=_Coco)
        for kind in ("images", "annotations", "categories"):
            _check_once(kind, "id", map(_by_id, getattr(coco, kind)))
        if not coco.images or not coco.categories:
            raise InputError("must list images and categories, found none")
        images, categories = sorted(coco.images, key=_by_id), sorted(coco.categories, key=_by_id)
        classes = tuple(category.name for category in categories)
        _check_once("categories", "name", classes)
        frames = _frames_of(images, root, raw_files)
        height, width = shape_of(frames)
        for image in images:
            for name, stated, size in (("height", image.height, height), ("width", image.width, width)):
                if stated is not None and not size <= stated <= size + 1:
                    raise InputError(
                        f"image {image.id}, {image.file_name}, has the {name} {stated:g}, but its raw file {size}"
                    )
        rows: dict[int, list[list[float]]] = {image.id: [] for image in images}
        numbers = {category.id: number for number, category in enumerate(categories)}
        for each in coco.annotations:
            if each.image_id not in rows:
                raise InputError(f'annotation {each.id} has the image {each.image_id}, which "images" lacks')
            if each.category_id not in numbers:
                raise InputError(f'annotation {each.id} has the category {each.category_id}, which "categories" lacks')
            x, y, wide, high = each.bbox
            inside = min(x, y) >= -_OUTSIDE and x + wide <= width + _OUTSIDE and y + high <= height + _OUTSIDE
            if not (inside and min(wide, high) > 0):
                raise InputError(
                    "boxes must be x, y, width and height in pixels, with an area and inside the frame of "
                    f"{height}x{width}, got {each}"
                )
            rows[each.image_id].append([x, y, x + wide, y + high, numbers[each.category_id], each.iscrowd])
        if coco.annotations and max(max(each.bbox) for each in coco.annotations) <= 1:
            raise InputError(f"boxes must be in pixels, but all are fractions, such as {coco.annotations[0]}")
    boxes = np.tile(np.array([0, 0, 0, 0, -1, 0], np.float32), (len(rows), max(1, *map(len, rows.values())), 1))
    for of_frame, found in zip(boxes, rows.values(), strict=True):
        of_frame[: len(found)] = np.reshape(found, (-1, 6))
    return Annotations("detection", classes, frames, boxes)


def _check_once(kind: str, key: str, values: Iterable[Any]) -> None:
    for value, times in Counter(values).most_common(1):
        if times > 1:
            raise InputError(f'"{kind}" must have each {key} once, got {value!r} {times} times')


def _frames_of(images: Sequence[_Image], root: pathlib.Path, raw_files: Iterable[pathlib.Path]) -> list[pathlib.Path]:
    """Returns the raw file of each image."""
    found: dict[str, pathlib.Path] = {}
    for path in raw_files:
        name = path.relative_to(root).with_suffix("").as_posix()
        if (other := found.setdefault(name, path)) != path:
            raise InputError(f"{other} and {path} must not have the same name")
    frames = []
    for image in images:
        stem = pathlib.PurePosixPath(image.file_name.replace("\\", "/")).with_suffix("").as_posix()
        frame = found.get(stem) or found.get(f"images/{stem}")
        if frame is None:
            raise InputError(f"image {image.id}, {image.file_name}, has no raw file of this name in {root}")
        frames.append(frame)
    _check_once("images", "file_name", map(str, frames))
    if others := sorted(set(found.values()) - set(frames)):
        warn(f"{len(others)} of {len(found)} raw files in {root} are not among the images, such as {others[0]}")
    return frames

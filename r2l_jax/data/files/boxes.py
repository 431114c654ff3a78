"""Boxes of objects in frames, from a COCO JSON file."""

import pathlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from r2l_jax.data.files.decoding import read_text, reading
from r2l_jax.runtime.errors import InputError, warn

# Enough bytes for a million objects with outlines.
_LONGEST = 2**30

# Pixels by which a box may leave its frame: raw images are cropped to even size, and some programs count from 1.
_OUTSIDE = 1.0


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
    iscrowd: int = 0


class _Category(msgspec.Struct):
    id: int
    name: str


class _Coco(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


class Boxes(NamedTuple):
    """The boxes of frames.

    Attributes:
        classes: the names of the categories, in the order of their ids.
        frames: the raw file of each image, in the order of the images' ids.
        of_frames: the boxes of each frame `(N, 6)`: x1, y1, x2, y2 in pixels, the class, and 1 for a crowd.
    """

    classes: tuple[str, ...]
    frames: tuple[pathlib.Path, ...]
    of_frames: tuple[np.ndarray, ...]

    def padded(self) -> np.ndarray:
        """Returns the boxes of all frames as one array `(S, N, 6)` float32, in which empty rows have the class -1."""
        most = max(1, *map(len, self.of_frames))
        found = np.tile(np.array([0, 0, 0, 0, -1, 0], np.float32), (len(self.of_frames), most, 1))
        for rows, boxes in zip(found, self.of_frames, strict=True):
            rows[: len(boxes)] = boxes
        return found


def read_boxes(
    file: pathlib.Path,
    root: pathlib.Path,
    raw_files: Iterable[pathlib.Path],
    shapes_of: Callable[[Sequence[pathlib.Path]], Sequence[tuple[int, int]]],
) -> Boxes:
    """Reads the boxes of a COCO JSON file, and finds the raw file of each of its images.

    The name of an image is a path from `root`, or from `images` in it; its suffix may differ from that of the raw file.

    Args:
        file: the JSON file.
        root: the folder of the raw files.
        raw_files: the raw files in it.
        shapes_of: returns the height and width of raw files.

    Raises:
        InputError: the file cannot be read; ids or names repeat; an image, category or raw file is missing; the size of
            an image differs from that of its raw file by more than the cropping to even size; or a box is not in pixels
            inside its frame.
    """
    with reading(file):
        coco = msgspec.json.decode(read_text(file, _LONGEST), type=_Coco)
        for kind in ("images", "annotations", "categories"):
            _check_once(kind, "id", [each.id for each in getattr(coco, kind)])
        if not coco.images or not coco.categories:
            raise InputError("must list images and categories, found none")
        _check_once("categories", "name", [each.name for each in coco.categories])
        images = {image.id: image for image in sorted(coco.images, key=lambda image: image.id)}
        categories = sorted(coco.categories, key=lambda category: category.id)
        numbers = {category.id: number for number, category in enumerate(categories)}
        for each in coco.annotations:
            if each.image_id not in images:
                raise InputError(f"annotation {each.id} has the image {each.image_id}, which `images` lacks")
            if each.category_id not in numbers:
                raise InputError(f"annotation {each.id} has the category {each.category_id}, which `categories` lacks")
        _check_pixels(coco.annotations)
        frames = _frames_of(list(images.values()), root, raw_files)
        shapes = dict(zip(images, shapes_of(frames), strict=True))
        for number, (height, width) in shapes.items():
            _check_size(images[number], height, width)
        of_images: dict[int, list[list[float]]] = {number: [] for number in images}
        for each in coco.annotations:
            _check_inside(each, *shapes[each.image_id])
            x, y, width, height = each.bbox
            row = [x, y, x + width, y + height, numbers[each.category_id], each.iscrowd]
            of_images[each.image_id].append(row)
    boxes = tuple(np.array(rows, np.float32).reshape(-1, 6) for rows in of_images.values())
    return Boxes(tuple(category.name for category in categories), tuple(frames), boxes)


def _check_once(kind: str, key: str, values: Sequence[Any]) -> None:
    value, times = next(iter(Counter(values).most_common(1)), (None, 0))
    if times > 1:
        raise InputError(f"`{kind}` must have each {key} once, got {value!r} {times} times")


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
    _check_once("images", "file_name", list(map(str, frames)))
    if others := sorted(set(found.values()) - set(frames)):
        warn(f"{len(others)} of {len(found)} raw files in {root} are not among the images, such as {others[0]}")
    return frames


def _check_pixels(annotations: Sequence[_Annotation]) -> None:
    """Raises an InputError if all boxes are fractions of their frames."""
    if annotations and max(max(each.bbox) for each in annotations) <= 1:
        first = annotations[0]
        raise InputError(f"boxes must be in pixels, but all are fractions, such as {_shown(first)}")


def _check_size(image: _Image, height: int, width: int) -> None:
    """Raises an InputError unless an image's stated size is that of its raw file, which may be cropped to even size."""
    stated = {"height": (image.height, height), "width": (image.width, width)}
    for name, (said, there) in stated.items():
        if said is not None and not there <= said <= there + 1:
            raise InputError(f"image {image.id}, {image.file_name}, has the {name} {said:g}, but its raw file {there}")


def _check_inside(each: _Annotation, height: int, width: int) -> None:
    """Raises an InputError unless a box has an area, and is inside its frame."""
    if each.iscrowd not in (0, 1):
        raise InputError(f"annotation {each.id} must have an iscrowd of 0 or 1, got {each.iscrowd}")
    x, y, wide, high = each.bbox
    inside = min(x, y) >= -_OUTSIDE and x + wide <= width + _OUTSIDE and y + high <= height + _OUTSIDE
    if not (inside and min(wide, high) > 0):
        raise InputError(
            f"boxes must be x, y, width and height in pixels, with an area and inside the frame of {height}x{width}, "
            f"got {_shown(each)}"
        )


def _shown(each: _Annotation) -> str:
    return f"[{', '.join(f'{value:g}' for value in each.bbox)}] for annotation {each.id}"

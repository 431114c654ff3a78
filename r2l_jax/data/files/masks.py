"""Frames (raw files) with masks: pairs them by name, checks and reads them."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np

import isp
from r2l_jax.data.files import file_metadata
from r2l_jax.data.files.decoding import read_text, reading
from r2l_jax.data.files.known_camera import KnownCamera
from r2l_jax.data.files.pictures import mask_values, read_mask
from r2l_jax.data.files.rawfile import read_raw
from r2l_jax.errors import InputError

MASK_SUFFIXES = (".tif", ".tiff", ".png")

# Advice at the end of an error message.
FOR_BOXES = "for boxes, give a COCO file as `annotations`"

# The names of the classes of masks, in a folder with images and masks.
CLASSES_FILE = "classes.json"

# In masks of several classes, the value of pixels that count neither in the loss nor in the score.
IGNORED = 255

_NAMING = (
    f'{CLASSES_FILE} beside masks/, such as ["background", "car", "road"], or train.py `classes=background,car,road`'
)

# A frame and its mask.
Pair = tuple[Path, Path]


class Classes(NamedTuple):
    """The classes of masks, in the order of their indices, or a single object; and colors such as "#ff8000", if any."""

    names: tuple[str, ...]
    colors: tuple[str, ...] = ()


def read_classes(folder: Path) -> Classes | None:
    """Reads the classes that a folder's `classes.json` names; returns None if there is no such file.

    The file is a list of names, `["road", "car"]`, or names with colors, `{"road": "#808080", "car": "#ff8000"}`.
    """
    path = folder / CLASSES_FILE
    if not path.is_file():
        return None
    with reading(path):
        color = Annotated[str, msgspec.Meta(pattern="^#[0-9a-fA-F]{6}$")]
        found = msgspec.json.decode(read_text(path), type=list[str] | dict[str, color])
        return Classes(check_names(tuple(found)), tuple(found.values()) if isinstance(found, dict) else ())


def check_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the names of classes; raises an InputError unless they differ and their indices fit in a mask."""
    if not 0 < len(names) <= IGNORED or not all(names) or len(set(names)) < len(names):
        said = f"got {', '.join(names)}" if len(names) <= IGNORED else f"got {len(names)}"
        raise InputError(f"classes must be 1 to {IGNORED} different names in the order of their indices, {said}")
    return names


def check_masks(masks: Sequence[Path], names: Sequence[str]) -> None:
    """Raises an InputError unless all masks mean classes by their indices, or one object by the same value.

    The values of a mask are read once, and kept in the user's cache folder.
    """
    found = file_metadata.of_files("mask_values", masks, mask_values, "reading masks")
    objects: dict[str, Path] = {}
    for path, values in zip(masks, found, strict=True):
        inside = [_said(value) for value, _ in values if np.any(value)]
        if len(names) < 2 and len(inside) > 1:
            raise InputError(
                f"{path} holds the values {', '.join([*inside[:5], *['...'] * (len(inside) > 5)])}: a mask of one "
                "object has one value besides 0, such as 1 or 255; masks of several classes need their names from "
                f"index 0 on: {_NAMING}"
            )
        objects |= dict.fromkeys(inside, path)
        for value, pixels in values if len(names) > 1 else ():
            if value != IGNORED and value not in range(len(names)):
                known = ", ".join(f"{index} ({name})" for index, name in enumerate(names))
                raise InputError(
                    f"{path}: the value {_said(value)} of {pixels} pixels is not the index of a class: {known}, or "
                    f"{IGNORED} where pixels are ignored"
                )
    if len(names) < 2 and len(objects) > 1:
        (one, path), (other, of_other), *_ = objects.items()
        raise InputError(
            f"{path} means the object by {one}, and {of_other} by {other}: masks of one object have the same value "
            f"besides 0; if these are classes, and {IGNORED} is ignored, name the classes: {_NAMING}"
        )
    if len(names) > 1 and objects.keys() == {str(IGNORED)}:
        raise InputError(
            f"{masks[0].parent}: all masks hold only 0 ({names[0]}) and {IGNORED}, which is ignored: name one class, "
            f"or write indices from 0 to {len(names) - 1}"
        )


def _said(value: Any) -> str:
    return str(tuple(value) if isinstance(value, list) else value)


def pair_masks(folder: Path, masks_folder: Path, suffixes: Sequence[str]) -> list[Pair]:
    """Pairs every frame of a folder with its mask, in the order of the frames' names; suffixes are in lower case.

    A mask's name contains the name of its frame. If it contains several frame names, the longest counts:
    `frame_10_mask` also contains `frame_1`.
    """
    frames: dict[str, Path] = {}
    for frame in _visible_files(folder, suffixes):
        if frames.setdefault(frame.stem, frame) != frame:
            raise InputError(f"{folder} must contain only one frame {frame.stem}, whatever the suffix; found several")
    if not frames:
        raise InputError(f"{folder} must contain frames ({', '.join(suffixes)}), found none")
    masks: dict[str, list[Path]] = {stem: [] for stem in frames}
    for mask in _visible_files(masks_folder, MASK_SUFFIXES):
        name = mask.stem
        # Searching the parts of the name is faster than searching the frames, which may be thousands.
        parts = (name[end - length : end] for length in range(len(name), 0, -1) for end in range(length, len(name) + 1))
        if stem := next((part for part in parts if part in frames), None):
            masks[stem].append(mask)
    return [(frame, _only_mask(frame, masks[stem], masks_folder)) for stem, frame in frames.items()]


def _visible_files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Lists the files with these suffixes, without the hidden files that macOS leaves beside copied ones."""
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in suffixes and not path.name.startswith(".")
    )


def _only_mask(frame: Path, masks: list[Path], masks_folder: Path) -> Path:
    if len(masks) > 1:
        # Some may belong to frames in other folders: in this frame's mask, the frame's name is a whole word.
        word = re.compile(rf"(?<![0-9A-Za-z]){re.escape(frame.stem)}(?![0-9A-Za-z])")
        masks = [mask for mask in masks if word.search(mask.stem)]
    if len(masks) != 1:
        raise InputError(
            f"{frame} must have exactly one mask ({', '.join(MASK_SUFFIXES)}) in {masks_folder} whose name contains "
            f"{frame.stem!r}, found {len(masks)}; {FOR_BOXES}"
        )
    return masks[0]


def read_frame(
    pair: Pair, camera: isp.Camera | KnownCamera, indices: bool = False
) -> tuple[np.ndarray, np.ndarray, isp.Camera]:
    """Reads a frame with the stated camera values; returns the raw image, the mask (same size), the camera.

    With `indices`, the mask holds classes, see `read_mask`.
    """
    frame, mask_file = pair
    raw, file_camera = read_raw(frame, camera)
    mask = read_mask(mask_file, indices)
    rows, cols = raw.shape
    # Raw images are cropped to even size; a mask may still have the sensor's odd size.
    if not (rows <= mask.shape[0] <= rows + 1 and cols <= mask.shape[1] <= cols + 1):
        raise InputError(f"{mask_file} must have the size of {frame}, {raw.shape}, got {mask.shape}")
    return raw, mask[:rows, :cols], file_camera

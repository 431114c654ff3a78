"""Frames (raw files) with masks: pairs them by name and reads them."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import isp
from isp.metering import Part
from r2l_jax.data.files.decoding import advising
from r2l_jax.data.files.known_camera import KnownCamera
from r2l_jax.data.files.pictures import read_mask
from r2l_jax.data.files.rawfile import read_raw
from r2l_jax.data.files.tiff import read_stored
from r2l_jax.data.raw_dataset import RawDataset, Sample
from r2l_jax.runtime.errors import InputError

MASK_SUFFIXES = (".tif", ".tiff", ".png")

# The starts of files that hold boxes or polygons of objects: COCO or LabelMe, YOLO, and Pascal VOC.
_BOXES = {
    ".json": re.compile(rb'.*"(annotations|bbox|shapes)"', re.DOTALL),
    ".txt": re.compile(rb"\s*\d+(\s+[-+.e\d]+){4}"),
    ".xml": re.compile(rb".*<annotation", re.DOTALL),
}

# A frame and its mask.
Pair = tuple[Path, Path]


def pair_masks(folder: Path, masks_folder: Path, suffixes: Sequence[str]) -> list[Pair]:
    """Pairs every frame of a folder with its mask, in the order of the frames' names; suffixes are in lower case.

    A mask's name contains the name of its frame. If it contains several frame names, the longest counts:
    `frame_10_mask` also contains `frame_1`.
    """
    frames = _visible_files(folder, suffixes)
    if not frames:
        raise InputError(f"{folder} must contain frames ({', '.join(suffixes)}), found none")
    masks: dict[str, list[Path]] = {}
    for frame in frames:
        if frame.stem in masks:
            raise InputError(f"{folder} must contain only one frame {frame.stem}, whatever the suffix; found several")
        masks[frame.stem] = []
    for mask in _visible_files(masks_folder, MASK_SUFFIXES):
        if stem := _longest_part(mask.stem, masks):
            masks[stem].append(mask)
    return [(frame, _only_mask(frame, masks[frame.stem], masks_folder)) for frame in frames]


def refuse_boxes(folder: Path) -> None:
    """Raises an InputError if a folder that lacks masks, or a folder in it, holds boxes or polygons instead."""
    for path in sorted(folder.rglob("[!.]*")):
        kind = _BOXES.get(path.suffix.lower())
        if kind and path.is_file():
            with path.open("rb") as file:
                start = file.read(2**20)
            if kind.match(start):
                raise InputError(
                    f"{path} holds boxes or polygons (COCO, LabelMe, YOLO or Pascal VOC): segmentation needs a mask "
                    "of each frame, a PNG or TIFF in masks/ beside images/; for boxes and a trained detector, give a "
                    "COCO file as --annotations"
                )


def _visible_files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Lists the files with these suffixes, without the hidden files that macOS leaves beside copied ones."""
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in suffixes and not path.name.startswith(".")
    )


def _longest_part(name: str, known: Collection[str]) -> str | None:
    # Searching the parts of the name is faster than searching the known names, which may be thousands.
    parts = (
        name[start : start + length] for length in range(len(name), 0, -1) for start in range(len(name) - length + 1)
    )
    return next((part for part in parts if part in known), None)


def _only_mask(frame: Path, masks: list[Path], masks_folder: Path) -> Path:
    if len(masks) > 1:
        # Some may belong to frames in other folders: in this frame's mask, the frame's name is a whole word.
        word = re.compile(rf"(?<![0-9A-Za-z]){re.escape(frame.stem)}(?![0-9A-Za-z])")
        masks = [mask for mask in masks if word.search(mask.stem)]
    if not masks:
        refuse_boxes(masks_folder)
    if len(masks) != 1:
        raise InputError(
            f"{frame} must have exactly one mask ({', '.join(MASK_SUFFIXES)}) in {masks_folder} whose name contains "
            f"{frame.stem!r}, found {len(masks)}"
        )
    return masks[0]


def stored_set(
    pairs: Sequence[Pair],
    side: int,
    segmentation: bool,
    advice: str,
    summaries: Sequence[Path] = (),
    **metadata: Any,
) -> RawDataset:
    """Makes a data set of raw images that a program stored in 16 bits, and of their masks.

    `side` is their height and width, `advice` says what to do about damaged files, and `metadata` are other fields of
    `RawDataset`, including the labels. With `segmentation`, the targets are masks rather than labels. `summaries` are
    the files of the summaries of the frames that the raw images are parts of.
    """

    def read(index: int) -> Sample:
        image, mask_file = pairs[index]
        with advising(advice):
            raw = read_stored(image, (side, side))
            sample = Part(raw, read_stored(summaries[index], None)) if summaries else raw
            if not segmentation:
                return sample, metadata["labels"][index]
            mask = read_mask(mask_file)
            if mask.shape != raw.shape:
                raise InputError(f"{mask_file} must have shape {raw.shape}, got {mask.shape}")
            return sample, mask

    files = (pair if segmentation else pair[:1] for pair in pairs)
    return RawDataset(
        task="segmentation" if segmentation else "classification",
        read=read,
        files=tuple((*of_sample, *summaries[index : index + 1]) for index, of_sample in enumerate(files)),
        in_parts=bool(summaries),
        **metadata,
    )


def read_frame(
    pair: Pair, camera: isp.Camera | KnownCamera, several: bool = False
) -> tuple[np.ndarray, np.ndarray, isp.Camera]:
    """Reads a frame with the stated camera values; returns the raw image, the mask (same size), the camera.

    With `several`, all values of the mask are one object, see `read_mask`.
    """
    frame, mask_file = pair
    raw, file_camera = read_raw(frame, camera)
    mask = read_mask(mask_file, several)
    rows, cols = raw.shape
    # Raw images are cropped to even size; a mask may still have the sensor's odd size.
    if not (rows <= mask.shape[0] <= rows + 1 and cols <= mask.shape[1] <= cols + 1):
        raise InputError(f"{mask_file} must have the size of {frame}, {raw.shape}, got {mask.shape}")
    return raw, mask[:rows, :cols], file_camera

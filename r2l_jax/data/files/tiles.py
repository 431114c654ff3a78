"""Cuts frames with masks into tiles once, and reads the tiles back from their folder.

<folder>/images/<tile>.tiff   16-bit raw images, value / 65535
<folder>/masks/<tile>.png     8-bit, 255 where the object is; or the index of each pixel's class
<folder>/frames/<frame>.tiff  the summary of each frame for metering its tiles, stored as the raw images are
<folder>/labels.dat           one line per tile: its name, a tab and its class
<folder>/camera.json          the frames' camera

The name of a tile is its frame's name, followed by its row and column among the frame's tiles.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tifffile
from PIL import Image

import isp
from isp.metering import Part
from r2l_jax.data.files.decoding import advising, read_labels, reading
from r2l_jax.data.files.file_metadata import hash_files
from r2l_jax.data.files.known_camera import KnownCamera, common_camera, read_camera_file
from r2l_jax.data.files.masks import Pair, read_frame
from r2l_jax.data.files.pictures import read_mask
from r2l_jax.data.files.tiff import read_stored
from r2l_jax.data.groups import numbered
from r2l_jax.data.raw_dataset import RawDataset, Sample
from r2l_jax.devices.hosts import on_first_process
from r2l_jax.errors import InputError, collected_warnings, warn_once
from r2l_jax.jobs import mapped
from r2l_jax.results.files import atomic_folder

# Maps the fractions of object pixels in a frame's tiles to the indices of the tiles to keep, with their classes.
Choose = Callable[[list[float]], Iterable[tuple[int, str]]]


@dataclasses.dataclass(frozen=True)
class Tiling:
    """How frames become tiles.

    Attributes:
        side: the height and width of tiles, even.
        classes: the classes that `choose` gives tiles.
        choose: chooses tiles to keep.
        segmentation: whether the targets are masks, rather than the classes of tiles.
        indices: whether masks hold the indices of classes, see `read_mask`.
    """

    side: int
    classes: tuple[str, ...]
    choose: Choose
    segmentation: bool = True
    indices: bool = False


class Tiles(NamedTuple):
    """The tiles of some frames in a folder: their names and classes, and the common camera of the frames."""

    folder: pathlib.Path
    names: list[str]
    labels: list[int]
    camera: isp.Camera


def cut(parent: pathlib.Path, pairs: Sequence[Pair], camera: KnownCamera, tiling: Tiling) -> Tiles:
    """Cuts frames into tiles, unless `parent` already has tiles of these files and this camera."""
    folder = parent / _version(pairs, camera, tiling.indices)
    on_first_process(lambda: _cut(pairs, folder, camera, tiling))
    with advising(f"delete {folder} to cut the tiles again"), reading(folder / "labels.dat"):
        found = read_labels(folder / "labels.dat", "\t")
        labels = [tiling.classes.index(label) for _, label in found]
        return Tiles(folder, [name for name, _ in found], labels, read_camera_file(folder / "camera.json"))


def joined(name: str, tiled: Sequence[Tiles], tiling: Tiling) -> RawDataset:
    """Returns the tiles of some folders, with the first one's camera. The tiles of a frame are a group."""
    places = [(each.folder, tile) for each in tiled for tile in each.names]
    frames = [(folder, frame_of(tile)) for folder, tile in places]
    return stored_set(
        [folder / "images" / f"{tile}.tiff" for folder, tile in places],
        [folder / "masks" / f"{tile}.png" for folder, tile in places] if tiling.segmentation else [],
        [folder / "frames" / f"{frame_of(tile)}.tiff" for folder, tile in places],
        (tiling.side, tiling.side),
        tiling.indices,
        lambda image: f"delete {image.parents[1]} to cut the tiles again",
        name=name,
        classes=tiling.classes,
        camera=tiled[0].camera,
        names=tuple(tile for _, tile in places),
        labels=np.array([label for each in tiled for label in each.labels], np.int32),
        groups=numbered(frames),
        group_names=tuple(name for _, name in dict.fromkeys(frames)),
    )


def _version(pairs: Sequence[Pair], camera: KnownCamera, indices: bool) -> str:
    """Returns a hash of the camera, of the names and content of the source files, and of how masks are read."""
    paths = [path for pair in pairs for path in pair]
    named = [
        os.fsencode(path.name) + b" " + content.encode() for path, content in zip(paths, hash_files(paths), strict=True)
    ]
    kind = b"with summaries and classes" if indices else b"with summaries"
    return hashlib.sha256(b"\n".join([kind, json.dumps(camera.described).encode(), *named])).hexdigest()[:16]


def _cut(pairs: Sequence[Pair], folder: pathlib.Path, camera: KnownCamera, tiling: Tiling) -> None:
    """Cuts all frames into adjacent tiles, starting at the upper left corner, and writes the tiles to keep.

    Incomplete tiles at the right and bottom of a frame are dropped. The folder appears complete or not at all; an
    existing one is left unchanged. Two processes may call this at the same time.
    """
    if folder.exists():
        return
    try:
        with atomic_folder(folder) as unfinished:
            for part in ("images", "masks", "frames"):
                (unfinished / part).mkdir()
            parts = list(mapped(lambda pair: _cut_frame(pair, unfinished, camera, tiling), pairs))
            lines = [line for lines, *_ in parts for line in lines]
            if not lines:
                raise InputError(f"{pairs[0][0].parent}: the masks of all tiles are empty")
            (unfinished / "labels.dat").write_text("".join(lines))
            common = common_camera([frame for frame, _ in pairs], [camera for _, camera, _ in parts])
            (unfinished / "camera.json").write_text(common.to_json())
        warn_once([line for *_, warnings in parts for line in warnings], len(pairs))
    except OSError as error:
        raise InputError(f"{error.filename or folder}: {error.strerror or error}") from None


def _cut_frame(
    pair: Pair, unfinished: pathlib.Path, camera: KnownCamera, tiling: Tiling
) -> tuple[list[str], isp.Camera, list[str]]:
    """Writes the chosen tiles of one frame; returns their lines of labels, the frame's camera and the warnings."""
    (frame, _), side = pair, tiling.side
    with collected_warnings() as warnings:
        raw, mask, file_camera = read_frame(pair, camera, tiling.indices)
    # Tiles start with a whole tile of the color filter array. Where that does not divide their side, as the 6x6 sites
    # of X-Trans may not, a few rows and columns between them are left out.
    row_step, col_step = (-(-side // period) * period for period in isp.cfa.tile(file_camera.pattern).shape)
    corners = [
        (row, col)
        for row in range(0, raw.shape[0] - side + 1, row_step)
        for col in range(0, raw.shape[1] - side + 1, col_step)
    ]
    if not corners:
        raise InputError(f"{frame} is {raw.shape[0]}x{raw.shape[1]}, smaller than `tile_size={side}`")
    settings = {"black_level": tuple(map(float, np.ravel(file_camera.black_level))), "pattern": file_camera.pattern}
    summary = np.asarray(isp.metering.summary(raw, **settings)).clip(0, 1)
    _write(unfinished / "frames" / f"{frame.stem}.tiff", summary)
    tiles, lines = [np.s_[row : row + side, col : col + side] for row, col in corners], []
    for index, label in tiling.choose([mask[tile].mean() for tile in tiles]):
        row, col = corners[index]
        stem, kept = f"{frame.stem}_{row // row_step:02d}_{col // col_step:02d}", mask[tiles[index]]
        _write(unfinished / "images" / f"{stem}.tiff", raw[tiles[index]])
        Image.fromarray(kept * np.uint8(1 if tiling.indices else 255)).save(unfinished / "masks" / f"{stem}.png")
        lines.append(f"{stem}\t{label}\n")
    return lines, file_camera, warnings


def _write(path: pathlib.Path, raw: np.ndarray) -> None:
    tifffile.imwrite(path, np.round(raw * 65535).astype(np.uint16), metadata=None)


def stored_set(
    images: Sequence[pathlib.Path],
    masks: Sequence[pathlib.Path],
    summaries: Sequence[pathlib.Path],
    shape: tuple[int, ...] | None,
    indices: bool,
    advice: Callable[[pathlib.Path], str],
    **fields: Any,
) -> RawDataset:
    """Makes a data set of raw images, or of images, that a program stored in 16 bits, see `read_stored`.

    Without `masks`, the targets are the labels; with `indices`, masks hold classes. `summaries` are those of the frames
    that the raw images are parts of, if any. `advice` says what to do about a damaged file, given its image.
    """

    def read(index: int) -> Sample:
        with advising(advice(images[index])):
            raw = read_stored(images[index], shape)
            sample = Part(raw, read_stored(summaries[index], None)) if summaries else raw
            if not masks:
                return sample, fields["labels"][index]
            mask = read_mask(masks[index], indices)
            if mask.shape != raw.shape:
                raise InputError(f"{masks[index]} must have shape {raw.shape}, got {mask.shape}")
            return sample, mask

    return RawDataset(
        task="segmentation" if masks else "classification",
        read=read,
        files=tuple(zip(*filter(None, (images, masks, summaries)), strict=True)),
        in_parts=bool(summaries),
        **fields,
    )


def frame_of(name: str) -> str:
    """Returns the name of the frame that a tile was cut from."""
    return name.rsplit("_", 2)[0]

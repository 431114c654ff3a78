"""Frames with masks, and the tiles that are cut of them once, into a folder of their own.

<folder>/images/<tile>.tiff   16-bit mosaics, value / 65535
<folder>/masks/<tile>.png     8-bit, 255 where the object is
<folder>/labels.dat           lines of a tile, a tab and its class
<folder>/camera.json          the frames' camera

A tile is named after its frame, and after its row and column among the frame's tiles.
"""

import concurrent.futures
import contextlib
import hashlib
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tifffile
from PIL import Image

import isp
from r2l_jax.data.files.cameras import common_camera
from r2l_jax.data.files.rawfile import decode, read_raw
from r2l_jax.data.raw_dataset import Sample
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.files import AT_ONCE, drafting

MASK_SUFFIXES = (".tif", ".tiff", ".png")

# A frame and its mask.
Pair = tuple[pathlib.Path, pathlib.Path]


def pair_masks(folder: pathlib.Path, masks_folder: pathlib.Path, suffixes: Sequence[str]) -> list[Pair]:
    """Finds every frame of a folder with its mask, whose name contains the frame's; in the order of the names.

    A name that contains those of several frames belongs to the longest, as that of frame 10's mask contains frame 1's.

    Args:
        folder: where the frames are.
        masks_folder: where the masks are.
        suffixes: of frames, in small letters.

    Raises:
        InputError: no frames, two of one name, or a frame without a mask or with several.
    """
    frames = _visible(folder, suffixes)
    if not frames:
        raise InputError(f"{folder} must hold frames ({', '.join(suffixes)}), found none")
    masks = {}
    for frame in frames:
        if frame.stem in masks:
            raise InputError(f"{folder} must have one frame {frame.stem}, whatever its suffix; found several")
        masks[frame.stem] = []
    for mask in _visible(masks_folder, MASK_SUFFIXES):
        # By all parts of the mask's name, the longest first, since there may be many frames.
        parts = (
            mask.stem[start : start + length]
            for length in range(len(mask.stem), 0, -1)
            for start in range(len(mask.stem) - length + 1)
        )
        if stem := next((part for part in parts if part in masks), None):
            masks[stem].append(mask)
    pairs = []
    for frame in frames:
        found = masks[frame.stem]
        if len(found) > 1:  # perhaps those of frames that are not here: then the name is not a word in theirs
            word = re.compile(rf"(?<![0-9A-Za-z]){re.escape(frame.stem)}(?![0-9A-Za-z])")
            found = [mask for mask in found if word.search(mask.stem)]
        if len(found) != 1:
            raise InputError(
                f"{frame} must have one mask ({', '.join(MASK_SUFFIXES)}) in {masks_folder} whose name contains "
                f"{frame.stem!r}, found {len(found)}"
            )
        pairs.append((frame, found[0]))
    return pairs


def _visible(folder: pathlib.Path, suffixes: Sequence[str]) -> list[pathlib.Path]:
    """The files of a folder with these suffixes, but for hidden ones, as macOS leaves beside the files it copies."""
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in suffixes and not path.name.startswith(".")
    )


def version(pairs: Sequence[Pair], camera: isp.Camera | None) -> str:
    """A hash of what tiles are cut of: the files, by name, size and time of change, and the camera.

    Their content need not be read, which for frames of gigabytes would take minutes: what results depend on are the
    tiles, whose own files count by their content, however they were cut.
    """
    lines = [("auto" if camera is None else camera.to_json()).encode()]
    for path in (path for pair in pairs for path in pair):
        status = path.stat()
        lines.append(os.fsencode(path.name) + f" {status.st_size} {status.st_mtime_ns}".encode())
    return hashlib.sha256(b"\n".join(lines)).hexdigest()[:16]


def read_mosaic(path: pathlib.Path, camera: isp.Camera | None) -> tuple[np.ndarray, isp.Camera]:
    """`read_raw`, of which every error is an InputError."""
    try:
        return read_raw(path, camera)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None


def read_mask(path: pathlib.Path) -> np.ndarray:
    """A mask `(H, W)` uint8: 1 where any channel of the file but alpha is greater than 0.

    Raises:
        InputError: the file cannot be read, or is no picture.
    """
    is_tiff = path.suffix.lower() in (".tif", ".tiff")
    try:
        values = decode(tifffile.imread if is_tiff else lambda path: np.asarray(Image.open(path)), path)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    if values.ndim == 3 and values.shape[-1] <= 4:
        colors = values.shape[-1] - (values.shape[-1] in (2, 4))
        values = values[..., :colors].max(-1)
    if values.ndim != 2:
        raise InputError(f"{path} must be a picture of at most four channels, got shape {values.shape}")
    return (values > 0).astype(np.uint8)


def read_frame(pair: Pair, camera: isp.Camera | None) -> tuple[np.ndarray, np.ndarray, isp.Camera]:
    """A frame's mosaic, its mask, and its camera: the one given, or None for the file's own.

    Raises:
        InputError: a file that cannot be read, or a mask of another size than its frame.
    """
    frame, mask_file = pair
    raw, camera = read_mosaic(frame, camera)
    mask = read_mask(mask_file)
    rows, cols = raw.shape
    if not (rows <= mask.shape[0] <= rows + 1 and cols <= mask.shape[1] <= cols + 1):
        raise InputError(f"{mask_file} must be of the size of {frame}, {raw.shape}, got {mask.shape}")
    return raw, mask[:rows, :cols], camera  # a mosaic is cut to an even size


def cut(
    pairs: Sequence[Pair],
    folder: pathlib.Path,
    side: int,
    camera: isp.Camera | None,
    choose: Callable[[list[float]], list[tuple[int, str]]],
) -> None:
    """Writes tiles of all frames, side by side from the upper left corner, unless they are there; whole or not at all.

    What is left of a frame at its right and its bottom, less than a tile, is dropped.

    Args:
        pairs: frames and masks.
        folder: where the tiles go. If another process makes it at the same time, that one's stay.
        side: height and width of a tile, even, so that all begin with the same colour of the Bayer pattern.
        camera: the frames' camera; None for the files' own, of which the common one is written.
        choose: of the fractions of a frame's tiles that are object, which tiles to keep, and their classes.

    Raises:
        InputError: a frame or a mask that does not fit, no tile to keep, or a folder that cannot be written.
    """
    if folder.exists():
        return
    try:
        with drafting(folder) as draft:
            for part in ("images", "masks"):
                (draft / part).mkdir()
            with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
                parts = list(pool.map(lambda pair: _cut_frame(pair, draft, side, camera, choose), pairs))
            lines = [line for lines, _ in parts for line in lines]
            if not lines:
                raise InputError(f"{pairs[0][0].parent}: no tile of any frame has an object in its mask")
            (draft / "labels.dat").write_text("".join(lines))
            common = common_camera([frame for frame, _ in pairs], [camera for _, camera in parts])
            (draft / "camera.json").write_text(common.to_json())
    except OSError as error:
        raise InputError(f"{error.filename or folder}: {error.strerror or error}") from None


def _cut_frame(
    pair: Pair,
    draft: pathlib.Path,
    side: int,
    camera: isp.Camera | None,
    choose: Callable[[list[float]], list[tuple[int, str]]],
) -> tuple[list[str], isp.Camera]:
    """Writes the tiles of one frame; returns their lines of labels, and the frame's camera."""
    frame, _ = pair
    raw, mask, camera = read_frame(pair, camera)
    corners = [
        (row, col) for row in range(0, raw.shape[0] - side + 1, side) for col in range(0, raw.shape[1] - side + 1, side)
    ]
    if not corners:
        raise InputError(f"{frame} is {raw.shape[0]}x{raw.shape[1]}, smaller than a tile of {side}")
    tiles = [np.s_[row : row + side, col : col + side] for row, col in corners]
    lines = []
    for index, label in choose([mask[tile].mean() for tile in tiles]):
        row, col = corners[index]
        stem = f"{frame.stem}_{row // side:02d}_{col // side:02d}"
        values = np.round(raw[tiles[index]] * 65535).astype(np.uint16)
        tifffile.imwrite(draft / "images" / f"{stem}.tiff", values, metadata=None)
        Image.fromarray(mask[tiles[index]] * 255).save(draft / "masks" / f"{stem}.png")
        lines.append(f"{stem}\t{label}\n")
    return lines, camera


def read_labels(folder: pathlib.Path) -> list[tuple[str, str]]:
    """The name and the class of every tile."""
    with _damaged(folder):
        lines = (folder / "labels.dat").read_text().splitlines()
        return [(name, label) for name, label in (line.rsplit("\t", 1) for line in lines)]


def read_camera(folder: pathlib.Path) -> isp.Camera:
    """The camera that the tiles' frames have in common."""
    with _damaged(folder):
        return isp.Camera.from_json((folder / "camera.json").read_text())


def tile_files(folder: pathlib.Path, name: str) -> Pair:
    """The files of a tile and of its mask."""
    return folder / "images" / f"{name}.tiff", folder / "masks" / f"{name}.png"


def read_tile(folder: pathlib.Path, name: str) -> Sample:
    """A tile and its mask."""
    image, mask = tile_files(folder, name)
    with _damaged(folder):
        return decode(tifffile.imread, image).astype(np.float32) / 65535, read_mask(mask)


@contextlib.contextmanager
def _damaged(folder: pathlib.Path) -> Iterator[None]:
    """Turns what reading tiles may raise into one line that says what to do."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{folder} has damaged tiles ({reason}); delete it, and they are cut again") from None

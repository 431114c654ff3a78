"""Microscope files with one frame of a color camera: CZI, ND2 and OME-TIFF.

A file with more than one plane is rejected. CZI is read with Zeiss's pylibCZIrw (LGPL), and ND2 with nd2 (BSD), from
the extra `microscopy`; OME-TIFF is read like any other TIFF.
"""

import contextlib
import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import tifffile

from r2l_jax.data.files.decoding import Stored
from r2l_jax.data.files.tiff import open_tiff
from r2l_jax.errors import InputError

# The axes of all three formats. S and P are the scenes of a CZI, the images of an OME-TIFF and the positions of an ND2.
_AXES = {"S": "scenes", "P": "scenes", "C": "channels", "Z": "planes in Z", "T": "points in time"}


@contextlib.contextmanager
def open_czi(path: Path) -> Iterator[Stored]:
    """Opens the only plane of a CZI: `(H, W)`, or `(H, W, 3)` for a color picture."""
    tiles: list[tuple[int, int]] = []
    with importlib.import_module("pylibCZIrw.czi").open_czi(str(path)) as file:
        box = file.total_bounding_box_no_pyramid
        sizes = {axis: stop - start for axis, (start, stop) in box.items()}
        _check_planes({"S": len(file.scenes_bounding_rectangle), **sizes})
        file.enumerate_subblocks_subset(
            lambda _, tile: tiles.append((tile.logicalRect.w, tile.logicalRect.h)) or True, only_layer0=True
        )
        # At the seams of a stitched picture, the colors of the mosaic would not alternate.
        if sum(width * height for width, height in tiles) != sizes["X"] * sizes["Y"]:
            raise InputError(f"expected one camera frame, got {len(tiles)} tiles that overlap or leave gaps")
        colors = 1 if all(kind.startswith("Gray") for kind in file.pixel_types.values()) else 3
        shape = (sizes["Y"], sizes["X"], colors)[: 2 + (colors > 1)]

        def decode() -> np.ndarray:
            return file.read(roi=file.total_bounding_rectangle_no_pyramid).reshape(shape)

        yield Stored(shape, 2 * sizes["X"] * sizes["Y"], decode)


@contextlib.contextmanager
def open_nd2(path: Path) -> Iterator[Stored]:
    """Opens the only plane of an ND2: `(H, W)`, or `(H, W, 3)` for a color picture."""
    with importlib.import_module("nd2").ND2File(path) as file:
        sizes = dict(file.sizes)
        colors = sizes.pop("S", 1)
        _check_planes(sizes)

        def decode() -> np.ndarray:
            # Copied, because the samples are in the memory-mapped file.
            samples = np.array(file.asarray())
            # The package fills missing frames with zeros.
            if not samples.any():
                raise ValueError("its frame is missing or entirely black")
            return samples

        yield Stored(file.shape, sizes["Y"] * sizes["X"] * colors * file.dtype.itemsize, decode)


@contextlib.contextmanager
def open_plane_of_tiff(path: Path) -> Iterator[Stored]:
    """Opens a TIFF; rejects an OME-TIFF with several planes.

    A file with one plane is read even if the whole recording has more of them, in other files.
    """
    with tifffile.TiffFile(path) as tiff:
        description = tiff.ome_metadata if len(tiff.pages) > 1 else None
    images = ElementTree.fromstring(description).findall(".//{*}Pixels") if description else []
    if images:  # Otherwise, another file has the description.
        sizes = {axis: max(int(image.get(f"Size{axis}", 1)) for image in images) for axis in "ZT"}
        # SizeC counts each color of a picture, but they are one channel.
        channels = max(len(image.findall("{*}Channel")) for image in images)
        _check_planes({"S": len(images), "C": channels, **sizes})
    with open_tiff(path) as stored:
        yield stored


def _check_planes(sizes: Mapping[str, int]) -> None:
    """Rejects several planes, given the size of each axis by its letter."""
    several = [
        f"{size} {_AXES.get(axis, f'in {axis}')}" for axis, size in sizes.items() if axis not in "XY" and size > 1
    ]
    if several:
        raise InputError(f"expected a single plane, one raw image, got {', '.join(several)}")

"""Parts of a frame to work on: the whole frame reduced, a window at full resolution, and half of their size."""

import dataclasses

import numpy as np
from jaxtyping import Float32

import isp

# The sides of a window at full resolution, and the longest side of a reduced frame, in sites.
WINDOW, OVERVIEW = 512, 768

Mosaic = Float32[np.ndarray, "_ _"]


@dataclasses.dataclass(frozen=True, eq=False)
class Frame:
    """A mosaic to process.

    Attributes:
        name: the name to show.
        raw: the mosaic, with white at 1.
        camera: the camera that took it.
        target: the class `()` or the mask `(H, W)` of a sample; None where it is unknown.
    """

    name: str
    raw: Mosaic
    camera: isp.Camera
    target: np.ndarray | None = None


def overview(frame: Frame, most: int = OVERVIEW) -> Mosaic:
    """Reduces a frame so that its longer side has at most so many sites; see `reduced`."""
    return reduced(frame.raw, frame.camera.pattern, -(-max(frame.raw.shape) // most))


def window(
    frame: Frame, height: int, width: int, center: tuple[float, float] = (0.5, 0.5)
) -> tuple[Mosaic, tuple[int, int]]:
    """Cuts a window out of a frame, beginning with a whole tile of the color filter array.

    Args:
        frame: the frame, at least as large as the window.
        height: of the window, in sites.
        width: of the window, in sites.
        center: the middle of the window as fractions of the frame's height and width; moved so that the window fits.

    Returns:
        The window, and the row and column of its first site. In the middle of the frame it is that of
        `data.sets.folder.center_crop`, which training and `predict.py` take.
    """
    corner = []
    for have, want, period, middle in zip(
        frame.raw.shape, (height, width), isp.cfa.tile(frame.camera.pattern).shape, center, strict=True
    ):
        first = int(middle * have - want / 2) // period * period
        corner.append(min(max(first, 0), (have - want) // period * period))
    top, left = corner
    return frame.raw[top : top + height, left : left + width], (top, left)


def reduced(raw: Mosaic, pattern: str, factor: int) -> Mosaic:
    """Shrinks a mosaic to one of the same color filter array, by averaging sites of the same place in the tile.

    Args:
        raw: the mosaic.
        pattern: its color filter array.
        factor: how many tiles become one along each axis. Tiles that are left over at the bottom and the right are cut.

    Returns:
        The smaller mosaic; the mosaic itself for a factor of 1.
    """
    if factor == 1:
        return raw
    rows, cols = isp.cfa.tile(pattern).shape
    height, width = (side // (period * factor) for side, period in zip(raw.shape, (rows, cols), strict=True))
    cut = raw[: height * factor * rows, : width * factor * cols]
    blocks = cut.reshape(height, factor, rows, width, factor, cols)
    return np.ascontiguousarray(blocks.mean((1, 4), dtype=np.float32).reshape(height * rows, width * cols))

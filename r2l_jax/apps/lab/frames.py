"""Parts of a frame, ready to be rendered: the whole frame reduced, a window at full resolution, and half their size."""

import dataclasses
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float32

import isp
from r2l_jax.apps.lab.engine import Engine, Judgement, Picture
from r2l_jax.pipelines import NamedPipeline
from r2l_jax.training.run import Run

# The sides of a window at full resolution, and the longest side of a reduced frame, in sites.
WINDOW, OVERVIEW = 512, 768

# So many pipelines and sizes are kept compiled.
MOST_COMPILED = 64

# Mosaics of more sites than these are rendered at half size while a slider moves.
_DRAFT_FROM = 256 * 256

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
    """Reduces a frame so that its longer side has at most this many sites; see `reduced`."""
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
        The window, and the row and column of its first site. In the middle of the frame it equals
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


class View(NamedTuple):
    """One pipeline and one part of a frame, ready to be rendered at any positions.

    Attributes:
        named: the pipeline.
        engine: computes.
        raw: the part of the frame, on the device.
        half: the same at half size, for drafts; None where drafts are as large as pictures.
        before: the picture at the default.
        judged: whether the model can see this part: it has the size of the model's mosaics, and is not reduced.
        place: the rows and columns of the frame that the part covers; None for the whole frame, reduced.
    """

    named: NamedPipeline
    engine: Engine
    raw: jax.Array
    half: jax.Array | None
    before: Picture
    judged: bool
    place: tuple[slice, slice] | None

    def draft(self, positions: np.ndarray) -> np.ndarray:
        """Computes the image while a slider moves, at half size if the part is large."""
        return self.engine.draft(positions, self.raw if self.half is None else self.half)

    def picture(self, positions: np.ndarray) -> Picture:
        """Computes the picture."""
        return self.engine.picture(positions, self.raw)

    def slope(self, positions: np.ndarray, target: np.ndarray) -> tuple[Judgement, np.ndarray]:
        """Computes the model's view and the slope of its loss."""
        return self.engine.slope(positions, self.raw, target)

    def judge(self, positions: np.ndarray, target: np.ndarray) -> Judgement:
        """Computes the model's view."""
        return self.engine.judge(positions, self.raw, target)


def prepare(frame: Frame, named: NamedPipeline, model: Run | None, whole: bool, center: tuple[float, float]) -> View:
    """Makes a pipeline for a frame's camera, and renders a part of the frame once, so that all is compiled.

    Args:
        frame: the frame.
        named: the pipeline.
        model: the model that judges; None for pictures alone.
        whole: whether to take the whole frame, reduced if it is large, or a window.
        center: the middle of the window, as fractions of the frame.

    Raises:
        InputError: the pipeline does not take the frame's camera or size, or has a parameter without a natural range.
    """
    pattern = frame.camera.pattern
    if whole:
        part, place = overview(frame), None
    else:
        height, width = window_size(frame, model)
        part, (top, left) = window(frame, height, width, center)
        place = (slice(top, top + height), slice(left, left + width))
    named.check(frame.camera, *part.shape)
    engine = Engine(named(frame.camera), model)
    half = None
    if part.size > _DRAFT_FROM:
        smaller = reduced(part, pattern, 2)
        half = jax.device_put(smaller) if engine.processes(*smaller.shape) else None
    _make_room(engine, part.shape)
    raw = jax.device_put(part)
    judged = model is not None and place is not None
    view = View(named, engine, raw, half, engine.picture(engine.start, raw), judged, place)
    view.draft(engine.start)
    return view


# The pipelines and sizes that are compiled at present.
_compiled: set[tuple] = set()


def _make_room(engine: Engine, shape: tuple[int, ...]) -> None:
    """Drops all compiled functions after many pipelines and sizes; those in use are compiled again when needed."""
    _compiled.add((engine.pipeline.stages, shape))
    if len(_compiled) > MOST_COMPILED:
        _compiled.clear()
        jax.clear_caches()


def window_size(frame: Frame, model: Run | None) -> tuple[int, int]:
    """Returns the height and width of a window: as the model's mosaics, or as fits the page."""
    if model is not None and model.shape is not None:
        return model.shape
    multiple = int(np.lcm.reduce(isp.cfa.tile(frame.camera.pattern).shape))
    height, width = (min(WINDOW, side) // multiple * multiple for side in frame.raw.shape)
    return height, width

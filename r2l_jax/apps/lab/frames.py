"""The parts of a frame that the page shows: the whole frame, reduced, or a window at full resolution."""

import dataclasses

import jax
import numpy as np
from jaxtyping import Float32

import isp
from r2l_jax.apps.lab.engine import Engine, Judgement, Picture, Positions
from r2l_jax.pipelines import NamedPipeline
from r2l_jax.training.run import Run

# The sides of a window at full resolution, and the longest side of a reduced frame, in sites.
WINDOW, OVERVIEW = 512, 768

# At most this many pairs of a pipeline and a size are kept compiled.
MOST_COMPILED = 64

# Mosaics of more sites than these are rendered at half size while a slider moves.
DRAFT_FROM = 256 * 256

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
        height: the height of the window, in sites.
        width: the width of the window, in sites.
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


@dataclasses.dataclass(eq=False)
class View:
    """One pipeline and one part of a frame, ready to be rendered at any positions, and the latest results.

    Attributes:
        frame: the frame.
        named: the pipeline.
        engine: computes.
        raw: the part of the frame, on the device.
        half: the same part at half size, for drafts; None where drafts are as large as pictures.
        place: the rows and columns of the frame that the part covers; None for the whole frame, reduced.
        judged: whether the model can see this part: it has the size of the model's mosaics, and is not reduced.
        before: the picture at the default.
        positions: the positions of the sliders.
        stage: the stage whose image is shown instead of the last; None for the last.
        draft: the latest image while a slider moves; None if `picture` is newer.
        picture: the latest picture.
        judgement: the model's latest view of it.
        slope: the derivative of the loss with respect to each position; None while it is not known for these positions.
        target: the class or mask that the loss is for; None while the model's view is not compiled.
        target_known: whether the target is the sample's own; otherwise, the model's answer at the default, or the
            visitor's choice.
        has_slope: whether the slope is compiled.
    """

    frame: Frame
    named: NamedPipeline
    engine: Engine
    raw: jax.Array
    half: jax.Array | None
    place: tuple[slice, slice] | None
    judged: bool
    before: Picture
    positions: Positions
    picture: Picture
    stage: str | None = None
    draft: np.ndarray | None = None
    judgement: Judgement | None = None
    slope: Positions | None = None
    target: np.ndarray | None = None
    target_known: bool = False
    has_slope: bool = False

    def make_draft(self, positions: Positions) -> np.ndarray:
        """Computes the image to show while a slider moves, at half size if the part is large."""
        return self.engine.draft(positions, self.raw if self.half is None else self.half)

    def make_target(self) -> np.ndarray:
        """Returns the sample's target in this part, or else the model's answer at the default; compiles its view."""
        answer = self.engine.target(self.raw)
        known = self.frame.target
        if known is None:
            return answer
        return known if known.ndim == 0 else known[self.place]


def prepare(frame: Frame, named: NamedPipeline, model: Run | None, whole: bool, center: tuple[float, float]) -> View:
    """Makes a pipeline for a frame's camera, and renders a part of the frame once, so that everything is compiled.

    Args:
        frame: the frame.
        named: the pipeline.
        model: the model that judges; None for pictures only.
        whole: whether to take the whole frame, reduced if it is large, or a window.
        center: the middle of the window, as fractions of the frame.

    Raises:
        InputError: the pipeline does not take the frame's camera or size, or has a parameter without a natural range.
    """
    if whole:
        part, place = overview(frame), None
    else:
        height, width = window_size(frame, model)
        part, (top, left) = window(frame, height, width, center)
        place = (slice(top, top + height), slice(left, left + width))
    named.check(frame.camera, *part.shape)
    engine = Engine(named(frame.camera), model)
    _make_room(engine, part.shape)
    raw, half = jax.device_put(part), _half(engine.pipeline, part, frame.camera.pattern)
    before = engine.picture(engine.start, raw)
    judged = model is not None and place is not None
    view = View(frame, named, engine, raw, half, place, judged, before, engine.start, before)
    view.make_draft(engine.start)
    return view


def _half(pipeline: isp.Pipeline, part: Mosaic, pattern: str) -> jax.Array | None:
    """Returns a large part at half size; None if it is small, or if the pipeline takes mosaics of only one size."""
    if part.size <= DRAFT_FROM:
        return None
    smaller = reduced(part, pattern, 2)
    try:
        jax.eval_shape(pipeline, jax.ShapeDtypeStruct(smaller.shape, np.float32))
    except Exception:  # A user's stages may raise anything.
        return None
    return jax.device_put(smaller)


# The pipelines and sizes that are compiled at present.
_compiled: set[tuple] = set()


def _make_room(engine: Engine, shape: tuple[int, ...]) -> None:
    """Drops all compiled functions after many pipelines and sizes; those in use are compiled again when needed."""
    _compiled.add((engine.pipeline.stages, shape))
    if len(_compiled) > MOST_COMPILED:
        _compiled.clear()
        jax.clear_caches()


def window_size(frame: Frame, model: Run | None) -> tuple[int, int]:
    """Returns the height and width of a window: the size of the model's mosaics, or a size that fits the page."""
    if model is not None:
        return model.shape
    multiple = int(np.lcm.reduce(isp.cfa.tile(frame.camera.pattern).shape))
    height, width = (min(WINDOW, side) // multiple * multiple for side in frame.raw.shape)
    return height, width

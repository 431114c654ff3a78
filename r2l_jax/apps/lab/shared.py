"""The work that many visitors share: one device, a few threads that read and compile, and what can be chosen."""

import asyncio
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

import isp
from r2l_jax.apps.lab import frames
from r2l_jax.apps.lab.engine import Engine, Judgement, Picture
from r2l_jax.apps.lab.frames import Frame
from r2l_jax.apps.lab.isolated import Isolated
from r2l_jax.apps.lab.sources import Source, file_source, read_file
from r2l_jax.apps.lab.tolerated import Tolerances
from r2l_jax.data.files.known_camera import KnownCamera
from r2l_jax.pipelines import NamedPipeline
from r2l_jax.training.loaded import TrainedModel

Result = TypeVar("Result")

# So many pipelines and sizes are kept compiled.
MOST_COMPILED = 64

# Mosaics of more sites than these are rendered at half size while a slider moves.
_DRAFT_FROM = 256 * 256


class Lab:
    """Everything that visitors can choose, and the threads that work for all of them.

    Args:
        sources: what can be opened besides uploads.
        cameras: what is known of a camera, by the name to choose; the first is the default.
        pipelines: the pipelines by the name to choose; the first is the default.
        model: the model that judges pictures; None shows pictures alone.
        tolerances: the tolerated intervals of the model's own pipeline.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        cameras: Mapping[str, KnownCamera],
        pipelines: Mapping[str, NamedPipeline],
        model: TrainedModel | None = None,
        tolerances: Tolerances | None = None,
    ):
        self.sources, self.cameras, self.pipelines = list(sources), dict(cameras), dict(pipelines)
        self.model, self.tolerances = model, tolerances
        # Files of visitors may be made to crash their decoders, or to fill the memory.
        self._isolated = Isolated()
        # One thread, so that pictures wait for each other in the order in which they are asked for. A visitor asks for
        # one at a time, so that there are at most as many waiting as there are visitors.
        self._device = ThreadPoolExecutor(1, "device")
        # Compiling takes seconds, in which the pictures of others must not wait.
        self._slow = ThreadPoolExecutor(2, "reader")

    async def on_device(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Calls a function whose compiled code is at hand, in the thread of the device."""
        return await _call(self._device, function, *arguments)

    async def slowly(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Calls a function that reads a file or compiles, while the device works for others."""
        return await _call(self._slow, function, *arguments)

    def upload(self, name: str, path: pathlib.Path) -> Source:
        """Returns the source of a file that a visitor has uploaded, which is read in a process of its own.

        Args:
            name: the name of the file in the visitor's folder.
            path: where it is now.
        """
        return file_source(name, path, self.model, functools.partial(self._isolated.call, read_file))

    def warm_up(self) -> None:
        """Starts the process that reads uploads."""
        self._isolated.start()

    def close(self) -> None:
        """Drops the work that has not begun, and ends the process that reads uploads."""
        self._isolated.close()
        for pool in (self._device, self._slow):
            pool.shutdown(wait=False, cancel_futures=True)


async def _call(pool: Executor, function: Callable[..., Result], *arguments: Any) -> Result:
    return await asyncio.get_running_loop().run_in_executor(pool, functools.partial(function, *arguments))


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


def prepare(
    frame: Frame, named: NamedPipeline, model: TrainedModel | None, whole: bool, center: tuple[float, float]
) -> View:
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
        part, place = frames.overview(frame), None
    else:
        height, width = window_size(frame, model)
        part, (top, left) = frames.window(frame, height, width, center)
        place = (slice(top, top + height), slice(left, left + width))
    named.check(frame.camera, *part.shape)
    engine = Engine(named(frame.camera), model)
    half = None
    if part.size > _DRAFT_FROM:
        smaller = frames.reduced(part, pattern, 2)
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


def window_size(frame: Frame, model: TrainedModel | None) -> tuple[int, int]:
    """Returns the height and width of a window: those of the model's mosaics, or those that fit the page."""
    if model is not None and model.shape is not None:
        return model.shape
    multiple = int(np.lcm.reduce([1 if model is None else model.multiple, *isp.cfa.tile(frame.camera.pattern).shape]))
    height, width = (min(frames.WINDOW, side) // multiple * multiple for side in frame.raw.shape)
    return height, width

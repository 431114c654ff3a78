"""The state of one visitor, and the loop that renders it: from quick to slow, and anew whenever something moves."""

import asyncio
import contextlib
import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Literal

import numpy as np

from r2l_jax.apps.lab import drawing, saving, sources
from r2l_jax.apps.lab.engine import Positions, Search
from r2l_jax.apps.lab.frames import Frame, View, prepare
from r2l_jax.apps.lab.lab import LEARNED, Lab
from r2l_jax.apps.lab.sources import Source
from r2l_jax.drift.search.descent import Direction
from r2l_jax.runtime.errors import InputError, in_words

# The frame or the pipeline, the image while a slider moves, the choice of the stage to show, the picture, the model's
# view of it, its slope, or the work in progress.
Change = Literal["view", "draft", "stage", "picture", "judgement", "slope", "busy"]

# A slider that rests for this long while it is held, in seconds, is rendered as if it were released.
REST = 0.25

# While a slider moves, the model judges each draft if it takes less than this, in seconds.
_QUICK = 0.05

# Each step of a search is shown for at least this long, in seconds, so that it can be followed.
PACE = 0.1

# A search ends after this many steps.
MOST_STEPS = 100

_MIDDLE = (0.5, 0.5)


@dataclasses.dataclass(frozen=True)
class Choice:
    """The visitor's choice of a view.

    Attributes:
        pipeline: the name of the pipeline, see `Lab.pipeline`.
        source: the open source; None at first.
        frame: its frame.
        whole: whether the whole frame is shown rather than a window.
        center: the middle of the window, as fractions of the frame.
    """

    pipeline: str
    source: Source | None = None
    frame: Frame | None = None
    whole: bool = False
    center: tuple[float, float] = _MIDDLE


class Session:
    """One visitor's frame, pipeline and sliders, and their results.

    Coroutine methods return when the change is visible. `run` must be running.

    Args:
        lab: the work and the choices that visitors share.
        changed: called in the event loop with the kind of change.
        failed: called with a message for the visitor.

    Attributes:
        lab: as above.
        cameras: the cameras to choose from, by name.
        camera_name: the chosen camera.
        choice: the choices that are rendered.
        view: the part of the frame that is rendered, with its results; None without a frame.
        busy: the work in progress, in words; empty for none.
        searching: the search in progress.
        seconds: the time from the move to the latest image.
        waiting: says which file is opened when its camera is chosen; empty for none.
    """

    def __init__(self, lab: Lab, changed: Callable[[Change], None], failed: Callable[[str], None]):
        self.lab, self._changed, self._failed = lab, changed, failed
        self.cameras, self.camera_name = dict(lab.cameras), next(iter(lab.cameras))
        self.choice = Choice(next(iter(lab.pipelines)))
        self.view: View | None = None
        self.busy, self.seconds, self.waiting = "", 0.0, ""
        self.searching: Search | None = None
        self._asked: Source | None = None
        self._work: asyncio.Task | None = None
        self._woken = asyncio.Event()
        self._moved_at, self._version, self._held, self._judging = 0.0, 0, False, 0.0

    async def open(self, source: Source) -> None:
        """Opens a source in the middle of its frame, and sets the sliders to their defaults.

        A source whose camera is unknown is kept until its camera is chosen.
        """
        self._asked = source
        camera = self.cameras[self.camera_name]
        if source.lacks_camera(camera):
            lacks = f", and the chosen camera lacks {', '.join(camera.missing)}" if camera.figures else ""
            self.waiting = f"{source.name} is kept: it holds no calibration values{lacks}"
            self._changed("busy")
            return
        self.waiting = ""
        await self._do(f"reading {source.name}", self._open(source))

    @property
    def opening(self) -> str:
        """The name of the source that was asked for last; empty without one."""
        return "" if self._asked is None else self._asked.name

    async def choose_camera(self, name: str) -> None:
        """Switches to another camera, and opens the latest source anew."""
        self.camera_name = name
        if self._asked is not None:
            await self.open(self._asked)

    async def add_camera(self, name: str, path: pathlib.Path) -> None:
        """Reads a camera's JSON file, and chooses it."""
        try:
            self.cameras[name] = await self.lab.slowly(sources.uploaded_camera, name, path)
        except InputError as error:
            self._failed(in_words(error))
            return
        await self.choose_camera(name)

    async def choose_pipeline(self, name: str) -> None:
        """Renders with another pipeline, its sliders at their defaults."""
        await self._do("compiling", self._look(pipeline=name))

    async def show_whole(self, whole: bool, center: tuple[float, float] | None = None) -> None:
        """Shows the whole frame, or the window around a point; the sliders stay."""
        await self._do("compiling", self._look(whole=whole, center=center or self.choice.center))

    def move(self, name: str, position: float, held: bool = False) -> None:
        """Moves a slider; the picture follows.

        Args:
            name: the knob.
            position: its position, which is clipped to the knob's limits.
            held: whether the slider is still being moved.
        """
        if self.view is None or name not in self.view.engine.knobs or not math.isfinite(position):
            return
        positions = self.view.positions.copy()
        positions[list(self.view.engine.knobs).index(name)] = position
        self.stop()
        self._move_to(self.view, np.clip(positions, *self.view.engine.limits), held)

    def show_stage(self, name: str) -> None:
        """Shows the image after a stage; after the last one, it is the picture."""
        if self.view is not None and name in self.view.before.stages:
            self.view.stage = None if name == self.view.engine.pipeline.stage_names[-1] else name
            self._changed("stage")

    def reset(self) -> None:
        """Sets all sliders to their defaults."""
        if self.view is not None:
            self.stop()
            self._move_to(self.view, self.view.engine.start)

    def search(self, direction: Direction) -> None:
        """Begins to move all sliders so that the loss rises ("worst") or falls ("best"), step by step."""
        if self.view is not None and self.view.judged:
            self.searching = Search(self.view.engine, direction)
            self._wake()

    def stop(self) -> None:
        """Ends a search."""
        if self.searching is not None:
            self.searching = None
            self._changed("busy")

    def choose_target(self, number: int) -> None:
        """Sets the class for which the loss is computed."""
        model, view = self.lab.model, self.view
        if model is not None and view is not None and view.target is not None and 0 <= number < len(model.classes):
            view.target, view.target_known = np.asarray(number, np.int32), False
            self._wake()

    def picture_file(self) -> bytes:
        """Returns the present picture as PNG."""
        view = self._opened()
        return drawing.png(view.engine.picture(view.positions, view.raw).image, compressed=True)

    def camera_json(self) -> str:
        """Returns the frame's camera with the present values, see `saving.camera`."""
        view = self._opened()
        return saving.camera(view.frame.camera, view.engine.pipeline, view.engine.values(view.positions))

    def pipeline_file(self) -> str:
        """Returns the pipeline with the present values, see `saving.pipeline_file`."""
        view, model = self._opened(), self.lab.model
        named = view.named
        if self.choice.pipeline == LEARNED and model is not None:
            # The learned pipeline is one of these with other values.
            named = (model.config.processing.named_pipeline or named).metered(model.config.processing.auto or ())
        return saving.pipeline_file(named, view.frame.camera, view.engine.values(view.positions))

    def _opened(self) -> View:
        if self.view is None:
            raise InputError("nothing is open")
        return self.view

    async def run(self) -> None:
        """Renders whatever has moved last, until it is cancelled."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            if self.view is not None:
                try:
                    await self._render(self.view)
                except Exception as error:  # The visitor can choose other settings.
                    self.stop()
                    self._failed(f"cannot be rendered: {in_words(error)}")

    async def _do(self, words: str, work: Coroutine[Any, Any, None]) -> None:
        """Does work in place of any that is in progress, and reports its error."""
        self.stop()
        if self._work is not None:
            self._work.cancel()
        self._work = task = asyncio.create_task(work)
        self._announce(words)
        await asyncio.wait([task])
        error = None if task.cancelled() else task.exception()
        if self._work is not task:
            return
        self._work = None
        self._announce("")
        # Odd values in a file, or a user's stage, may raise anything, and a result may be too large for the memory.
        if error is not None:
            self._failed(in_words(error) if str(error) else f"{words}: {type(error).__name__}")
            self._changed("view")

    def _announce(self, words: str) -> None:
        self.busy = words
        self._changed("busy")

    async def _open(self, source: Source) -> None:
        frame, warnings = await self.lab.slowly(source.read, self.cameras[self.camera_name])
        self._announce("compiling")
        await self._look(warnings, source=source, frame=frame, whole=False, center=_MIDDLE)

    async def _look(self, warnings: Sequence[str] = (), **changes: Any) -> None:
        """Renders with other fields of the choice, which hold only if they can be rendered; then shows warnings."""
        choice = dataclasses.replace(self.choice, **changes)
        named, frame, former = self.lab.pipeline(choice.pipeline), choice.frame, self.view
        if frame is None:
            self.choice = choice
            self._changed("view")
            return
        view = await self.lab.slowly(prepare, frame, named, self.lab.model, choice.whole, choice.center)
        # A search that was begun in the meantime moves the sliders of the former view.
        self.stop()
        if former is not None and former.stage in view.before.stages:
            view.stage = former.stage
        if former is not None and not {"frame", "pipeline"} & changes.keys():
            view.positions = former.positions
        self.choice, self.view = choice, view
        self._changed("view")
        for warning in warnings:
            self._failed(warning)
        self._wake()
        if view.judged:
            await self._prepare_model(view)

    async def _prepare_model(self, view: View) -> None:
        """Compiles the model's view and its slope, while sliders can already be moved."""
        self._announce("compiling the model")
        try:
            view.target = await self.lab.slowly(view.make_target)
            view.target_known = view.frame.target is not None
            self._wake()
            await self.lab.slowly(view.engine.slope, view.engine.start, view.raw, view.target)
        except Exception as error:  # The model may not take the image of a user's stage.
            raise InputError(f"the model cannot judge: {in_words(error)}") from None
        view.has_slope = True
        self._wake()

    async def _render(self, view: View) -> None:
        version, positions = self._version, view.positions
        # Drafts show the last stage alone.
        if self._held and view.stage is None:
            view.draft = await self.lab.on_device(view.make_draft, positions)
            self._shown(view, "draft")
            if self._judging < _QUICK:
                await self._judge(view, positions, version)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._woken.wait(), REST)
                return
        view.picture = await self.lab.on_device(view.engine.picture, positions, view.raw)
        view.draft = None
        self._shown(view, "picture")
        if not view.has_slope or self.searching is None:
            await self._judge(view, positions, version)
        # A new view is a new version as well.
        if view.has_slope and self._version == version:
            judgement, slope = await self.lab.on_device(view.engine.slope, positions, view.raw, view.target)
            if self._version == version:
                view.judgement, view.slope = judgement, slope
                self._changed("slope")
                await self._step(view, slope)

    async def _judge(self, view: View, positions: Positions, version: int) -> None:
        if view.target is None or self._version != version:
            return
        start = time.monotonic()
        view.judgement = await self.lab.on_device(view.engine.judge, positions, view.raw, view.target)
        self._judging = time.monotonic() - start
        if self.view is view:
            self._changed("judgement")

    async def _step(self, view: View, slope: Positions) -> None:
        """Takes a step of the search in progress."""
        search, version = self.searching, self._version
        if search is None:
            return
        if search.steps >= MOST_STEPS or not np.isfinite(slope).all():
            self.stop()
            return
        await asyncio.sleep(max(PACE - (time.monotonic() - self._moved_at), 0))
        # Meanwhile the visitor may have moved something, or ended the search.
        if self._version == version and self.searching is search:
            self._move_to(view, search.step(view.positions, slope))

    def _move_to(self, view: View, positions: Positions, held: bool = False) -> None:
        view.positions, view.slope = positions, None
        self._wake(held)

    def _wake(self, held: bool = False) -> None:
        self._moved_at, self._held = time.monotonic(), held
        self._version += 1
        self._woken.set()

    def _shown(self, view: View, change: Change) -> None:
        if self.view is view:
            self.seconds = time.monotonic() - self._moved_at
            self._changed(change)

"""The state of one visitor, and the loop that renders it: from quick to slow, and anew whenever something moves."""

import asyncio
import contextlib
import math
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from r2l_jax.apps.lab import drawing, pipelines, saving, sources
from r2l_jax.apps.lab.engine import Judgement, Picture, Positions, Search
from r2l_jax.apps.lab.frames import Frame, View, prepare
from r2l_jax.apps.lab.lab import Lab
from r2l_jax.apps.lab.sources import Source
from r2l_jax.drift.search.descent import Direction
from r2l_jax.runtime.errors import InputError, in_words

# The frame or the pipeline, the image while a slider moves, the choice of the stage to show, the picture, the model's
# view of it, its slope, or the work in progress.
Change = Literal["view", "draft", "stage", "picture", "judgement", "slope", "busy"]

# A slider that rests for so long while it is held, in seconds, is rendered as if it were released.
_REST = 0.25

# While a slider moves, the model judges each draft if it takes less than this, in seconds.
_QUICK = 0.05

# A step of a search is shown at least so long, in seconds, so that it can be followed.
_PACE = 0.1

# A search ends after this many steps.
STEPS = 100


class Session:
    """One visitor's frame, pipeline and sliders, and their results.

    Methods that are coroutines return when the change shows. `run` must run meanwhile.

    Args:
        lab: the work and the choices that visitors share.
        changed: called in the event loop with the kind of change.
        failed: called with a message for the visitor.

    Attributes:
        lab: as above.
        source: the open source; None at first.
        frame: its frame.
        camera_name: the chosen camera.
        pipeline_name: the chosen pipeline.
        algorithms: the algorithms of `pipelines.CLASSICAL`.
        whole: whether the whole frame is shown rather than a window.
        center: the middle of the window, as fractions of the frame.
        view: the part of the frame that is rendered; None without a frame.
        stage: the stage whose image is shown instead of the last; None for the last.
        positions: the positions of the sliders.
        draft: the latest image while a slider moves; None if `picture` is later.
        picture: the latest picture.
        judgement: the model's latest view of it.
        slope: the derivative of the loss with respect to each position; None while it is not known for these positions.
        target: the class or mask that the loss is for.
        target_known: whether it is the sample's own; otherwise it is the model's answer at the default, or a choice.
        busy: the work in progress, in words; empty for none.
        searching: the direction of the search that is going on.
        steps: the steps that it has taken.
        seconds: how long the latest image took from the move.
    """

    def __init__(self, lab: Lab, changed: Callable[[Change], None], failed: Callable[[str], None]):
        self.lab, self._changed, self._failed = lab, changed, failed
        self.source: Source | None = None
        self.frame: Frame | None = None
        self.camera_name, self.pipeline_name = next(iter(lab.cameras)), next(iter(lab.pipelines))
        self.cameras = dict(lab.cameras)
        self.algorithms = tuple(pipelines.FIRST.values())
        self.whole, self.center = False, (0.5, 0.5)
        self.view: View | None = None
        self.stage: str | None = None
        self.positions: Positions = np.zeros(0, np.float32)
        self.draft: np.ndarray | None = None
        self.picture: Picture | None = None
        self.judgement: Judgement | None = None
        self.slope: Positions | None = None
        self.target: np.ndarray | None = None
        self.target_known = False
        self.busy = ""
        self.searching: Direction | None = None
        self.steps, self.seconds = 0, 0.0
        self._search: Search | None = None
        self._asked: Source | None = None
        self._woken = asyncio.Event()
        self._moved_at, self._version, self._ticket = 0.0, 0, 0
        self._held = self._judges = self._has_slope = False
        self._judging = 0.0

    async def open(self, source: Source) -> None:
        """Opens a source in the middle of its frame, and puts the sliders to their default."""
        self._asked = source
        ticket = self._begin(f"reading {source.name}")
        try:
            frame, warnings = await self.lab.slowly(source.read, self.cameras[self.camera_name])
        except Exception as error:  # Most are InputErrors; a result may also be too large for the memory.
            self._end(ticket, in_words(error) or f"{source.name}: {type(error).__name__}")
            return
        if ticket == self._ticket:
            for warning in warnings:
                self._failed(warning)
            await self._look(source=source, frame=frame, place=(False, (0.5, 0.5)))

    async def choose_camera(self, name: str) -> None:
        """Takes another camera, and opens the latest source anew."""
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

    async def choose_pipeline(self, name: str, algorithms: Sequence[str] | None = None) -> None:
        """Renders with another pipeline, its sliders at their default."""
        await self._look(pipeline=(name, tuple(algorithms or self.algorithms)))

    async def show_whole(self, whole: bool, center: tuple[float, float] | None = None) -> None:
        """Shows the whole frame, or the window around a point; the sliders stay."""
        await self._look(place=(whole, center or self.center))

    def move(self, name: str, position: float, held: bool = False) -> None:
        """Moves a slider; the picture follows.

        Args:
            name: the knob.
            position: its position, which is clipped to the knob's limits.
            held: whether the slider is still being moved.
        """
        if self.view is None or name not in self.view.engine.knobs or not math.isfinite(position):
            return
        low, high = self.view.engine.limits()
        positions = self.positions.copy()
        positions[list(self.view.engine.knobs).index(name)] = position
        self.stop()
        self._move_to(np.clip(positions, low, high), held)

    def show_stage(self, name: str) -> None:
        """Shows the image after a stage; that after the last one is the picture."""
        if self.view is not None and name in self.view.before.stages:
            self.stage = None if name == self.view.engine.pipeline.stage_names[-1] else name
            self._changed("stage")

    def reset(self) -> None:
        """Puts all sliders to their default."""
        if self.view is not None:
            self.stop()
            self._move_to(self.view.engine.start, held=False)

    def search(self, direction: Direction) -> None:
        """Begins to move all sliders so that the loss rises ("worst") or falls ("best"), step by step."""
        if self.view is not None and self.view.judged:
            self._search, self.searching, self.steps = Search(self.view.engine, direction), direction, 0
            self._wake()

    def stop(self) -> None:
        """Ends a search."""
        if self.searching is not None:
            self._search = self.searching = None
            self._changed("busy")

    def choose_target(self, number: int) -> None:
        """Sets the class for which the loss is computed."""
        if self.lab.model is not None and 0 <= number < len(self.lab.model.classes):
            self.target, self.target_known = np.asarray(number, np.int32), False
            self._wake()

    def picture_file(self) -> bytes:
        """Returns the present picture as PNG."""
        _, view = self._opened()
        return drawing.png(view.picture(self.positions).image, compressed=True)

    def camera_json(self) -> str:
        """Returns the frame's camera with the present values, see `saving.camera`."""
        frame, view = self._opened()
        return saving.camera(frame.camera, view.engine.pipeline, view.engine.values(self.positions))

    def pipeline_file(self, file: str) -> str:
        """Returns the pipeline with the present values, see `saving.pipeline_file`."""
        frame, view = self._opened()
        named, model = view.named, self.lab.model
        if self.pipeline_name == pipelines.LEARNED and model is not None and model.config.processing.named_pipeline:
            # The learned pipeline is one of these with other values.
            named = model.config.processing.named_pipeline
        return saving.pipeline_file(named, frame.camera, view.engine.values(self.positions), file)

    def _opened(self) -> tuple[Frame, View]:
        if self.frame is None or self.view is None:
            raise InputError("nothing is open")
        return self.frame, self.view

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
                    self._failed(f"cannot be rendered: {in_words(error) or type(error).__name__}")

    async def _look(
        self,
        *,
        source: Source | None = None,
        frame: Frame | None = None,
        place: tuple[bool, tuple[float, float]] | None = None,
        pipeline: tuple[str, tuple[str, ...]] | None = None,
    ) -> None:
        """Renders with some changes, which hold only if they can be rendered; a later call takes the place of this."""
        pipeline_name, algorithms = pipeline or (self.pipeline_name, self.algorithms)
        whole, center = place or (self.whole, self.center)
        shown = frame or self.frame
        ticket = self._begin("compiling")
        try:
            is_classical = pipeline_name == pipelines.CLASSICAL
            named = pipelines.classical(algorithms) if is_classical else self.lab.pipelines[pipeline_name]
            view = shown and await self.lab.slowly(prepare, shown, named, self.lab.model, whole, center)
        except Exception as error:  # Odd values in a file, or a user's stage, may raise anything.
            self._end(ticket, in_words(error) or type(error).__name__)
            self._changed("view")
            return
        if ticket != self._ticket:
            return
        self.pipeline_name, self.algorithms, self.whole, self.center = pipeline_name, algorithms, whole, center
        if view is None or shown is None:
            self._end(ticket)
            return
        # One that was begun in the meantime moves the sliders of the view before.
        self.stop()
        keeps = frame is None and pipeline is None
        self.source, self.frame, self.view = source or self.source, shown, view
        self.draft, self.picture, self.judgement, self.slope = None, view.before, None, None
        self.target, self.target_known, self._judges, self._has_slope = None, False, False, False
        if not keeps:
            self.positions = view.engine.start
        if self.stage not in view.before.stages:
            self.stage = None
        self._end(ticket)
        self._changed("view")
        self._wake()
        if view.judged:
            await self._prepare_model(view, shown, ticket)

    async def _prepare_model(self, view: View, frame: Frame, ticket: int) -> None:
        """Compiles the model's view and its slope, while sliders move already."""
        self._announce("compiling the model")
        try:
            target = await self.lab.slowly(view.engine.target, view.raw)
            if frame.target is not None:
                target = frame.target if frame.target.ndim == 0 else frame.target[view.place]
            if ticket == self._ticket:
                self.target, self.target_known, self._judges = target, frame.target is not None, True
                self._wake()
            await self.lab.slowly(view.slope, view.engine.start, target)
        except Exception as error:  # The model may not take the image of a user's stage.
            self._end(ticket, f"the model cannot judge: {in_words(error) or type(error).__name__}")
            return
        if ticket == self._ticket:
            self._has_slope = True
            self._end(ticket)
            self._wake()

    async def _render(self, view: View) -> None:
        version, positions, held = self._version, self.positions, self._held
        # Drafts are of the last stage alone.
        if held and self.stage is None:
            self.draft = await self.lab.on_device(view.draft, positions)
            if self.view is not view:
                return
            self._shown("draft")
            if self._judging < _QUICK:
                await self._judge(view, positions, version)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._woken.wait(), _REST)
                return
        picture = await self.lab.on_device(view.picture, positions)
        if self.view is not view:
            return
        self.picture, self.draft = picture, None
        self._shown("picture")
        if not self._has_slope or self.target is None:
            await self._judge(view, positions, version)
            return
        if self._version != version:
            return
        if self._search is None:
            await self._judge(view, positions, version)
        judgement, slope = await self.lab.on_device(view.slope, positions, self.target)
        if self.view is view and self._version == version:
            self.judgement, self.slope = judgement, slope
            self._changed("slope")
            await self._step(slope)

    async def _judge(self, view: View, positions: Positions, version: int) -> None:
        if not self._judges or self.target is None or self._version != version:
            return
        start = time.monotonic()
        judgement = await self.lab.on_device(view.judge, positions, self.target)
        self._judging = time.monotonic() - start
        if self.view is view:
            self.judgement = judgement
            self._changed("judgement")

    async def _step(self, slope: Positions) -> None:
        """Takes a step of the search, if one is going on."""
        if self._search is None:
            return
        if self.steps >= STEPS or not np.isfinite(slope).all():
            self.stop()
            return
        version, search = self._version, self._search
        await asyncio.sleep(max(_PACE - (time.monotonic() - self._moved_at), 0))
        # Meanwhile the visitor may have moved something, or ended the search.
        if self._version == version and self._search is search:
            self.steps += 1
            self._move_to(search.step(self.positions, slope), held=False)

    def _move_to(self, positions: Positions, held: bool) -> None:
        self.positions, self.slope = positions, None
        self._wake(held)

    def _wake(self, held: bool = False) -> None:
        self._moved_at, self._held = time.monotonic(), held
        self._version += 1
        self._woken.set()

    def _shown(self, change: Change) -> None:
        self.seconds = time.monotonic() - self._moved_at
        self._changed(change)

    def _begin(self, words: str) -> int:
        """Announces work, and returns the ticket by which its result counts unless other work has begun since."""
        self.stop()
        self._ticket += 1
        self._announce(words)
        return self._ticket

    def _announce(self, words: str) -> None:
        self.busy = words
        self._changed("busy")

    def _end(self, ticket: int, error: str = "") -> None:
        if ticket == self._ticket:
            self.busy = ""
            self._changed("busy")
            if error:
                self._failed(error)

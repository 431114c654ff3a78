"""The state of the page, and the loop that renders it whenever something moves: first the picture, then the model."""

import asyncio
import math
import pathlib
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Literal

import numpy as np

from r2l_jax.apps.lab.engine import Judgement, Positions, Search
from r2l_jax.apps.lab.frames import Frame, View, prepare
from r2l_jax.apps.lab.lab import LEARNED, Lab
from r2l_jax.apps.lab.saving import pipeline_file
from r2l_jax.apps.lab.sources import Source, file_source
from r2l_jax.data.files.known_camera import read_known_camera
from r2l_jax.drift.search.ranges import Direction
from r2l_jax.errors import InputError, in_words

# A change of the frame or the pipeline, the picture, the model's prediction, or the work in progress; or a message.
Change = Literal["view", "picture", "judgement", "busy", "notice"]

# Each step of a search is shown for at least this long, in seconds, so that it can be followed.
PACE = 0.05

# A search ends after this many steps.
MOST_STEPS = 100


class Session:
    """The frame, the pipeline and the sliders, and their results.

    Coroutine methods return when the change is visible. `run` must be running.

    Args:
        lab: everything that can be chosen.

    Attributes:
        lab: as above.
        followers: functions that are called in the event loop with the kind of each change and a message.
        cameras: the cameras to choose from, by name.
        camera_name: the chosen camera.
        pipeline_name: the pipeline that is rendered; before anything is open, the chosen one.
        source: the open source; None at first.
        view: the source's frame and its pipeline, with their results; None at first.
        busy: the work in progress, in words; empty when idle.
        searching: the search in progress.
    """

    def __init__(self, lab: Lab):
        self.lab = lab
        self.followers: list[Callable[[Change, str], None]] = []
        self.cameras, self.camera_name = dict(lab.cameras), next(iter(lab.cameras))
        self.pipeline_name = next(iter(lab.pipelines))
        self.source: Source | None = None
        self.view: View | None = None
        self.busy = ""
        self.searching: Search | None = None
        self._asked: Source | None = None
        self._work: asyncio.Task | None = None
        self._woken = asyncio.Event()
        self._version = 0

    async def open(self, source: Source) -> None:
        """Opens a source, and sets the sliders to their defaults."""
        self._asked = source
        await self._do(f"reading {source.name}", self._open(source))

    async def choose_camera(self, name: str) -> None:
        """Switches to another camera, and opens the latest source again, which may have failed for lack of one."""
        self.camera_name = name
        if self._asked is None:
            self._tell("view")
        else:
            await self.open(self._asked)

    async def open_file(self, path: pathlib.Path) -> None:
        """Opens a raw file, or adds the camera of a JSON file to the choices and chooses it."""
        if path.suffix.lower() != ".json":
            await self.open(file_source(path, self.lab.model))
            return
        try:
            self.cameras[path.name] = read_known_camera(path)
        except (InputError, OSError) as error:
            self._tell("notice", in_words(error))
            return
        await self.choose_camera(path.name)

    async def choose_pipeline(self, name: str) -> None:
        """Renders with another pipeline, its sliders at their defaults."""
        if self.source is None or self.view is None:
            self.pipeline_name = name
        else:
            await self._do("compiling", self._look(self.source, self.view.frame, name))

    def move(self, name: str, position: float) -> None:
        """Moves a slider to a position, which is clipped to the knob's limits; the picture follows."""
        if self.view is None or name not in self.view.engine.knobs or not math.isfinite(position):
            return
        positions = self.view.positions.copy()
        positions[list(self.view.engine.knobs).index(name)] = position
        self.stop()
        self._move_to(self.view, np.clip(positions, *self.view.engine.limits))

    def show_stage(self, name: str) -> None:
        """Shows the image after a stage; the image after the last stage is the picture."""
        if self.view is not None and name in self.view.before:
            self.view.stage = name
            self._tell("picture")

    def reset(self) -> None:
        """Sets all sliders to their defaults."""
        if self.view is not None:
            self.stop()
            self._move_to(self.view, self.view.engine.start)

    def search(self, direction: Direction) -> None:
        """Begins to move all sliders so that the loss rises ("worst") or falls ("best"), step by step."""
        if self.view is not None and self.lab.model is not None:
            self.searching = self.view.engine.search(direction)
            self._wake()

    def stop(self) -> None:
        """Ends a search."""
        if self.searching is not None:
            self.searching = None
            self._tell("busy")

    def choose_target(self, number: int) -> None:
        """Sets the class for which the loss is computed."""
        if self.view is not None and self.view.target is not None:
            self.view.target, self.view.target_known = np.asarray(number, np.int32), False
            self._wake()

    def pipeline_file(self) -> str:
        """Returns the pipeline with the present values, see `saving.pipeline_file`."""
        view, model = self.view, self.lab.model
        if view is None:
            raise InputError("no file is open")
        named = view.named
        if self.pipeline_name == LEARNED and model is not None:
            # The learned pipeline is a named one with other values.
            named = (model.config.processing.named_pipeline or named).metered(model.config.processing.auto or ())
        return pipeline_file(named, view.frame.camera, view.engine.values(view.positions))

    async def run(self) -> None:
        """Renders whatever has moved last, until it is cancelled."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            if self.view is not None:
                try:
                    await self._render(self.view)
                except Exception as error:  # Other settings can be chosen.
                    self.stop()
                    self._tell("notice", f"rendering failed: {in_words(error)}")

    async def _do(self, words: str, work: Coroutine[Any, Any, None]) -> None:
        """Replaces any work in progress with other work, and reports its error."""
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
        # Odd values in a file, or a user's stage, may raise anything, and a result may not fit in memory.
        if error is not None:
            self._tell("notice", in_words(error))
            self._tell("view")

    def _tell(self, change: Change, message: str = "") -> None:
        for follow in list(self.followers):
            follow(change, message)

    def _announce(self, words: str) -> None:
        self.busy = words
        self._tell("busy")

    async def _open(self, source: Source) -> None:
        frame, warnings = await asyncio.to_thread(source.read, self.cameras[self.camera_name])
        self._announce("compiling")
        await self._look(source, frame, self.pipeline_name, warnings)

    async def _look(self, source: Source, frame: Frame, pipeline: str, warnings: Sequence[str] = ()) -> None:
        """Renders a frame with a pipeline, which become the open ones if they can be rendered; then shows warnings."""
        former, view = self.view, await asyncio.to_thread(prepare, frame, self.lab.pipelines[pipeline], self.lab.model)
        # A search that began in the meantime would move the sliders of the former view.
        self.stop()
        if former is not None and former.stage in view.before:
            view.stage = former.stage
        self.source, self.pipeline_name, self.view = source, pipeline, view
        self._tell("view")
        for warning in warnings:
            self._tell("notice", warning)
        self._wake()
        if self.lab.model is not None:
            # Shielded: if a later choice cancels this but cannot be rendered, the view stays, and needs its model.
            self._announce("compiling the model")
            await asyncio.shield(asyncio.create_task(self._compile_model(view)))

    async def _compile_model(self, view: View) -> None:
        await asyncio.to_thread(view.compile_model)
        self._wake()

    async def _render(self, view: View) -> None:
        version, positions = self._version, view.positions
        view.images = await asyncio.to_thread(view.engine.images, positions, view.raw)
        if self.view is view:
            self._tell("picture")
        # A new view is a new version as well.
        if view.target is None or self._version != version:
            return
        search = self.searching
        judgement = await asyncio.to_thread(view.engine.judge, positions, view.raw, view.target, search)
        if self._version == version:
            view.judgement = judgement
            self._tell("judgement")
            if search is not None and search is self.searching:
                await self._step(view, judgement)

    async def _step(self, view: View, judgement: Judgement) -> None:
        """Takes the next step of the search in progress."""
        search, version = self.searching, self._version
        if judgement.search.steps > MOST_STEPS or not np.isfinite(judgement.slope).all():
            self.stop()
            return
        await asyncio.sleep(PACE)
        # Meanwhile something may have moved, or the search may have ended.
        if self._version == version and self.searching is search:
            self.searching = judgement.search
            self._move_to(view, judgement.next)

    def _move_to(self, view: View, positions: Positions) -> None:
        view.positions = positions
        self._wake()

    def _wake(self) -> None:
        self._version += 1
        self._woken.set()

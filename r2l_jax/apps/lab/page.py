"""The layout of the page, and how it follows a session."""

import asyncio
import collections
import functools
import pathlib
import tempfile
from collections.abc import Awaitable, Callable
from typing import Any

from nicegui import background_tasks, ui
from nicegui.element import Element
from nicegui.elements.upload_files import FileUpload
from nicegui.events import GenericEventArguments, ValueChangeEventArguments

from r2l_jax.apps.lab import drawing, presentation, sources
from r2l_jax.apps.lab.elements import Button, Classes, Dark, Sliders, Strip, Text, Viewer, section, update
from r2l_jax.apps.lab.frames import window_size
from r2l_jax.apps.lab.lab import STEPS, Lab
from r2l_jax.apps.lab.presentation import Gallery
from r2l_jax.apps.lab.session import MOST_STEPS, Change, Session
from r2l_jax.apps.lab.sources import Source
from r2l_jax.drift.search.descent import Direction
from r2l_jax.runtime.errors import InputError, in_words

_COMPONENTS = pathlib.Path(__file__).with_name("components")

# A slider that moves sends at most one position in this time, in seconds.
_THROTTLE = 0.03

# The pictures to draw anew after each kind of change.
_DRAWN: dict[Change, tuple[str, ...]] = {
    "view": ("now", "before", "clipping", "strip"),
    "draft": ("now",),
    "stage": ("now", "before"),
    "picture": ("now", "clipping", "strip"),
    "judgement": ("outline",),
    "slope": ("outline",),
    "busy": (),
}

# The choice of a classical pipeline, and its initial algorithms.
_CLASSICAL = "classical algorithms"
_FIRST = ("bilinear", "sharpening_filter", "gaussian_denoising")

_EMPTY = (
    "Drop a raw file here",
    "DNG, NEF, CR2, ARW and other camera formats, or a mosaic as TIFF, PNG, PGM or NPY together with a camera. A "
    "camera's JSON file sets the camera.",
)

# More notices than these push out the oldest ones.
_MOST_NOTICES = 3

_SELECT = "dense outlined options-dense"
_DIRECTIONS: tuple[Direction, ...] = ("worst", "best")


class Page:
    """One visitor's page; uploads have at most `most` bytes."""

    def __init__(self, lab: Lab, gallery: Gallery, most: int):
        self._lab, self._gallery, self._most = lab, gallery, most
        self._client = ui.context.client
        self._session = Session(lab, self._show, self._fail)
        self._token = gallery.add(self._session)
        self._folder = tempfile.TemporaryDirectory()
        self._versions = collections.Counter[str]()
        self._notices: dict[str, Element] = {}
        self._seen = 0
        self._shown_source: Source | None = None
        self._follows = self._closed = False

    def build(self) -> None:
        """Lays the page out, and opens the first source."""
        ui.add_css(_COMPONENTS / "lab.css")
        self._header()
        # NiceGUI's own page is the main landmark.
        with ui.element("div").classes("lab-main"):
            with ui.element("section").classes("lab-left").props("aria-label=picture"):
                self._sources()
                self._picture()
            with ui.element("section").classes("lab-right").props("aria-label=settings"):
                self._panel()
        self._show("view")
        working = background_tasks.create(self._session.run())
        self._client.on_delete(lambda: self._close(working))
        if self._lab.sources:
            self._say_opening(self._lab.sources[0].name)
            background_tasks.create(self._session.open(self._lab.sources[0]))

    def _close(self, working: asyncio.Task) -> None:
        self._closed = True
        working.cancel()
        self._gallery.remove(self._token)
        self._folder.cleanup()

    def _header(self) -> None:
        with ui.element("header").classes("lab-header"):
            Text("h1", "r2l lab")
            Text("span", self._lab.title, "lab-run")
            ui.element("div").classes("lab-gap")
            self._busy = Text("span", classes="lab-busy")
            # Screen readers are told of the kind of work, and not of each picture and step.
            self._spoken = Text("span", classes="lab-spoken")
            self._spoken.props["role"] = "status"
            Dark()

    def _sources(self) -> None:
        names = [source.name for source in self._lab.sources]
        with ui.element("div").classes("lab-bar-top"):
            Button("Open file…", lambda: self._upload.run_method("pickFiles"))
            self._upload = ui.upload(on_upload=lambda event: self._receive(event.file), auto_upload=True)
            self._upload.classes("lab-upload").props["max-file-size"] = self._most
            self._upload.on_rejected(lambda: self._fail(f"a file must have at most {self._most / 2**20:g} MiB"))
            self._sample = None
            if names:
                choose = self._chosen(self._open)
                self._sample = ui.select(dict(enumerate(names)), with_input=True, on_change=choose)
                self._sample.props(f"{_SELECT} aria-label=sample")
                Button("←", lambda: self._open(max(self._opened(), 0) - 1), "previous sample")
                Button("→", lambda: self._open(self._opened() + 1), "next sample")
            session = self._session
            choose = self._chosen(session.choose_camera)
            self._camera = ui.select(list(session.cameras), value=session.camera_name, on_change=choose)
            self._camera.props(f"{_SELECT} prefix=camera aria-label=camera")
        with ui.element("div").classes("lab-notices").props("role=status aria-label=notices") as self._noticed:
            self._waiting = Text("div", classes="lab-notice")

    def _picture(self) -> None:
        with ui.element("div").classes("lab-picture") as box:
            self._viewer = Viewer().on("pick", self._pick)
            with self._viewer:
                self._empty = Text("strong", _EMPTY[0]), Text("span", _EMPTY[1])
            if self._lab.model is not None:
                self._verdict = Text("p", classes="lab-verdict")
                self._verdict.props["role"] = "status"
        drop = (_COMPONENTS / "drop.js").read_text()
        ui.run_javascript(f"({drop})({box.html_id!r}, {self._upload.id})")
        with ui.element("div").classes("lab-bar-below"):
            compare = ui.checkbox("Compare", on_change=lambda event: update(self._viewer, compare=event.value))
            self._clipping = ui.checkbox("Clipping", on_change=self._draw)
            self._whole = ui.checkbox("Whole frame", on_change=self._chosen(self._session.show_whole))
            hints = {
                compare: "wipe between the default and now",
                self._clipping: "color pixels above white and below black",
                self._whole: "show the whole frame, reduced",
            }
            for toggle, hint in hints.items():
                toggle.classes("lab-toggle").props["title"] = hint
            ui.element("div").classes("lab-gap")
            Button("Reset sliders", self._session.reset)
        self._strip = Strip().on("show", lambda event: self._session.show_stage(str(event.args)))

    def _panel(self) -> None:
        self._pipelines()
        if self._lab.model is not None:
            self._model(self._lab.model.task.name == "segmentation")
        with section("Histogram and clipping"):
            # The drawing holds numbers alone.
            self._histogram = ui.html(sanitize=False).classes("lab-histogram")
            self._clipped = ui.element("div").classes("lab-facts")
        with section("Parameters") as self._count:
            if self._lab.model is not None:
                green = "" if self._lab.tolerances is None else " Green: tolerated if only this slider moves."
                arrows = "Arrows point to where the loss rises; the longest is the steepest."
                Text("div", arrows + green, "lab-hint")
            self._sliders = Sliders().on("move", self._move, throttle=_THROTTLE)
        session = self._session
        files = {
            "Picture": ("picture.png", session.picture_file),
            "Camera (JSON)": ("camera.json", session.camera_json),
            "Pipeline (Python)": ("my_isp.py", session.pipeline_file),
        }
        with section("Save"), ui.element("div").classes("lab-save"):
            for text, file in files.items():
                Button(text, functools.partial(self._save, *file))

    def _pipelines(self) -> None:
        choose = self._chosen(lambda _: self._session.choose_pipeline(self._pipeline_name()))
        with section("Pipeline"), ui.element("div").classes("lab-selects"):
            names = [*self._lab.pipelines, _CLASSICAL]
            self._pipeline = ui.select(names, value=names[0], on_change=choose)
            self._pipeline.props(f"{_SELECT} aria-label=pipeline")
            with ui.element("div").classes("lab-steps") as self._steps:
                self._algorithms = [
                    ui.select(list(known), value=first, on_change=choose).props(
                        f"{_SELECT} prefix={step} aria-label={step}"
                    )
                    for (step, known), first in zip(STEPS.items(), _FIRST, strict=True)
                ]

    def _pipeline_name(self) -> str:
        if self._pipeline.value == _CLASSICAL:
            return ".".join(str(select.value) for select in self._algorithms)
        return str(self._pipeline.value)

    def _model(self, segments: bool) -> None:
        with section("Model") as self._loss:
            self._classes = Classes().on("choose", lambda event: self._session.choose_target(int(event.args)))
            self._classes.props["choosable"] = not segments
            words = "The model sees windows at full resolution: click on the frame to choose one."
            self._unjudged = Text("div", words, "lab-hint")
            with ui.element("div").classes("lab-search"):
                self._searches = {way: Button("", functools.partial(self._search, way)) for way in _DIRECTIONS}

    def _show(self, change: Change) -> None:
        """Follows a change of the session."""
        if self._closed:
            return
        for name in _DRAWN[change]:
            self._versions[name] += 1
        self._draw()
        self._show_busy()
        if change == "view":
            if self._session.choice.source is not self._shown_source:
                self._shown_source = self._session.choice.source
                for message in list(self._notices):
                    self._dismiss(message)
            self._show_choices()
        if change in ("view", "stage", "picture"):
            self._show_stages()
        if change in ("view", "draft", "picture", "slope"):
            update(self._sliders, groups=presentation.sliders(self._session), seen=self._seen)
        view = self._session.view
        if change in ("view", "draft", "picture") and view is not None:
            self._histogram.set_content(drawing.histogram(view.picture.image if view.draft is None else view.draft))
        if self._lab.model is not None:
            self._show_model()

    def _show_busy(self) -> None:
        session, search = self._session, self._session.searching
        words = session.busy
        if search is not None and not words:
            words = f"toward the {search.direction}: step {search.steps} of {MOST_STEPS}"
        time = "" if session.view is None else f"rendered in {1000 * session.seconds:.0f} ms"
        self._busy.text = words or time
        self._busy.classes(toggle=None, **{"add" if words else "remove": "working"})
        self._spoken.text = words.partition(":")[0]
        if session.view is None and session.busy:
            self._say_opening(session.opening)
        else:
            self._empty[0].text, self._empty[1].text = _EMPTY
        waits = session.waiting
        self._waiting.set_visibility(bool(waits))
        self._waiting.text = waits and f"{waits}. Choose its camera above, or drop the camera's JSON file."

    def _say_opening(self, name: str) -> None:
        """Says in the place of the picture that its source is being opened."""
        self._empty[0].text = f"Opening {name}…"
        self._empty[1].text = "The first picture takes some seconds, in which its processing is compiled."

    def _show_choices(self) -> None:
        """Shows the choices of the session, which keeps the former ones where others cannot be rendered."""
        session, choice, view = self._session, self._session.choice, self._session.view
        self._follows = True
        is_classical = choice.pipeline not in self._lab.pipelines
        self._pipeline.value = _CLASSICAL if is_classical else choice.pipeline
        if is_classical:
            for select, algorithm in zip(self._algorithms, choice.pipeline.split("."), strict=True):
                select.value = algorithm
        self._camera.set_options(list(session.cameras), value=session.camera_name)
        if self._sample is not None:
            opened = self._opened()
            self._sample.value = opened if opened >= 0 else None
        self._whole.value = choice.whole
        self._follows = False
        self._steps.set_visibility(is_classical)
        frame = choice.frame
        self._whole.set_visibility(frame is not None and window_size(frame, self._lab.model) != frame.raw.shape)
        if view is not None:
            height, width = view.before.image.shape[:2]
            update(self._viewer, width=width, height=height, pickable=choice.whole)
            self._count.text = f"{len(view.engine.knobs)} sliders, in natural ranges"

    def _draw(self) -> None:
        """Tells the browser the current addresses of the pictures."""
        view = self._session.view
        if view is None:
            return
        segments = view.judgement is not None and view.judgement.probabilities.ndim > 1
        shows_last = view.draft is None and view.stage is None
        update(
            self._viewer,
            src=self._address("now"),
            before=self._address("before"),
            clipping=self._address("clipping") if self._clipping.value and shows_last else "",
            outline=self._address("outline") if segments and shows_last else "",
        )

    def _show_stages(self) -> None:
        view = self._session.view
        if view is None:
            return
        names = list(view.picture.stages)
        update(self._strip, src=self._address("strip"), stages=names, current=view.stage or names[-1])
        self._clipped.clear()
        with self._clipped:
            for color, words, share in presentation.clipped(self._session):
                with ui.element("span"):
                    ui.element("i").style(f"background: {color}")
                    Text("span", words)
                Text("span", share)

    def _show_model(self) -> None:
        session, view = self._session, self._session.view
        judged = view is not None and view.judged
        update(self._classes, rows=presentation.classes(session))
        verdict = presentation.verdict(session)
        self._verdict.text = verdict.text
        self._verdict.set_visibility(bool(verdict.text))
        look = {True: "right", False: "wrong", None: ""}[verdict.is_right]
        self._verdict.classes(look, remove="right wrong")
        self._loss.text = "" if view is None or view.judgement is None else f"loss {view.judgement.loss:.4f}"
        self._unjudged.set_visibility(view is not None and not judged)
        for way, button in self._searches.items():
            going = session.searching is not None and session.searching.direction == way
            button.text = "Stop" if going else f"Toward the {way}"
            update(button, disabled=not judged or bool(session.busy), **{"aria-pressed": str(going).lower()})

    def _address(self, name: str) -> str:
        return f"/pictures/{self._token}/{name}?v={self._versions[name]}"

    def _fail(self, message: str) -> None:
        """Shows a notice, which stays until it is closed, another source is shown, or too many others have come."""
        if self._closed or message in self._notices:
            return
        for earlier in list(self._notices)[: 1 - _MOST_NOTICES]:
            self._dismiss(earlier)
        with self._noticed, ui.element("div").classes("lab-notice") as self._notices[message]:
            Text("span", message)
            Button("Close", functools.partial(self._dismiss, message), f"close the notice: {message}")

    def _dismiss(self, message: str) -> None:
        if (notice := self._notices.pop(message, None)) is not None:
            notice.delete()

    def _chosen(self, choose: Callable[[Any], Awaitable[None]]) -> Callable[[ValueChangeEventArguments], Any]:
        """Returns a handler of changes by the visitor, and not by the page itself."""
        return lambda event: None if self._follows or event.value is None else choose(event.value)

    async def _receive(self, file: FileUpload) -> None:
        """Opens an uploaded file, or takes it as the camera."""
        try:
            suffix = sources.check_name(file.name)
        except InputError as error:
            self._fail(in_words(error))
            return
        self._upload.reset()
        # The page chooses the name on this machine; an earlier file of this visitor is replaced.
        path = pathlib.Path(self._folder.name) / f"upload{suffix}"
        if suffix != ".json":
            for earlier in path.parent.glob("upload.*"):
                earlier.unlink()
        await file.save(path)
        if suffix == ".json":
            await self._session.add_camera(file.name, path)
        else:
            await self._session.open(self._lab.upload(file.name, path))

    def _opened(self) -> int:
        """Returns the number of the open sample; -1 for an upload."""
        found = (number for number, each in enumerate(self._lab.sources) if each is self._session.choice.source)
        return next(found, -1)

    async def _open(self, number: int) -> None:
        await self._session.open(self._lab.sources[number % len(self._lab.sources)])

    async def _pick(self, event: GenericEventArguments) -> None:
        await self._session.show_whole(False, (float(event.args["y"]), float(event.args["x"])))

    def _move(self, event: GenericEventArguments) -> None:
        moves, held = event.args["moves"], bool(event.args["held"])
        for name, (number, position) in moves.items():
            # An event repeats the moves that the browser does not know to have arrived.
            if number > self._seen:
                self._session.move(str(name), float(position), held)
        self._seen = max([self._seen, *(int(number) for number, _ in moves.values())])

    def _search(self, way: Direction) -> None:
        search = self._session.searching
        if search is not None and search.direction == way:
            self._session.stop()
        else:
            self._session.search(way)

    def _save(self, file: str, make: Callable[[], str | bytes]) -> None:
        try:
            ui.download.content(make(), file)
        except InputError as error:
            self._fail(in_words(error))

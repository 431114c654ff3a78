"""The layout of the page, and how it follows a session."""

import asyncio
import collections
import pathlib
import tempfile

from nicegui import background_tasks, ui
from nicegui.elements.upload_files import FileUpload
from nicegui.events import GenericEventArguments

from r2l_jax.apps.lab import drawing, pipelines, presentation, sources
from r2l_jax.apps.lab.elements import Button, Classes, Sliders, Strip, Text, Toggle, Viewer, section, update
from r2l_jax.apps.lab.frames import window_size
from r2l_jax.apps.lab.lab import Lab
from r2l_jax.apps.lab.presentation import Gallery
from r2l_jax.apps.lab.session import STEPS, Change, Session
from r2l_jax.drift.search.descent import Direction
from r2l_jax.runtime.errors import InputError, in_words

_STYLE = pathlib.Path(__file__).with_name("components") / "lab.css"
_DROP = pathlib.Path(__file__).with_name("components") / "drop.js"

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

_SELECT = "dense outlined options-dense"
_DIRECTIONS: tuple[Direction, ...] = ("worst", "best")


class Page:
    """One visitor's page; uploads have at most `most` bytes."""

    def __init__(self, lab: Lab, gallery: Gallery, title: str, most: int):
        self._lab, self._gallery, self._title, self._most = lab, gallery, title, most
        self._client = ui.context.client
        self._session = Session(lab, self._show, self._fail)
        self._token = gallery.add(self._session)
        self._folder = tempfile.TemporaryDirectory()
        self._versions, self._follows = collections.Counter[str](), False
        self._closed = False

    def build(self) -> None:
        """Lays the page out, and opens the first source."""
        ui.add_css(_STYLE)
        self._header()
        with ui.element("main").classes("lab-main"):
            with ui.element("div").classes("lab-left"):
                self._sources()
                self._picture()
            with ui.element("div").classes("lab-right"):
                self._panel()
        self._show("view")
        self._show("busy")
        working = background_tasks.create(self._session.run())
        self._client.on_delete(lambda: self._close(working))
        if self._lab.sources:
            background_tasks.create(self._session.open(self._lab.sources[0]))

    def _close(self, working: asyncio.Task) -> None:
        self._closed = True
        working.cancel()
        self._gallery.remove(self._token)
        self._folder.cleanup()

    def _header(self) -> None:
        with ui.element("header").classes("lab-header"):
            Text("h1", "r2l lab")
            Text("span", self._title).classes("lab-run")
            ui.element("div").classes("lab-gap")
            self._busy = Text("span").classes("lab-busy")
            self._busy.props["role"] = "status"
            dark = ui.dark_mode(None)
            Button("◐", lambda: dark.set_value(not dark.value), "light or dark")

    def _sources(self) -> None:
        names = [source.name for source in self._lab.sources]
        with ui.element("div").classes("lab-bar-top"):
            Button("Open file…", lambda: upload.run_method("pickFiles"))
            upload = ui.upload(on_upload=lambda event: self._receive(event.file), auto_upload=True)
            upload.classes("lab-upload").props["max-file-size"] = self._most
            upload.on_rejected(lambda: self._fail(f"a file must have at most {self._most / 2**20:g} MiB"))
            self._upload = upload
            self._sample = None
            if names:
                self._sample = ui.select(dict(enumerate(names)), with_input=True, on_change=self._choose_sample).props(
                    f"{_SELECT} aria-label=sample"
                )
                Button("←", lambda: self._next(-1), "previous sample")
                Button("→", lambda: self._next(1), "next sample")
            self._camera = ui.select(
                list(self._session.cameras),
                value=self._session.camera_name,
                on_change=self._choose_camera,
            ).props(f"{_SELECT} prefix=camera")

    def _picture(self) -> None:
        with ui.element("div").classes("lab-picture") as box:
            self._viewer = Viewer().on("pick", self._pick)
            with self._viewer:
                Text("strong", "Drop a raw file here")
                Text(
                    "span",
                    "DNG, NEF, CR2, ARW and other formats of cameras, or a mosaic as TIFF, PNG, PGM or NPY together "
                    "with a camera. A camera's JSON file is taken as the camera.",
                )
        ui.run_javascript(f"({_DROP.read_text()})({box.html_id!r}, {self._upload.id})")
        with ui.element("div").classes("lab-bar-below"):
            Toggle("Compare", self._compare, "wipe between the default and now")
            self._clipping = Toggle("Clipping", lambda on: self._draw(), "color pixels above white and below black")
            self._whole = Toggle("Whole frame", self._show_whole, "show the whole frame, reduced")
            ui.element("div").classes("lab-gap")
            Button("Reset sliders", self._session.reset)
        self._strip = Strip().on("show", lambda event: self._session.show_stage(str(event.args)))

    def _panel(self) -> None:
        with section("Pipeline"), ui.element("div").classes("lab-selects"):
            self._pipeline = ui.select(
                [*self._lab.pipelines, pipelines.CLASSICAL],
                value=self._session.pipeline_name,
                on_change=self._choose_pipeline,
            ).props(f"{_SELECT} aria-label=pipeline")
            with ui.element("div").classes("lab-steps") as self._steps:
                self._algorithms = [
                    ui.select(list(known), value=first, on_change=self._choose_pipeline).props(
                        f"{_SELECT} prefix={step} aria-label={step}"
                    )
                    for (step, known), first in zip(pipelines.STEPS.items(), self._session.algorithms, strict=True)
                ]
        if self._lab.model is not None:
            self._model(self._lab.model.task.name == "segmentation")
        with section("Histogram and clipping"):
            # The drawing holds numbers alone.
            self._histogram = ui.html(sanitize=False).classes("lab-histogram")
            self._clipped = ui.element("div").classes("lab-facts")
        with section("Parameters") as self._count:
            if self._lab.model is not None:
                green = "" if self._lab.tolerances is None else " Green: tolerated if it moves by itself."
                arrows = "Arrows point to where the loss rises; the longest is the steepest."
                Text("div", arrows + green).classes("lab-hint")
            self._sliders = Sliders().on("move", self._move, throttle=_THROTTLE)
        with section("Save"), ui.element("div").classes("lab-save"):
            Button("Picture", lambda: self._save("picture.png"))
            Button("Camera (JSON)", lambda: self._save("camera.json"))
            Button("Pipeline (Python)", lambda: self._save("my_isp.py"))

    def _model(self, segments: bool) -> None:
        with section("Model") as self._loss:
            self._classes = Classes().on("choose", lambda event: self._session.choose_target(int(event.args)))
            self._classes.props["choosable"] = not segments
            self._unjudged = Text("div", "The model sees windows at full resolution: click on the frame to choose one.")
            self._unjudged.classes("lab-hint")
            with ui.element("div").classes("lab-search"):
                self._searches = {way: Button("", lambda way=way: self._search(way)) for way in _DIRECTIONS}

    def _show(self, change: Change) -> None:
        """Follows a change of the session."""
        if self._closed:
            return
        session = self._session
        for name in _DRAWN[change]:
            self._versions[name] += 1
        self._draw()
        if change == "view":
            self._show_choices()
        if change in ("view", "draft", "picture"):
            image = session.draft if session.draft is not None else session.picture and session.picture.image
            if image is not None:
                self._histogram.set_content(drawing.histogram(image))
        if change in ("view", "stage", "picture"):
            self._show_stages()
        if change in ("view", "judgement", "slope", "busy") and self._lab.model is not None:
            self._show_model()
        if change in ("view", "draft", "picture", "slope"):
            update(self._sliders, groups=presentation.sliders(session))
        if change in ("view", "draft", "picture", "busy"):
            self._show_busy()

    def _show_busy(self) -> None:
        session = self._session
        time = f"rendered in {1000 * session.seconds:.0f} ms" if session.picture is not None else ""
        search = f"towards the {session.searching}: step {session.steps} of {STEPS}" if session.searching else ""
        self._busy.text = session.busy or search or time
        self._busy.classes(toggle=None, **{"add" if session.busy or search else "remove": "working"})

    def _show_choices(self) -> None:
        """Shows the choices of the session, which keeps the former ones where others cannot be rendered."""
        session = self._session
        self._follows = True
        self._pipeline.value = session.pipeline_name
        for select, algorithm in zip(self._algorithms, session.algorithms, strict=True):
            select.value = algorithm
        self._camera.set_options(list(session.cameras), value=session.camera_name)
        if self._sample is not None:
            opened = (number for number, source in enumerate(self._lab.sources) if source is session.source)
            self._sample.value = next(opened, None)
        self._follows = False
        self._steps.set_visibility(session.pipeline_name == pipelines.CLASSICAL)
        frame, view = session.frame, session.view
        self._whole.set_visibility(frame is not None and window_size(frame, self._lab.model) != frame.raw.shape)
        self._whole.set_on(session.whole)
        if view is not None:
            height, width = view.before.image.shape[:2]
            update(self._viewer, width=width, height=height, pickable=session.whole)
            self._count.text = f"{len(view.engine.knobs)} sliders, in natural ranges"

    def _draw(self) -> None:
        """Tells the browser where the pictures are now."""
        session = self._session
        if session.view is None:
            return
        segments = session.judgement is not None and session.judgement.probabilities.ndim > 1
        shows_last = session.draft is None and session.stage is None
        update(
            self._viewer,
            src=self._address("now"),
            before=self._address("before"),
            clipping=self._address("clipping") if self._clipping.is_on and shows_last else "",
            outline=self._address("outline") if segments and shows_last else "",
        )

    def _show_stages(self) -> None:
        session = self._session
        if session.picture is None:
            return
        names = list(session.picture.stages)
        update(self._strip, src=self._address("strip"), stages=names, current=session.stage or names[-1])
        self._clipped.clear()
        with self._clipped:
            for color, words, share in presentation.clipped(session):
                with ui.element("span"):
                    ui.element("i").style(f"background: {color}")
                    Text("span", words)
                Text("span", share)

    def _show_model(self) -> None:
        session = self._session
        judged = session.view is not None and session.view.judged
        judgement = session.judgement if judged else None
        update(self._classes, rows=presentation.classes(session) if judged else [])
        self._loss.text = "" if judgement is None else f"loss {judgement.loss:.4f}"
        self._unjudged.set_visibility(session.view is not None and not judged)
        for way, button in self._searches.items():
            going = session.searching == way
            button.text = "Stop" if going else f"Towards the {way}"
            button.set_enabled(judged and not session.busy)

    def _address(self, name: str) -> str:
        return f"/pictures/{self._token}/{name}?v={self._versions[name]}"

    def _fail(self, message: str) -> None:
        if self._closed:
            return
        with self._client:
            ui.notify(
                message, type="warning", position="bottom-left", multi_line=True, close_button="Close", timeout=8000
            )

    async def _receive(self, file: FileUpload) -> None:
        """Opens an uploaded file, or takes it as the camera."""
        try:
            suffix = sources.check_name(file.name)
        except InputError as error:
            self._fail(in_words(error))
            return
        self._upload.reset()
        # The name on this machine is the page's own; an earlier file of this visitor is replaced.
        path = pathlib.Path(self._folder.name) / f"upload{suffix}"
        if suffix != ".json":
            for earlier in path.parent.glob("upload.*"):
                earlier.unlink()
        await file.save(path)
        if suffix == ".json":
            await self._session.add_camera(file.name, path)
        else:
            await self._session.open(self._lab.upload(file.name, path))

    async def _choose_sample(self) -> None:
        if not self._follows and self._sample is not None and self._sample.value is not None:
            await self._session.open(self._lab.sources[self._sample.value])

    async def _next(self, step: int) -> None:
        opened = [number for number, source in enumerate(self._lab.sources) if source is self._session.source]
        number = opened[0] + step if opened else 0
        await self._session.open(self._lab.sources[number % len(self._lab.sources)])

    async def _choose_camera(self) -> None:
        if not self._follows:
            await self._session.choose_camera(self._camera.value)

    async def _choose_pipeline(self) -> None:
        if not self._follows:
            await self._session.choose_pipeline(self._pipeline.value, [select.value for select in self._algorithms])

    async def _show_whole(self, whole: bool) -> None:
        await self._session.show_whole(whole)

    async def _pick(self, event: GenericEventArguments) -> None:
        await self._session.show_whole(False, (float(event.args["y"]), float(event.args["x"])))

    def _move(self, event: GenericEventArguments) -> None:
        moved = event.args
        self._session.move(str(moved["name"]), float(moved["position"]), bool(moved["held"]))

    def _compare(self, on: bool) -> None:
        self._viewer.props["compare"] = on

    def _search(self, way: Direction) -> None:
        if self._session.searching == way:
            self._session.stop()
        else:
            self._session.search(way)

    def _save(self, file: str) -> None:
        session = self._session
        try:
            if file.endswith(".json"):
                content = session.camera_json()
            elif file.endswith(".py"):
                content = session.pipeline_file(file)
            else:
                content = session.picture_file()
        except InputError as error:
            self._fail(in_words(error))
            return
        ui.download.content(content, file)

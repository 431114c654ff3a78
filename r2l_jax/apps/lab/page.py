"""The layout of the page, and how it follows the session."""

import collections
import functools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from nicegui import ui
from nicegui.elements.upload_files import FileUpload
from nicegui.events import ValueChangeEventArguments

from r2l_jax.apps.lab import drawing, presentation
from r2l_jax.apps.lab.elements import Button, Classes, Knob, Strip, Text, Viewer, section, update
from r2l_jax.apps.lab.session import MOST_STEPS, Change, Session
from r2l_jax.errors import InputError, in_words

_COMPONENTS = Path(__file__).with_name("components")

_EMPTY = (
    "Drop a raw file here",
    "DNG, NEF, CR2, ARW and other camera formats, or TIFF, PNG, PGM and NPY with the chosen camera. Drop a JSON file "
    "to add a camera.",
)

_SELECT = "dense outlined options-dense"


class Page:
    """The page in one tab of the browser, which writes the files that are dropped on it to a folder."""

    def __init__(self, session: Session, folder: Path):
        self._session, self._lab, self._folder = session, session.lab, folder
        self._client = ui.context.client
        self._versions = collections.Counter[Change]()
        self._knobs, self._shape = dict[str, Knob](), list[Any]()
        self._follows = False

    def build(self) -> None:
        """Lays out the page, and lets it follow the session."""
        ui.add_css(_COMPONENTS / "lab.css")
        with ui.element("header").classes("lab-header"):
            Text("h1", "r2l lab")
            Text("span", self._lab.title, "lab-run")
            ui.element("div").classes("lab-gap")
            self._busy = Text("span", classes="lab-busy")
            self._busy.props["role"] = "status"
        # NiceGUI's page is the main landmark.
        with ui.element("div").classes("lab-main"):
            with ui.element("section").classes("lab-left").props("aria-label=picture"):
                self._sources()
                self._picture()
            with ui.element("section").classes("lab-right").props("aria-label=settings"):
                self._panel()
        self._show("view")
        self._show("picture")
        self._session.followers.append(self._show)
        self._client.on_delete(lambda: self._session.followers.remove(self._show))

    def _sources(self) -> None:
        session, names = self._session, [source.name for source in self._lab.sources]
        with ui.element("div").classes("lab-bar-top"):
            Button("Open file…", lambda: self._upload.run_method("pickFiles"))
            self._upload = ui.upload(on_upload=lambda event: self._receive(event.file), auto_upload=True)
            self._upload.classes("lab-upload")
            self._sample = ui.select(dict(enumerate(names)), with_input=True, on_change=self._chosen(self._open))
            self._sample.props(f"{_SELECT} aria-label=sample").set_visibility(bool(names))
            if names:
                Button("←", lambda: self._open(max(self._opened(), 0) - 1), "previous sample")
                Button("→", lambda: self._open(self._opened() + 1), "next sample")
            self._camera = ui.select(list(session.cameras), on_change=self._chosen(session.choose_camera))
            self._camera.props(f"{_SELECT} prefix=camera aria-label=camera")

    def _picture(self) -> None:
        with ui.element("div").classes("lab-picture") as box:
            self._viewer = Viewer()
            with self._viewer:
                Text("strong", _EMPTY[0])
                Text("span", _EMPTY[1])
            if self._lab.model is not None:
                self._verdict = Text("p", classes="lab-verdict")
                self._verdict.props["role"] = "status"
        drop = (_COMPONENTS / "drop.js").read_text()
        ui.run_javascript(f"({drop})({box.html_id!r}, {self._upload.id})")
        with ui.element("div").classes("lab-bar-below"):
            compare = ui.checkbox("Compare", on_change=lambda event: update(self._viewer, compare=event.value))
            compare.classes("lab-toggle").props["title"] = "wipe between the default and the current rendering"
            ui.element("div").classes("lab-gap")
            Button("Reset sliders", self._session.reset)
        self._strip = Strip().on("show", lambda event: self._session.show_stage(str(event.args)))

    def _panel(self) -> None:
        with section("Pipeline"):
            choose = self._chosen(self._session.choose_pipeline)
            self._pipeline = ui.select(list(self._lab.pipelines), with_input=True, on_change=choose)
            self._pipeline.props(f"{_SELECT} aria-label=pipeline")
        if self._lab.model is not None:
            self._model(self._lab.model.task.has_masks)
        with section("Histogram"):
            # Safe without sanitizing: the drawing contains only numbers.
            self._histogram = ui.html(sanitize=False).classes("lab-histogram")
        with section("Parameters") as self._count:
            if self._lab.model is not None:
                green = " Green: tolerated if only this slider moves." * bool(self._lab.tolerances)
                arrows = "Arrows point to where the loss rises; the longest is the steepest."
                Text("div", arrows + green, "lab-hint")
            self._sliders = ui.element("div")
        with section("Save"), ui.element("div").classes("lab-save"):
            Button("Picture", self._save_picture)
            Button("Settings (Python)", self._save_settings)

    def _model(self, segments: bool) -> None:
        with section("Model") as self._loss:
            self._classes = Classes().on("choose", lambda event: self._session.choose_target(int(event.args)))
            self._classes.props["choosable"] = not segments
            with ui.element("div").classes("lab-search"):
                Button("Toward worst case", lambda: self._session.search("worst"))
                Button("Toward best case", lambda: self._session.search("best"))
                Button("Stop", self._session.stop)

    def _show(self, change: Change, message: str = "") -> None:
        """Follows a change of the session."""
        if change == "notice":
            with self._client:
                words = message.replace(f"{self._folder}/", "")
                ui.notify(words, color="grey-10", multi_line=True, timeout=0, close_button="Close")
            return
        session, search = self._session, self._session.searching
        going = "" if search is None else f"toward {search.direction} case: step {search.steps} of {MOST_STEPS}"
        self._busy.text = session.busy or going
        self._busy.classes(toggle=None, **{"add" if self._busy.text else "remove": "working"})
        self._versions[change] += 1
        if change == "view":
            self._show_choices()
        if change == "picture" and session.view is not None:
            self._histogram.set_content(drawing.histogram(session.view.image))
        self._draw()
        self._show_sliders()
        if self._lab.model is not None:
            self._show_model()

    def _show_choices(self) -> None:
        """Shows the session's choices, which stay the former ones if others cannot be rendered."""
        session, view = self._session, self._session.view
        self._follows = True
        self._pipeline.value = session.pipeline_name
        self._camera.set_options(list(session.cameras), value=session.camera_name)
        self._sample.value = self._opened() if self._opened() >= 0 else None
        self._follows = False
        if view is not None:
            height, width = view.image.shape[:2]
            update(self._viewer, width=width, height=height)
            self._count.text = f"{len(view.engine.knobs)} sliders, in natural ranges"

    def _draw(self) -> None:
        """Tells the browser the current addresses of the pictures."""
        view = self._session.view
        if view is None:
            return
        segments = view.judgement is not None and view.judgement.found.ndim > 0
        shows_last = view.stage == view.engine.pipeline.stage_names[-1]
        drawn = f"{self._versions['view']}.{self._versions['picture']}"
        update(
            self._viewer,
            src=f"/pictures/now?v={drawn}",
            before=f"/pictures/before?v={drawn}",
            outline=f"/pictures/outline?v={self._versions['judgement']}" if segments and shows_last else "",
        )
        stages = list(view.images)
        update(self._strip, src=f"/pictures/strip?v={drawn}", stages=stages, current=view.stage)

    def _show_sliders(self) -> None:
        """Shows the sliders in groups by stage; while the pipeline has the same knobs, they are the same elements."""
        groups = presentation.sliders(self._session)
        rows = {row["name"]: row for group in groups for row in group["knobs"]}
        shape = [(group["stage"], group["note"]) for group in groups]
        shape += [(name, row["low"], row["high"]) for name, row in rows.items()]
        if shape != self._shape:
            self._shape = shape
            self._sliders.clear()
            for group in groups:
                with self._sliders, ui.element("details").classes("lab-group").props("open"):
                    with Text("summary", group["stage"]):
                        Text("span", group["note"], "lab-note")
                    for name in (row["name"] for row in group["knobs"]):
                        self._knobs[name] = Knob(rows[name], functools.partial(self._session.move, name))
        for name, row in rows.items():
            self._knobs[name].show(row)

    def _show_model(self) -> None:
        session, view = self._session, self._session.view
        update(self._classes, rows=presentation.classes(session))
        self._verdict.text, is_right = presentation.verdict(session)
        self._verdict.set_visibility(bool(self._verdict.text))
        look = {True: "right", False: "wrong", None: ""}[is_right]
        self._verdict.classes(look, remove="right wrong")
        self._loss.text = "" if view is None or view.judgement is None else f"loss {view.judgement.loss:.4f}"

    def _chosen(self, choose: Callable[[Any], Awaitable[None]]) -> Callable[[ValueChangeEventArguments], Any]:
        """Returns a handler of changes that ignores those made by the page itself."""
        return lambda event: None if self._follows or event.value is None else choose(event.value)

    async def _receive(self, file: FileUpload) -> None:
        """Opens a dropped file, or takes it as the camera."""
        self._upload.reset()
        path = self._folder / file.name
        await file.save(path)
        await self._session.open_file(path)

    def _opened(self) -> int:
        """Returns the number of the open sample; -1 for a dropped file."""
        found = (number for number, each in enumerate(self._lab.sources) if each is self._session.source)
        return next(found, -1)

    async def _open(self, number: int) -> None:
        await self._session.open(self._lab.sources[number % len(self._lab.sources)])

    def _save_picture(self) -> None:
        if self._session.view is not None:
            ui.download.content(drawing.png(self._session.view.image, compressed=True), "picture.png")

    def _save_settings(self) -> None:
        try:
            ui.download.content(self._session.pipeline_file(), "my_isp.py")
        except InputError as error:
            self._show("notice", in_words(error))

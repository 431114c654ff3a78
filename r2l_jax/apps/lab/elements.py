"""The page's custom elements, some of them with JavaScript in `components`, and plain HTML elements."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from nicegui import ui
from nicegui.element import Element
from nicegui.elements.mixins.text_element import TextElement
from nicegui.events import GenericEventArguments

# The least time between two positions that a moving slider sends, in seconds, and the number of its steps.
_THROTTLE, _STEPS = 0.03, 400


class Viewer(Element, component="components/viewer.js"):
    """Shows a picture, with a wipe to the default rendering and an outline above it."""


class Strip(Element, component="components/strip.js"):
    """Shows the image after each stage; emits `show` with the name of a stage."""


class Classes(Element, component="components/classes.js"):
    """Shows the probability of each class, see `presentation.classes`; emits `choose` with the number of a class."""


class Text(TextElement):
    """An element of HTML, such as "h1", with a text."""

    def __init__(self, tag: str, text: str = "", classes: str = ""):
        super().__init__(tag=tag, text=text)
        self.classes(classes)


class Button(Text):
    """A plain button; `hint` is its tooltip and its name for screen readers, by default its text."""

    def __init__(self, text: str, pressed: Callable[[], Any], hint: str = "", classes: str = "lab-action"):
        super().__init__("button", text, classes)
        self.on("click", lambda: pressed())
        self.props["type"] = "button"
        if hint:
            self.props.update({"aria-label": hint, "title": hint})


class Knob(Element):
    """A slider with its value, the tolerated interval and the slope of the loss: a row of `presentation.sliders`.

    The slider is HTML's own: in `ui.slider`, the focus is on a part that has no name for screen readers.
    """

    def __init__(self, row: Mapping[str, Any], moved: Callable[[float], Any]):
        super().__init__("div")
        name, label, self._moved = f"knob-{row['name']}", row["label"], moved
        self._step = (row["high"] - row["low"]) / _STEPS
        with self.classes("lab-knob"):
            Text("label", label).props.update({"for": name, "title": label})
            self._output = Text("output")
            self._output.props["aria-live"] = "off"
            self._reset = Button("↺", lambda: moved(0.0), f"reset {label}", "lab-reset")
            with ui.element("div").classes("lab-track") as self._track:
                self._band, zero, self._slope = (ui.element("span") for _ in range(3))
                zero.classes("lab-zero")
                self._slider = ui.element("input").on("dblclick", lambda: moved(0.0))
        ends = {"min": row["low"], "max": row["high"], "step": self._step, "value": row["position"]}
        self._slider.props.update({"type": "range", "id": name, "aria-describedby": self._track.html_id, **ends})
        # The browser draws all elements again at any update, and would put the slider back.
        kept = f"mounted_app.elements[{self._slider.id}].props.value = +event.target.value"
        self._slider.on("input", self._move, js_handler=f"event => emit({kept})", throttle=_THROTTLE)

    def _move(self, event: GenericEventArguments) -> None:
        # The browser may already have a later position, which an update of the slider would undo.
        with self._slider.props.suspend_updates():
            self._slider.props["value"] = position = float(event.args)
        # Steps are counted from the low end, so that rounding may keep them from hitting the default.
        self._moved(0.0 if abs(position) < self._step / 2 else position)

    def show(self, row: Mapping[str, Any]) -> None:
        """Shows the present row. The slider moves if it is more than half a step away."""

        def place(position: float) -> float:
            return min(max((position - row["low"]) / (row["high"] - row["low"]), 0), 1)

        position, slope = row["position"], row.get("slope", 0.0)
        self.classes(**{"add" if position else "remove": "moved"})
        self._output.text = row["text"]
        update(self._reset, disabled=not position)
        self._track.style(f"--at:{place(position):.4f};--zero:{place(0):.4f};--length:{abs(slope):.3f}")
        update(self._track, title="; ".join(filter(None, [row.get("bandTitle"), row.get("slopeTitle")])))
        self._slope.classes(replace=f"lab-slope {'up' if slope > 0 else 'down'}" if slope else "")
        low, high = map(place, row.get("band", (0, 0)))
        self._band.classes(replace="lab-band" if "band" in row else "").style(f"left:{low:.2%};right:{1 - high:.2%}")
        props = self._slider.props
        if abs(position - props["value"]) > self._step / 2:
            props.update({"value": position, "aria-valuetext": row["text"]})
        elif row["text"] != props.get("aria-valuetext"):
            with props.suspend_updates():
                props["aria-valuetext"] = row["text"]
            self._slider.run_method("setAttribute", "aria-valuetext", row["text"])


@contextmanager
def section(heading: str) -> Iterator[Text]:
    """Makes a section with a heading; yields an element for a text beside the heading."""
    with ui.element("section").classes("lab-section"):
        with Text("h2", heading):
            beside = Text("span")
        yield beside


def update(element: Element, **props: Any) -> None:
    """Sets those properties of an element that have changed."""
    changed = {name: value for name, value in props.items() if element.props.get(name) != value}
    if changed:
        element.props.update(changed)

"""The page's custom elements, whose JavaScript is in `components`, and plain HTML elements."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from nicegui import ui
from nicegui.element import Element
from nicegui.elements.mixins.text_element import TextElement


class Viewer(Element, component="components/viewer.js"):
    """Shows a picture, with a wipe to the default rendering and an outline above it."""


class Sliders(Element, component="components/sliders.js"):
    """Shows the sliders of all knobs, see `presentation.sliders`; emits `move` with all moves after number `seen`.

    A move has a number, which rises, and a position.
    """


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

    def __init__(self, text: str, pressed: Callable[[], Any], hint: str = ""):
        super().__init__("button", text, "lab-action")
        self.on("click", lambda: pressed())
        self.props["type"] = "button"
        if hint:
            self.props.update({"aria-label": hint, "title": hint})


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

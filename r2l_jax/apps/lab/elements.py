"""The page's own elements, whose JavaScript lies in `components`, and plain ones of HTML."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from nicegui import ui
from nicegui.element import Element
from nicegui.elements.mixins.text_element import TextElement


class Viewer(Element, component="components/viewer.js"):
    """Shows a picture, with a wipe to the default rendering and drawings above it; emits `pick` for a point."""


class Sliders(Element, component="components/sliders.js"):
    """Shows the sliders of all knobs, see `presentation.sliders`; emits `move`."""


class Strip(Element, component="components/strip.js"):
    """Shows the image after each stage; emits `show` with the name of a stage."""


class Classes(Element, component="components/classes.js"):
    """Shows the probability of each class, see `presentation.classes`; emits `choose` with the number of a class."""


class Text(TextElement):
    """An element of HTML, such as "h1", with a text."""

    def __init__(self, tag: str, text: str = ""):
        super().__init__(tag=tag, text=text)


class Button(Text):
    """A plain button; `hint` is its tooltip and its name for screen readers, by default its text."""

    def __init__(self, text: str, pressed: Callable[[], Any], hint: str = ""):
        super().__init__("button", text)
        self.classes("lab-action").on("click", lambda: pressed())
        self.props["type"] = "button"
        if hint:
            self.props.update({"aria-label": hint, "title": hint})

    def set_enabled(self, enabled: bool) -> None:
        """Switches the button on or off."""
        self.props.set_bool("disabled", not enabled)


class Toggle(Button):
    """A button that stays pressed until it is pressed again; each press calls `changed` with the new state."""

    def __init__(self, text: str, changed: Callable[[bool], Any], hint: str = ""):
        super().__init__(text, self._press, hint)
        self.classes(replace="lab-toggle")
        self._changed, self.is_on = changed, False
        self.set_on(False)

    def set_on(self, on: bool) -> None:
        """Presses or releases the button without a call of `changed`."""
        self.is_on = on
        self.classes(add="on" if on else None, remove=None if on else "on")
        self.props["aria-pressed"] = "true" if on else "false"

    def _press(self) -> Any:
        self.set_on(not self.is_on)
        return self._changed(self.is_on)


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

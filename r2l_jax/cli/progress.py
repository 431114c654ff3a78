"""Progress bars, which are lines where the output is neither a terminal nor a notebook."""

import contextlib
import sys
import time
import warnings
from collections.abc import Iterator

from tqdm import tqdm

_in_notebook = "ipykernel" in sys.modules
if _in_notebook:
    with warnings.catch_warnings():
        # Without ipywidgets, tqdm warns, and shows its bars as text.
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm  # takes a tenth of a second

# The least seconds between two lines, of all bars together.
_APART = 30.0

_hidden = False


@contextlib.contextmanager
def hidden() -> Iterator[None]:
    """Shows no progress within the block."""
    global _hidden
    earlier, _hidden = _hidden, True
    try:
        yield
    finally:
        _hidden = earlier


def say(line: str) -> None:
    """Prints a line to stderr above the bars, unless progress is hidden."""
    if not _hidden:
        tqdm.write(line, file=sys.stderr)


_before = ""


@contextlib.contextmanager
def part(name: str, number: int, count: int) -> Iterator[None]:
    """Begins the titles of the block's bars with a part of the work and its number, unless it is the only part."""
    global _before
    earlier = _before
    if count > 1:
        _before += f"{name} ({number} of {count}), "
    try:
        yield
    finally:
        _before = earlier


class Bar(tqdm):  # pyright: ignore[reportGeneralTypeIssues]  # one of two classes
    """A progress bar on a terminal or in a notebook; elsewhere, such as in a log, a line to stderr every half minute.

    It shows nothing if `disable` is true.
    """

    _latest = time.monotonic()

    def __init__(self, *, desc: str, total: int, unit: str, initial: int = 0, disable: bool | None = None, **style):
        off, desc = bool(disable) or _hidden, _before + desc
        # With None, tqdm turns itself off where the output is no terminal, as in a notebook.
        off_by_tqdm = off or (False if _in_notebook else None)
        super().__init__(desc=desc, total=total, unit=unit, initial=initial, disable=off_by_tqdm, **style)
        # A bar that tqdm has turned off keeps neither title nor counts.
        self._prints = not off and self.disable
        self._title, self._unit, self._done = desc, unit, initial

    def update(self, n: float | None = 1) -> bool | None:
        """Moves the bar, or prints a line if the latest one of any bar is old."""
        self._done += n or 0
        if self._prints and time.monotonic() - Bar._latest >= _APART:
            Bar._latest = time.monotonic()
            print(f"{self._title}: {self._unit} {self._done} of {self.total}", file=sys.stderr, flush=True)
        return super().update(n)

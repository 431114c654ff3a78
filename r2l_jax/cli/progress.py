"""Progress bars, which are lines where the output is no terminal."""

import sys
import time

from tqdm import tqdm

# The least seconds between two lines, of all bars together.
_APART = 30.0


class Bar(tqdm):
    """A progress bar on a terminal; elsewhere, such as in a log, a line to stderr every half minute."""

    _latest = time.monotonic()

    def __init__(self, *, desc: str, total: int, unit: str, initial: int = 0, disable: bool | None = None, **style):
        super().__init__(desc=desc, total=total, unit=unit, initial=initial, disable=disable, **style)
        # A bar that tqdm has turned off keeps neither title nor counts.
        self._prints = disable is None and self.disable
        self._title, self._unit, self._done = desc, unit, initial

    def update(self, n: float | None = 1) -> bool | None:
        """Moves the bar, or prints a line if the latest one of any bar is old."""
        self._done += n or 0
        if self._prints and time.monotonic() - Bar._latest >= _APART:
            Bar._latest = time.monotonic()
            print(f"{self._title}: {self._unit} {self._done} of {self.total}", file=sys.stderr, flush=True)
        return super().update(n)

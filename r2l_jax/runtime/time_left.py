"""How long work will take, said once its first parts are done."""

import sys
import time

from tqdm import tqdm

from r2l_jax.runtime.hosts import is_first

# Parts are timed for at least so many seconds, and less work than this is not worth a line.
_TIMED, _WORTH = 5.0, 60.0


def in_words(seconds: float) -> str:
    """Formats a time, such as "40 s", "12 min" or "3 h 40 min"."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


class TimeLeft:
    """Says once, on stderr, how long work will take, if that is more than a minute.

    The first part, which may be compiled for, does not count.

    Args:
        work: names the work, such as "42 searches of 60 steps".
        parts: the number of its parts, which take about equally long.
    """

    def __init__(self, work: str, parts: int):
        self._work, self._left, self._timed = work, parts, 0
        self._since: float | None = None
        self._said = False

    def done(self, count: int = 1) -> None:
        """Counts parts that have just been done."""
        self._left -= count
        if self._since is None:
            self._since = time.monotonic()
            return
        self._timed += count
        seconds = time.monotonic() - self._since
        if self._said or seconds < _TIMED:
            return
        self._said = True
        left = seconds / self._timed * self._left
        if left > _WORTH and is_first():
            tqdm.write(f"{self._work}: about {in_words(left)} left", file=sys.stderr)

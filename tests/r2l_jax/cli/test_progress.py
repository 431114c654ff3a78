import contextlib
import io
import sys

import pytest

from r2l_jax.cli import progress
from r2l_jax.cli.progress import Bar
from r2l_jax.drift import measure


@pytest.fixture
def clock(monkeypatch):
    """A clock that is ten seconds later each time that it is asked."""
    seconds = iter(range(0, 100_000, 10))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(seconds))
    monkeypatch.setattr(Bar, "_latest", 0)


def test_a_log_has_a_line_every_half_minute(clock, capsys):
    with measure.ticking("camera 0.0 to camera 0.15", 9) as tick:
        for _ in range(9):
            tick()
    # The clock is asked once more for each line.
    lines = [f"camera 0.0 to camera 0.15: batch {done} of 9" for done in (4, 7)]
    assert capsys.readouterr().err.splitlines() == lines


def test_the_time_between_lines_is_that_of_all_bars_together(clock, capsys):
    for number in range(5):
        with Bar(desc=f"block {number}", total=1, unit="batch") as bar:
            bar.update()
    assert capsys.readouterr().err.splitlines() == ["block 3: batch 1 of 1"]


def test_the_title_says_which_part_of_the_work_it_is_of_how_many(clock, capsys):
    parts = progress.part("fold_1", 2, 3), progress.part("alone", 1, 1), progress.part("tolerances", 1, 2)
    with contextlib.suppress(KeyboardInterrupt), parts[0], parts[1], parts[2]:
        with Bar(desc="finer", total=8, unit="batch") as bar:
            [bar.update() for _ in range(4)]
        raise KeyboardInterrupt
    with Bar(desc="sweep", total=8, unit="batch") as bar:
        [bar.update() for _ in range(3)]
    said = ["fold_1 (2 of 3), tolerances (1 of 2), finer: batch 4 of 8", "sweep: batch 3 of 8"]
    assert capsys.readouterr().err.splitlines() == said


def test_a_terminal_has_the_bar_alone_and_no_title_means_nothing(clock, monkeypatch, capsys):
    with measure.ticking("", 5) as tick:
        [tick() for _ in range(5)]
    assert capsys.readouterr().err == ""
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    with Bar(desc="fold 1/1", total=5, unit="step") as bar:
        [bar.update() for _ in range(5)]
    assert "step 4 of 5" not in terminal.getvalue()
    assert "5/5" in terminal.getvalue()

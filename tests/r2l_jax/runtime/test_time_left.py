import pytest

from r2l_jax.runtime import time_left
from r2l_jax.runtime.time_left import TimeLeft, in_words


def test_times_in_words():
    said = [in_words(seconds) for seconds in (12.0, 61.0, 3599.0, 3600.0, 90000.0)]
    assert said == ["12 s", "1 min", "1 h 0 min", "1 h 0 min", "25 h 0 min"]


@pytest.fixture
def work(monkeypatch, capsys):
    """Does parts of work that take given seconds, and returns what is said after each."""

    def do(parts, seconds, counts=None):
        now, said = [0.0], []
        monkeypatch.setattr(time_left.time, "monotonic", lambda: now[0])
        done = TimeLeft("42 searches of 60 steps", parts)
        for each, count in zip(seconds, counts or [1] * len(seconds), strict=True):
            now[0] += each
            done.done(count)
            said.append(capsys.readouterr().err)
        return said

    return do


def test_the_time_that_is_left_is_said_once_and_without_the_first_part(work):
    """The first part compiles for a minute; each other takes 3 s, of which the first two make more than 5 s."""
    assert work(60, [60, 3, 3, 3]) == ["", "", "42 searches of 60 steps: about 3 min left\n", ""]


def test_parts_of_several_units_count_as_many(work):
    assert work(2000, [1, 6, 6], [16, 16, 16]) == ["", "42 searches of 60 steps: about 12 min left\n", ""]


def test_short_work_is_not_worth_a_line(work):
    assert work(6, [9, 6, 3, 3, 3, 3]) == [""] * 6

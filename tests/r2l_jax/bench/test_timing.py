import itertools

import numpy as np
import pytest

from r2l_jax.bench import timing


def test_sides_take_turns_and_the_first_call_is_not_counted():
    ticks = itertools.count(0.0)
    samples = timing.alternate({"ours": lambda: next(ticks), "baseline": lambda: next(ticks)}, 3)
    assert samples == {"ours": [2.0, 4.0, 6.0], "baseline": [3.0, 5.0, 7.0]}


@pytest.mark.parametrize(
    ("seconds", "slow", "rounds"),
    [
        (np.inf, np.inf, timing.MOST),
        (0.0, np.inf, timing.FEWEST),
        (0.0, 0.0, timing.FEWEST_SLOW),
    ],
)
def test_repeats_fit_the_time(monkeypatch, seconds, slow, rounds):
    monkeypatch.setattr(timing, "REST_SECONDS", 0.0)
    monkeypatch.setattr(timing, "SECONDS", seconds)
    monkeypatch.setattr(timing, "SLOW_SECONDS", slow)
    assert len(timing.alternate({"ours": lambda: 0.0}, None)["ours"]) == rounds

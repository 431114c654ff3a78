"""The rows of the benchmark's table, and the comparison of ours with a baseline."""

import contextlib
import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from r2l_jax.bench import timing
from r2l_jax.bench.timing import Call


class Measured(NamedTuple):
    """The result of a row.

    Attributes:
        value: the number to compare with the bar; None if it could not be measured.
        samples_ms: all times by name; "ours", "baseline" and "floor" have columns in the table.
        note: a remark for the table.
    """

    value: float | None
    samples_ms: Mapping[str, Sequence[float]]
    note: str = ""


class Bars(NamedTuple):
    """The value to reach, the better value to aim for, and how many times as long as the floor ours may take."""

    bar: float | None = None
    stretch: float | None = None
    most_floors: float | None = None


@dataclasses.dataclass(frozen=True)
class Row:
    """A piece of work in the table, and the bars to reach.

    Attributes:
        name: the row's name.
        measure: measures with a number of repeats; None takes as many as fit.
        bars: the bars to reach.
        unit: the unit of the value, the bar and the stretch.
        at_most: whether less is better.
        pixels: the number of pixels that ours takes, to show how many it takes in a second; None does not show it.
        on_gpu: whether the row is measured where JAX computes on a GPU.
    """

    name: str
    measure: Callable[[int | None], Measured]
    bars: Bars
    unit: str = "x"
    at_most: bool = False
    pixels: int | None = None
    on_gpu: bool = True

    def reached(self, value: float | None) -> str:
        """Says which bar a value reaches: "stretch", "pass", or "fail" for none of them.

        Without a value, it says "not compared"; without a bar, "no bar".
        """
        if value is None:
            return "not compared"
        if self.bars.bar is None:
            return "no bar"
        for word, limit in (("stretch", self.bars.stretch), ("pass", self.bars.bar)):
            if limit is not None and (value <= limit if self.at_most else value >= limit):
                return word
        return "fail"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Measures how many times as fast ours is as a baseline.

    Attributes:
        inputs: makes the NumPy arrays that all sides are given.
        ours: prepares our work with these arrays, and returns the call to time.
        baseline: prepares the baseline's work in the same way.
        floor: prepares the least work with the first array, which no function can beat.
        baseline_on_cpu: whether the baseline computes on the CPU wherever JAX does.
    """

    inputs: Callable[[], tuple[np.ndarray, ...]]
    ours: Callable[..., Call]
    baseline: Callable[..., Call] | None
    floor: Callable[[np.ndarray], Call] | None = None
    baseline_on_cpu: bool = False

    def __call__(self, repeats: int | None) -> Measured:
        """Measures all sides; leaves out a baseline that is not installed or fails."""
        inputs, note = self.inputs(), ""
        # The baseline's process prepares its work while this one prepares ours.
        with timing.Elsewhere(self.baseline, inputs) if self.baseline else contextlib.nullcontext() as baseline:
            stopwatches: dict[str, Callable[[], float]] = {
                "ours": partial(timing.milliseconds, self.ours(*inputs), timing.TURN_SECONDS)
            }
            if baseline is not None:
                stopwatches["baseline"] = baseline.milliseconds
            if self.floor is not None:
                stopwatches["floor"] = partial(timing.milliseconds, self.floor(inputs[0]), timing.TURN_SECONDS)
            try:
                samples = timing.alternate(stopwatches, repeats)
            except timing.BaselineError as failure:
                note = str(failure)
                del stopwatches["baseline"]
                samples = timing.alternate(stopwatches, repeats)
        medians = {name: statistics.median(times) for name, times in samples.items()}
        return Measured(medians["baseline"] / medians["ours"] if "baseline" in medians else None, samples, note)

"""Judges windows of new images by a reference."""

from collections.abc import Sequence

import numpy as np

import isp
from r2l_jax.drift.results import WatchedStatistic, Window
from r2l_jax.drift.watch import alarm
from r2l_jax.drift.watch.reference import Reference
from r2l_jax.drift.watch.statistics import IMAGE, MOSAIC, output_names, see
from r2l_jax.training.run import Run

# How many of the most extreme statistics a result lists.
_LISTED = 5


class Watch:
    """Judges windows of new images.

    Args:
        run: the models.
        reference: the reference of the run.
        level: the probability of a false alarm for each window.
        windows: windows that an earlier watch has judged.

    Attributes:
        windows: all windows that were judged.
    """

    def __init__(self, run: Run, reference: Reference, level: float, windows: Sequence[Window] = ()):
        self._run, self._reference, self.level = run, reference, level
        self.windows = list(windows)

    def judge(self, name: str, raws: np.ndarray, cameras: Sequence[isp.Camera] | None) -> Window:
        """Tests a window of mosaics `(N, H, W)`; each window gets permutations of its own."""
        new = see(self._run, raws, cameras)
        verdict = alarm.compare(self._reference.seen, new, self.level, seed=len(self.windows))
        names = (*MOSAIC, *IMAGE, *output_names(self._run.task))
        listed = alarm.single_statistics(self._reference.seen, new, names)[:_LISTED]
        window = Window(
            name=name,
            images=len(raws),
            alarm=verdict.p_value <= self.level,
            p_value=verdict.p_value,
            causes=[],
            tests=verdict.tests,
            statistics=[WatchedStatistic(*each) for each in listed],
            confidence=float(new.output[:, 0].mean()),
        )
        self.windows.append(window)
        return window

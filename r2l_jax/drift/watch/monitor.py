"""Judges windows of new images by a reference."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from r2l_jax.drift.watch import alarm, expected
from r2l_jax.drift.watch.diagnosis import LEAST_SIDE, diagnose
from r2l_jax.drift.watch.reference import Reference
from r2l_jax.drift.watch.results import Cause, ExpectedScore, Remedy, Window
from r2l_jax.drift.watch.statistics import IMAGE, MOSAIC, output_names, see
from r2l_jax.training.run import Run

# How many of the most extreme statistics a result lists.
_LISTED = 5

# The causes are found in at most this many images: the latest ones of windows with an alarm.
_MOST = 256


class Explained(NamedTuple):
    """An explanation of the latest windows with an alarm.

    Attributes:
        causes: what has changed, the strongest first; nothing without an alarm.
        score: the score to expect now; None if nothing tells it.
        by_confidence: the score to expect by confidence alone.
        remedy: the gain of mending by statistics, if the camera explains the drift.
    """

    causes: tuple[Cause, ...]
    score: ExpectedScore | None
    by_confidence: list[ExpectedScore]
    remedy: Remedy | None


class Watch:
    """Judges windows of new images.

    Args:
        run: the models.
        reference: the reference of the run.
        level: the probability of a false alarm for each window.
        windows: windows that an earlier watch has judged.

    Attributes:
        windows: all windows that were judged.
        without_drift: the score on the reference.
        undiagnosed: why no causes are named for images of this run; None if they are.
    """

    def __init__(self, run: Run, reference: Reference, level: float, windows: Sequence[Window] = ()):
        self._run, self._reference, self.level = run, reference, level
        self.windows = list(windows)
        self._alarmed: list[tuple[np.ndarray, np.ndarray, tuple[Cause, ...]]] = []
        self.without_drift = expected.without_drift(run, reference)
        self.undiagnosed = _undiagnosed(reference)

    def judge(self, name: str, raws: np.ndarray) -> Window:
        """Tests a window of mosaics `(N, H, W)`; each window gets permutations of its own."""
        new = see(self._run, raws)
        verdict = alarm.compare(self._reference.seen, new, self.level, seed=len(self.windows))
        names = (*MOSAIC, *IMAGE, *output_names(self._run.task))
        listed = alarm.single_statistics(self._reference.seen, new, names)[:_LISTED]
        alarmed = verdict.p_value <= self.level
        causes = self._diagnosed(raws) if alarmed else ()
        if alarmed:
            self._alarmed.append((raws, new.probabilities.mean(0), causes))
            while sum(len(each) for each, *_ in self._alarmed[1:]) >= _MOST:
                del self._alarmed[0]
        window = Window(
            name=name,
            images=len(raws),
            alarm=alarmed,
            p_value=verdict.p_value,
            causes=list(causes),
            tests=verdict.tests,
            statistics=listed,
            confidence=float(new.output[:, 0].mean()),
        )
        self.windows.append(window)
        return window

    def explain(self, command: str) -> Explained:
        """Explains the drift of the latest images, in all windows with an alarm that have the same strongest cause.

        These are the latest windows that were judged here, with at most 256 images.

        Args:
            command: predicts the images with mended models.
        """
        if not self._alarmed:
            return Explained((), self.without_drift, [], None)
        strongest = [causes[0].name if causes else "" for *_, causes in self._alarmed]
        others = [place for place, name in enumerate(strongest) if name != strongest[-1]]
        latest = self._alarmed[others[-1] + 1 if others else 0 :]
        raws, probabilities = (np.concatenate(each)[-_MOST:] for each in list(zip(*latest, strict=True))[:2])
        causes = latest[0][2] if len(latest) == 1 else self._diagnosed(raws)
        by_confidence = {}
        if self._run.task.name == "classification":
            known = self._reference.seen.probabilities.mean(0)
            by_confidence = expected.by_confidence(known, self._reference.targets, probabilities)
        if not expected.explained_by_camera(causes):
            return Explained(causes, by_confidence.get(expected.COT), [*by_confidence.values()], None)
        drifted = expected.by_camera(self._run, self._reference, causes)
        remedy = expected.remedy(self._run, self._reference, drifted, command)
        return Explained(causes, drifted.score, [*by_confidence.values()], remedy)

    def _diagnosed(self, raws: np.ndarray) -> tuple[Cause, ...]:
        camera = self._run.camera
        if self.undiagnosed or camera is None:
            return ()
        return diagnose(self._reference.raws, self._reference.labels, raws, camera)


def _undiagnosed(reference: Reference) -> str | None:
    """Tells why no causes are named: the images are too small."""
    height, width = reference.mosaics.shape[1:]
    if min(height, width) >= LEAST_SIDE:
        return None
    return f"causes are named in images of at least {LEAST_SIDE}x{LEAST_SIDE} sites, and these have {height}x{width}"

"""Tests windows of new images against a reference, and makes the result of a monitor."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from r2l_jax.drift.monitoring import alarm, expected
from r2l_jax.drift.monitoring.alarm import Statistic
from r2l_jax.drift.monitoring.diagnosis import LEAST_IMAGES, LEAST_SIDE, DriftEstimate, diagnose
from r2l_jax.drift.monitoring.expected import Remedy
from r2l_jax.drift.monitoring.reference import Reference
from r2l_jax.drift.monitoring.statistics import IMAGE, MOSAIC, output_names, see
from r2l_jax.results.result import SCORE, Column, Figure, Interval, Result, Table, points
from r2l_jax.training.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# How many of the most extreme statistics a result lists.
_LISTED = 5

# The drift is diagnosed in at most this many images: the latest ones of windows with an alarm.
_MOST = 256


@dataclasses.dataclass(frozen=True)
class Window:
    """A window of new images.

    Attributes:
        name: the day, the model or the folder of the images, if windows were made by it, and a number.
        files: their files.
        alarm: whether they have drifted.
        p_value: the probability of such a difference, or a greater one, among images without drift.
        diagnosis: the causes of the drift, the strongest first; empty without an alarm.
        tests: the p-value of each test alone, see `alarm`.
        statistics: the statistics that have changed most.
        confidence: the mean confidence of the models; None if they have none.
        groups: the number of groups of the images; None if images were compared instead of groups.
    """

    name: str
    files: list[str]
    alarm: bool
    p_value: float
    diagnosis: list[DriftEstimate]
    tests: dict[str, float]
    statistics: list[Statistic]
    confidence: float | None
    groups: int | None = None

    @property
    def row(self) -> list[Any]:
        """The row of the table of windows."""
        sign = str(self.diagnosis[0]) if self.diagnosis else self.statistics[0].name
        return [self.name, len(self.files), self.p_value, self.alarm, sign if self.alarm else ""]


@dataclasses.dataclass(frozen=True)
class Explained:
    """An explanation of the latest windows with an alarm.

    Attributes:
        diagnosis: the causes of the drift, the strongest first; empty without an alarm.
        expected: the score to expect, with its 95% confidence interval, if the camera explains the drift.
        remedy: the gain of adapting by statistics, likewise.
        refused: why neither is stated.
        loss: the loss in score to expect, with the ends of its 95% confidence interval.
    """

    diagnosis: list[DriftEstimate] = dataclasses.field(default_factory=list)
    expected: Interval | None = None
    remedy: Remedy | None = None
    refused: str = ""
    loss: Interval | None = None


def undiagnosed(images: int, known: int, shape: Sequence[int]) -> str:
    """Says why the drift of images is not diagnosed with a number of known ones; empty if it is."""
    least_new, least_known = LEAST_IMAGES
    lacking = []
    if min(shape) < LEAST_SIDE:
        lacking.append(f"in images of at least {LEAST_SIDE}x{LEAST_SIDE} sites, got {shape[0]}x{shape[1]}")
    if images < least_new or known < least_known:
        least = f"{least_new} new and {least_known} reference images"
        lacking.append(f"from at least {least}, got {images} and {known}")
    return f"drift is diagnosed {', and '.join(lacking)}" if lacking else ""


class Monitor:
    """Tests windows of new images for drift, and explains the latest windows with an alarm.

    Args:
        run: the models.
        reference: the reference of the run.
        level: the probability of a false alarm for each window.
        windows: windows that an earlier monitor has tested.
        explained: its explanation.
        tolerance: the loss in score that is no alarm if it explains the drift; None raises an alarm on any drift.
    """

    def __init__(
        self,
        run: Run,
        reference: Reference,
        level: float,
        windows: Sequence[Window] = (),
        explained: Explained | None = None,
        tolerance: float | None = None,
    ):
        self._tolerance = tolerance
        self._run, self._reference, self.level = run, reference, level
        self.windows, self.explained, self._is_new = list(windows), explained or Explained(), False
        # Raw images with their groups, and their diagnosis unless they are too few.
        self._alarmed: list[tuple[np.ndarray, np.ndarray | None, list[DriftEstimate] | None]] = []
        self._without_drift = None if reference.targets is None else expected.without_drift(run, reference)

    def judge(self, name: str, files: Sequence[str], raws: np.ndarray, groups: np.ndarray | None = None) -> Window:
        """Tests a window of raw images `(N, H, W)`, with their groups; each window gets its own permutations."""
        new, known = see(self._run, raws, groups), self._reference
        verdict = alarm.compare(known.seen, new, self.level, len(self.windows), known.others)
        names = (*MOSAIC, *IMAGE, *output_names(self._run.task))
        listed = alarm.single_statistics(known.seen, new, names, known.others)[:_LISTED]
        alarmed, diagnosis, counts = verdict.p_value <= self.level, [], alarm.group_counts(known.seen, new)
        if counts is not None and groups is None:
            groups = np.zeros(len(raws), int)
        if alarmed:
            found, self._is_new = self._diagnosed(raws, groups), True
            self._alarmed.append((raws, groups, found))
            diagnosis = found or []
            while sum(len(each) for each, *_ in self._alarmed[1:]) >= _MOST:
                del self._alarmed[0]
        confidence = float(new.output[:, 0].mean()) if new.output.shape[1] else None
        tested = alarmed, verdict.p_value, diagnosis, verdict.tests, listed, confidence, counts and counts[1]
        window = Window(name, list(files), *tested)
        self.windows.append(window)
        return window

    def explain(self) -> None:
        """Explains the drift in the latest windows with an alarm, as far back as the strongest cause is the same.

        Explains at most the latest 256 images of the windows judged by this monitor. Without a new alarm, the
        explanation stays.
        """
        if not self._is_new:
            return
        strongest = [diagnosis and diagnosis[0].name for *_, diagnosis in self._alarmed]
        last = next((name for name in reversed(strongest) if name is not None), None)
        others = [place for place, name in enumerate(strongest) if name not in (None, last)]
        latest = self._alarmed[others[-1] + 1 if others else 0 :]
        raws = np.concatenate([each for each, *_ in latest])[-_MOST:]
        known = [each for _, each, _ in latest if each is not None]
        groups = np.concatenate(known)[-_MOST:] if known else None
        diagnosis = (latest[0][2] if len(latest) == 1 else self._diagnosed(raws, groups)) or []
        self.explained, self._is_new = self._explained(raws, groups, diagnosis), False

    def _explained(self, raws: np.ndarray, groups: np.ndarray | None, diagnosis: list[DriftEstimate]) -> Explained:
        if refused := undiagnosed(len(raws), len(self._reference), raws.shape[1:]):
            return Explained(refused=f"{refused}; the alarm and the statistics that have changed most hold without it")
        if not expected.explained_by_camera(diagnosis):
            said = "the camera does not explain this drift, so the reference cannot predict the score"
            return Explained(diagnosis, refused=said)
        if self._without_drift is None:
            return Explained(diagnosis, refused="the accepted images have no labels, so they cannot predict the score")
        drifted = expected.by_camera(self._run, self._reference, diagnosis, self._without_drift.outcomes)
        if refused := expected.still_differs(self._run, drifted, self._reference.groups, raws, groups):
            return Explained(diagnosis, refused=refused)
        remedy = expected.remedy(self._run, self._reference, drifted)
        return Explained(diagnosis, drifted.score, remedy, loss=drifted.loss)

    def _diagnosed(self, raws: np.ndarray, groups: np.ndarray | None) -> list[DriftEstimate] | None:
        """Diagnoses the drift of raw images; None if they or the reference are too few or too small."""
        known = self._reference
        if undiagnosed(len(raws), len(known), raws.shape[1:]) or self._run.camera is None:
            return None
        of_groups = {"groups": known.groups, "new_groups": groups}
        return list(diagnose(known.raws, known.labels, raws, self._run.camera, **of_groups))

    @property
    def alarm(self) -> bool:
        """Whether a window has drifted, unless the loss to expect is tolerated with confidence."""
        loss = self.explained.loss
        is_tolerated = self._tolerance is not None and loss is not None and loss[1] <= self._tolerance
        return any(window.alarm for window in self.windows) and not is_tolerated

    @property
    def known_groups(self) -> int:
        """The number of groups with which those of raw images are compared."""
        others = self._reference.others
        return len(np.unique(self._reference.groups)) + (0 if others is None else len(np.unique(others.groups)))

    def p_value(self, planned: int = 0) -> float:
        """Computes the p-value of all windows together by Bonferroni's correction for their number, or that planned."""
        least = min((window.p_value for window in self.windows), default=1.0)
        return min(1.0, max(planned, len(self.windows)) * least)

    def result(self, planned: int, command: str, metadata: Mapping[str, Any]) -> Result:
        """Returns the result of all windows.

        Args:
            planned: the number of windows that share the level; 0 if it is of each window.
            command: the command that predicts with adapted models.
            metadata: further metadata.
        """
        alarms, found, score = [each for each in self.windows if each.alarm], self.explained, self._run.task.score.name
        p_value = self.p_value(planned)
        verdict, notes, task = f"no drift in {len(self.windows)} windows, p = {p_value:.2g}", [], self._run.task
        if not task.has_distributions:
            notes.append(f"outputs are not tested: {task.title} predicts no probabilities of classes")
        if alarms:
            verdict = f"drift in {len(alarms)} of {len(self.windows)} windows, p = {p_value:.2g}"
            verdict += f"; diagnosis: {', '.join(map(str, found.diagnosis))}" if found.diagnosis else ""
            if found.expected is not None:
                verdict += "; expected {} {:.3f} ({:.3f} to {:.3f})".format(score, *found.expected)
            if self._tolerance is not None:
                said = "not known" if found.loss is None else "{} ({} to {}) points".format(*map(points, found.loss))
                verdict += f"; expected loss {said}: {'alarm' if self.alarm else 'no alarm'}"
            if found.refused:
                notes.append(found.refused)
            if found.expected is not None and len(np.unique(self._reference.groups)) == 1:
                notes.append("the reference is of a single group, so no interval of its scores is known")
            if found.remedy is not None:
                notes.append(found.remedy.text(command))
        metadata = {
            "title": "Camera monitor",
            "verdict": [verdict],
            "notes": notes,
            "alarm": self.alarm,
            "p_value": p_value,
            "windows": self.windows,
            "explained": found,
            **metadata,
        }
        figures = {"p_values": Figure(self._draw_p_values)}
        if task.has_distributions:
            figures["confidence"] = Figure(self._draw_confidence, (7.0, 2.5))
        return Result(metadata, self._tables(alarms, score), figures if self.windows else {})

    def _tables(self, alarms: Sequence[Window], score: str) -> dict[str, Table]:
        if not self.windows:
            return {}
        columns = [*map(Column, ("window", "images", "p-value", "alarm", "strongest sign"))]
        tests = list(self.windows[0].tests)
        extreme = min(self.windows, key=lambda window: window.p_value)
        tables = {
            "windows": Table("Windows of new images", columns, [each.row for each in self.windows]),
            "tests": Table(
                "P-value of each test alone, and mean confidence",
                [*map(Column, ("window", *tests)), Column("confidence", "", ".3f")],
                [[each.name, *(each.tests[name] for name in tests), each.confidence] for each in self.windows],
            ),
            "statistics": Table(
                f"Statistics that have changed most in window {extreme.name}",
                [*map(Column, ("statistic", "reference", "new", "distance", "p-value"))],
                extreme.statistics,
                "Medians, Kolmogorov-Smirnov distance, and p-value with Holm's correction. Quantiles and means of a "
                "color are on a logarithmic scale, with black at 0 and white at 1.",
            ),
        }
        if diagnosis := self.explained.diagnosis:
            columns = [Column("cause"), Column("size", "", ".3g"), Column("unit"), Column("evidence", "", ".1f")]
            rows = [[each.name, (each.value, each.low, each.high), each.unit, each.evidence] for each in diagnosis]
            tables["diagnosis"] = Table("Diagnosis", columns, rows, "95% confidence intervals")
        if alarms:
            clean = self._without_drift and self._without_drift.score
            scores = {"under the diagnosis": self.explained.expected, "without drift": clean}
            tables["expected"] = Table(
                f"Expected {score}, measured on the reference",
                [Column("reference"), Column(score, "points", SCORE)],
                [[name, each] for name, each in scores.items() if each is not None],
                "95% confidence intervals",
            )
        return tables

    def _draw_p_values(self, axes: "Axes") -> None:
        places = np.arange(1, len(self.windows) + 1)
        for name in self.windows[0].tests:
            axes.plot(places, [each.tests[name] for each in self.windows], ".-", linewidth=0.7, alpha=0.6, label=name)
        axes.plot(places, [each.p_value for each in self.windows], "o-", label="all tests")
        alarms = [(place, each.p_value) for place, each in zip(places, self.windows, strict=True) if each.alarm]
        if alarms:
            axes.plot(*zip(*alarms, strict=True), "o", color="tab:red", markersize=9, label="alarm", zorder=3)
        label = f"level {self.level:.2g}"
        axes.axhline(self.level, color="tab:red", linestyle="--", linewidth=1, label=label)
        axes.set(yscale="log", xlabel="window", ylabel="p-value")
        axes.locator_params("x", integer=True)
        axes.figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize="small")

    def _draw_confidence(self, axes: "Axes") -> None:
        confidence = np.array([each.confidence for each in self.windows], float)
        axes.plot(np.arange(1, len(self.windows) + 1), confidence, "o-")
        axes.set(xlabel="window", ylabel="confidence", ylim=(0, 1.02))
        axes.locator_params("x", integer=True)

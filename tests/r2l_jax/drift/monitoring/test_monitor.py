"""Sequences of windows, with p-values and statistics that NumPy draws."""

import numpy as np
import pytest
import smears
from matplotlib.figure import Figure
from scipy import stats

from r2l_jax.drift.monitoring import alarm, expected, monitor
from r2l_jax.drift.monitoring.alarm import Statistic
from r2l_jax.drift.monitoring.diagnosis import SCENE, UNEXPLAINED, DriftEstimate
from r2l_jax.drift.monitoring.expected import Drifted
from r2l_jax.drift.monitoring.monitor import Explained, Monitor, Window
from r2l_jax.drift.monitoring.reference import Reference
from r2l_jax.drift.monitoring.statistics import Seen
from r2l_jax.model.settings import NetworkSettings
from r2l_jax.model.tasks import make_task
from r2l_jax.model.tasks.base import Task
from r2l_jax.training.run import Run

# No outcomes are asked for.
CLEAN = Drifted((0.9, 0.8, 1.0), np.zeros(0), None, (0.0, 0.0, 0.0))


class Empty(Run):
    """A run whose models are not asked."""

    camera = smears.CAMERA
    task, shape = make_task("classification", ("a", "b"), NetworkSettings()), (64, 64)

    def __init__(self):
        self.folds = ()


@pytest.fixture
def monitored(monkeypatch):
    """Makes a monitor that knows the statistics of a reference; raw images stand for their own statistics."""
    monkeypatch.setattr(expected, "without_drift", lambda *_: CLEAN)
    monkeypatch.setattr(monitor, "see", lambda run, raws, groups: of(raws))
    monkeypatch.setattr(monitor.alarm, "single_statistics", lambda *_: [Statistic("mean", 0.0, 1.0, 1.0, 0.0)])
    for name, value in {"_FIRST": 99, "_LAST": 99, "_TOGETHER": 100}.items():
        monkeypatch.setattr(alarm, name, value)

    def made(known, level, windows=(), groups=None, **settings):
        classes, groups = np.zeros(len(known), int), np.arange(len(known)) if groups is None else groups
        made = Reference(known, classes, classes, groups, "test", of(known)._replace(groups=groups))
        return Monitor(Empty(), made, level, windows, **settings)

    return made


def of(values):
    """Statistics of images `(N, 2, K)`, whose rows are numbers of the raw image and of the processed one."""
    raw, image = np.float32(values).transpose(1, 0, 2)
    return Seen(raw, image, raw[:, :2], image[:, :3], np.full((1, len(values), 2), 0.5, np.float32))


@pytest.mark.parametrize("count", [1, 10, 100])
def test_p_of_all_windows_is_a_p_value_however_many_they_are(monitored, count):
    sequences = 400
    values = np.random.default_rng(count).random((sequences, count))
    p_values = []
    for sequence in values:
        windows = [Window("", [], False, float(value), [], {}, [], 0.5) for value in sequence]
        p_values.append(monitored(np.zeros((8, 2, 4)), 0.001, windows).p_value())
    for level in (0.05, 0.3):
        found = int((np.array(p_values) <= level).sum())
        assert stats.binomtest(found, sequences, level, "greater").pvalue > 1e-3
    # It is not needlessly high: with the exact correction, 5% of the sequences would have at most 0.05.
    assert stats.binomtest(int((np.array(p_values) <= 0.05).sum()), sequences, 0.05, "less").pvalue > 1e-3


def test_one_reference_of_a_sequence_gives_the_promised_alarms(monitored):
    """Each window is compared with the whole reference, at the level of the monitor, with its own permutations."""
    random, alarms, windows = np.random.default_rng(0), [], 20
    for _ in range(10):
        known, new = random.normal(size=(80, 2, 4)), random.normal(size=(windows, 10, 2, 4))
        followed = monitored(known, 0.2)
        found = [followed.judge("", [], each) for each in new]
        assert found[-1].p_value == alarm.compare(of(known), of(new[-1]), 0.2, windows - 1).p_value
        assert [each.alarm for each in found] == [each.p_value <= 0.2 for each in found]
        alarms.append(sum(each.alarm for each in found))
    # The reference is eight times as large as a window, so that most of the chance is the window's.
    assert stats.binomtest(sum(alarms), 10 * windows, 0.2).pvalue > 0.01


@pytest.mark.parametrize(
    ("known", "windows", "named"), [(127, (64,), 0), (128, (63,), 0), (128, (40, 30), 70), (128, (64, 10), 74)]
)
def test_below_the_validated_numbers_of_images_an_alarm_has_no_causes_or_score(
    monitored, monkeypatch, known, windows, named
):
    monkeypatch.setattr(monitor, "LEAST_SIDE", 2)
    monkeypatch.setattr(
        monitor, "diagnose", lambda _, __, new, *___, **____: (DriftEstimate("scene", 1, 1, 1, "", len(new)),)
    )
    random = np.random.default_rng(0)
    followed = monitored(random.normal(size=(known, 2, 4)), 0.2)
    for count in windows:
        assert followed.judge("", [], random.normal(5, size=(count, 2, 4))).alarm
    followed.explain()
    # Small windows are diagnosed together, and do not hide the diagnosis of others.
    assert [each.evidence for each in followed.explained.diagnosis] == [named] * (named > 0)
    found = followed.result(0, "", {})
    said = f"drift is diagnosed from at least 64 new and 128 reference images, got {sum(windows)} and {known}"
    said += "; the alarm and the statistics that have changed most hold without it"
    assert (found.metadata["notes"] == [said]) == (named == 0)
    assert ("diagnosis" in found.tables) == ("diagnosis" in found.metadata["verdict"][0]) == (named > 0)
    assert [row[0] for row in found.tables["expected"].rows] == ["without drift"]


@pytest.mark.parametrize(
    ("new", "known", "shape", "said"),
    [
        (64, 128, (64, 64), ""),
        (64, 128, (96, 48), "drift is diagnosed in images of at least 64x64 sites, got 96x48"),
        (64, 60, (64, 64), "drift is diagnosed from at least 64 new and 128 reference images, got 64 and 60"),
        (
            *(64, 60, (48, 48)),
            "drift is diagnosed in images of at least 64x64 sites, got 48x48, and from at least 64 new and 128 "
            "reference images, got 64 and 60",
        ),
    ],
)
def test_everything_that_a_diagnosis_lacks_is_said(new, known, shape, said):
    assert monitor.undiagnosed(new, known, shape) == said


def test_the_latest_256_images_with_an_alarm_of_the_same_cause_are_explained(monitored, monkeypatch):
    monkeypatch.setattr(monitor, "LEAST_SIDE", 2)
    seen = []

    def diagnose(_, __, new, *___, new_groups, **____):
        seen.append((new, new_groups))
        return (DriftEstimate(SCENE if new.mean() > 0 else UNEXPLAINED, 1, 1, 1, "", len(new)),)

    monkeypatch.setattr(monitor, "diagnose", diagnose)
    random = np.random.default_rng(0)
    followed = monitored(random.normal(size=(128, 2, 4)), 0.2)
    windows = [random.normal(level, size=(count, 2, 4)) for count, level in ((64, -5), (150, 5), (90, 5), (80, 5))]
    # The first has another cause. The last three are 320 images, 64 too many.
    of_windows = np.split(np.arange(384), np.cumsum([64, 150, 90]))
    for place, (first, last) in enumerate(((0, 1), (1, 2), (1, 3), (1, 4))):
        assert followed.judge("", [], windows[place], of_windows[place]).alarm
        followed.explain()
        for found, parts in zip(seen[-1], (windows, of_windows), strict=True):
            np.testing.assert_array_equal(found, np.concatenate(parts[first:last])[-256:])


@pytest.mark.parametrize(
    ("known", "named", "compared"),
    [
        (np.arange(128), None, None),
        (np.arange(128) // 16, None, np.zeros(64)),
        (np.arange(128) // 16, np.arange(64) // 32, np.arange(64) // 32),
    ],
    ids=["independent images", "one group", "two groups"],
)
def test_new_images_are_diagnosed_by_their_groups(monitored, monkeypatch, known, named, compared):
    monkeypatch.setattr(monitor, "LEAST_SIDE", 2)
    monkeypatch.setattr(alarm, "SKEWED", {"raw images": [], "images": []})
    seen = []

    def diagnose(*_, groups, new_groups):
        seen.append(new_groups)
        np.testing.assert_array_equal(groups, known)
        return (DriftEstimate(SCENE, 1, 1, 1, "", 1),)

    monkeypatch.setattr(monitor, "diagnose", diagnose)
    random = np.random.default_rng(0)
    followed = monitored(random.normal(size=(128, 2, 4)), 0.2, groups=known)
    for _ in range(2):
        assert followed.judge("", [], random.normal(5, size=(64, 2, 4)), named).alarm
    followed.explain()
    # Each window, and both together.
    twice = None if compared is None else np.tile(compared, 2)
    for found, right in zip(seen, (compared, compared, twice), strict=True):
        np.testing.assert_array_equal(found, right)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_reference_of_a_single_group_is_said_to_know_no_interval(monitored, groups):
    windows = [Window("", [], True, 0.001, [], {}, [Statistic("mean", 0.0, 1.0, 1.0, 0.0)], 0.5)]
    explained = Explained([DriftEstimate("exposure", 1, 1, 1, "stops", 1)], (0.8, 0.0, 1.0))
    followed = monitored(np.zeros((8, 2, 4)), 0.1, windows, np.arange(8) % groups, explained=explained)
    said = "the reference is of a single group, so no interval of its scores is known"
    assert (said in followed.result(0, "", {}).metadata["notes"]) == (groups == 1)


@pytest.mark.shows("monitoring.monitor keys: notes")
def test_a_task_without_probabilities_is_said_not_to_be_tested_and_has_no_figure_of_confidence(monitored, monkeypatch):
    class Counting(Task):
        """Predicts a number for each image."""

    monkeypatch.setattr(Empty, "task", Counting(("cells",), scored=Empty.task.score))
    found = monitored(np.zeros((8, 2, 4)), 0.1).result(0, "", {})
    assert found.metadata["notes"] == ["outputs are not tested: counting predicts no probabilities of classes"]
    windows = [Window("", [], False, 0.5, [], {}, [Statistic("mean", 0.0, 1.0, 1.0, 0.0)], 0.5)]
    assert [*monitored(np.zeros((8, 2, 4)), 0.1, windows).result(0, "", {}).figures] == ["p_values"]


@pytest.mark.shows(
    "monitoring.monitor windows.csv: window, images, p-value, alarm, strongest sign",
    "monitoring.monitor tests.csv: window, *, confidence",
    "monitoring.monitor statistics.csv: statistic, reference, new, distance, p-value",
    "monitoring.monitor expected.csv: reference, *, * high, * low",
    "monitoring.monitor figures: p_values, confidence",
    "monitoring.monitor keys: title, p_value, windows, alarm, explained, *",
)
def test_each_window_is_a_row_of_the_tables_and_a_point_of_the_figures(monitored):
    of_first = [Statistic("mean", 1.0, 2.0, 0.5, 0.03), Statistic("spread", 3.0, 2.5, 0.2, 0.4)]
    of_second = [Statistic("mean", 1.0, 7.0, 0.9, 0.001)]
    windows = [
        Window("a", ["1", "2", "3"], False, 0.2, [], {"pixels": 0.3, "outputs": 0.1}, of_first, 0.7),
        Window("b", ["4", "5"], True, 0.004, [], {"pixels": 0.02, "outputs": 0.005}, of_second, 0.4),
    ]
    given = {"title": "Camera of the lab", "lab": "1"}
    found = monitored(np.zeros((8, 2, 4)), 0.01, windows, explained=Explained()).result(2, "", given)
    assert found.tables["windows"].records() == [
        {"window": "a", "images": 3, "p-value": 0.2, "alarm": False, "strongest sign": ""},
        {"window": "b", "images": 2, "p-value": 0.004, "alarm": True, "strongest sign": "mean"},
    ]
    assert found.tables["tests"].records() == [
        {"window": "a", "pixels": 0.3, "outputs": 0.1, "confidence": 0.7},
        {"window": "b", "pixels": 0.02, "outputs": 0.005, "confidence": 0.4},
    ]
    # The statistics are those of the window that differs most.
    (row,) = found.tables["statistics"].records()
    assert row == {"statistic": "mean", "reference": 1.0, "new": 7.0, "distance": 0.9, "p-value": 0.001}
    assert found.tables["expected"].rows == [["without drift", CLEAN.score]]
    metadata = found.metadata
    assert (metadata["title"], metadata["p_value"], metadata["windows"]) == ("Camera of the lab", 0.008, windows)
    assert metadata["lab"] == "1"
    assert (metadata["alarm"], metadata["explained"]) == (True, Explained())
    p_values, confidence = (Figure(layout="constrained").subplots() for _ in range(2))
    found.figures["p_values"].draw(p_values)
    lines = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in p_values.lines}
    assert lines["pixels"] == ([1, 2], [0.3, 0.02])
    assert lines["outputs"] == ([1, 2], [0.1, 0.005])
    assert lines["all tests"] == ([1, 2], [0.2, 0.004])
    assert lines["alarm"] == ([2], [0.004])
    assert lines["level 0.01"][1] == [0.01, 0.01]
    found.figures["confidence"].draw(confidence)
    assert [list(line.get_ydata()) for line in confidence.lines] == [[0.7, 0.4]]


@pytest.mark.shows("monitoring.monitor keys: verdict")
@pytest.mark.parametrize(
    ("tolerance", "loss", "alarm"),
    [
        (None, (0.001, 0.0, 0.002), True),
        (0.02, (0.05, 0.03, 0.07), True),
        (0.02, (0.05, 0.019, 0.08), False),
        (0.02, None, True),
    ],
)
def test_a_loss_is_an_alarm_if_it_exceeds_the_tolerance_with_confidence_or_is_not_known(
    monitored, tolerance, loss, alarm
):
    windows = [Window("", [], True, 0.001, [], {}, [Statistic("mean", 0.0, 1.0, 1.0, 0.0)], 0.5)]
    explained = Explained(loss=loss)
    found = monitored(np.zeros((8, 2, 4)), 0.1, windows, explained=explained, tolerance=tolerance)
    assert found.result(0, "", {}).metadata["alarm"] == alarm
    said = "expected loss 5.0 (3.0 to 7.0) points: alarm"
    assert (said in found.result(0, "", {}).metadata["verdict"][0]) == (loss == (0.05, 0.03, 0.07))
    windows[0] = windows[0].__class__("", [], False, 0.9, [], {}, windows[0].statistics, 0.5)
    assert not monitored(np.zeros((8, 2, 4)), 0.1, windows, explained=explained, tolerance=tolerance).alarm

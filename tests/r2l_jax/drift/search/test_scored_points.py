import brightness
import numpy as np
import pytest
from brightness import dark_images, half_images

from r2l_jax.drift.search.knobs import knobs_of
from r2l_jax.drift.search.measure import whole_batches
from r2l_jax.drift.search.scored_points import RESAMPLES, Between, ScoredPoints, point

INTENSITIES = np.linspace(0.15, 0.4, 20)
DEFAULT, INNER, MIDDLE, OUTER = (point({"white_balance": position}) for position in (0.0, 0.5, 0.75, 1.0))


@pytest.fixture
def make():
    dataset = dark_images(INTENSITIES)
    frozen = brightness.frozen(dataset)
    knobs = knobs_of(frozen.facts, frozen.default)

    def make(batch_size=4):
        batches = whole_batches(dataset, np.arange(len(dataset)), batch_size)
        return ScoredPoints(frozen, knobs, batches, 0)

    return make


def test_scores_are_those_of_all_samples_and_of_resamples(make):
    scores = make().at([DEFAULT, MIDDLE], "")
    assert scores.shape == (2, 1 + RESAMPLES)
    np.testing.assert_array_equal(scores[0], 1)
    assert scores[1, 0] == pytest.approx((INTENSITIES * np.exp(0.75) < brightness.BRIGHT).mean())
    assert scores[1, 1:].std() == pytest.approx(np.sqrt(0.75 * 0.25 / 20), rel=0.3)


def test_resamples_draw_scenes():
    """A draw of scenes of which each is lost as a whole has fewer possible scores than a draw of samples."""
    dataset = dark_images(np.repeat([0.2, 0.4], 10))
    frozen = brightness.frozen(dataset)
    batches = whole_batches(dataset, np.arange(20), 4)
    knobs, scenes = knobs_of(frozen.facts, frozen.default), np.repeat([0, 1], 10)
    points = ScoredPoints(frozen, knobs, batches, 0, scenes)
    scores = points.at([INNER], "")[0]
    assert set(scores.tolist()) == {0.0, 0.5, 1.0}
    assert scores[0] == 0.5
    np.testing.assert_array_equal(points.by_scene(points.outcomes([INNER])[0]), [1, 0])


@pytest.mark.parametrize("dataset", [dark_images(INTENSITIES), half_images(0.25, 0.8, 3)], ids=["accuracy", "iou"])
def test_the_mean_over_outcomes_is_the_score(dataset):
    frozen = brightness.frozen(dataset)
    batches = whole_batches(dataset, np.arange(len(dataset)), 4)
    points = ScoredPoints(frozen, knobs_of(frozen.facts, frozen.default), batches, 0)
    scores = points.at([DEFAULT, MIDDLE], "")[:, 0]
    assert scores[1] < scores[0]
    np.testing.assert_allclose(points.outcomes([DEFAULT, MIDDLE]).mean(1), scores, rtol=1e-6)


def test_between_known_points_only_samples_are_measured_that_differ_there(make, monkeypatch):
    points, others = make(), make(batch_size=20)
    points.at([INNER, OUTER], "")
    rows = []
    measure = points._measurer.confusions
    monkeypatch.setattr(points._measurer, "confusions", lambda part, tick: rows.extend(part) or measure(part, tick))
    points.between([Between(MIDDLE, INNER, OUTER)], "")
    lost = (INTENSITIES * np.exp(0.5) < brightness.BRIGHT) & (INTENSITIES * np.exp(1) >= brightness.BRIGHT)
    measured = {float(raw.mean()) for _, batch in rows for raw in batch["raw"]}
    np.testing.assert_allclose(sorted(measured), 0.1 + INTENSITIES[lost], rtol=1e-6)
    np.testing.assert_array_equal(points.known([MIDDLE]), others.at([MIDDLE], ""))
    # The other samples follow when all are asked for.
    rows.clear()
    points.at([MIDDLE], "")
    measured = {float(raw.mean()) for _, batch in rows for raw in batch["raw"]}
    np.testing.assert_allclose(sorted(measured), 0.1 + INTENSITIES[~lost], rtol=1e-6)

import brightness
import numpy as np
import pytest
from brightness import BRIGHT, GAMMA, dark_images
from skimage.color import deltaE_ciede2000, rgb2lab

from r2l_jax.drift.search.measure import Measurer, own_outcomes, whole_batches
from r2l_jax.runtime import stop
from r2l_jax.runtime.stop import Interrupted

INTENSITIES = np.linspace(0.05, 0.45, 10)
DATASET, EVERY = dark_images(INTENSITIES, side=8), np.arange(10)


@pytest.fixture(scope="module")
def frozen():
    return brightness.frozen(DATASET)


def with_gain(frozen, gain):
    return frozen.default | {"white_balance": np.full(3, gain, np.float32)}


def test_numbers_are_those_of_all_samples(frozen):
    default, brighter = Measurer(frozen).measure_samples([frozen.default, with_gain(frozen, 2.0)], DATASET, EVERY, 4)
    for measured, gain in ((default, 1.0), (brighter, 2.0)):
        above = (gain * INTENSITIES) ** (1 / GAMMA) - BRIGHT ** (1 / GAMMA)
        assert measured.loss == pytest.approx(np.log1p(np.exp(2 * above)).mean(), rel=1e-5)
        assert measured.score == pytest.approx((above < 0).mean())
        np.testing.assert_array_equal(measured.confusion, [[[low, 1 - low], [0, 0]] for low in (above < 0).astype(int)])
    assert default.ssim == pytest.approx(1, abs=1e-5)
    assert 0 < brighter.ssim < 0.99
    assert (default.change, *default.color) == (0, 0, 0)
    raws, _ = DATASET.samples(EVERY)
    before, after = (np.asarray(frozen.pipeline(each)(raws)) for each in (frozen.default, with_gain(frozen, 2.0)))
    difference = deltaE_ciede2000(rgb2lab(before), rgb2lab(after))
    assert brighter.change == pytest.approx(np.abs(after - before).max(), rel=1e-5)
    expected = difference.mean(), np.percentile(difference, 95, (1, 2)).mean()
    assert brighter.color == pytest.approx(expected, rel=1e-4)


def test_neither_batches_nor_neighbors_matter(frozen):
    processings = [with_gain(frozen, gain) for gain in np.linspace(0.5, 3, 19)]
    measurer, ticks = Measurer(frozen), []
    batches = whole_batches(DATASET, EVERY, 8)
    together = measurer.measure(processings, batches, ticks.append)
    assert ticks == [16, 16, 3, 3]
    assert len({round(result.loss, 4) for result in together}) == 19
    for values, result in list(zip(processings, together, strict=True))[::6]:
        (alone,) = measurer.measure_samples([values], DATASET, EVERY, 3)
        assert alone.loss == pytest.approx(result.loss, rel=1e-5)
        assert alone.ssim == pytest.approx(result.ssim, rel=1e-5)
        np.testing.assert_array_equal(alone.confusion, result.confusion)


def test_outcomes_of_a_run_are_those_of_the_measured_samples_of_all_folds():
    dataset = brightness.images([0.2, 0.7, 0.3, 0.8, 0.6], [0, 0, 1, 1, 0])  # The first and the fourth are right.
    validated, tested = (
        brightness.fold(dataset, [0], [3, 1, 2]),
        brightness.fold(dataset, [1], [2], test_indices=[4, 0]),
    )
    np.testing.assert_array_equal(own_outcomes([validated, tested]), [1, 0, 0, 0, 1])
    # Of 40 images of which the object is the right half, the model finds it in all; of others, in none.
    for bright, iou in ((0.8, 1.0), (0.3, 0.0)):
        halves = brightness.half_images(0.2, bright, 40)
        outcomes = own_outcomes([brightness.fold(halves, [], range(40))])
        assert outcomes.shape == (40,)
        assert outcomes.mean() == pytest.approx(iou, abs=0.02)


def test_a_stop_ends_the_measuring_between_batches(frozen, monkeypatch):
    answers = iter([False, True])
    monkeypatch.setattr(stop, "requested", lambda: next(answers))
    with pytest.raises(Interrupted, match=r"^stopped; the same command begins this analysis anew$"):
        Measurer(frozen).measure_samples([frozen.default], DATASET, EVERY, 4)
    assert not list(answers)

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from r2l_jax.drift.monitoring import alarm
from r2l_jax.drift.monitoring.statistics import Seen


def drawn(rng, images, members=2):
    """Statistics of images, all of which depend on one number of each image."""
    common = rng.normal(size=(images, 1))
    mosaic, image, output, features = (common + 0.5 * rng.normal(size=(images, count)) for count in (6, 3, 4, 5))
    logits = common + rng.normal(size=(members, images, 3))
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return Seen(*(each.astype(np.float32) for each in (mosaic, image, output, features, probabilities)))


@pytest.fixture
def few(monkeypatch):
    """Few permutations, whose p-values are multiples of 1/100."""
    for name, value in {"_FIRST": 99, "_LAST": 99, "_TOGETHER": 100}.items():
        monkeypatch.setattr(alarm, name, value)


@pytest.mark.parametrize(("members", "first"), [(1, 99), (2, 9)])
def test_false_alarms_are_right_although_the_tests_depend_on_each_other(few, monkeypatch, members, first):
    # The first look is at all permutations, or at so few that others follow.
    monkeypatch.setattr(alarm, "_FIRST", first)
    monkeypatch.setattr(alarm, "_BEYOND", 4 if first == 9 else 20)
    rng = np.random.default_rng(0)
    p_values = np.array(
        [alarm.compare(drawn(rng, 40, members), drawn(rng, 12, members), 0.2, seed).p_value for seed in range(200)]
    )
    for level in (0.05, 0.2, 0.5):
        assert stats.binomtest(int((p_values <= level).sum()), 200, level).pvalue > 1e-3


@pytest.mark.parametrize(("new", "known", "level"), [(64, 480, 0.05), (256, 480, 0.05), (64, 480, 0.005)])
def test_false_alarm_rates_of_one_reference_have_the_stated_range(new, known, level):
    random = np.random.default_rng(0)
    references, windows = (random.normal(size=size) / count**0.5 for size, count in ((400, known), (20000, new)))
    limit = stats.norm.isf(level / 2) * (1 / new + 1 / known) ** 0.5
    rates = (abs(references[:, None] - windows) > limit).mean(1)
    low, high = alarm.rates_of_one_reference(level, new, known)
    assert rates.mean() == pytest.approx(level, rel=0.1)
    assert np.quantile(rates, [0.005, 0.95]) == pytest.approx([low, high], rel=0.15)


@pytest.mark.parametrize("place", ["raw images", "images", "outputs", "features", "disagreement"])
def test_each_test_finds_the_drift_in_its_place(few, place):
    rng = np.random.default_rng(1)
    reference, new = drawn(rng, 60), drawn(rng, 30)
    fields = {"raw images": "mosaic", "images": "image", "outputs": "output", "features": "features"}
    if place == "disagreement":
        confident = np.eye(3, dtype=np.float32)[np.arange(30) % 3]
        new = new._replace(probabilities=np.stack([confident, np.roll(confident, 1, 1)]))
    else:
        new = new._replace(**{fields[place]: getattr(new, fields[place]) + np.float32(1.5)})
    verdict = alarm.compare(reference, new, 0.2, 0)
    assert verdict.tests[place] == pytest.approx(0.01)
    assert all(value > 0.011 for name, value in verdict.tests.items() if name != place)
    assert verdict.p_value <= 0.05


def test_distances_are_those_of_kolmogorov_and_smirnov_at_some_quantiles():
    rng = np.random.default_rng(2)
    values = rng.normal(size=(30, 2)).astype(np.float32)
    weights = np.repeat(np.float32([-1 / 20, 1 / 10]), [20, 10])[None]
    found = np.asarray(alarm._distances(jnp.asarray(weights), alarm._below(jnp.asarray(values))))[0]
    exact = [stats.ks_2samp(column[:20], column[20:]).statistic for column in values.T]
    np.testing.assert_allclose(found, exact, atol=1e-6)  # 30 images have fewer than 32 quantiles


def test_permutations_are_added_while_few_are_as_extreme():
    rng = np.random.default_rng(4)
    reference, same = drawn(rng, 40), drawn(rng, 12)
    other = same._replace(mosaic=same.mosaic + 9)
    clear, drifted, less_finely = (
        alarm.compare(reference, *each, 1) for each in ((same, 0.005), (other, 0.005), (other, 0.05))
    )
    assert clear.permutations == 199
    assert clear.p_value > 0.1
    assert drifted.permutations == 3999
    assert drifted.p_value <= 0.005
    assert less_finely.permutations == 1999


def test_single_statistics_are_corrected_as_by_holm():
    rng = np.random.default_rng(5)
    reference, new = drawn(rng, 60), drawn(rng, 60)
    new.image[:, 1] += 3
    names = tuple(f"number {place}" for place in range(13))
    found = alarm.single_statistics(reference, new, names)
    assert found[0].name == "number 7"
    raw = {
        names[place]: stats.ks_2samp(a, b).pvalue
        for place, (a, b) in enumerate(
            zip(np.concatenate(reference[:3], 1).T, np.concatenate(new[:3], 1).T, strict=True)
        )
    }
    assert found[0].p_value == pytest.approx(13 * raw["number 7"])
    assert found[1].p_value == pytest.approx(min(1, 12 * raw[found[1].name]))
    values = [each.p_value for each in found]
    assert values == sorted(values)
    assert found[0].new - found[0].reference == pytest.approx(3, abs=0.7)


def test_models_that_agree_do_not_disagree():
    rng = np.random.default_rng(6)
    seen = drawn(rng, 5)
    alike = seen._replace(probabilities=seen.probabilities[[0, 0]])
    np.testing.assert_allclose(alike.disagreement, 0, atol=1e-6)
    assert (seen.disagreement > 0).all()
    assert drawn(rng, 5, members=1).disagreement is None
    opposite = seen._replace(probabilities=np.float32([[[1, 0, 0]], [[0, 1, 0]]]))
    np.testing.assert_allclose(opposite.disagreement, np.log(2), rtol=1e-6)


def test_outliers_do_not_widen_the_kernel_of_features(few):
    """With the mean in place of the median of squared distances, two of them would hide that new images vary more."""
    rng = np.random.default_rng(0)
    known, new = drawn(rng, 40), drawn(rng, 20)
    features = rng.normal(size=(60, 5)).astype(np.float32)
    features[:2] = 30
    features[40:] *= 2.5
    known, new = known._replace(features=features[:40]), new._replace(features=features[40:])
    assert alarm.compare(known, new, 0.05).tests["features"] < 0.01

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from r2l_jax.drift.monitoring import alarm
from r2l_jax.drift.monitoring.statistics import IMAGE, MOSAIC, Others, Seen


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
    # 30 images have fewer than 32 quantiles. Their weights, whose sizes add up to 2, round by up to 2 * 30 * 2**-24.
    np.testing.assert_allclose(found, exact, atol=4e-6)


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


def of_groups(rng, groups, images, shift=0.0, spread=1.0):
    """Statistics of as many images of each group, which share an offset. All statistics depend on each other."""
    names = np.repeat(np.arange(groups), images)
    offset = rng.normal(scale=spread, size=(groups, 1))[names] + shift
    sizes = (len(MOSAIC), len(IMAGE), 4, 5)
    mosaic, image, output, features = (
        (offset + 0.5 * rng.normal(size=(groups, size))[names] + rng.normal(size=(len(names), size))).astype(np.float32)
        for size in sizes
    )
    return Seen(mosaic, image, output, features, np.zeros((1, len(names), 2), np.float32), names)


def test_other_groups_without_drift_raise_no_more_alarms_than_stated(few):
    """Three new groups and four known ones, where a comparison of their images would nearly always raise an alarm."""
    rng = np.random.default_rng(0)
    drawn = [(of_groups(rng, 4, 12), of_groups(rng, 3, 8)) for _ in range(200)]
    p_values = np.array([alarm.compare(*pair, 0.2, seed).p_value for seed, pair in enumerate(drawn)])
    for level in (0.05, 0.2):
        assert stats.binomtest(int((p_values <= level).sum()), 200, level, "greater").pvalue > 1e-3
    assert (p_values <= 0.2).sum() >= 10
    alone = [[each._replace(groups=None) for each in pair] for pair in drawn[:20]]
    assert sum(alarm.compare(*pair, 0.2, seed).p_value <= 0.05 for seed, pair in enumerate(alone)) > 15
    far = [alarm.compare(of_groups(rng, 4, 12, spread=0.1), of_groups(rng, 3, 8, 6, 0.1), 0.2, seed) for seed in (0, 1)]
    assert all(each.p_value <= 0.02 for each in far)


@pytest.mark.parametrize("new", [1, 3])
def test_one_statistic_of_groups_has_the_p_value_of_students_t(monkeypatch, new):
    """Rotations of the only statistic that varies are those of normal numbers, whose test is Student's."""
    monkeypatch.setattr(alarm, "_FIRST", 9999)
    rng = np.random.default_rng(3)
    known, others = of_groups(rng, 4, 5), of_groups(rng, 2, 9)
    window = of_groups(rng, new, 6, shift=2.5)
    if new == 1:
        window = window._replace(groups=None)
    for seen in (known, window, others):
        for values in (seen.image, seen.output, seen.features):
            values[:] = 7
        seen.mosaic[:] = seen.mosaic[:, :1]
    first = [
        [seen.mosaic[seen.groups == group][:6, 0].mean() for group in range(count)]
        for seen, count in ((known, 4), (others, 2), (window._replace(groups=np.repeat(np.arange(new), 6)), new))
    ]
    exact = stats.ttest_ind(first[0] + first[1], first[2]).pvalue
    apart = Others(others.mosaic, others.image, others.groups)
    verdict = alarm.compare(known, window, 0.05, 0, apart)
    assert verdict.tests["raw images"] == pytest.approx(exact, rel=0.15)
    assert verdict.p_value == pytest.approx(min(1, 2 * verdict.tests["raw images"]))
    single = alarm.single_statistics(known, window, (*MOSAIC, *IMAGE, *"1234"), apart)[0]
    assert single.p_value == pytest.approx(min(1, (len(MOSAIC) + len(IMAGE) + 4) * exact), rel=1e-4)


def test_saturation_in_one_group_alone_is_no_sign_of_drift():
    rng = np.random.default_rng(4)
    known, window = of_groups(rng, 5, 10, spread=0.1), of_groups(rng, 1, 10, spread=0.1)
    for seen in (known, window):
        for name in ("saturated sites", "99% quantile of blue", "95% quantile of red"):
            seen.mosaic[:, MOSAIC.index(name)] = -4 + 2 * (seen is window)
        seen.image[:, IMAGE.index("dark pixels")] = -4 + 2 * (seen is window)
    assert alarm.compare(known, window, 0.05).p_value > 0.05
    window.mosaic[:, MOSAIC.index("mean of red")] += 90
    assert alarm.compare(known, window, 0.05).p_value < 0.05


def test_the_means_of_groups_are_of_as_many_images_as_new_groups_have():
    rng = np.random.default_rng(5)
    known, window = of_groups(rng, 2, 9), of_groups(rng, 2, 4)
    window = window._replace(groups=np.array([0, 0, 1, 1, 1, 1, 1, 1]))
    # The harmonic mean of 2 and 6 is 3.
    before, after, _ = alarm.by_groups(known, window)
    np.testing.assert_allclose(before[0], [known.mosaic[:3].mean(0), known.mosaic[9:12].mean(0)], rtol=1e-6)
    np.testing.assert_allclose(after[3], [window.features[:2].mean(0), window.features[2:].mean(0)], rtol=1e-6)
    assert not alarm.is_grouped(known._replace(groups=np.arange(18)), window._replace(groups=None))
    assert alarm.is_grouped(known._replace(groups=None), window)

import numpy as np
import pytest
from outcomes import ACCURACY, IOU, confusion
from scipy import stats

from r2l_jax.drift import statistics
from r2l_jax.errors import InputError

# The mean of the clean score minus the scores of the cases.
TRUTH = 0.9 - np.mean([0.2, 0.3, 0.4, 0.5])


def drops(draws, members, samples, of_members, of_samples, seed):
    """Draws mean drops over four cases, from classifiers that are right with probabilities of known deviations."""
    random = np.random.default_rng(seed)

    def normal(deviation, *shape):
        return deviation * np.clip(random.normal(size=(draws, 1, *shape)), -2.5, 2.5)

    own = 0.9 + normal(0.02, members, 1) + normal(0.02, 1, samples)
    case = np.array([0.2, 0.3, 0.4, 0.5])[:, None, None] + normal(of_members, members, 1)
    case = case + np.sqrt(3) * of_samples * random.uniform(-1, 1, (draws, 1, 1, samples))
    own, case = (random.random((*chance.shape[:2], members, samples)) < chance for chance in (own, case))
    return own[:, 0] - case.mean(1)


def share_held(members, samples, of_members, of_samples):
    """Returns the share of 2,000 intervals that hold the truth."""
    held = 0
    for seed in range(20):
        found = statistics.interval(drops(100, members, samples, of_members, of_samples, seed))
        held += ((found.low <= TRUTH) & (found.high >= TRUTH)).sum()
    return held / 2000


@pytest.mark.slow
@pytest.mark.parametrize("samples", [60, 480])
@pytest.mark.parametrize("members", [2, 3, 6, 12])
@pytest.mark.parametrize("of_members", [0.1, 0.04])
def test_intervals_hold_the_truth_as_often_as_they_say(members, samples, of_members):
    # Few members may share less with each other than the interval allows for.
    assert 0.93 <= share_held(members, samples, of_members, 0.1) <= (0.97 if members > 3 else 0.99)


@pytest.mark.parametrize("members", [2, 3])
def test_intervals_of_few_members_hold_the_truth_as_often_as_they_say(members):
    assert 0.93 <= share_held(members, 60, 0.1, 0.1) <= 0.97


def test_a_recipe_is_less_sure_than_its_models():
    outcomes = np.random.default_rng(0).normal(size=(4, 1)) + np.random.default_rng(1).normal(size=(4, 300))
    recipe, model = (statistics.interval(outcomes, about) for about in ("recipe", "model"))
    error = stats.t.ppf(0.975, 3) * outcomes.mean(1).std(ddof=1) / 2
    np.testing.assert_allclose(recipe.high - recipe.low, 2 * error, rtol=0.05)
    assert recipe.estimate == model.estimate
    assert model.high - model.low < 0.2 * (recipe.high - recipe.low)


def test_one_member_cannot_tell_about_its_recipe():
    with pytest.raises(InputError, match=r"one seed says nothing about .*: .* `seeds`, or .* `about=model`"):
        statistics.interval(np.zeros((1, 60)))
    with pytest.raises(InputError, match="at least 2 independent samples or groups, got 1"):
        statistics.interval(np.zeros((3, 1)))


def test_equal_outcomes_do_not_exclude_others():
    for outcomes in (np.zeros((2, 3, 30)), np.ones((3, 30)), np.full((1, 30), 0.1)):
        found = statistics.interval(outcomes, "model")
        np.testing.assert_allclose(found.estimate, outcomes[..., 0, 0])
        error = stats.t.ppf(0.975, 31) * np.sqrt(2 / 31 / 32)
        np.testing.assert_allclose(found.high - found.estimate, error)
        np.testing.assert_allclose(found.estimate - found.low, error)


def test_one_member_that_is_wrong_once_narrows_no_interval_to_nothing():
    outcomes = np.ones((6, 60))
    widths = []
    for wrong in range(4):
        outcomes[0, :wrong] = 0
        found = statistics.interval(outcomes, "model")
        widths.append(found.high - found.low)
    # The more outcomes differ, by a sixth each, the less likely is one that differs by 1.
    assert widths == sorted(widths, reverse=True)
    assert widths[1] > 0.4 * widths[0]


def test_outcomes_that_all_differ_a_little_keep_a_short_interval():
    outcomes = 0.9 + 0.01 * np.random.default_rng(0).normal(size=(1, 60))
    found = statistics.interval(outcomes, "model")
    assert found.estimate == pytest.approx(outcomes.mean())
    student = 2 * stats.t.ppf(0.975, 59) * outcomes.std(ddof=1) / np.sqrt(60)
    assert student < found.high - found.low < 1.15 * student


def test_as_many_better_as_worse_samples_make_neither_group_likelier():
    first, second = np.ones((2, 1, 200))
    first[0, 3] = second[0, 7] = 0
    for about in ("model", "recipe"):
        ours, theirs = (np.repeat(each, 2 if about == "recipe" else 1, 0) for each in (first, second))
        assert statistics.difference(ours, theirs, about).probability == 0.5
    second[0, 8] = 0
    assert 0.5 < statistics.difference(first, second, "model").probability < 0.8


def test_groups_share_their_samples():
    random = np.random.default_rng(0)
    hard = random.normal(size=200)
    first, second = (hard + 0.1 * random.normal(size=(members, 200)) for members in (5, 3))
    paired = statistics.difference(first + 0.05, second)
    assert paired.low < 0.05 < paired.high
    assert paired.high - paired.low < 0.1 < statistics.interval(first).high - statistics.interval(first).low
    assert paired.probability > 0.95
    assert statistics.difference(second, first + 0.05).probability == pytest.approx(1 - paired.probability, abs=1e-12)


def by_group(counted, total, groups, scoring=ACCURACY):
    return statistics.by_group(scoring, confusion(counted, total), np.asarray(groups))


@pytest.mark.parametrize("scoring", [ACCURACY, IOU])
def test_the_spread_of_groups_is_that_of_the_ratio_without_one(scoring):
    random = np.random.default_rng(0)
    total = random.integers(1, 100, 30).astype(float)
    counted = np.floor(total * random.uniform(size=30))
    groups = np.array([5] * 12 + [2] * 3 + [9] * 15)[random.permutation(30)]
    outcomes = by_group(counted, total, groups, scoring)
    assert outcomes.mean() == pytest.approx(counted.sum() / total.sum())
    left = np.array([counted[groups != group].sum() / total[groups != group].sum() for group in (2, 5, 9)])
    np.testing.assert_allclose(outcomes.var(ddof=1) / 3, 2 / 3 * ((left - left.mean()) ** 2).sum())


def test_an_accuracy_of_groups_of_one_sample_is_estimated_from_the_samples():
    right = np.random.default_rng(0).random(50) < 0.9
    np.testing.assert_allclose(by_group(right, 1, np.arange(50)[::-1])[::-1], right, atol=1e-12)


def test_groups_of_other_sizes_and_equal_scores_have_no_spread():
    right, groups = np.tile([1.0, 0], 20), np.repeat([0, 1, 2], [2, 8, 30])
    np.testing.assert_allclose(by_group(right, 1, groups), 0.5)


def test_a_score_without_any_object_is_0_and_so_is_one_whose_only_group_is_left_out():
    np.testing.assert_array_equal(by_group(np.zeros(4), np.zeros(4), np.arange(4)), 0)
    outcomes = by_group(np.array([1.0, 0, 0]), np.array([2.0, 0, 0]), np.arange(3))
    np.testing.assert_allclose(outcomes, 0.5 + 2 * (1 / 3 - np.array([0, 0.5, 0.5])))


def test_copies_of_samples_do_not_narrow_an_interval():
    outcomes = np.random.default_rng(0).random(40).astype(np.float32)
    alone = statistics.interval(outcomes[None], "model")
    groups, copies = np.repeat(np.arange(40), 3), np.repeat(outcomes, 3)
    together = statistics.interval(by_group(copies, 1, groups)[None], "model")
    np.testing.assert_allclose(together, alone, rtol=1e-6)
    low, high = statistics.interval(copies[None], "model")[1:]
    assert high - low < 0.7 * (alone.high - alone.low)


@pytest.mark.parametrize(
    ("groups", "of_group", "correlation", "members"), [(5, 20, 0.06, 1), (8, 34, 0.3, 1), (20, 10, 0.3, 3)]
)
def test_intervals_of_dependent_samples_cover_the_truth(groups, of_group, correlation, members):
    """Each group has its own accuracy, from a beta distribution with a mean of 0.8; samples alone cover far less."""
    random, numbers = np.random.default_rng(1), np.repeat(np.arange(groups), of_group)
    size = 1 / correlation - 1
    accuracy = random.beta(0.8 * size, 0.2 * size, (1000, 1, groups))[..., numbers]
    # Members fail on the same hard samples.
    hard = random.random((1000, 1, len(numbers)))
    noise = 0.1 * (random.random((1000, members, len(numbers))) - 0.5) if members > 1 else 0
    right = hard + noise < accuracy
    about = "recipe" if members > 1 else "model"

    def coverage(numbers):
        each = np.array([[by_group(of_member, 1, numbers) for of_member in draw] for draw in right])
        low, high = statistics.interval(each, about)[1:]
        return ((np.maximum(low, 0) <= 0.8) & (np.minimum(high, 1) >= 0.8)).mean()

    assert coverage(numbers) >= 0.93
    assert coverage(np.arange(len(numbers))) < 0.9


def test_a_statement_names_groups_and_warns_of_few():
    assert statistics.drawn(480, 480, "test") == "480 test samples"
    assert statistics.drawn(480, 10, "test") == "480 test samples of 10 groups"
    few = "272 validation samples of 8 groups, so few that intervals are uncertain"
    assert statistics.drawn(272, 8, "validation") == few
    assert statistics.stated("model", 3, "x") == "95% confidence intervals about the model (3 seeds, x)"


def test_two_groups_have_the_interval_of_students_t():
    found = statistics.interval(np.array([[0.5, 0.7]]), "model")
    assert found.high - found.estimate == pytest.approx(12.706 * 0.1, rel=1e-4)


def test_a_p_value_is_that_of_students_t_whatever_the_number_of_groups():
    two = np.array([[0.367, 0.333]])
    p_value = statistics.p_value(two, "model")
    assert p_value == pytest.approx(stats.ttest_1samp(two[0], 0).pvalue, rel=1e-6)
    assert p_value > 0.03
    assert statistics.p_value(-two, "model") == pytest.approx(p_value)
    drops = np.random.default_rng(0).normal(0.02, 0.05, (1, 40))
    found = statistics.interval(drops, "model")
    # The two added samples count in the degrees of freedom.
    error = (found.high - found.estimate) / stats.t.ppf(0.975, 41)
    assert statistics.p_value(drops, "model") == pytest.approx(2 * stats.t.sf(found.estimate / error, 41), rel=1e-6)
    # The mean of the second ones is rounded to 2e-17.
    for drops in ([1, -1, 0.0, 0], [0.1, 0.2, -0.3]):
        assert statistics.p_value(np.array([drops]), "model") == 1


def test_the_least_p_value_is_1e_12():
    assert statistics.p_value(np.full((1, 1000), 0.9), "model") == 1e-12


@pytest.mark.parametrize("shift", [0.01, -0.01])
def test_a_p_value_about_the_recipe_is_five_percent_where_the_interval_ends_at_zero(shift):
    drops = np.random.default_rng(1).normal(0, 0.3, (4, 50)) + np.array([[0.1], [0.2], [-0.1], [0.05]])
    drops -= statistics.interval(drops, "recipe").low
    assert statistics.p_value(drops, "recipe") == pytest.approx(0.05, rel=1e-5)
    assert (statistics.p_value(drops + shift, "recipe") < 0.05) == (shift > 0)


@pytest.mark.parametrize("members", [(3, 8), (8, 3), (2, 5)])
def test_each_group_adds_the_error_of_its_own_members(members):
    """Where samples do not differ, the squared half widths of both means are added."""
    random = np.random.default_rng(0)
    scores = [scale * random.normal(size=count) for scale, count in zip((1.0, 3.0), members, strict=True)]
    found = statistics.difference(*(np.tile(each[:, None], 400) for each in scores))
    halves = [stats.t.ppf(0.975, len(each) - 1) * each.std(ddof=1) / np.sqrt(len(each)) for each in scores]
    estimate, half = scores[0].mean() - scores[1].mean(), np.hypot(*halves)
    np.testing.assert_allclose(found[:3], (estimate, estimate - half, estimate + half), rtol=1e-3)
    # The interval whose confidence leaves this much beyond 0 on both sides ends there.
    beyond = min(found.probability, 1 - found.probability)
    halves = [stats.t.isf(beyond, len(each) - 1) * each.std(ddof=1) / np.sqrt(len(each)) for each in scores]
    assert np.hypot(*halves) == pytest.approx(abs(estimate), rel=1e-3)
    assert (found.probability > 0.5) == (estimate > 0)


def test_shares_find_the_variances():
    random = np.random.default_rng(0)
    sizes, variances = (40, 50, 60), (1.0, 4.0, 2.0)
    outcomes = np.sqrt(3) * random.normal(size=sizes)
    for axis, (size, variance) in enumerate(zip(sizes, variances, strict=True)):
        effect = random.normal(size=size)
        effect *= np.sqrt(variance) / effect.std(ddof=1)
        outcomes = outcomes + np.expand_dims(effect, tuple({0, 1, 2} - {axis}))
    found = statistics.shares(outcomes)
    assert found == pytest.approx((0.4, 0.1, 0.2, 0.3), abs=0.005)


def test_a_log_ratio_is_left_out_where_its_denominator_may_be_zero():
    random = np.random.default_rng(0)
    drop, shared = 0.4 + 0.1 * random.normal(size=(2, 4, 200)), 0.3 * random.normal(size=200)
    found = statistics.log_ratio(2 * (drop[0] + shared), drop[0] + shared, "recipe")
    assert found is not None
    # All that both share drops out.
    np.testing.assert_allclose(found, np.log(2), atol=0.02)
    apart = statistics.log_ratio(drop[0] + shared, drop[1], "model")
    assert apart is not None
    assert apart.low < 0 < apart.high
    assert apart.high - apart.low > 0.1
    assert statistics.log_ratio(drop[0], drop[1] - 0.4, "recipe") is None
    assert statistics.log_ratio(-drop[0], drop[1], "recipe") is None


def test_members_that_an_interval_takes():
    spread = np.array([-1.0, 0, 1])[:, None] * np.ones((3, 40))
    needed = statistics.members_needed(spread, 0.5)
    assert [stats.t.ppf(0.975, n - 1) / np.sqrt(n) <= 0.5 for n in (needed - 1, needed)] == [False, True]
    assert statistics.members_needed(np.zeros((3, 40)), 0.5) == 2
    # The samples take their part of the square width.
    samples = np.tile([-0.7, 0.7], 20)
    needed = statistics.members_needed(spread + samples, 0.5)
    left = 0.5**2 - stats.t.ppf(0.975, 39) ** 2 * samples.var(ddof=1) / 40
    assert [stats.t.ppf(0.975, n - 1) ** 2 / n <= left for n in (needed - 1, needed)] == [False, True]
    # Samples that all members fail on leave an error that no number of members takes away.
    assert statistics.members_needed(np.tile([0.0, 1], (3, 20)), 0.1) is None


def test_samples_that_an_interval_takes():
    outcomes = np.tile([0.0, 1], (2, 200))
    assert statistics.samples_needed(outcomes.mean(0), 0.02) == pytest.approx((1.96 * 0.5 / 0.02) ** 2, rel=0.01)


@pytest.mark.parametrize("error", [0.02, 0.04, 0.1])
@pytest.mark.parametrize("samples", [60, 240, 480])
def test_upper_limits_of_rare_losses_are_hardly_lower_than_the_exact_ones(error, samples):
    lost = np.arange(9)
    exact = stats.beta.isf(error, lost + 1, samples - lost)  # Clopper and Pearson, of samples that can only lose.
    found = statistics.upper_limit((np.arange(samples) < lost[:, None]).astype(float), error)
    assert (found > 0.99 * exact).all()
    assert (found < 1.26 * exact).all()
    needed = statistics.samples_for_limit(exact[0], error)
    assert (
        statistics.upper_limit(np.zeros(needed), error)
        <= exact[0]
        < statistics.upper_limit(np.zeros(needed - 1), error)
    )


@pytest.mark.parametrize("gains", [0.0, 0.02])
def test_upper_limits_are_below_the_true_loss_as_rarely_as_they_say(gains):
    """True losses of 2.11 points are just above the limit of one loss of 240; 0.8% are three standard deviations."""
    random = np.random.default_rng(0).random((5000, 240))
    losses = (random < 0.0211 + gains) - 1.0 * (random > 1 - gains)
    assert 0.01 < (statistics.upper_limit(losses, 0.04) < 0.0211).mean() < 0.048

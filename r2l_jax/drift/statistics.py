"""Intervals, paired differences and shares of the variance, for outcomes of several seeds on the same samples.

Outcomes are arrays `(..., M, S)`: M members (runs of one training recipe with different seeds) by S samples, the same
for all members and cases. The mean over both axes is a score, or a drop when outcomes are differences of two cases.
Samples must be independent: `by_group` turns the outcomes of samples that depend on each other into one for each group,
which then takes the place of a sample.

An interval is either about the training recipe, for which members and samples are random draws, or about these models,
for which only the samples are. Its half width comes from the mean squares of a two-way table of members and samples.
Each of the two parts has its own quantile of Student's t, and their squares are added (Banerjee, "Approximate
confidence interval for linear functions of means of k populations", Sankhya 22, 1960). Two samples are added to the
measured ones (see `_half_width`), so that the interval is wide enough where nearly all outcomes are equal, as Agresti &
Coull ("Approximate is better than exact", 1998) and Bonett & Price ("Adjusted Wald confidence interval for a difference
of binomial proportions based on paired data", 2012) add to counts.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy import optimize, stats

from r2l_jax.errors import InputError
from r2l_jax.model.scores import Outcome, Score
from r2l_jax.names import About

# Numbers with the leading axes of the outcomes, if any.
Numbers = np.ndarray | np.floating

CONFIDENCE = 0.95
NORMAL_QUANTILE = stats.norm.ppf((1 + CONFIDENCE) / 2)

_MOST_MEMBERS = 1000

# Below this number of groups, intervals are stated as uncertain.
_FEW_GROUPS = 10

# Below this number of samples, the two added ones narrow intervals too much.
_FEW_SAMPLES = 5

# Differences of outcomes below this are rounding.
_ROUNDING = 1e-9


class Interval(NamedTuple):
    """An estimate with its 95% confidence interval; arrays have the leading axes of the outcomes."""

    estimate: Numbers
    low: Numbers
    high: Numbers


class Difference(NamedTuple):
    """An estimate of first minus second with its 95% confidence interval, and the probability that it is positive."""

    estimate: Numbers
    low: Numbers
    high: Numbers
    probability: float


class Shares(NamedTuple):
    """The shares of members, cases and samples in the variance of drops; the rest are their interactions and noise."""

    member: float
    case: float
    sample: float
    rest: float


def bounded(
    outcomes: Float[np.ndarray, "M S"], about: About, bounds: tuple[float, float] = (0.0, 1.0)
) -> tuple[float, float, float]:
    """Returns the estimate of `interval` and its ends, clipped to the range of a score or of a drop."""
    found = interval(outcomes, about)
    return float(found.estimate), max(float(found.low), bounds[0]), min(float(found.high), bounds[1])


def drawn(samples: int, groups: int, measured: str) -> str:
    """Describes samples, such as "480 test samples" or "272 test samples of 8 groups", and warns of few groups."""
    if groups == samples:
        return f"{samples} {measured} samples"
    few = ", so few that intervals are uncertain" if are_few(samples, groups) else ""
    return f"{samples} {measured} samples of {groups} groups{few}"


def are_few(samples: int, groups: int) -> bool:
    """Tells whether samples have so few groups that intervals are uncertain."""
    return groups < min(samples, _FEW_GROUPS)


def stated(about: About, members: int, drawn: str) -> str:
    """Describes confidence intervals, such as "95% confidence intervals about the model (480 test samples)"."""
    seeds = f"{members} seeds, " if members > 1 else ""
    what = "training recipe" if about == "recipe" else about
    return f"95% confidence intervals about the {what} ({seeds}{drawn})"


def by_group(
    score: Score, outcome: Outcome, groups: Int[np.ndarray, " S"], weights: Float[np.ndarray, " S"] | None = None
) -> Float[np.ndarray, " G"]:
    """Computes a number for each group of dependent samples; their mean is the score.

    Their spread is that of the score without one group (the delete-one-group jackknife; Tukey, 1958): the mean squared
    deviation of the numbers, divided by G - 1, is the squared standard error (G - 1) / G times the sum of the squared
    deviations of these scores. For an accuracy of groups of one sample, they are 1 or 0.

    Args:
        score: the score.
        outcome: the outcomes of the samples, arrays `(S, ...)` by name.
        groups: the group of each sample.
        weights: the weight of each sample; by default, all weigh 1.
    """
    weights = np.ones(len(groups)) if weights is None else weights
    whole, without = float(score(outcome, weights)), score.without_each(outcome, weights, groups)
    falls = whole - without
    # Rounded, so that the outcomes of an accuracy are exactly 1 and 0.
    return np.round(whole + (len(without) - 1) * (falls - falls.mean()), 12)


def interval(outcomes: Float[np.ndarray, "*lead M S"], about: About = "recipe") -> Interval:
    """Estimates means over members and samples.

    Args:
        outcomes: scores, or differences of scores, of M members and S samples.
        about: "recipe" treats members and samples as random draws, "model" only samples.

    Raises:
        InputError: one member, which says nothing about its training recipe; or fewer than two samples.
    """
    return _compare([outcomes], about)


def p_value(outcomes: Float[np.ndarray, "M S"], about: About) -> float:
    """Returns the level at which the interval of a mean just excludes 0, from 1e-12 to 1: a two-sided p-value.

    Raises:
        InputError: as for `interval`.
    """
    return _p_value([outcomes], about)


def difference(
    first: Float[np.ndarray, "*lead M S"], second: Float[np.ndarray, "*lead N S"], about: About = "recipe"
) -> Difference:
    """Estimates the difference of two groups of seeds, which were tested on the same samples.

    The groups' members are independent, and their samples are the same. For paired members, such as a model before and
    after adjustment, use `interval` on the differences of their outcomes.

    Raises:
        InputError: as for `interval`.
    """
    found, p = _compare([first, second], about), _p_value([first, second], about)
    return Difference(*found, 1 - p / 2 if found.estimate > 0 else p / 2)


def log_ratio(
    numerator: Float[np.ndarray, "M S"], denominator: Float[np.ndarray, "M S"], about: About
) -> Interval | None:
    """Estimates the logarithm of the ratio of two means, such as the drops under two kinds of drift.

    The ratio is linearized about the means.

    Returns:
        The interval; None if the denominator's interval includes 0, or if a mean is not positive.
    """
    means = numerator.mean(), denominator.mean()
    if min(means) <= 0 or interval(denominator, about).low <= 0:
        return None
    return interval(np.log(means[0] / means[1]) + numerator / means[0] - denominator / means[1], about)


def holm(p_values: Float[np.ndarray, " tests"]) -> Float[np.ndarray, " tests"]:
    """Corrects p-values for their number (Holm, "A simple sequentially rejective multiple test procedure", 1979)."""
    order = np.argsort(p_values, kind="stable")
    corrected = np.empty_like(p_values)
    corrected[order] = np.maximum.accumulate(np.minimum(p_values[order] * np.arange(len(order), 0, -1), 1))
    return corrected


def check_about(about: About, *members: int) -> None:
    """Raises an InputError if groups of these sizes say nothing about their training recipes."""
    if about == "recipe" and min(members) < 2:
        raise InputError(
            "one seed says nothing about the training recipe: train more with `seeds`, or give `about=model`"
        )


class _Squares(NamedTuple):
    """Mean squares of outcomes by members, by samples, and of the rest."""

    member: Numbers
    sample: Numbers
    rest: Numbers


def _mean_squares(outcomes: np.ndarray) -> _Squares:
    """Computes the mean squares of a two-way table with one outcome in each cell."""
    members, samples = outcomes.shape[-2:]
    mean = outcomes.mean((-2, -1), keepdims=True)
    by_member, by_sample = outcomes.mean(-1, keepdims=True) - mean, outcomes.mean(-2, keepdims=True) - mean
    rest = outcomes - mean - by_member - by_sample
    return _Squares(
        samples * (by_member**2).sum((-2, -1)) / max(members - 1, 1),
        members * (by_sample**2).sum((-2, -1)) / (samples - 1),
        (rest**2).sum((-2, -1)) / max((members - 1) * (samples - 1), 1),
    )


def _compare(groups: Sequence[np.ndarray], about: About) -> Interval:
    """Estimates the mean of one group, or the difference of two."""
    samples = groups[0].shape[-1]
    if samples < 2:
        raise InputError(f"an interval needs at least 2 independent samples or groups, got {samples}")
    check_about(about, *(group.shape[-2] for group in groups))
    of_samples = _over_members(groups)
    estimate, half = of_samples.mean(-1), _half_width(of_samples, groups if about == "recipe" else [])
    return Interval(estimate, estimate - half, estimate + half)


def _p_value(groups: Sequence[np.ndarray], about: About) -> float:
    """Finds the level at which the interval of `_compare` just excludes 0, from 1e-12 to 1."""
    estimate, of_samples = abs(_compare(groups, about).estimate), _over_members(groups)

    def beyond(log_level: float) -> float:
        confidence = 1 - math.exp(log_level)
        return float(estimate - _half_width(of_samples, groups if about == "recipe" else [], confidence))

    least, most = math.log(1e-12), -1e-12
    if beyond(least) >= 0:
        return 1e-12
    # An estimate of 0 may have been rounded to another number.
    return math.exp(optimize.root_scalar(beyond, bracket=(least, most)).root) if beyond(most) > 0 else 1.0


def _over_members(groups: Sequence[np.ndarray]) -> np.ndarray:
    """Averages the outcomes of one group over its members, or subtracts those of the second group."""
    first, *others = (group.mean(-2) for group in groups)
    return first - sum(others)


def _half_width(
    of_samples: Float[np.ndarray, "*lead S"], drawn: Sequence[np.ndarray], confidence: float = CONFIDENCE
) -> Numbers:
    """Computes the distance of an interval's ends from the mean.

    Outcomes that are (nearly) all equal do not show how much the next one may differ. So two samples are added, one
    below and one above the mean. Their distance from it is a geometric mean: of the greatest distance among the k
    outcomes that differ from the rest, with weight k, and of 1 (right instead of wrong), with weight 1.

    Args:
        of_samples: the outcomes, or differences of outcomes, averaged over members.
        drawn: the outcomes of each group whose members were drawn from many.
    """
    apart = np.abs(of_samples - np.median(of_samples, -1, keepdims=True))
    differing = (apart > _ROUNDING).sum(-1)
    farthest = np.where(differing, apart.max(-1), 0) ** (differing / (differing + 1))
    squares = ((of_samples - of_samples.mean(-1, keepdims=True)) ** 2).sum(-1) + 2 * farthest**2
    samples = of_samples.shape[-1] + 2
    about_models = _quantile(samples, confidence) ** 2 * squares / (samples - 1) / samples
    if (count := of_samples.shape[-1]) < _FEW_SAMPLES:
        of_few = _quantile(count, confidence) ** 2 * of_samples.var(-1, ddof=1) / count
        about_models = np.maximum(about_models, of_few)
    about_recipes = about_models
    for group in drawn:
        of_table, (members, count) = _mean_squares(group), group.shape[-2:]
        from_members = _quantile(members, confidence) ** 2 * of_table.member
        # Both parts contain the interaction of members and samples; it stays with the one of fewer degrees of freedom.
        shared = _quantile(samples, confidence) ** 2 * of_table.rest
        about_recipes = about_recipes + (from_members - shared) / (members * count)
    return np.sqrt(np.maximum(about_recipes, about_models))


def _quantile(count: Numbers | int, confidence: float = CONFIDENCE) -> Numbers:
    """Computes the quantile of Student's t that bounds the mean of `count` numbers."""
    return stats.t.ppf((1 + confidence) / 2, count - 1)


def shares(outcomes: Float[np.ndarray, "C M S"]) -> Shares:
    """Divides the variance of drops among cases, members, samples, and the rest.

    The components are estimated by the analysis of variance of a three-way table with one drop in each cell (Searle et
    al., "Variance components", 1992); negative estimates count as 0.
    """
    sizes, axes = outcomes.shape, (0, 1, 2)
    table = outcomes - outcomes.mean()

    def means(*kept: int) -> np.ndarray:
        return table.mean(tuple(axis for axis in axes if axis not in kept), keepdims=True)

    def mean_square(effect: np.ndarray, *kept: int) -> float:
        cells = outcomes.size / np.prod([sizes[axis] for axis in kept])
        return float(cells * (effect**2).sum() / np.prod([max(sizes[axis] - 1, 1) for axis in kept]))

    alone = [mean_square(means(axis), axis) for axis in axes]
    pairs = {pair: means(*pair) - means(pair[0]) - means(pair[1]) for pair in ((0, 1), (0, 2), (1, 2))}
    together = {pair: mean_square(effect, *pair) for pair, effect in pairs.items()}
    remainder = mean_square(table - sum(map(means, axes)) - sum(pairs.values()), *axes)
    parts = []
    for axis in axes:
        confounded = sum(square for pair, square in together.items() if axis in pair)
        parts.append(max(alone[axis] - confounded + remainder, 0) * sizes[axis] / outcomes.size)
    rest = remainder
    for pair, square in together.items():
        rest += max(square - remainder, 0) * sizes[pair[0]] * sizes[pair[1]] / outcomes.size
    case, member, sample = np.array(parts) / max(sum(parts) + rest, 1e-12)
    return Shares(float(member), float(case), float(sample), float(1 - case - member - sample))


def members_needed(outcomes: Float[np.ndarray, "M S"], half_width: float) -> int | None:
    """Computes how many members an interval about the training recipe takes, given these samples.

    `half_width` is the target distance of the ends from the estimate.

    Returns:
        The least number of members; None if the samples are too few for any number of up to 1,000 members.
    """
    members, samples = outcomes.shape
    squares = _mean_squares(outcomes)
    wanted = np.arange(2, _MOST_MEMBERS + 1)
    of_members = max(squares.member, squares.rest) / samples / wanted
    of_samples = np.full(wanted.shape, max(squares.sample - squares.rest, 0) / members / samples)
    enough = _quantile(wanted) ** 2 * of_members + _quantile(samples) ** 2 * of_samples <= half_width**2
    return int(wanted[enough.argmax()]) if enough.any() else None


def samples_needed(
    outcomes: Float[np.ndarray, " S"], half_width: float, weights: Float[np.ndarray, " S"] | None = None
) -> int:
    """Computes how many samples an interval about a model takes, whose ends are `half_width` from the estimate."""
    return int(np.ceil((NORMAL_QUANTILE / half_width) ** 2 * np.cov(outcomes, aweights=weights)))


def upper_limit(losses: Float[np.ndarray, "*lead S"], error: float) -> Numbers:
    """Computes upper limits of mean losses, each of which is below the true mean with at most this probability.

    The variance is the one that the losses would have if the limit were true, with further samples that lose 1, or as
    much as the greatest change here (as in the score interval of Wilson, "Probable inference", 1927). So the limits
    also hold for rare losses: if none of n samples changes, the limit is about 3.2/n for an error of 4%.
    """
    quantile, mean = _one_sided(losses.shape[-1], error), losses.mean(-1)
    squares = ((losses - mean[..., None]) ** 2).sum(-1)
    further = quantile * np.maximum(np.abs(losses).max(-1), 1)
    return mean + quantile * (further + np.sqrt(further**2 + 4 * squares)) / (2 * losses.shape[-1])


def samples_for_limit(limit: float, error: float) -> int:
    """Returns the fewest samples whose `upper_limit` is at most this one, if none of them changes."""
    samples = max(math.ceil(-math.log(error) / limit), 2)
    while _one_sided(samples, error) ** 2 > limit * samples:
        samples += 1
    return samples


def _one_sided(samples: int, error: float) -> float:
    """Computes the quantile of Student's t, or of the Poisson distribution's 0 where this is greater."""
    return max(float(stats.t.isf(error, samples - 1)), math.sqrt(-math.log(error)))


def fraction_bound(failures: int, draws: int, confidence: float, is_stopped: bool = False) -> float:
    """Computes the lower bound of the fraction that does not fail, from independent draws (Clopper & Pearson, 1934).

    With the confidence, at least this fraction of all possible draws does not fail. If drawing `is_stopped` at a preset
    number of failures, the last draw is a failure by choice and leaves both counts.
    """
    failures, draws = failures - is_stopped, draws - is_stopped
    return float(stats.beta.ppf(1 - confidence, draws - failures, failures + 1)) if failures < draws else 0.0


def most_failures(draws: int, confidence: float, fraction: float) -> int:
    """Returns how many draws may fail while `fraction_bound` still reaches the fraction; -1 if it never does."""
    failures = -1
    while failures + 1 < draws and fraction_bound(failures + 1, draws, confidence) >= fraction:
        failures += 1
    return failures

"""Intervals, paired differences and shares of the variance, for outcomes of several trainings on the same samples.

Outcomes are arrays `(..., M, S)`: M members (trainings of one recipe that differ in their seeds) by S samples, the same
for all members and cases. The mean over both axes is a score, or a drop when outcomes are differences of two cases.

An interval is either about the recipe, whose members and samples were drawn from many, or about these models, whose
samples alone were drawn. It comes from a two-level bootstrap: members and samples are drawn with replacement,
independently of each other, with the same samples for all members (Owen, "The pigeonhole bootstrap", 2007). With few
members, the quantiles of such draws lie too close together, and the variance that members and samples share counts
three times. So the draws are stretched about the estimate, to the variance that the analysis of variance finds without
bias, and to the quantiles of Student's t with Satterthwaite's degrees of freedom (Hesterberg, "What teachers should
know about the bootstrap", 2015, calls this an expanded percentile interval).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy import stats

from r2l_jax.names import About
from r2l_jax.runtime.errors import InputError

# Numbers with the leading axes of the outcomes, which may be none.
Numbers = np.ndarray | np.floating

CONFIDENCE = 0.95
RESAMPLES = 10_000

_MOST_MEMBERS = 1000


class Interval(NamedTuple):
    """An estimate with its interval of 95%; arrays have the leading axes of the outcomes."""

    estimate: Numbers
    low: Numbers
    high: Numbers


class Difference(NamedTuple):
    """An estimate of first minus second with its interval of 95%, and the probability that it is positive."""

    estimate: Numbers
    low: Numbers
    high: Numbers
    probability: Numbers


class Shares(NamedTuple):
    """The shares of members, cases and samples in the variance of drops; the rest are their interactions and noise."""

    member: float
    case: float
    sample: float
    rest: float


def points(value: Numbers | float) -> str:
    """Formats a score in hundredths with at most three digits, such as "12.3"."""
    rounded = round(100 * float(value), 1) + 0.0
    return f"{rounded:.1f}" if abs(rounded) < 100 else f"{rounded:.0f}"


def stated(about: About, members: int, samples: str) -> str:
    """Says what intervals are about, such as "Intervals: 95%, about the recipe (6 trainings, 480 test samples)"."""
    trainings = f"{members} trainings, " if members > 1 else ""
    return f"Intervals: 95%, about the {about} ({trainings}{samples})"


def contributions(counted: Shaped[np.ndarray, "*lead S"], total: Shaped[np.ndarray, "*lead S"]) -> np.ndarray:
    """Computes outcomes whose mean over the samples is a ratio of sums, such as intersection over union.

    Args:
        counted: the numerator of each sample: 1 for a sample that is classified correctly.
        total: its denominator: 1 for classification.

    Returns:
        The ratio of the sums plus each sample's influence on it (Hampel, 1974); of ones, the numerators themselves.
        Without any total, the ratio is 0, as in `tasks.metrics.iou`.
    """
    sums = total.sum(-1, keepdims=True)
    ratio = np.where(sums == 0, 0.0, counted.sum(-1, keepdims=True) / np.maximum(sums, 1e-12))
    mean = np.where(sums == 0, 1.0, sums / total.shape[-1])
    return ratio + (counted - ratio * total) / mean


def by_scene(outcomes: Float[np.ndarray, " S"], scenes: Int[np.ndarray, " S"]) -> Float[np.ndarray, " scenes"]:
    """Joins the outcomes of samples of the same scene, which are not independent; the mean stays.

    Args:
        outcomes: the outcome of each sample.
        scenes: the number of its scene, from 0.
    """
    summed = np.bincount(scenes, outcomes)
    return summed * (len(summed) / len(scenes))


def interval(outcomes: Float[np.ndarray, "*lead M S"], about: About = "recipe", seed: int = 0) -> Interval:
    """Estimates means over members and samples.

    Args:
        outcomes: scores, or differences of scores, of M members and S samples.
        about: "recipe" draws members and samples, "model" draws samples alone.
        seed: the seed of the draws.

    Raises:
        InputError: one member, which cannot tell about its recipe; or fewer than two samples.
    """
    return Interval(*_compare([outcomes], about, seed)[:3])


def difference(
    first: Float[np.ndarray, "*lead M S"],
    second: Float[np.ndarray, "*lead N S"],
    about: About = "recipe",
    seed: int = 0,
) -> Difference:
    """Estimates the difference of two groups of trainings, which were tested on the same samples.

    The groups' members are drawn independently, their samples together. For members that belong together one by one,
    such as a model before and after adjustment, use `interval` on the differences of their outcomes.

    Args:
        first: the outcomes of the group that `second` is subtracted from.
        second: the outcomes of the other group.
        about: as for `interval`.
        seed: the seed of the draws.

    Raises:
        InputError: as for `interval`.
    """
    return _compare([first, second], about, seed)


def log_ratio(
    numerator: Float[np.ndarray, "M S"], denominator: Float[np.ndarray, "M S"], about: About, seed: int = 0
) -> Interval | None:
    """Estimates the logarithm of the ratio of two means, such as the drops under two kinds of drift.

    The ratio is linearized about the means. A ratio to something that may be zero says nothing.

    Args:
        numerator: outcomes.
        denominator: outcomes of the same members and samples.
        about: as for `interval`.
        seed: the seed of the draws.

    Returns:
        The interval; None if the interval of the denominator holds 0, or if a mean is not positive.
    """
    means = numerator.mean(), denominator.mean()
    if min(means) <= 0 or interval(denominator, about, seed).low <= 0:
        return None
    return interval(np.log(means[0] / means[1]) + numerator / means[0] - denominator / means[1], about, seed)


def check_about(about: About, *members: int) -> None:
    """Raises an InputError if groups with these numbers of members cannot tell about their recipes."""
    if about == "recipe" and min(members) < 2:
        raise InputError(
            "one training cannot tell about its recipe: train more members with --seeds, or ask with --about=model"
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


def _compare(groups: Sequence[np.ndarray], about: About, seed: int) -> Difference:
    """Estimates the mean of one group, or the difference of two."""
    samples = groups[0].shape[-1]
    if samples < 2:
        raise InputError(f"an interval needs at least 2 samples, got {samples}")
    check_about(about, *(group.shape[-2] for group in groups))
    estimate, error, quantile = _estimate(groups, about)
    deviations = _draws(groups, about, seed) - estimate
    spread = deviations.std(0)
    # Outcomes that are all equal do not exclude that one in as many differs.
    equal = spread == 0
    error = np.where(equal, 1 / samples, error)
    tails = quantile / stats.norm.ppf((1 + CONFIDENCE) / 2)
    stretched = deviations * tails * np.divide(error, spread, out=np.zeros_like(error), where=~equal)
    low, high = np.quantile(stretched, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    return Difference(
        estimate,
        estimate + np.where(equal, -error * quantile, low),
        estimate + np.where(equal, error * quantile, high),
        np.where(equal, 0.5 + 0.5 * np.sign(estimate), (estimate + stretched > 0).mean(0)),
    )


def _signed(groups: Sequence[np.ndarray]) -> list[tuple[float, np.ndarray]]:
    return list(zip((1.0, -1.0)[: len(groups)], groups, strict=True))


def _estimate(groups: Sequence[np.ndarray], about: About) -> tuple[Numbers, Numbers, Numbers]:
    """Computes the estimate, its standard error, and the quantile of Student's t that bounds 95% of it."""
    samples = groups[0].shape[-1]
    by_sample = np.sum([sign * group.mean(-2) for sign, group in _signed(groups)], 0)
    # The parts of samples and of members both contain the variance of their interaction, which is subtracted once.
    parts = [(by_sample.var(-1, ddof=1) / samples, samples - 1)]
    variance = parts[0][0]
    if about == "recipe":
        for group in groups:
            squares, cells = _mean_squares(group), group.shape[-2] * samples
            freedom = group.shape[-2] - 1
            parts += [(squares.member / cells, freedom), (-squares.rest / cells, freedom * (samples - 1))]
        of_members = sum(part for part, _ in parts[1::2])
        variance = np.maximum(sum(part for part, _ in parts), np.maximum(parts[0][0], of_members))
    return by_sample.mean(-1), np.sqrt(variance), _quantile(variance, parts)


def _quantile(variance: Numbers, parts: Sequence[tuple[Numbers, Numbers | int]]) -> Numbers:
    """Computes the quantile of Student's t for a sum of variances, each with its degrees of freedom (Satterthwaite)."""
    noise = sum(part**2 / freedom for part, freedom in parts)
    freedom = np.divide(variance**2, noise, out=np.full_like(variance, np.inf, float), where=noise > 0)
    return stats.t.ppf((1 + CONFIDENCE) / 2, np.maximum(freedom, 1))


def _draws(groups: Sequence[np.ndarray], about: About, seed: int) -> np.ndarray:
    """Draws members and samples with replacement, and computes the estimate of each draw `(RESAMPLES, ...)`."""
    random = np.random.default_rng(seed)

    def weights(count: int) -> np.ndarray:
        return (random.multinomial(count, np.full(count, 1 / count), RESAMPLES) / count).astype(np.float32)

    of_samples, drawn = weights(groups[0].shape[-1]), np.zeros((), np.float32)
    for sign, group in _signed(groups):
        members, samples = group.shape[-2:]
        of_members = weights(members) if about == "recipe" else np.full((RESAMPLES, members), 1 / members, np.float32)
        scores = (of_samples @ group.reshape(-1, samples).T.astype(np.float32)).reshape(RESAMPLES, -1, members)
        drawn = drawn + sign * np.einsum("rcm,rm->rc", scores, of_members).reshape(RESAMPLES, *group.shape[:-2])
    return drawn


def shares(outcomes: Float[np.ndarray, "C M S"]) -> Shares:
    """Divides the variance of drops among cases, members, samples, and the rest.

    The components are estimated by the analysis of variance of a three-way table with one drop in each cell (Searle et
    al., "Variance components", 1992); negative estimates count as 0.

    Args:
        outcomes: the drops of C cases, M members and S samples.
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
    """Computes how many members an interval about the recipe takes, with as many samples as there are.

    Args:
        outcomes: scores or drops.
        half_width: the wanted distance of the ends from the estimate.

    Returns:
        The least number of members; None if the samples are too few for any number of up to 1,000 members.
    """
    members, samples = outcomes.shape
    squares = _mean_squares(outcomes)
    wanted = np.arange(2, _MOST_MEMBERS + 1)
    of_members = max(squares.member, squares.rest) / samples / wanted
    of_samples = np.full(wanted.shape, max(squares.sample - squares.rest, 0) / members / samples)
    variance = of_members + of_samples
    enough = (
        _quantile(variance, [(of_members, wanted - 1), (of_samples, samples - 1)]) * np.sqrt(variance) <= half_width
    )
    return int(wanted[enough.argmax()]) if enough.any() else None


def samples_needed(outcomes: Float[np.ndarray, "M S"], half_width: float) -> int:
    """Computes how many samples an interval about these models takes.

    Args:
        outcomes: scores or drops.
        half_width: the wanted distance of the ends from the estimate.
    """
    deviation = outcomes.mean(0).std(ddof=1)
    return int(np.ceil((stats.norm.ppf((1 + CONFIDENCE) / 2) * deviation / half_width) ** 2))

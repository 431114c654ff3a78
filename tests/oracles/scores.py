"""Scores, their confidence intervals and tests, from docs/confidence.md, docs/outputs.md and the papers they name."""

import numpy as np
from scipy import stats


def confusion(predicted, true, classes):
    """Counts samples by true class (rows) and predicted class."""
    counts = np.zeros((classes, classes))
    np.add.at(counts, (true, predicted), 1)
    return counts


def by_class(matrix):
    """Precision, recall and F1 score of each class; 0 where there is nothing to divide by."""
    hits, predicted, true = np.diag(matrix), matrix.sum(0), matrix.sum(1)
    precision, recall = (hits / np.maximum(total, 1) for total in (predicted, true))
    return precision, recall, 2 * hits / np.maximum(predicted + true, 1)


def of_groups(score, groups):
    """A number for each group, whose mean is a score and whose spread is the jackknife's (Tukey, 1958).

    `score` computes the score of the samples that a mask keeps. The numbers deviate from the score by G - 1 times what
    it falls without the group.
    """
    names = np.unique(groups)
    whole = score(np.ones(len(groups), bool))
    falls = np.array([whole - score(groups != name) for name in names])
    return whole + (len(names) - 1) * (falls - falls.mean())


def means_of_groups(outcomes, groups):
    """`of_groups` of the mean over samples, the last axis."""
    outcomes = np.asarray(outcomes, float)
    flat = outcomes.reshape(-1, outcomes.shape[-1])
    each = [of_groups(lambda kept, row=row: row[kept].mean(), groups) for row in flat]
    return np.reshape(each, (*outcomes.shape[:-1], -1))


def half_width(outcomes, confidence=0.95, seeds=None):
    """Half of the width of an interval about the mean of independent outcomes.

    Student's t interval over the outcomes and two added ones. Their distance from the mean is a geometric mean: of the
    greatest distance among the k outcomes that differ from the rest, with weight k, and of 1, with weight 1. Fewer than
    five outcomes have the interval without added ones if this is wider.

    An interval about a recipe has `seeds` `(M, S)`, whose mean are the outcomes. By the analysis of variance of members
    and samples, the variance of the mean is (members + samples - interaction) / (M S), each with its own quantile.
    """
    outcomes = np.asarray(outcomes, float)
    size, middle = len(outcomes), np.median(outcomes)
    apart = np.abs(outcomes - middle)
    count = np.count_nonzero(apart > 1e-9)
    added = apart.max() ** (count / (count + 1)) if count else 1.0
    squares = np.square(outcomes - outcomes.mean()).sum() + 2 * added**2
    quantile = (1 + confidence) / 2
    square = stats.t.ppf(quantile, size + 1) ** 2 * squares / (size + 1) / (size + 2)
    if size < 5:
        square = max(square, stats.t.ppf(quantile, size - 1) ** 2 * outcomes.var(ddof=1) / size)
    if seeds is None:
        return np.sqrt(square)
    members = len(seeds)
    rest = seeds - seeds.mean(0) - seeds.mean(1, keepdims=True) + seeds.mean()
    of_members = size * seeds.mean(1).var(ddof=1)
    interaction = np.square(rest).sum() / (members - 1) / (size - 1)
    more = stats.t.ppf(quantile, members - 1) ** 2 * of_members - stats.t.ppf(quantile, size + 1) ** 2 * interaction
    return np.sqrt(max(square, square + more / members / size))


def interval(outcomes, seeds=None, bounds=(-np.inf, np.inf)):
    """The mean with the ends of its 95% confidence interval, within the range of a score or of a drop."""
    mean, half = np.mean(outcomes), half_width(outcomes, seeds=seeds)
    return mean, max(mean - half, bounds[0]), min(mean + half, bounds[1])


def p_value(outcomes):
    """The two-sided p-value of a mean about models: the level at which the interval just excludes 0."""
    error = half_width(outcomes) / stats.t.ppf(0.975, len(outcomes) + 1)
    return 2 * stats.t.sf(abs(np.mean(outcomes)) / error, len(outcomes) + 1)


def holm(p_values):
    """P-values corrected for their number (Holm, 1979)."""
    order = np.argsort(p_values)
    corrected = np.empty(len(order))
    raised = np.array(p_values)[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(raised), 1)
    return corrected


def variance_shares(outcomes):
    """The shares of members, cases, samples and the rest in the variance of outcomes `(cases, members, samples)`.

    By the analysis of variance with three random factors (Searle et al., 1992); negative components count as 0.
    """
    sizes, axes = np.array(outcomes.shape), (0, 1, 2)
    effects, squares = {(): outcomes.mean(keepdims=True)}, {}
    for factors in [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), axes]:
        mean = outcomes.mean(tuple(axis for axis in axes if axis not in factors), keepdims=True)
        effects[factors] = mean - sum(each for of, each in effects.items() if set(of) < set(factors))
        freedom = np.prod(sizes[list(factors)] - 1)
        repeated = outcomes.size / np.prod(sizes[list(factors)])
        squares[factors] = repeated * np.square(effects[factors]).sum() / freedom
    rest = squares[axes]
    pairs = {
        of: max(squares[of] - rest, 0) * np.prod(sizes[list(of)]) / outcomes.size for of in squares if len(of) == 2
    }
    own = {}
    for axis in axes:
        of_pairs = sum(squares[of] for of in pairs if axis in of)
        own[axis] = max(squares[axis,] - of_pairs + rest, 0) * sizes[axis] / outcomes.size
    case, member, sample = own.values()
    total = sum(own.values()) + sum(pairs.values()) + rest
    return {"member": member / total, "case": case / total, "sample": sample / total}


def members_needed(seeds, half_width, most=1000):
    """The fewest members whose interval about the recipe ends this near to the mean, with these samples; or None.

    The square of the half width is the sum of two parts: of the members with their interaction with the samples, and
    of the samples, each with the quantile of Student's t of its own number.
    """
    members, samples = seeds.shape
    rest = seeds - seeds.mean(0) - seeds.mean(1, keepdims=True) + seeds.mean()
    interaction = np.square(rest).sum() / (members - 1) / (samples - 1)
    of_members = max(seeds.mean(1).var(ddof=1), interaction / samples)
    of_samples = max(seeds.mean(0).var(ddof=1) - interaction / members, 0) / samples
    fixed = stats.t.ppf(0.975, samples - 1) ** 2 * of_samples
    for count in range(2, most + 1):
        if stats.t.ppf(0.975, count - 1) ** 2 * of_members / count + fixed <= half_width**2:
            return count
    return None

"""Limits on cameras and on parameters, after docs/drift_controls.md and the papers that it names."""

import numpy as np
from scipy import optimize, stats


def upper_limit(losses, error):
    """The upper limit of the mean of losses `(..., S)`, below the true mean with at most this probability.

    It is the limit at which a test of the losses, with further losses of 1 or of the greatest change that make their
    mean the limit, just rejects (Wilson, 1927): q^2 times the sum of the squares is the squared distance of the sums.
    """
    size, mean = losses.shape[-1], losses.mean(-1)
    quantile = max(stats.t.ppf(1 - error, size - 1), np.sqrt(-np.log(error)))
    squares, most = np.square(losses - mean[..., None]).sum(-1), np.maximum(abs(losses).max(-1), 1)

    def limit(mean, squares, most):
        def excess(above):
            # Losses of `most` that raise the sum by `size * above` add this to the squares.
            return (size * above) ** 2 - quantile**2 * (squares + most * size * above)

        return mean + optimize.brentq(excess, 1e-9, 1e3)

    return np.vectorize(limit)(mean, squares, most)


def fraction_bound(failures, draws, error):
    """The fraction of cameras that do not fail at which so few failures have the probability of the error (1934)."""
    if failures == draws:
        return 0.0
    return optimize.brentq(lambda share: stats.binom.cdf(failures, draws, 1 - share) - error, 0, 1, xtol=1e-14)


def rank_correlation(distances, losses):
    """Spearman's rank correlation with the 95% confidence interval of Fieller et al. (1957)."""
    found = stats.spearmanr(distances, losses).statistic
    half = stats.norm.ppf(0.975) * np.sqrt(1.06 / (len(losses) - 3))
    return found, *np.tanh(np.arctanh(found) + np.array([-half, half]))


def tolerated(score, limit, tolerance):
    """How far a number may move, up to a limit, before `score(position)` falls by more than the tolerance.

    The score is computed at five positions from 0.02 to the limit, each farther by the same factor. Three more divide
    the gap before the first that fails. From the last that passes to the next one, the score is taken to fall on a
    straight line.
    """
    # Scores are float32, and differences below 1e-6 are rounding.
    least, places = score(0.0) - tolerance - 1e-6, [0.0, *(limit * np.geomspace(0.02 / abs(limit), 1, 5))]

    def failing(places):
        return next((n for n, place in enumerate(places) if score(place) < least), None)

    after = failing(places)
    if after is None:
        return limit
    places = np.linspace(*places[after - 1 : after + 1], 5)
    after = failing(places)
    ends = score(places[after - 1]), score(places[after])
    return places[after - 1] + (ends[0] - least) / (ends[0] - ends[1]) * (places[after] - places[after - 1])

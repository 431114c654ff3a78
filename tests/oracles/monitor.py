"""The tests of a monitor, from docs/monitoring.md and the papers of the tests.

No page defines the single statistics of images: these follow `r2l_jax.drift.monitoring.statistics`.
"""

import numpy as np
from oracles import isp, network, scores
from scipy import stats

# A Kolmogorov-Smirnov distance is the largest one at this many quantiles.
_QUANTILES = 32


def _tone(light):
    """The light on a scale that is linear near black, logarithmic above 1/512 of white, and 1 at white."""
    return np.arcsinh(512 * light) / np.arcsinh(512)


def _gradient(plane):
    return abs(np.diff(plane, axis=1)).mean((1, 2)) + abs(np.diff(plane, axis=2)).mean((1, 2))


def _unlike_neighbors(plane):
    """How far each block is from the mean of its four neighbors, and this mean."""
    around = (plane[:, :-2, 1:-1] + plane[:, 2:, 1:-1] + plane[:, 1:-1, :-2] + plane[:, 1:-1, 2:]) / 4
    return abs(plane[:, 1:-1, 1:-1] - around), around


def of_raw(raws, black_levels):
    """The statistics of raw images of 32x32 sites with the pattern RGGB, by name."""
    black = np.mean(black_levels)
    sites = isp.spread((raws - black) / (1 - black)).reshape(len(raws), 16, 2, 16, 2, 3).sum((2, 4))
    planes = dict(zip(("red", "green", "blue"), np.moveaxis(sites / [1, 2, 1], -1, 0), strict=True))
    found, levels = {}, np.linspace(-0.5, 1.05, 32)
    for color, plane in planes.items():
        # A site counts as darker than a level by degrees, over one step between levels.
        away = (levels[:, None] - _tone(plane).reshape(len(plane), 1, -1)) / np.diff(levels)[0]
        shares = np.clip(away + 0.5, 0, 1).mean(-1)
        for percent in (1, 5, 25, 50, 75, 95, 99):
            quantile = [np.interp(percent / 100, row, levels) for row in shares]
            found[f"{percent}% quantile of {color}"] = np.array(quantile)
        found[f"mean of {color}"] = _tone(plane.mean((1, 2)))
        spreads = plane.var((1, 2)), _unlike_neighbors(plane)[0].mean((1, 2)), _gradient(plane)
        for name, spread in zip(("variance", "noise", "gradient"), spreads, strict=True):
            found[f"{name} of {color}"] = np.log10(spread + 1e-6) / 6 + 0.5
    green, mean = planes["green"], {color: plane.mean((1, 2)) for color, plane in planes.items()}
    # Shares rise from 0 to 1 within two thousandths of the range.
    found["saturated sites"] = np.clip(500 * (raws - 0.998), 0, 1).mean((1, 2))
    dark = [np.clip(0.5 + 500 * (1e-4 - plane), 0, 1).mean((1, 2)) for plane in planes.values()]
    found["sites at black"] = np.mean(dark, 0)
    y, x = np.mgrid[-1:1:16j, -1:1:16j]
    outside = np.hypot(x, y) > 1
    unlike, around = _unlike_neighbors(green)
    is_dark = around < np.median(around, (1, 2), keepdims=True)
    found["noise of dark sites"], found["noise of bright sites"] = (
        (unlike * part).mean((1, 2)) for part in (is_dark, ~is_dark)
    )
    for name, axis in (("rows", 2), ("columns", 1)):
        found[f"variation of {name}"] = np.diff(green.mean(axis), axis=1).std(1)
    found |= {name: np.log10(each + 1e-4) for name, each in found.items() if "sites" in name or "variation" in name}
    for color in ("red", "blue"):
        found[f"{color} to green"] = np.log2(mean[color] / mean["green"])
    found["corners to middle"] = np.log2(green[:, outside].mean(1) / green[:, ~outside].mean(1))
    power = abs(np.fft.rfft2(green - green.mean((1, 2), keepdims=True))) ** 2 / 256
    # In cycles per block; the highest is 1/2.
    frequency = np.hypot(np.fft.fftfreq(16)[:, None], np.fft.rfftfreq(16))
    for octave, (low, high) in enumerate([(1 / 4, 1), (1 / 8, 1 / 4), (1 / 16, 1 / 8), (-1, 1 / 16)], 1):
        inside = (frequency > low) & (frequency <= high)
        found[f"spectrum, octave {octave}"] = np.log10((power * inside).mean((1, 2)) + 1e-9)
    return found


def of_images(images):
    """The statistics of processed images, by name."""
    luma = images.mean(-1)
    return {
        **{
            f"{color} of the image": images[..., place].mean((1, 2))
            for place, color in enumerate(("red", "green", "blue"))
        },
        "contrast": luma.std((1, 2)),
        "saturated pixels": np.log10((images >= 0.995).mean((1, 2, 3)) + 1e-4),
        "dark pixels": np.log10((images <= 0.005).mean((1, 2, 3)) + 1e-4),
        "colorfulness": images.std(-1).mean((1, 2)),
        "sharpness": np.log10(_gradient(luma) + 1e-4),
    }


def entropy(probabilities):
    """The entropy of predictions."""
    return -(probabilities * np.log(probabilities)).sum(-1)


class Seen:
    """What the tests compare: statistics, features and predictions of each raw image.

    The models are the arrays of their files.
    """

    def __init__(self, raws, black_levels, models, classes):
        images = [network.rendered(model, raws) for model in models]
        logits = [network.logits(model, image) for model, image in zip(models, images, strict=True)]
        self.probabilities = np.array([network.probabilities(each) for each in logits])
        outputs = {
            "confidence": self.probabilities.max(-1).mean(0),
            "entropy": entropy(self.probabilities).mean(0),
            **{f"probability of {name}": self.probabilities.mean(0)[:, place] for place, name in enumerate(classes)},
        }
        by_model = [of_images(each) for each in images]
        means = {name: np.mean([each[name] for each in by_model], 0) for name in by_model[0]}
        self.single = {"raw images": of_raw(raws, black_levels), "images": means, "outputs": outputs}
        self.statistics = {name: each for part in self.single.values() for name, each in part.items()}
        self.features = np.concatenate([*map(self._features, models, images, self.probabilities)], 1)
        # How much more entropy the mean prediction has (Jensen-Shannon divergence).
        self.disagreement = entropy(self.probabilities.mean(0)) - entropy(self.probabilities).mean(0)

    @staticmethod
    def _features(model, images, probabilities):
        """Means and variances of each channel relative to those that a layer knows, and logits."""
        found = [np.log(probabilities)]
        for seen, mean, variance in network.layers(model, images):
            found += [(seen.mean((1, 2)) - mean) / np.sqrt(variance + 1e-5)]
            found += [np.log((seen.var((1, 2)) + 1e-5) / (variance + 1e-5))]
        return np.concatenate(found, 1)


def _distances(values, weights):
    """The largest Kolmogorov-Smirnov distance of some statistics for each row of weights."""
    ordered = np.sort(values, 0)[(np.arange(_QUANTILES) * (len(values) - 1)) // _QUANTILES]
    below = (values[:, None] <= ordered).reshape(len(values), -1).astype(float)
    return np.concatenate([abs(part @ below).max(1) for part in np.array_split(weights, 20)])


def _discrepancies(features, weights):
    """The squared maximum mean discrepancy (Gretton et al., 2012) for each row of weights.

    The squared width of the Gaussian kernel is the median of the squared distances of all pairs.
    """
    scaled = (features - features.mean(0)) / features.std(0)
    squares = ((scaled[:, None] - scaled) ** 2).sum(-1)
    return np.einsum("pi,ij,pj->p", weights, np.exp(-squares / np.median(squares)), weights, optimize=True)


def p_values(reference, new, permutations, random):
    """The p-values of a window: of all tests together, and of each test alone.

    The first row has the true labels. A p-value is the share of rows that are at least as extreme; by Westfall and
    Young (1993), a row of all tests together is as extreme as the smallest of its p-values.
    """
    sizes = len(reference.disagreement), len(new.disagreement)
    weights = np.tile(np.repeat([-1 / sizes[0], 1 / sizes[1]], sizes), (permutations + 1, 1))
    weights[1:] = random.permuted(weights[1:], axis=1)
    found = {}
    for test in reference.single:
        both = [np.stack([*each.single[test].values()], 1) for each in (reference, new)]
        found[test] = _distances(np.concatenate(both), weights)
    found["features"] = _discrepancies(np.concatenate([reference.features, new.features]), weights)
    if len(reference.probabilities) > 1:
        found["disagreement"] = abs(weights @ np.concatenate([reference.disagreement, new.disagreement]))
    of_tests = {name: _shares(np.round(rows / rows.max(), 9)) for name, rows in found.items()}
    together = _shares(-np.min([*of_tests.values()], 0))
    return together[0], {name: each[0] for name, each in of_tests.items()}


def _shares(rows):
    """The share of rows that are at least as large as each."""
    return 1 - np.searchsorted(np.sort(rows), rows) / len(rows)


def of_statistics(reference, new):
    """By statistic: its medians, the Kolmogorov-Smirnov distance, and its p-value with Holm's correction."""
    pairs = {name: (known, new.statistics[name]) for name, known in reference.statistics.items()}
    tests = {name: stats.ks_2samp(*pair) for name, pair in pairs.items()}
    corrected = scores.holm([test.pvalue for test in tests.values()])
    return {
        name: (*map(np.median, pairs[name]), test.statistic, p_value)
        for (name, test), p_value in zip(tests.items(), corrected, strict=True)
    }


def rates_of_one_reference(level, new, known):
    """The lowest and the highest false alarm rate of 95% of references, by the two-sided test of one normal mean.

    Windows without drift have a mean of 0. The mean of 95% of references is within 1.96 standard errors of it.
    """
    limit = stats.norm.ppf(1 - level / 2) * np.sqrt(1 / new + 1 / known)
    shifts = np.array([0, stats.norm.ppf(0.975) / np.sqrt(known)])
    return stats.norm.cdf(shifts - limit, scale=new**-0.5) + stats.norm.sf(shifts + limit, scale=new**-0.5)

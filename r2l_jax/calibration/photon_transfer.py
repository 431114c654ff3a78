"""The photon transfer method: a sensor's gain from the growth of its noise with the light.

The number of electrons of a site is Poisson distributed, so its variance equals its mean. In the values that a camera
writes, the variance of light of mean m is m / K for a gain of K electrons per unit (EMVA Standard 1288, release 4.0
linear, which calls 1 / K the overall system gain).
"""

import dataclasses
import math
from collections.abc import Sequence
from statistics import fmean

import numpy as np
from jaxtyping import Bool, Float

# The line is fitted to light below this fraction of the range, if there is enough of it, as in EMVA 1288.
_LINEAR = 0.7

# The variances of normal noise up to a step, in steps squared, and the least and greatest variance that rounding adds
# to each, from the Fourier series of the rounding error (B. Widrow and I. Kollar, Quantization Noise, 2008).
_NORMAL = np.linspace(0, 1, 1001) ** 2
_ORDERS = np.arange(1, 101)[:, None]
_TERMS = np.exp(-2 * (np.pi * _ORDERS) ** 2 * _NORMAL) * (4 * _NORMAL + 1 / (np.pi * _ORDERS) ** 2)
_LEAST_SHARE, _GREATEST_SHARE = 1 / 12 + ((-1.0) ** _ORDERS * _TERMS).sum(0), 1 / 12 + _TERMS.sum(0)
# Below this variance after rounding, in steps squared, only the few sites near the edge of a step show any noise.
_HIDDEN = 0.01


@dataclasses.dataclass(frozen=True)
class Point:
    """Holds the averages over the good sites of one color at one exposure.

    Channel 0 is red, 1 green and 2 blue. `mean` is the mean of the flats minus the mean of the darks, `variance` the
    temporal variance that the light adds. The line is fitted to the points with `fitted`.
    """

    channel: int
    mean: float
    variance: float
    fitted: bool


@dataclasses.dataclass(frozen=True)
class Line:
    """Holds the fit of one place in the tile.

    The gain is in electrons per unit. `error` and `rounding` are its standard errors, as fractions of it: for the noise
    of the measurement, and from rounding to digital numbers, which all places in the tile may share. `dark_variance` is
    the temporal variance of the flats without light, their rounding included.
    """

    gain: float
    error: float
    rounding: float
    dark_variance: float


def fit(
    means: Float[np.ndarray, " points"],
    variances: Float[np.ndarray, " points"],
    degrees: Float[np.ndarray, " points"],
    fitted: Bool[np.ndarray, " points"],
    step: float,
) -> Line:
    """Fits a line to temporal variances, each weighted by its error.

    `means` are 0 for the dark, followed by the mean light of each exposure. `degrees` are the degrees of freedom of the
    variances, and `step` is the distance between two digital numbers, 0 without rounding. The gain of the line is
    infinite or negative if light adds no noise.

    With light, the noise is large enough for rounding to add step ** 2 / 12. In the dark, rounding may hide or enlarge
    the noise; then the exposures determine the dark variance.
    """
    noise, rounding = _without_rounding(variances, step)
    weights = fitted / np.maximum(variances * np.sqrt(2 / degrees), np.finfo(np.float32).tiny) ** 2
    weights = weights / (1 + weights * rounding**2)
    # Relative to the dark, equal variances have a slope of exactly 0.
    above = noise - noise[0]
    light = means - (weights * means).sum() / weights.sum()
    curvature = float((weights * light**2).sum())
    slope = float((weights * light * above).sum()) / curvature
    dark_variance = float(noise[0] + (weights * (above - slope * means)).sum() / weights.sum()) + step**2 / 12
    if not slope:
        return Line(math.inf, math.inf, math.inf, dark_variance)
    by_rounding = float((weights * light * rounding) @ (weights * light * rounding)) / curvature**2
    by_noise = max(1 / curvature - by_rounding, 0.0)
    return Line(1 / slope, math.sqrt(by_noise) / abs(slope), math.sqrt(by_rounding) / abs(slope), dark_variance)


def mean_error(lines: Sequence[Line]) -> float:
    """Computes the standard error of the mean gain, as a fraction of it."""
    by_noise = math.sqrt(sum(line.error**2 for line in lines)) / len(lines)
    return math.hypot(by_noise, fmean(line.rounding for line in lines))


def _without_rounding(
    variances: Float[np.ndarray, " points"], step: float
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """Computes the variances before rounding, and their uncertainty, which vanishes where noise exceeds half a step."""
    # The variance after rounding is smallest if the mean is a digital number, and largest halfway between two.
    if not step:
        return variances, np.zeros_like(variances)
    squared = variances / step**2
    least, greatest = (
        np.maximum(above - np.interp(above, _NORMAL + share, share), 0)
        for above, share in ((squared, _GREATEST_SHARE), (np.maximum(squared, _HIDDEN), _LEAST_SHARE))
    )
    return step**2 * (greatest + least) / 2, step**2 * (greatest - least) / 2


def linear(means: Float[np.ndarray, " points"], span: float) -> Bool[np.ndarray, " points"]:
    """Chooses the exposures to fit: those below 70 % of the range from black to white or, if there are none, all."""
    below = means < _LINEAR * span
    return below if below.any() else np.ones_like(below)


def read_noise(variance: float, gain: float, step: float) -> tuple[float, bool]:
    """Computes the noise of the read-out in electrons from the temporal variance in the dark.

    Also returns whether it is only an upper bound because rounding, which adds step ** 2 / 12, dominates: a variance
    below 0.24 steps squared counts as 0.24.
    """
    is_bound = variance < 0.24 * step**2
    variance = max(variance, 0.24 * step**2) - step**2 / 12
    return gain * float(np.sqrt(variance)), is_bound

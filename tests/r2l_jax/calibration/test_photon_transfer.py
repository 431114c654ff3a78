import math

import numpy as np
import pytest

from r2l_jax.calibration.photon_transfer import fit, read_noise

# In the dark and in light.
MEANS = np.array([0, 0.1, 0.3, 0.6])
VARIANCES = MEANS / 5000 + 1e-6
ALL = np.ones(4, bool)


def test_the_error_is_that_of_repeated_measurements():
    rng = np.random.default_rng(0)
    degrees = np.full(4, 400.0)
    errors = VARIANCES * np.sqrt(2 / degrees)
    lines = [fit(MEANS, VARIANCES + errors * rng.normal(size=4), degrees, ALL, 0.0) for _ in range(2000)]
    spread = np.std([line.gain for line in lines]) / 5000
    assert np.mean([line.error for line in lines]) == pytest.approx(spread, rel=0.1)


def rounded_variance(noise, black):
    """The variance of normal noise around a black level after rounding, in steps."""
    levels = np.arange(-20, 21)
    edges = [0.5 * math.erf((level - 0.5 - black) / (noise * math.sqrt(2))) for level in [*levels, 21]]
    weights = np.diff(edges)
    return weights @ levels**2 - (weights @ levels) ** 2


@pytest.mark.parametrize("black", [0.0, 0.2, 0.4, 0.5])
@pytest.mark.parametrize("noise", [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7])
def test_noise_that_rounding_hides_in_the_dark_is_within_the_error(noise, black):
    means = np.array([0, 20.0, 60.0])
    for used in (means, means[[0, 2]]):
        variances = used / 50 + noise**2 + 1 / 12
        variances[0] = rounded_variance(noise, black)
        line = fit(used, variances, np.full(len(used), 1e6), np.ones(len(used), bool), 1.0)
        assert abs(line.gain / 50 - 1) < 2 * math.hypot(line.error, line.rounding)
    assert math.hypot(line.error, line.rounding) < 0.08  # half the interval of one exposure


def test_read_noise_is_free_of_rounding_and_a_bound_below_the_steps():
    assert read_noise(4.0 + 1 / 12, 3.0, 1.0) == (pytest.approx(6.0), False)
    # EMVA 1288, release 4.0: 0.4 digital numbers.
    assert read_noise(0.1, 3.0, 1.0) == (pytest.approx(3 * 0.4, rel=0.02), True)

import math

import numpy as np
import pytest

from r2l_jax.calibration.photon_transfer import fit, linear, read_noise

MEANS = np.array([0.1, 0.3, 0.6])


def test_the_line_through_exact_points_is_exact():
    line = fit(MEANS, MEANS / 5000, 1e-6, np.full(3, 1000.0), np.ones(3, bool))
    assert line.gain == pytest.approx(5000)


def test_the_error_is_that_of_repeated_measurements():
    rng = np.random.default_rng(0)
    variances, dark, degrees = MEANS / 5000, 1e-6, np.full(3, 400.0)
    errors = (variances + dark) * np.sqrt(2 / degrees)
    lines = [fit(MEANS, variances + errors * rng.normal(size=3), dark, degrees, np.ones(3, bool)) for _ in range(2000)]
    spread = np.std([line.gain for line in lines]) / 5000
    assert np.mean([line.error for line in lines]) == pytest.approx(spread, rel=0.1)


def test_points_that_are_left_out_have_no_weight():
    variances = MEANS / 5000 * [1, 1, 0.2]
    line = fit(MEANS, variances, 1e-6, np.full(3, 1000.0), np.array([True, True, False]))
    assert line.gain == pytest.approx(5000)


def test_light_without_noise_has_an_infinite_gain():
    assert fit(MEANS, np.zeros(3), 1e-6, np.full(3, 1000.0), np.ones(3, bool)).gain == math.inf


def test_the_line_is_fitted_below_seventy_percent_of_the_range():
    assert linear(MEANS, 0.8).tolist() == [True, True, False]
    assert linear(MEANS, 0.1).tolist() == [True, True, True]


def test_read_noise_without_rounding():
    electrons, is_bound = read_noise(4.0 + 1 / 12, 3.0, 1.0)
    assert (electrons, is_bound) == (pytest.approx(6.0), False)


def test_noise_below_the_steps_is_a_bound():
    electrons, is_bound = read_noise(0.1, 3.0, 1.0)
    # EMVA 1288, release 4.0: 0.4 digital numbers.
    assert (electrons, is_bound) == (pytest.approx(3 * 0.4, rel=0.02), True)

import numpy as np
import pytest

from r2l_jax.calibration.defects import classified, deviations, mask, smooth_surface


def normal(shape=(128, 160), seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_deviations_of_good_sites_are_standard_normal_whatever_the_slope_and_the_noise_around():
    rows = np.linspace(0, 40, 128, dtype=np.float32)[:, None]
    found = deviations(3 * normal() + rows, 1e-6)
    assert found.std() == pytest.approx(1, abs=0.05)
    assert abs(found).max() < 5.5
    found = deviations(normal() * np.repeat(np.float32([1, 10]), 80), 1e-6)
    assert found[:, :60].std() == pytest.approx(1, abs=0.07)
    assert found[:, -60:].std() == pytest.approx(1, abs=0.07)


@pytest.mark.parametrize("corner", [(0, 0), (60, 70), (122, 154)])
def test_clusters_are_found_whole_anywhere(corner):
    values = normal()
    cluster = tuple(slice(start, start + 5) for start in corner)
    values[cluster] += 20
    found = deviations(values, 1e-6) > 6
    assert found[cluster].all()
    assert found.sum() == 25


def test_kinds_and_figures():
    dark, flat, noise = np.zeros((3, 2, 4), np.float32)
    noise[0, 0], dark[0, 0] = 8, 50  # flickers, which also shifts its mean
    dark[0, 1], flat[0, 1] = 20, -30  # saturated in the dark, and so without response
    dark[0, 2] = -9
    flat[0, 3] = -40
    flat[1, 0] = 7
    dark[1, 1], flat[1, 1], noise[1, 1] = 6, -6, 6  # not beyond the threshold
    found = classified(dark, flat, noise, 6.0)
    assert found.sites.tolist() == [[0, 0], [0, 1], [0, 2], [0, 3], [1, 0]]
    assert list(found.kinds) == ["flickering", "hot", "dead", "dead", "hot"]
    assert found.figures.tolist() == [8, 20, -9, -40, 7]
    assert (found.count("hot"), found.count("dead"), found.count("flickering")) == (2, 2, 1)
    assert np.argwhere(mask(found, (2, 4))).tolist() == found.sites.tolist()


@pytest.mark.parametrize("shape", [(40, 60), (2, 9), (1, 1)])
def test_polynomials_are_their_own_surface(shape):
    rows, cols = np.indices(shape) / 60
    values = (1 - 0.3 * rows + 0.2 * cols - 0.5 * (rows - 0.3) ** 2 * (cols - 0.4) ** 2).astype(np.float32)
    good = np.ones(shape, bool)
    if values.size > 100:
        values[5, 6], good[5, 6] = 9, False
    surface = smooth_surface(values, good)
    np.testing.assert_allclose(surface[good], values[good], atol=2e-5)

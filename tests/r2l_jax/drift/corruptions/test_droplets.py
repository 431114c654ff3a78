"""Against the published code's answers in published.npz for given liquids, computed by OpenCV and scikit-image."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from r2l_jax.drift.corruptions import droplets
from r2l_jax.drift.corruptions.droplets import canny_edges, muddy, spatter, wet
from r2l_jax.drift.corruptions.filters import gaussian_taps

PUBLISHED = np.load(pathlib.Path(__file__).with_name("published.npz"))
IMAGE, KEY = jnp.asarray(PUBLISHED["image"]), jax.random.key(0)


@pytest.mark.parametrize("severity", [1, 3])
def test_edges_are_those_of_canny(severity):
    heights = jnp.floor(255 * jnp.asarray(PUBLISHED[f"liquid.{severity}"]))
    np.testing.assert_array_equal(canny_edges(heights), PUBLISHED[f"edges.{severity}"])


# Few drops have distances of a pixel or two, in which OpenCV's approximation is exact.
@pytest.mark.parametrize(("severity", "mean", "largest"), [(1, 1e-6, 1e-5), (3, 4e-3, 0.1)])
def test_drops_are_those_of_the_published_code(severity, mean, largest):
    drops = np.clip(wet(IMAGE, jnp.asarray(PUBLISHED[f"liquid.{severity}"]), jnp.float32(0.5)), 0, 1)
    difference = abs(drops - PUBLISHED[f"water.{severity}"])
    assert difference.mean() < mean
    assert difference.max() < largest


def test_mud_is_that_of_the_published_code():
    covered = muddy(IMAGE, jnp.asarray(PUBLISHED["mud.liquid"]), jnp.float32(0.68))
    np.testing.assert_allclose(covered, PUBLISHED["mud"], atol=1e-6)


@pytest.mark.parametrize(
    ("severity", "mean", "std", "sigma", "threshold"),
    [
        (1, 0.62, 0.1, 0.7, 0.7),
        (2, 0.65, 0.1, 0.8, 0.7),
        (3, 0.65, 0.3, 1.0, 0.69),
        (4, 0.65, 0.1, 0.7, 0.69),
        (5, 0.65, 0.1, 0.5, 0.68),
    ],
)
def test_liquid_is_as_frequent_as_published(monkeypatch, severity, mean, std, sigma, threshold):
    for kind in ("wet", "muddy"):
        monkeypatch.setattr(droplets, kind, lambda image, liquid, strength: image + liquid[..., None])
    liquid = spatter.__wrapped__(jnp.zeros((256, 256, 3)), KEY, jnp.int32(severity))
    smoothed = std * np.square(gaussian_taps([sigma])).sum()
    expected = stats.norm.sf(threshold, mean, smoothed)
    assert (liquid > 0).mean() == pytest.approx(expected, rel=0.1)


def test_water_brightens_and_mud_darkens_where_there_is_liquid():
    image = jnp.full((64, 64, 3), 0.5)
    water, mud = (np.asarray(spatter(image, KEY, severity)) for severity in (3, 5))
    assert water.min() >= 0.5 - 1e-6
    assert water.max() > 0.6
    assert mud.max() <= 0.5 + 1e-6
    assert mud.min() < 0.1
    for spattered in (water, mud):
        assert 0.01 < (abs(spattered - 0.5).max(-1) > 1e-3).mean() < 0.6

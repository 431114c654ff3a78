import jax
import jax.numpy as jnp
import numpy as np
import pytest
import variants

from isp import cfa, repair

RNG = np.random.default_rng(0)
RAW = RNG.random((2, 8, 10), np.float32)
DIAGONAL = [(-1, -1), (-1, 1), (1, -1), (1, 1)]
STRAIGHT = [(-2, 0), (2, 0), (0, -2), (0, 2)]
FAR = [(-2, -2), (-2, 2), (2, -2), (2, 2)]
XTRANS = "GGRGGB/GGBGGR/BRGRBG/GGBGGR/GGRGGB/RBGBRG"


def directly(raw, pattern, threshold, isolated_only=False):
    """Compares each site of a mosaic with the neighbors that the documentation names, in float64."""
    rows, cols = ([4, 5, *range(side), side - 6, side - 5] for side in raw.shape)
    padded, out = raw[np.ix_(rows, cols)].astype(np.float64), raw.astype(np.float64)
    for y, x in np.ndindex(raw.shape):
        green = pattern[2 * (y % 2) + x % 2] == "G"
        nearest = [padded[y + 2 + i, x + 2 + j] for i, j in (DIAGONAL if green else STRAIGHT)]
        eight = nearest + [padded[y + 2 + i, x + 2 + j] for i, j in (STRAIGHT if green else FAR)]
        median = np.median(nearest)
        away = max(raw[y, x] - max(eight), min(eight) - raw[y, x]) if isolated_only else abs(raw[y, x] - median)
        if away > threshold:
            out[y, x] = median
    return out


@pytest.mark.shows("isp.repair.defects(threshold, pattern, isolated_only)")
@pytest.mark.parametrize("settings", [{"threshold": 0.05, "isolated_only": True}, {"threshold": 0.3}])
@pytest.mark.parametrize("pattern", variants.quick(2, cfa.BAYER[::2] + cfa.BAYER[1::2]))
def test_agrees_with_a_direct_computation(pattern, settings):
    expected = np.stack([directly(raw, pattern, **settings) for raw in RAW])
    assert 4 < (expected != RAW).sum() < 0.9 * RAW.size
    np.testing.assert_allclose(repair.defects(RAW, pattern=pattern, **settings), expected, atol=1e-7)


@pytest.mark.parametrize("pattern", ["RGGB", XTRANS])
def test_sites_without_a_number_become_the_median_of_their_finite_neighbors(pattern):
    colors, places = np.tile(cfa.tile(pattern), (12, 12))[:24, :24], np.mgrid[:24, :24]

    def around(y, x):
        """Finds the 4 nearest sites of a site's color, and all others that are as near as the farthest of them."""
        squares = ((places - np.reshape([y, x], (2, 1, 1))) ** 2).sum(0)
        squares = np.where((colors == colors[y, x]) & (squares > 0), squares, 999)
        return squares <= np.sort(squares.ravel())[3]

    expected = RNG.random((3, 24, 24), np.float32)
    spoiled, pair = expected.copy(), [(12, 12), next(zip(*around(12, 12).nonzero(), strict=True))]
    for image, value in enumerate((np.nan, np.inf, -np.inf)):
        spoiled[image][tuple(np.transpose(pair))] = value
        for y, x in pair:
            values = spoiled[image][around(y, x)]
            expected[image, y, x] = np.median(values[np.isfinite(values)])
    np.testing.assert_allclose(repair.defects(spoiled, threshold=2.0, pattern=pattern), expected, atol=1e-7)
    settings = {"threshold": 0.1, "pattern": pattern, "softness": 0.1, "isolated_only": True}
    np.testing.assert_array_equal(repair.defects(spoiled, **settings), repair.defects(expected, **settings))
    gradient = jax.grad(lambda raw: repair.defects(raw, threshold=2.0, pattern=pattern)[:, 12, 12].sum())(spoiled)
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(gradient.sum((1, 2)), 1, rtol=1e-6)


def test_mosaics_without_a_number_become_black():
    np.testing.assert_array_equal(repair.defects(jnp.full((8, 8), jnp.nan)), 0)


@pytest.mark.shows("isp.repair.defects(softness)")
def test_a_soft_threshold_begins_and_ends_where_it_says():
    """Between, the smooth step 3 x^2 - 2 x^3 of the excess is replaced, here at 1/4 and 1/2."""
    raw = np.full((8, 8), 0.2, np.float32)
    results = []
    for excess in (0.0, 0.05, 0.1, 0.2, 0.3):
        raw[4, 4] = 0.2 + 0.1 + excess
        results.append(float(repair.defects(raw, threshold=0.1, softness=0.2)[4, 4]))
    np.testing.assert_allclose(results, [0.3, 0.35 - 0.15 * 5 / 32, 0.3, 0.2, 0.2], atol=1e-6)


def test_neighbors_that_tie_share_the_gradient():
    raw = jnp.full((6, 6), 0.25).at[2, 2].set(1.0)
    gradient = jax.grad(lambda raw: repair.defects(raw)[2, 2])(raw)
    expected = np.zeros((6, 6))
    for y, x in STRAIGHT:
        expected[2 + y, 2 + x] = 1 / 4
    np.testing.assert_allclose(gradient, expected, atol=1e-7)

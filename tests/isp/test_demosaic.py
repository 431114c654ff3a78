import functools
import itertools
import warnings

import jax.numpy as jnp
import numpy as np
import pytest
import variants
from oracles import isp as oracle
from scipy import ndimage

from isp import cfa, demosaic

# By the names of the references.
METHODS = {
    "bilinear": demosaic.bilinear,
    "Malvar2004": demosaic.malvar2004,
    "Menon2007": demosaic.menon2007,
    "Menon2007 unrefined": functools.partial(demosaic.menon2007, refine=False),
}
# The quick tests take one pattern of the last method, which is a part of the one before.
CASES = [*itertools.product(METHODS, cfa.BAYER)]
RAW = np.random.default_rng(1).random((14, 10), np.float32)


def by_reference(method, raw, pattern):
    """Demosaics by colour-demosaicing, which computes in float64."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import colour_demosaicing
    name, *unrefined = method.split()
    reference = getattr(colour_demosaicing, f"demosaicing_CFA_Bayer_{name}")
    return reference(np.asarray(raw, np.float64), pattern, **{"refining_step": False} if unrefined else {})


def scenes():
    """Makes noise, and edges, ramps, stripes and a disc in which directions tie; in 1/4096, so that sums are exact."""
    y, x = np.mgrid[:24, :20]
    disc = (y - 11) ** 2 + (x - 9) ** 2 < 60
    noise = np.random.default_rng(0).random(y.shape)
    planes = [noise, np.full(y.shape, 0.3), x >= 9, y >= 12, x > y, x % 3 == 0, (x + y) % 5 < 2, x / 64 + y / 32, disc]
    return np.stack([np.round(0.9 * 4096 * plane) / 4096 for plane in planes]).astype(np.float32)


@pytest.mark.shows("isp.demosaic.bilinear(pattern)", "isp.demosaic.malvar2004(pattern)")
@pytest.mark.shows("isp.demosaic.menon2007(pattern, refine)")
@pytest.mark.parametrize("case", variants.quick(13, CASES))
def test_agrees_with_the_reference_borders_included(case):
    (method, pattern), raw = case, scenes()
    expected = np.stack([by_reference(method, image, pattern) for image in raw])
    np.testing.assert_allclose(METHODS[method](raw, pattern), expected, atol=1e-6)


@pytest.mark.parametrize("size", variants.quick(1, [(2, 2), (2, 8), (6, 2)]))
@pytest.mark.parametrize("method", METHODS)
def test_agrees_with_the_reference_at_the_smallest_sizes(method, size):
    raw = RAW[: size[0], : size[1]]
    np.testing.assert_allclose(METHODS[method](raw, "GRBG"), by_reference(method, raw, "GRBG"), atol=1e-6)


@pytest.mark.parametrize("pattern", cfa.BAYER)
def test_a_mirrored_border_keeps_colors_in_place(pattern):
    flat = cfa.mosaic(jnp.broadcast_to(jnp.array([0.2, 0.4, 0.8]), (6, 8, 3)), pattern)
    rgb = demosaic.malvar2004(flat, pattern, border="mirror")
    np.testing.assert_allclose(rgb, np.broadcast_to([0.2, 0.4, 0.8], (6, 8, 3)), atol=1e-6)
    planes = np.asarray(cfa.spread(RAW, pattern), np.float64)
    expected = [ndimage.correlate(planes[..., c], demosaic.BILINEAR_KERNEL[c, c], mode="mirror") for c in range(3)]
    result = demosaic.interpolate(cfa.spread(RAW, pattern), jnp.array(demosaic.BILINEAR_KERNEL))
    np.testing.assert_allclose(result, np.stack(expected, -1), atol=1e-6)


@pytest.mark.shows("isp.demosaic.malvar2004(border)")
@pytest.mark.parametrize(("border", "mode"), [("mirror", "mirror"), ("zero", "constant")])
def test_sites_beyond_the_border_are_mirrored_or_zero(border, mode):
    expected = oracle.malvar2004(RAW.astype(np.float64), "GBRG", mode)
    np.testing.assert_allclose(demosaic.malvar2004(RAW, "GBRG", border), expected, atol=1e-6)


@pytest.mark.shows("isp.demosaic.normalized(pattern, weights)")
@pytest.mark.parametrize("pattern", ["GRBG", "RRGG/RRGG/GGBB/GGBB"])
def test_normalized_takes_the_weighted_mean_of_each_color(pattern):
    """With weights that differ by color and direction; without weights, they fall linearly from the center."""
    weights = np.random.default_rng(2).uniform(0.1, 1, (3, 7, 7)).astype(np.float32)
    reach = 4 if "/" in pattern else 2
    slope = reach - abs(np.arange(1 - reach, reach))
    for given, kernels in ((weights, weights), (None, [np.outer(slope, slope)] * 3)):
        expected = oracle.normalized(RAW.astype(np.float64), kernels, pattern)
        np.testing.assert_allclose(demosaic.normalized(RAW, given, pattern=pattern), expected, rtol=1e-5)

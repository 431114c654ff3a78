import functools
import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import variants
from scipy import ndimage

from isp import cfa, demosaic
from isp._kernels import turns

METHODS = {
    "bilinear": demosaic.bilinear,
    "malvar2004": demosaic.malvar2004,
    "menon2007": demosaic.menon2007,
    "menon2007 unrefined": functools.partial(demosaic.menon2007, refine=False),
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
    references = {
        "bilinear": colour_demosaicing.demosaicing_CFA_Bayer_bilinear,
        "malvar2004": colour_demosaicing.demosaicing_CFA_Bayer_Malvar2004,
        "menon2007": colour_demosaicing.demosaicing_CFA_Bayer_Menon2007,
    }
    options = {"refining_step": False} if unrefined else {}
    return references[name](np.asarray(raw, np.float64), pattern, **options)


def scenes():
    """Makes noise, and edges, ramps, stripes and a disc in which directions tie; in 1/4096, so that sums are exact."""
    y, x = np.mgrid[:24, :20]
    disc = (y - 11) ** 2 + (x - 9) ** 2 < 60
    noise = np.random.default_rng(0).random(y.shape)
    planes = [noise, np.full(y.shape, 0.3), x >= 9, y >= 12, x > y, x % 3 == 0, (x + y) % 5 < 2, x / 64 + y / 32, disc]
    return np.stack([np.round(0.9 * 4096 * plane) / 4096 for plane in planes]).astype(np.float32)


@pytest.mark.parametrize("case", variants.quick(13, CASES))
def test_agrees_with_the_reference_borders_included(case):
    (method, pattern), raw = case, scenes()
    expected = np.stack([by_reference(method, image, pattern) for image in raw])
    result = METHODS[method](raw, pattern)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=1e-6)


@pytest.mark.parametrize("case", variants.quick(9, CASES[4:]))
def test_sites_keep_their_values(case):
    (method, pattern), raw = case, scenes()
    np.testing.assert_array_equal(cfa.mosaic(METHODS[method](raw, pattern), pattern), raw)


@pytest.mark.parametrize("size", variants.quick(1, [(2, 2), (2, 8), (6, 2)]))
@pytest.mark.parametrize("method", METHODS)
def test_agrees_with_the_reference_at_the_smallest_sizes(method, size):
    raw = RAW[: size[0], : size[1]]
    np.testing.assert_allclose(METHODS[method](raw, "GRBG"), by_reference(method, raw, "GRBG"), atol=1e-6)


@pytest.mark.parametrize("method", variants.quick(3, METHODS))
def test_float64_agrees_everywhere(method):
    raw = np.random.default_rng(1).random((64, 48))
    with jax.enable_x64(True):
        result = METHODS[method](raw, "GBRG")
    assert result.dtype == np.float64
    np.testing.assert_allclose(np.asarray(result), by_reference(method, raw, "GBRG"), atol=1e-14)


@pytest.mark.slow
@pytest.mark.cpu
def test_large_images_are_the_same_in_patches(monkeypatch):
    raw = np.random.default_rng(4).random((2, 160, 22), np.float32)
    weight = np.random.default_rng(5).normal(size=(2, 160, 22, 3)).astype(np.float32)

    def value_and_gradient(raw):
        # Without the function's own jit, which has compiled for the former size of patches.
        rgb, transpose = jax.vjp(demosaic.menon2007.__wrapped__, raw)
        return rgb, transpose(weight)[0]

    expected = jax.jit(lambda raw: value_and_gradient(raw))(raw)
    monkeypatch.setattr(turns, "_LARGE", 100)
    monkeypatch.setattr(turns, "_PATCH", (32, 12))
    in_patches = jax.jit(lambda raw: value_and_gradient(raw))
    assert "while" in in_patches.lower(raw).as_text()
    for result, wanted in zip(in_patches(raw), expected, strict=True):
        np.testing.assert_allclose(result, wanted, atol=2e-6)


@pytest.mark.parametrize("pattern", cfa.BAYER)
def test_interpolate_mirrors_the_border(pattern):
    planes = np.asarray(cfa.spread(RAW, pattern), np.float64)
    expected = [ndimage.correlate(planes[..., c], demosaic.BILINEAR_KERNEL[c, c], mode="mirror") for c in range(3)]
    result = demosaic.interpolate(cfa.spread(RAW, pattern), jnp.array(demosaic.BILINEAR_KERNEL))
    np.testing.assert_allclose(result, np.stack(expected, -1), atol=1e-6)


@pytest.mark.parametrize("pattern", cfa.BAYER)
def test_malvar2004_with_a_mirrored_border_leaves_no_dots_along_it(pattern):
    raw = cfa.mosaic(jnp.broadcast_to(jnp.array([0.2, 0.4, 0.8]), (6, 8, 3)), pattern)
    rgb = demosaic.malvar2004(raw, pattern, border="mirror")
    np.testing.assert_allclose(rgb, np.broadcast_to([0.2, 0.4, 0.8], (6, 8, 3)), atol=1e-6)
    inside = slice(2, -2)
    np.testing.assert_allclose(rgb[inside, inside], demosaic.malvar2004(raw, pattern)[inside, inside], atol=1e-6)

import jax.numpy as jnp
import numpy as np
import pytest
import variants
from oracles import isp as oracle

from isp import cfa, demosaic

QUAD = "RRGG/RRGG/GGBB/GGBB"
XTRANS = "GBGGRG/RGRBGB/GBGGRG/GRGGBG/BGBRGR/GRGGBG"
BLOCKS_OF_FOUR = "/".join(["RRRRGGGG"] * 4 + ["GGGGBBBB"] * 4)
ANY = ("GRBG", QUAD, XTRANS, "MONO")
RGB = np.random.default_rng(0).random((2, 12, 20, 3), np.float32)
RAW = np.random.default_rng(1).random((2, 12, 20), np.float32)


def test_one_array_has_one_name():
    doubled = "/".join(row * 2 for row in XTRANS.split("/"))
    names = {"RG/GB": "RGGB", "GRGR/BGBG/GRGR/BGBG": "GRBG", doubled: XTRANS, "RGB/RGB/RGB": "RGB/RGB"}
    assert {pattern: cfa.canonical(pattern) for pattern in names} == names


def test_refuses_unknown_patterns_and_sizes(unchecked):
    message = r"pattern must be one of RGGB, .*, MONO, or rows of R, G and B joined by '/'"
    for pattern in ("", "RGBG", "RGB", "RG/GBB", "RG/GX", "RR/GG", "/".join(["RGB"] * 17), "RGB" * 17, None):
        with pytest.raises(ValueError, match=message):
            cfa.tile(pattern)
    with pytest.raises(ValueError, match=r"black_level must have shape \(4,\), one level per site .*, got \(3,"):
        cfa.subtract_black_level(RAW, black_level=jnp.zeros(3))
    with pytest.raises(ValueError, match=r"this demosaicing is for the Bayer patterns RGGB, .*, got 'RRGG"):
        demosaic.malvar2004(RAW, QUAD)
    for size in ((2, 6), (6, 2)):
        with pytest.raises(ValueError, match=rf"raw must have at least 3x3 sites for .*, got \({size[0]}, {size[1]}\)"):
            demosaic.binned(np.zeros(size, np.float32), XTRANS)
    with pytest.raises(ValueError, match=r"rgb must have an even height and width, got shape \(4, 5"):
        cfa.mosaic(np.zeros((4, 5, 3), np.float32))


@pytest.mark.shows("isp.cfa.mosaic(pattern)", "isp.cfa.spread(pattern)")
@pytest.mark.parametrize("pattern", [*cfa.BAYER, *ANY[1:3]])
def test_mosaics_keep_the_color_of_each_site_and_spread_puts_it_back(pattern):
    np.testing.assert_array_equal(cfa.mosaic(RGB, pattern), oracle.mosaic(RGB, pattern))
    np.testing.assert_array_equal(cfa.spread(RAW, pattern), oracle.spread(RAW, pattern))


def test_a_site_without_a_filter_sees_the_mean_of_the_channels():
    np.testing.assert_allclose(cfa.mosaic(RGB, "MONO"), RGB.mean(-1), rtol=1e-6)
    np.testing.assert_array_equal(cfa.spread(RAW, "MONO"), np.repeat(RAW[..., None], 3, -1))


def test_space_to_depth_is_in_cfa_order():
    expected = [RAW[:, row::2, col::2] for row, col in np.ndindex(2, 2)]
    np.testing.assert_array_equal(cfa.space_to_depth(RAW), np.stack(expected, -1))


@pytest.mark.shows("isp.cfa.subtract_black_level(pattern, rescale)")
@pytest.mark.parametrize(
    ("pattern", "levels"),
    [("GBRG", [0.1, 0.2, 0.3, 0.5]), (QUAD, [0.1, 0.2, 0.3]), (XTRANS, [0.1, 0.2, 0.3]), ("MONO", [0.1])],
)
def test_black_levels_are_subtracted_by_site_or_by_color_without_clipping(pattern, levels):
    colors = oracle.colors(pattern, 12, 20) if "/" in pattern else np.zeros((12, 20), int)
    black = oracle.black_levels(levels, 12, 20) if pattern in cfa.BAYER else np.float32(levels)[colors]
    levels = jnp.array(levels)
    np.testing.assert_allclose(cfa.black_levels(levels, pattern=pattern, height=12, width=20), black, rtol=1e-6)
    found = cfa.subtract_black_level(RAW, pattern=pattern, black_level=levels)
    np.testing.assert_allclose(found, RAW - black, atol=1e-7)
    spoiled = np.where(np.arange(20) == 7, np.nan, RAW)  # Later stages repair sites without a number.
    rescaled = cfa.subtract_black_level(spoiled, pattern=pattern, black_level=levels, rescale=True)
    np.testing.assert_allclose(rescaled, (spoiled - black) / (1 - black), atol=1e-6)


@pytest.mark.parametrize("pattern", ANY)
@pytest.mark.parametrize("algorithm", [demosaic.normalized, demosaic.binned])
@pytest.mark.parametrize("size", variants.quick(1, [(16, 26), (6, 6), (12, 20)]))
def test_a_flat_scene_stays_flat_up_to_the_border(pattern, algorithm, size):
    color = np.float32([0.2, 0.5, 0.9]) if pattern != "MONO" else np.float32([0.4, 0.4, 0.4])
    mosaic = cfa.mosaic(np.broadcast_to(color, (*size, 3)), pattern)
    image = algorithm(mosaic, pattern=pattern)
    np.testing.assert_allclose(image, np.broadcast_to(color, image.shape), rtol=1e-6)


def test_the_side_of_the_blocks():
    sides = {"BGGR": 2, QUAD: 2, XTRANS: 3, "MONO": 2, "RGB/GBR/BRG": 3, BLOCKS_OF_FOUR: 4}
    assert {pattern: demosaic.bin_side(pattern) for pattern in sides} == sides
    assert demosaic.binned(RAW, BLOCKS_OF_FOUR).shape == (2, 3, 5, 3)


@pytest.mark.shows("isp.demosaic.binned(pattern)")
@pytest.mark.parametrize(("pattern", "side"), [("GRBG", 2), ("MONO", 2), (XTRANS, 3)])
def test_binned_averages_the_sites_of_each_color(pattern, side):
    binned = np.asarray(demosaic.binned(RAW, pattern))
    colors = oracle.colors(pattern, 12, 20) if pattern != "MONO" else None
    for row, col in np.ndindex(binned.shape[1:3]):
        block = slice(side * row, side * (row + 1)), slice(side * col, side * (col + 1))
        for channel in range(3):
            sees = colors[block] == channel if pattern != "MONO" else np.ones((side, side), bool)
            np.testing.assert_allclose(binned[:, row, col, channel], RAW[:, *block][:, sees].mean(-1), rtol=1e-6)

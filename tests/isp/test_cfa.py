import jax
import jax.numpy as jnp
import numpy as np
import pytest
import variants

from isp import cfa, demosaic

QUAD = "RRGG/RRGG/GGBB/GGBB"
XTRANS = "GBGGRG/RGRBGB/GBGGRG/GRGGBG/BGBRGR/GRGGBG"
BLOCKS_OF_FOUR = "/".join(["RRRRGGGG"] * 4 + ["GGGGBBBB"] * 4)
ANY = ("GRBG", QUAD, XTRANS, "MONO")
RGB = np.random.default_rng(0).random((2, 12, 20, 3), np.float32)
RAW = np.random.default_rng(1).random((2, 12, 20), np.float32)


def test_tile_of_each_kind():
    np.testing.assert_array_equal(cfa.tile("GBRG"), [[1, 2], [0, 1]])
    np.testing.assert_array_equal(cfa.tile(QUAD), np.kron([[0, 1], [1, 2]], np.ones((2, 2), int)))
    np.testing.assert_array_equal(cfa.tile("MONO"), [[0]])
    assert np.bincount(cfa.tile(XTRANS).ravel()).tolist() == [8, 20, 8]


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("RG/GB", "RGGB"),
        ("GRGR/BGBG/GRGR/BGBG", "GRBG"),
        (QUAD, QUAD),
        ("/".join([row * 2 for row in XTRANS.split("/")]), XTRANS),
        ("RGB/RGB/RGB", "RGB/RGB"),
        ("MONO", "MONO"),
    ],
)
def test_one_array_has_one_name(pattern, name):
    assert cfa.canonical(pattern) == name


@pytest.mark.parametrize(
    "pattern", ["", "RGBG", "RGB", "RG/GBB", "RG/GX", "RR/GG", "/".join(["RGB"] * 17), "RGB" * 17, None]
)
def test_unknown_patterns(pattern, unchecked):
    with pytest.raises(ValueError, match=r"pattern must be one of RGGB, .*, MONO, or rows of R, G and B joined by '/'"):
        cfa.tile(pattern)


@pytest.mark.parametrize("pattern", ANY[:3])
def test_mosaic_keeps_the_color_that_each_site_sees(pattern):
    mosaic, tile = np.asarray(cfa.mosaic(RGB, pattern)), cfa.tile(pattern)
    for row, col in np.ndindex(12, 20):
        channel = tile[row % tile.shape[0], col % tile.shape[1]]
        np.testing.assert_array_equal(mosaic[:, row, col], RGB[:, row, col, channel])


def test_a_site_without_a_filter_sees_the_mean_of_the_channels():
    np.testing.assert_allclose(cfa.mosaic(RGB, "MONO"), RGB.mean(-1), rtol=1e-6)
    np.testing.assert_array_equal(cfa.spread(RAW, "MONO"), np.repeat(RAW[..., None], 3, -1))


@pytest.mark.parametrize("size", [(4, 5), (5, 4)])
def test_an_image_of_an_odd_side_is_no_scene(size):
    with pytest.raises(ValueError, match=rf"rgb must have an even height and width, got shape \({size[0]}, {size[1]}"):
        cfa.mosaic(np.zeros((*size, 3), np.float32))


@pytest.mark.parametrize("pattern", ANY[:3])
def test_spread_can_be_undone(pattern):
    planes = cfa.spread(RAW, pattern)
    np.testing.assert_array_equal((planes != 0).sum(-1), 1)
    np.testing.assert_array_equal(cfa.mosaic(planes, pattern), RAW)


@pytest.mark.parametrize(("pattern", "levels"), [(QUAD, [0.1, 0.2, 0.3]), (XTRANS, [0.1, 0.2, 0.3]), ("MONO", [0.1])])
def test_black_levels_go_by_color(pattern, levels):
    tile = cfa.tile(pattern)
    expected = np.array(levels, np.float32)[np.tile(tile, (12, 20))[:12, :20]]
    result, gradient = jax.value_and_grad(lambda level: cfa.subtract_black_level(RAW, level, pattern).sum())(
        jnp.array(levels)
    )
    np.testing.assert_allclose(cfa.subtract_black_level(RAW, jnp.array(levels), pattern), RAW - expected, atol=1e-7)
    counts = [(np.tile(tile, (12, 20))[:12, :20] == channel).sum() for channel in range(len(levels))]
    np.testing.assert_allclose(gradient, -2.0 * np.array(counts))
    assert np.isfinite(result)


def test_black_levels_of_bayer_patterns_are_in_cfa_order():
    levels = cfa.black_levels(jnp.array([0.1, 0.2, 0.3, 0.4]), "GBRG", 4, 3)
    np.testing.assert_allclose(levels, [[0.1, 0.2, 0.1], [0.3, 0.4, 0.3]] * 2, rtol=1e-6)


def test_the_number_of_levels_belongs_to_the_pattern(unchecked):
    with pytest.raises(ValueError, match=r"black_level must have shape \(3,\), one level a color, got \(4,\)"):
        cfa.subtract_black_level(RAW, jnp.zeros(4), QUAD)
    with pytest.raises(ValueError, match=r"black_level must have shape \(1,\), one level, got \(4,\)"):
        cfa.subtract_black_level(RAW, jnp.zeros(4), "MONO")


@pytest.mark.parametrize("pattern", cfa.BAYER)
def test_normalized_is_bilinear_on_bayer_mosaics(pattern):
    """Not at the border, where `bilinear` repeats the border of the planes."""
    difference = abs(demosaic.normalized(RAW, pattern=pattern) - demosaic.bilinear(RAW, pattern))
    assert difference[:, 1:-1, 1:-1].max() < 1e-6


@pytest.mark.parametrize("pattern", ANY)
@pytest.mark.parametrize("algorithm", [demosaic.normalized, demosaic.binned])
@pytest.mark.parametrize("size", variants.quick(2, [(16, 26), (6, 6), (12, 20)]))
def test_a_flat_scene_stays_flat_up_to_the_border(pattern, algorithm, size):
    color = np.float32([0.2, 0.5, 0.9]) if pattern != "MONO" else np.float32([0.4, 0.4, 0.4])
    mosaic = cfa.mosaic(np.broadcast_to(color, (*size, 3)), pattern)
    image = algorithm(mosaic, pattern=pattern)
    np.testing.assert_allclose(image, np.broadcast_to(color, image.shape), rtol=1e-6)


@pytest.mark.parametrize("pattern", ANY[:3])
def test_a_site_keeps_the_color_that_it_sees(pattern):
    np.testing.assert_array_equal(cfa.mosaic(demosaic.normalized(RAW, pattern=pattern), pattern), RAW)


@pytest.mark.parametrize("pattern", variants.quick(2, [ANY[0], ANY[2], ANY[1]]))
def test_the_gradient_of_the_weights_agrees_with_central_differences(pattern):
    with jax.enable_x64(True):
        raw, weights = jnp.asarray(RAW, jnp.float64), jnp.asarray(demosaic.normalized_kernel(pattern), jnp.float64)
        target = jnp.asarray(np.random.default_rng(2).random((*RAW.shape, 3)))

        def loss(weights):
            return (demosaic.normalized(raw, weights, pattern) * target).sum()

        direction = jnp.asarray(np.random.default_rng(3).standard_normal(weights.shape)) * weights
        step = 1e-4
        expected = (loss(weights + step * direction) - loss(weights - step * direction)) / (2 * step)
        found = (jax.grad(loss)(weights) * direction).sum()
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("pattern", ANY)
@pytest.mark.parametrize("algorithm", [demosaic.normalized, demosaic.binned])
def test_vmap_and_jit_change_nothing(pattern, algorithm):
    mapped = jax.jit(jax.vmap(lambda raw: algorithm(raw, pattern=pattern)))(RAW)
    np.testing.assert_allclose(mapped, algorithm(RAW, pattern=pattern), rtol=1e-6, atol=1e-7)


def test_binned_averages_the_sites_of_each_color():
    blocks = RAW.reshape(2, 4, 3, 20, 1)[:, :, :, :18].reshape(2, 4, 3, 6, 3).swapaxes(2, 3)
    tile = cfa.tile(XTRANS)
    for row, col in ((0, 0), (1, 0), (2, 3)):
        colors = np.tile(tile, (2, 4))[3 * row : 3 * row + 3, 3 * col : 3 * col + 3]
        expected = [blocks[0, row, col][colors == channel].mean() for channel in range(3)]
        np.testing.assert_allclose(demosaic.binned(RAW, XTRANS)[0, row, col], expected, rtol=1e-6)
    np.testing.assert_allclose(
        demosaic.binned(RAW, "MONO")[..., 1], RAW.reshape(2, 6, 2, 10, 2).mean((2, 4)), rtol=1e-6
    )


def test_quad_at_half_size_is_the_bayer_mosaic_of_the_same_scene_at_half_size():
    y, x = np.mgrid[:32, :48] / 48
    scene = np.stack([0.3 + 0.2 * x, 0.4 + 0.1 * np.sin(5 * y), 0.5 - 0.2 * x * y], -1).astype(np.float32)
    half = scene.reshape(16, 2, 24, 2, 3).mean((1, 3))
    from_quad = demosaic.binned(cfa.mosaic(scene, QUAD), QUAD)
    from_bayer = demosaic.normalized(cfa.mosaic(half, "RGGB"), pattern="RGGB")
    np.testing.assert_allclose(from_quad, from_bayer, atol=1e-6)


@pytest.mark.parametrize(
    ("pattern", "side"),
    [("BGGR", 2), (QUAD, 2), (XTRANS, 3), ("MONO", 2), ("RGB/GBR/BRG", 3), (BLOCKS_OF_FOUR, 4)],
)
def test_the_side_of_the_blocks(pattern, side):
    assert demosaic.bin_side(pattern) == side
    assert demosaic.binned(RAW, pattern).shape == (2, 12 // side, 20 // side, 3)


@pytest.mark.parametrize("algorithm", [demosaic.bilinear, demosaic.malvar2004, demosaic.menon2007])
def test_bayer_algorithms_refuse_other_patterns(algorithm):
    with pytest.raises(ValueError, match=r"this demosaicing is for the Bayer patterns RGGB, .*, got 'RRGG"):
        algorithm(RAW, QUAD)


@pytest.mark.parametrize("size", [(2, 6), (6, 2)])
def test_a_mosaic_narrower_than_a_block_is_refused(size):
    with pytest.raises(ValueError, match=rf"raw must have at least 3x3 sites for .*, got \({size[0]}, {size[1]}\)"):
        demosaic.binned(np.zeros(size, np.float32), XTRANS)


def test_the_ring_of_small_weights_decides_only_where_nothing_else_does():
    """Far from the border, a site of X-Trans has no say in pixels that are not next to it."""
    y, x = 13, 12
    assert cfa.tile(XTRANS)[y % 6, x % 6] == 0
    raw = np.zeros((24, 24), np.float32)
    raw[y, x] = 1
    red = np.array(demosaic.normalized(raw, pattern=XTRANS)[..., 0])
    red[y - 1 : y + 2, x - 1 : x + 2] = 0
    # A small weight against a single one of the smallest weights of the window.
    assert red.max() <= 2.0**-12 * 16

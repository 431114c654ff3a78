import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import isp as oracle
from scipy import ndimage

import isp
from isp import cfa, metering

BLACK = 0.0625
KNOWN = {"black_level": (BLACK,) * 4}
CAMERA = dataclasses.replace(isp.CAMERAS["drone"], black_level=KNOWN["black_level"])
XTRANS = "GBGGRG/RGRBGB/GBGGRG/GRGGBG/BGBRGR/GRGGBG"
# Zones divide neither side, green is not the brightest color, and the images differ.
RGB = np.random.default_rng(0).random((2, 30, 22, 3)).astype(np.float32) * np.float32([0.9, 0.5, 0.2])
RAW = BLACK + np.asarray(cfa.mosaic(RGB))
NEUTRAL = np.float32([0.5, 1.0, 0.25])


def darker(raw, light):
    return (BLACK + light * (raw - BLACK)).astype(np.float32)


def zone_means(raw):
    """Means of red, green and blue over blocks of 8x8 sites of an RGGB mosaic, `(images, zones, 3)`."""
    rows, cols = (size // 8 for size in raw.shape[-2:])
    above = raw[:, : 8 * rows, : 8 * cols].astype(np.float64) - BLACK
    sites = above.reshape(-1, rows, 4, 2, cols, 4, 2).mean((2, 5)).transpose(0, 1, 3, 2, 4)
    sites = sites.reshape(len(raw), rows * cols, 4)
    return np.stack([sites[..., 0], sites[..., 1:3].mean(-1), sites[..., 3]], -1)


def minkowski(values, power):
    return (values**power).mean(1) ** (1 / power)


@pytest.mark.shows("isp.metering.levels(power)")
@pytest.mark.parametrize("power", [1.0, 2.5, 6.0, 60.0])
def test_levels_are_minkowski_means_of_zones(power):
    expected = minkowski(zone_means(RAW), power)
    np.testing.assert_allclose(metering.levels(RAW, power, **KNOWN), expected, rtol=2e-5)
    of_one_zone = RAW[:, :6:2, :4:2].mean((1, 2)) - BLACK
    np.testing.assert_allclose(metering.levels(RAW[:, :6, :4], power, **KNOWN)[:, 0], of_one_zone, rtol=1e-5)


@pytest.mark.parametrize(("pattern", "side"), [(XTRANS, 12), ("RRGG/RRGG/GGBB/GGBB", 8), (cfa.MONO, 8)])
def test_zones_of_other_arrays_hold_whole_tiles_of_at_least_8_sites(pattern, side):
    rows, cols = 30 // side, 40 // side
    raw = np.random.default_rng(1).random((30, 40)) ** 4
    zones = raw[: rows * side, : cols * side].reshape(rows, side, cols, side).swapaxes(1, 2).reshape(-1, side, side)
    letters = np.tile(cfa.tile(pattern), (side, side))[:side, :side]
    means = np.stack([zones[:, letters == color].mean(-1) for color in range(letters.max() + 1)], -1)
    black = (0.0,) * len(np.ravel(np.zeros(cfa.black_level_shape(pattern))))
    found = metering.levels(raw.astype(np.float32), 6.0, black_level=black, pattern=pattern)
    np.testing.assert_allclose(found, (means**6).mean(0) ** (1 / 6), rtol=1e-5)


@pytest.mark.shows("isp.metering.levels(pattern)", "isp.metering.auto_white_balance(pattern)")
@pytest.mark.shows("isp.metering.auto_exposure(pattern)")
@pytest.mark.parametrize("pattern", ["GRBG", XTRANS, "RRGG/RRGG/GGBB/GGBB"])
def test_each_color_counts_by_its_own_sites(pattern):
    """Each color has one value, however many sites see it; the sides are no multiples of a zone."""
    levels = np.float32([0.1, 0.05, 0.2, 0.15])[: cfa.black_level_shape(pattern)[0]]
    black = cfa.black_levels(levels, pattern, 26, 28)
    light, neutral = (np.full((26, 28, 3), color, np.float32) for color in ([0.2, 0.5, 0.7], 0.5 * NEUTRAL))
    known = {"black_level": tuple(map(float, levels)), "pattern": pattern}
    raw = cfa.mosaic(light, pattern) + black
    np.testing.assert_allclose(metering.levels(raw, 6.0, **known), [0.2, 0.5, 0.7], rtol=1e-5)
    balanced = metering.auto_white_balance(raw, NEUTRAL, **known)
    np.testing.assert_allclose(balanced - black, cfa.mosaic(neutral, pattern), rtol=1e-4)
    gain = 0.1 / np.mean(np.power([0.2, 0.5, 0.7], 6)) ** (1 / 6)
    exposed = metering.auto_exposure(raw, 0.1, **known)
    np.testing.assert_allclose(exposed - black, gain * (raw - black), rtol=1e-4, atol=1e-6)


@pytest.mark.shows("isp.metering.auto_exposure(power, frame)", "isp.metering.auto_white_balance(power, frame)")
@pytest.mark.parametrize("power", [1.0, 2.5])
def test_gains_follow_from_the_levels_of_the_frame_of_a_part(power):
    part, level = RAW[:, 4:16, 2:14], minkowski(zone_means(RAW), power)
    light, settings = part - BLACK, {"power": power, "frame": RAW, **KNOWN}
    gain = 0.3 / minkowski(level, power)
    exposed = metering.auto_exposure(part, 0.3, **settings)
    np.testing.assert_allclose(exposed - BLACK, gain[:, None, None] * light, rtol=2e-4, atol=1e-6)
    gains = NEUTRAL / level * level[:, 1:2] / NEUTRAL[1]
    expected = light * oracle.mosaic(np.ones((12, 12, 3)) * gains[:, None, None])
    balanced = metering.auto_white_balance(part, NEUTRAL, **settings)
    np.testing.assert_allclose(balanced - BLACK, expected, rtol=2e-4, atol=1e-6)


@pytest.mark.shows("isp.metering.auto_exposure(keeps_white)", "isp.metering.auto_white_balance(keeps_white)")
@pytest.mark.parametrize(("function", "start"), [(metering.auto_exposure, 0.3), (metering.auto_white_balance, NEUTRAL)])
def test_a_site_keeps_its_value_as_far_as_the_darkest_of_its_neighbors_is_white(function, start):
    """From 0.9 to 1 by the smooth step 3 x^2 - 2 x^3."""
    raw = np.float32(np.minimum(np.linspace(0.8, 1.1, 16)[:, None] * np.linspace(0.9, 1, 12), 1))
    changed, kept = (np.asarray(function(raw, start, keeps_white=keeps, **KNOWN)) for keeps in (False, True))
    rise = np.clip((ndimage.minimum_filter(raw, 3, mode="nearest") - 0.9) / 0.1, 0, 1)
    assert 0 in rise
    assert 1 in rise
    np.testing.assert_allclose(kept, changed + (rise**2 * (3 - 2 * rise)) * (raw - changed), atol=1e-5)


def test_exposure_reaches_its_target():
    exposed = metering.auto_exposure(RAW, 0.3, 6.0, **KNOWN)
    level = (np.asarray(metering.levels(exposed, 6.0, **KNOWN), np.float64) ** 6).mean(-1) ** (1 / 6)
    np.testing.assert_allclose(level, 0.3, rtol=1e-5)
    # One gain for all sites of an image.
    np.testing.assert_allclose(np.std((exposed - BLACK) / (RAW - BLACK), (1, 2)), 0, atol=1e-4)


@pytest.mark.shows("isp.metering.auto_exposure(share)", "isp.metering.auto_white_balance(share)")
@pytest.mark.parametrize(("function", "start"), [(metering.auto_exposure, 0.3), (metering.auto_white_balance, NEUTRAL)])
def test_share_gives_way_in_stops(function, start):
    whole, none, part = (np.asarray(function(RAW, start, 6.0, share, **KNOWN)) for share in (1.0, 0.0, 0.3))
    np.testing.assert_array_equal(none, RAW)
    gains = (whole - BLACK) / (RAW - BLACK)
    np.testing.assert_allclose(part, BLACK + (RAW - BLACK) * gains**0.3, rtol=1e-4)


def test_gains_are_within_a_factor_of_a_hundred():
    dark, bright = darker(RAW, 1e-4), darker(RAW, 100.0)
    exposed = metering.auto_exposure(dark, 0.5, **KNOWN)
    np.testing.assert_allclose(exposed - BLACK, 100 * (dark.astype(np.float64) - BLACK), rtol=1e-2, atol=1e-6)
    np.testing.assert_allclose(metering.auto_exposure(bright, 1e-3, **KNOWN), darker(bright, 0.01), rtol=1e-5)
    blue = darker(RAW, np.tile(np.float32([[1, 1], [1, 1e-4]]), (15, 11)))
    balanced = metering.auto_white_balance(blue, np.ones(3, np.float32), **KNOWN)
    np.testing.assert_allclose(balanced[:, 1::2, 1::2], darker(blue, 100.0)[:, 1::2, 1::2], atol=1e-5)


@pytest.mark.parametrize("value", [BLACK, 0.0])
def test_images_without_light_stay(value):
    raw = jnp.full((1, 8, 8), value)
    np.testing.assert_array_equal(metering.auto_exposure(raw, 0.3, **KNOWN), raw)
    np.testing.assert_array_equal(metering.auto_white_balance(raw, NEUTRAL, **KNOWN), raw)


def test_a_color_without_light_keeps_a_gain_of_one():
    raw = RAW.copy()
    raw[:, 1::2, 1::2] = BLACK
    balanced, expected = (metering.auto_white_balance(each, NEUTRAL, **KNOWN) for each in (raw, RAW))
    np.testing.assert_array_equal(balanced[:, 1::2, 1::2], BLACK)
    np.testing.assert_array_equal(balanced[:, ::2, ::2], expected[:, ::2, ::2])
    raw[:, ::2, 1::2] = raw[:, 1::2, ::2] = BLACK
    np.testing.assert_array_equal(metering.auto_white_balance(raw, NEUTRAL, **KNOWN), raw)


def test_light_and_gains_of_the_sensor_leave_a_metered_image_as_it_is():
    plain = isp.parametrized(CAMERA)
    pipeline = isp.metered(plain, CAMERA)
    with pytest.raises(ValueError, match="distinct names"):
        isp.metered(pipeline, CAMERA)
    lamp = np.tile(np.float32([[0.6, 0.9], [0.9, 1.1]]), (15, 11))
    for light in (0.5, lamp):
        assert abs(plain(darker(RAW, light)) - plain(RAW)).max() > 0.1
        changed = np.asarray(pipeline(darker(RAW, light)) - pipeline(RAW))
        # The tone curve magnifies the rounding of dark values.
        assert abs(changed).max() < 1e-2
        assert abs(changed).mean() < 1e-5


@pytest.mark.parametrize("make", [isp.full, isp.static])
def test_twice_the_light_gives_the_same_picture(make):
    waves = np.sin(np.arange(32)[:, None] / 9) * np.cos(np.arange(40) / 8)
    raw = (BLACK + 0.4 * np.exp(waves[None] - 1)).astype(np.float32)
    plain, metered = make(CAMERA), isp.metered(make(CAMERA), CAMERA)
    assert abs(plain(darker(raw, 2.0)) - plain(raw)).max() > 0.1
    np.testing.assert_allclose(metered(darker(raw, 2.0)), metered(raw), atol=1e-5)


def test_gray_cards_become_18_percent_of_white():
    """The camera's gains make its own gray neutral, whatever the light."""
    gray = 0.3 * np.float32([1.5, 1.0, 0.7]) / np.float32(CAMERA.white_balance)
    raw = BLACK + cfa.mosaic(np.broadcast_to(gray, (16, 16, 3)), CAMERA.pattern)
    images = isp.metered(isp.static(CAMERA, "normalized"), CAMERA).trace(raw)[1]
    np.testing.assert_allclose(images["white_balance"], 0.18, rtol=1e-4)


@pytest.mark.shows("isp.auto.metered(like)")
def test_images_like_the_given_ones_change_little():
    raw = np.concatenate([darker(RAW[:1], light) for light in (0.4, 0.6, 0.9)])
    metered = isp.metered(isp.parametrized(CAMERA), CAMERA, like=raw)
    level, plain = (np.log(metering.levels(each, **KNOWN)) for each in (metered.trace(raw)[1]["auto_exposure"], raw))
    np.testing.assert_allclose(level.mean(0), plain.mean(0), atol=0.02)
    assert plain.std(0).min() > 0.2
    assert level.std(0).max() < 1e-3
    values = {name: np.asarray(value, np.float64) for name, value in metered.parameters().items()}
    colors, means = (minkowski(zone_means(raw), values[f"{kind}_power"]) for kind in ("balance", "exposure"))
    target = np.exp(np.log(minkowski(means, values["exposure_power"])).mean())
    np.testing.assert_allclose(values["exposure_target"], target, rtol=1e-5)
    np.testing.assert_allclose(values["neutral"], np.exp(np.log(colors / colors[:, 1:2]).mean(0)), rtol=1e-5)


@pytest.mark.shows("isp.auto.metered(like)")
def test_the_power_is_the_one_whose_levels_vary_least():
    """The mean of some images is the same, the brightest zone of others."""
    shares = np.float32([0.25, 0.5, 0.75])[:, None, None]
    rows = np.arange(64)[:, None] * np.ones((1, 64))
    # A bright background behind more or fewer dark cells.
    background = np.where(rows < 64 * shares, 0.1, 0.6)
    flat = np.where(rows < 32, 0.3 + shares / 4, 0.3 - shares / 4)
    for mosaics, power in ((background, 20), (flat, 1)):
        pipeline = isp.metered(isp.parametrized(CAMERA), CAMERA, like=(BLACK + mosaics).astype(np.float32))
        assert pipeline.exposure_power[...] == power


@pytest.mark.shows("isp.auto.metered(exposure, white_balance)")
def test_gray_images_are_exposed_alone_and_each_kind_may_be_alone():
    plain = isp.parametrized(CAMERA)
    for kind, name in (("white_balance", "auto_exposure"), ("exposure", "auto_white_balance")):
        assert isp.metered(plain, CAMERA, **{kind: False}).stage_names == (name, *plain.stage_names)
    mono = isp.Camera([BLACK], pattern="MONO")
    metered = isp.metered(isp.parametrized(mono), mono, like=RAW)
    assert metered.stage_names[:2] == ("auto_exposure", "demosaic")
    np.testing.assert_allclose(metered(darker(RAW, 0.5)), metered(RAW), atol=1e-3)


@pytest.mark.shows("isp.metering.summary(pattern)")
@pytest.mark.parametrize("pattern", ["GRBG", XTRANS])
@pytest.mark.parametrize(("power", "within"), [(6.0, 1e-4), (1.0, 0.03)])
def test_a_summary_has_the_levels_of_its_frame(pattern, power, within):
    """Against the zones of the frame, of which there are more than in the summary, and not a multiple of them."""
    rng = np.random.default_rng(2)
    blocks = np.kron(rng.lognormal(-2, 0.7, (20, 30)), np.ones((24, 24)))
    frame = np.asarray(cfa.mosaic((blocks[..., None] * [0.5, 1, 0.7]).clip(0, 1), pattern), np.float32)
    known = {"black_level": (0.05,) * np.prod(cfa.black_level_shape(pattern)), "pattern": pattern}
    expected = metering.levels(frame, power, **known)
    np.testing.assert_allclose(metering.levels(metering.summary(frame, **known), power, **known), expected, rtol=within)


@pytest.mark.parametrize("make", [isp.parametrized, isp.full])
def test_parts_are_metered_as_their_frame(make):
    """Zones of a frame and of its parts differ in level, and in the share of each color."""
    plain, pipeline = make(CAMERA), isp.metered(make(CAMERA), CAMERA)
    blocks = np.exp(np.cumsum(np.random.default_rng(3).normal(0, 0.2, (4, 4, 3)), 0) - 2)
    frame = (BLACK + cfa.mosaic(np.kron(blocks, np.ones((16, 16, 1))))).astype(np.float32)
    tiles = frame.reshape(2, 32, 2, 32).swapaxes(1, 2).reshape(4, 32, 32)
    parts = metering.Part(tiles, np.stack([frame] * 4))
    image, stages = pipeline.trace(parts)
    found = np.asarray(stages["auto_exposure"]).reshape(2, 2, 32, 32).swapaxes(1, 2).reshape(64, 64)
    np.testing.assert_allclose(found, pipeline.trace(frame)[1]["auto_exposure"], rtol=1e-5)
    np.testing.assert_allclose(pipeline(parts), image, atol=1e-5)
    assert abs(pipeline(tiles) - image).max() > 0.05
    np.testing.assert_array_equal(plain(parts), plain(tiles))
    loss = jax.grad(lambda values: (pipeline.with_values(values)(parts) ** 2).sum())
    gradients = loss({"exposure_share": 0.9, "balance_share": 0.9, "exposure_power": 5.0})
    assert all(np.isfinite(each) and abs(each) > 1e-3 for each in gradients.values())

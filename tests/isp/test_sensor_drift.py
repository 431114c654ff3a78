"""Properties that sensor drifts share; their amounts are measured back in tests/r2l_jax/drift/test_sensor.py."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import sensor as oracle

from isp import sensor, sensor_drift
from isp.camera import CAMERAS, Camera
from isp.sensor_drift import CameraState, difference

KEY = jax.random.key(1)
CAMERA = Camera(
    black_level=(0.05, 0.06, 0.07, 0.08), white_balance=(2, 1, 1.5), color_matrix=np.eye(3), read_noise=6.0, bits=10
)
X_TRANS = "GBGGRG/RGRBGB/GBGGRG/GRGGBG/BGBRGR/GRGGBG"
# The amount of each drift that changes nothing.
NOTHING = {
    **dict.fromkeys(("row_noise", "column_noise", "hot_sites", "dead_sites", "vignetting", "defocus", "motion"), 0.0),
    **dict.fromkeys(("lamp_color", "flicker", "overexposure", "underexposure", "black_level", "color_balance"), 0.0),
    **dict.fromkeys(("chromatic_aberration", "pattern_shift"), 0.0),
    **dict.fromkeys(("read_noise", "photon_noise"), 1.0),
    "bits": 10.0,
}
# Weighted means of the raw image of `test_drifts_without_noise` at five amounts, by another implementation, with a
# function for each drift, which interpolated at full resolution.
VALUES = {
    "underexposure": (0.2109623, 0.1682516, 0.1166954, 0.0909172, 0.074253),
    "overexposure": (0.3103835, 0.3540871, 0.4398424, 0.5296453, 0.709757),
    "lamp_color": (0.2713851, 0.2717864, 0.2733001, 0.2773914, 0.2839455),
    "color_balance": (0.2723893, 0.2739158, 0.2782803, 0.2856401, 0.2945141),
    "vignetting": (0.2567304, 0.2435228, 0.2207626, 0.1864624, 0.1624976),
    "defocus": (0.2713659, 0.2713612, 0.2713341, 0.2712072, 0.2709723),
    "chromatic_aberration": (0.2713658, 0.2713922, 0.2715197, 0.2720729, 0.272752),
    "read_noise": (0.2713642, 0.2713642, 0.2713642, 0.2713642, 0.2713642),
    "photon_noise": (0.2713642, 0.2713644, 0.2713644, 0.2713644, 0.2713646),
    "bits": (0.2713508, 0.2710263, 0.2708378, 0.2775505, 0.2786013),
    "black_level": (0.2752799, 0.2811533, 0.2909424, 0.3105206, 0.3496769),
    "pattern_shift": (0.2713642, 0.2715887, 0.2716436, 0.2713326, 0.2674908),
}
AMOUNTS = {
    "underexposure": (0.5, 1, 2, 3, 4.5),
    "overexposure": (0.25, 0.5, 1, 1.5, 2.5),
    "lamp_color": (10, 30, 60, 110, 180),
    "color_balance": (0.1, 0.2, 0.4, 0.7, 1),
    "vignetting": (0.25, 0.5, 1, 2, 3),
    "defocus": (0.5, 1, 1.5, 2.5, 4),
    "chromatic_aberration": (0.25, 0.5, 1, 2, 4),
    "read_noise": (4, 12, 30, 75, 200),
    "photon_noise": (2, 5, 15, 50, 150),
    "bits": (7, 6, 5, 4, 3),
    "black_level": (16, 40, 80, 160, 320),
    "pattern_shift": (2, 10, 30, 60, 100),
}


@pytest.mark.parametrize("name", NOTHING)
def test_an_amount_of_nothing_changes_nothing(name):
    steps = jax.random.randint(KEY, (2, 24, 36), 100, 900)
    raw = steps / 1023
    drifted = getattr(sensor_drift, name)(raw, KEY, NOTHING[name], camera=CAMERA)
    np.testing.assert_allclose(drifted, raw, atol=3e-6)


@pytest.mark.shows("isp.lens.through(motion)")
def test_motion_beyond_the_reach_of_the_kernel_is_refused():
    camera = dataclasses.replace(CAMERA, full_well=1e12, read_noise=0.0)
    point = sensor.from_light(jnp.zeros((128, 128)).at[64, 64].set(0.9), camera)
    streak = np.asarray(sensor.site_light(sensor_drift.motion(point, KEY, 32.0, camera=camera), camera), np.float64)
    y, x = np.mgrid[:128, :128] - 64
    assert np.sqrt(12 * (streak * (y**2 + x**2)).sum() / streak.sum()) == pytest.approx(32, rel=0.01)


@pytest.mark.parametrize(
    ("name", "amount", "valid"),
    [
        ("motion", 33.0, r"from 0 to 32 \(pixels\)"),
        ("photon_noise", 0, r"at least 1 \(times the gain\)"),
        ("read_noise", jnp.float32(0.5), r"at least 1 \(times the camera's\)"),
        ("bits", 0, r"from 1 to 16 \(bits\)"),
        ("defocus", -1.0, r"at least 0 \(pixels RMS\)"),
        ("lamp_color", 500, r"from -113 to 446 \(mired\)"),
        ("exposure", np.nan, r"from -20 to 20 \(stops\)"),
        ("chromatic_aberration", np.inf, r"finite \(pixels in the corners\)"),
    ],
)
def test_amounts_out_of_range_are_refused(name, amount, valid):
    raw = jnp.full((4, 4), 0.5)
    with pytest.raises(ValueError, match=rf"^{name} must be {valid}, got {amount}$"):
        sensor_drift.apply(raw, KEY, CameraState(**{"row_noise": 1.0, name: amount}), camera=CAMERA)
    jax.eval_shape(lambda amount: sensor_drift.apply(raw, KEY, CameraState(**{name: amount}), camera=CAMERA), 0.0)


@pytest.mark.parametrize("light", [0.02, 0.3])
def test_a_dimmed_mosaic_has_the_noise_of_a_real_exposure(light):
    settings = {"camera": CAMERA, "full_well": 15000.0, "bits": 16}
    bright = sensor.expose_sites(jnp.full((512, 512), 0.8), jax.random.key(2), **settings)
    dimmed = sensor.re_expose(bright, KEY, camera=CAMERA, light=light)
    real = sensor.expose_sites(jnp.full((512, 512), 0.8 * light), KEY, **settings)
    noise = [np.asarray(sensor.site_light(raw, CAMERA), np.float64) for raw in (dimmed, real)]
    assert noise[0].mean() == pytest.approx(0.8 * light, rel=0.005)
    assert noise[0].var() == pytest.approx(noise[1].var(), rel=0.02)


def test_other_patterns_are_blurred_by_about_as_much():
    quiet = {"full_well": 1e9, "read_noise": 0}
    camera = Camera(black_level=(0.0,) * 3, white_balance=(1, 1, 1), color_matrix=np.eye(3), pattern=X_TRANS, **quiet)
    edge = np.where(np.arange(96) < 48, 0.2, 0.7) * np.ones((96, 1), np.float32)
    spread = np.diff(np.asarray(sensor_drift.defocus(edge, KEY, 3.0, camera=camera)).mean(0))
    at = np.arange(len(spread))
    mean = (spread * at).sum() / spread.sum()
    assert np.sqrt((spread * (at - mean) ** 2).sum() / spread.sum()) == pytest.approx(3.0, rel=0.15)


@pytest.mark.parametrize(
    "name", ["photon_noise", "vignetting", "defocus", "motion", "chromatic_aberration", "pattern_shift"]
)
def test_tiny_black_and_white_mosaics_of_half_precision_stay_mosaics(name):
    """A frame of two sites is smaller than every blur and every tile."""
    camera = Camera(
        black_level=(0.05,) * 3, white_balance=(1, 1, 1), color_matrix=np.eye(3), pattern=X_TRANS, full_well=1e5
    )
    raw = jnp.stack([jnp.zeros((2, 2)), jnp.ones((2, 2)), jnp.full((2, 2), 0.4)]).astype(jnp.float16)
    drifted = getattr(sensor_drift, name)(raw, KEY, 9.0, camera=camera)
    assert (drifted.dtype, drifted.shape) == (raw.dtype, raw.shape)
    assert bool(((drifted >= 0) & (drifted <= 1)).all())


@pytest.mark.parametrize(
    ("kelvins", "x", "y"),
    [
        (1700, 0.5610, 0.4049),
        (2000, 0.5267, 0.4133),
        (2856, 0.4476, 0.4074),
        (4000, 0.3805, 0.3768),
        (6500, 0.3135, 0.3237),
        (10000, 0.2807, 0.2884),
    ],
)
def test_black_bodies_have_the_chromaticities_of_cie_tables(kelvins, x, y):
    """The tables are for the observer of 2 degrees, and the matrix from sRGB to XYZ is that of IEC 61966-2-1."""
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]
    xyz = to_xyz @ np.asarray(sensor_drift.planckian(1e6 / kelvins), float)
    np.testing.assert_allclose(xyz[:2] / xyz.sum(), (x, y), atol=0.002)


def test_a_lamp_takes_no_more_light_from_a_color_than_there_is():
    """Through the microscope's matrix, the blue of this lamp would be negative."""
    camera = dataclasses.replace(CAMERAS["microscopy"], black_level=(0.1,) * 4, read_noise=0)
    warm = sensor_drift.lamp_color(jnp.full((2, 2), 0.5), KEY, 180.0, camera=camera)
    assert float(warm[1, 1]) == pytest.approx(0.1, abs=1e-6)
    assert float(warm[0, 0]) > 0.9


@pytest.mark.parametrize("name", ["hot_sites", "dead_sites"])
def test_defects_are_those_of_one_sensor_in_every_mosaic_of_a_batch(name):
    first, second = getattr(sensor_drift, name)(jnp.full((2, 8, 8), 0.5), KEY, 5e5, camera=CAMERA)
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(("name", "amount"), [("row_noise", 5e10), ("flicker", 50.0), ("motion", 8.0)])
def test_what_changes_with_each_exposure_is_drawn_for_each_mosaic_of_a_batch(name, amount):
    raw = jnp.full((8, 16, 16), 0.2).at[:, 8, 8].set(0.7)
    # Of so many electrons, photon noise is nothing.
    camera = dataclasses.replace(CAMERA, full_well=1e12, read_noise=0.0)
    first, *others = np.asarray(getattr(sensor_drift, name)(raw, KEY, amount, camera=camera))
    assert max(abs(other - first).max() for other in others) > 0.01


def test_a_sensor_without_color_filters_has_no_colors_to_change():
    with pytest.raises(ValueError, match=r"^lamp_color needs a camera with color filters, got the pattern MONO"):
        sensor_drift.lamp_color(jnp.ones((2, 2)), KEY, 1.0, camera=Camera(black_level=(0.0,), pattern="MONO"))


@pytest.mark.shows("isp.sensor.re_expose(gain)")
def test_several_drifts_expose_a_sensor_once():
    raw = sensor.from_light(jnp.full((64, 64), 0.7), CAMERA)
    light = {"exposure": -1.0, "red_gain": 1.0, "blue_gain": 1.5, "lamp_color": 0.0}
    drifted = sensor_drift.apply(raw, KEY, CameraState(**{**light, "black_level": -81.9}), camera=CAMERA)
    # Light that doubles in one step and halves in another does not saturate between them.
    light = sensor.site_light(drifted + 81.9 / 4095, CAMERA).reshape(32, 2, 32, 2).mean((0, 2))
    np.testing.assert_allclose(light, [[0.7, 0.35], [0.35, 0.7 * 2**0.5]], atol=2e-3)
    # The noise is that of the light that is left, and of the gain.
    amounts = {"exposure": -1.0, "photon_noise": 4.0, "read_noise": 3.0}
    drifted = sensor.site_light(sensor_drift.apply(raw, KEY, CameraState(**amounts), camera=CAMERA), CAMERA)
    well = 15000.0
    variance = (4 * 0.35 / well) * (1 - 0.5 / 4) + (4 * 6.0 / well) ** 2 * (9 - (0.5 / 4) ** 2)
    assert drifted.mean() == pytest.approx(0.35, rel=2e-3)
    assert float(drifted.var()) == pytest.approx(variance, rel=0.05)


@pytest.mark.shows("isp.sensor_drift.apply(sensor_key)")
def test_images_of_a_camera_share_its_defects():
    raw = jnp.full((32, 32), 0.3)
    amounts = CameraState(hot_sites=1e5, row_noise=40.0)
    first, second = (
        sensor_drift.apply(raw, key, amounts, camera=CAMERA, sensor_key=KEY) for key in jax.random.split(KEY)
    )
    np.testing.assert_array_equal(first == 1, second == 1)
    assert 50 < int((first == 1).sum()) < 160
    assert (first != second).any()


# An amount of each quantity that adds no noise to the light of a noiseless camera.
TAKEN = {
    **{"exposure": -0.7, "red_gain": 0.4, "blue_gain": -0.6, "lamp_color": oracle.WARMER, "vignetting": 1.5},
    **{"chromatic_aberration": 2.5, "defocus": 1.3, "black_level": -75.0, "saturation": 0.6, "gamma": 1.7},
    **{"bits": 5.0, "pattern_shift": 30.0},
}


@pytest.mark.shows(
    "isp.CameraState(exposure, red_gain, blue_gain, lamp_color, vignetting, chromatic_aberration, defocus)",
    "isp.CameraState(black_level, saturation, gamma, bits, pattern_shift)",
)
@pytest.mark.parametrize("name", TAKEN)
def test_a_quantity_without_noise_changes_raw_images_as_it_says(name):
    described = {
        "black_level": CAMERA.black_level,
        "color_matrix": CAMERAS["drone"].color_matrix,
        "pattern": "GRBG",
    }
    camera = Camera(**described, white_balance=(2, 1, 1.5), full_well=1e12, read_noise=0.0, bits=None)
    raw = 0.02 + 0.9 * np.random.default_rng(0).uniform(size=(24, 36)) ** 2
    drifted = sensor_drift.apply(jnp.float32(raw), KEY, CameraState(**{name: TAKEN[name]}), camera=camera)
    # Tables of black bodies have four digits.
    tolerance = {"rtol": 0.005} if name == "lamp_color" else {"atol": 3e-6}
    np.testing.assert_allclose(drifted, oracle.taken(raw, name, TAKEN[name], described), **tolerance)


@pytest.mark.shows("isp.CameraState(flicker)")
def test_flicker_is_a_sine_of_four_bands_with_its_own_phase_in_each_image():
    camera = dataclasses.replace(CAMERA, full_well=1e12, read_noise=0.0)
    raw = jnp.broadcast_to(sensor.from_light(jnp.full((64, 8), 0.4), camera), (6, 64, 8))
    drifted = sensor_drift.apply(raw, KEY, CameraState(flicker=30.0), camera=camera)
    rows = np.asarray(sensor.site_light(drifted, camera), np.float64)[..., 0] / 0.4
    angle = 2 * np.pi * 4 * np.arange(64) / 64
    terms = np.stack([np.ones(64), np.sin(angle), np.cos(angle)], 1)
    found, rest, *_ = np.linalg.lstsq(terms, rows.T)
    np.testing.assert_allclose(found[0], 1, atol=1e-5)
    np.testing.assert_allclose(np.hypot(*found[1:]), 0.3, rtol=1e-4)
    assert rest.max() < 1e-8
    assert np.ptp(np.arctan2(*found[1:])) > 0.5


@pytest.mark.shows("isp.CameraState(motion)")
def test_motion_spreads_light_along_one_line_in_each_image():
    camera = dataclasses.replace(CAMERA, full_well=1e12, read_noise=0.0)
    point = sensor.from_light(jnp.zeros((8, 64, 64)).at[:, 32, 32].set(0.9), camera)
    streaks = sensor_drift.apply(point, KEY, CameraState(motion=9.0), camera=camera)
    light = np.asarray(sensor.site_light(streaks, camera), np.float64)
    offsets = np.mgrid[:64, :64] - 32
    spread = np.einsum("nyx,ayx,byx->nab", light, offsets, offsets) / light.sum((1, 2))[:, None, None]
    np.testing.assert_allclose(light.sum((1, 2)), 0.9, rtol=1e-4)
    # Outer products of the directions: rows, columns and diagonals.
    lines = np.array([[[0, 0], [0, 1]], [[1, 0], [0, 0]], [[0.5, 0.5], [0.5, 0.5]], [[0.5, -0.5], [-0.5, 0.5]]])
    away = abs(spread[:, None] - 9**2 / 12 * lines).max((2, 3))
    assert away.min(1).max() < 0.01
    assert len(set(away.argmin(1))) > 1


@pytest.mark.shows("isp.CameraState(read_noise, photon_noise)")
@pytest.mark.parametrize(("read_noise", "gain"), [(4.0, 1.0), (1.0, 6.0), (3.0, 5.0)])
def test_raw_images_get_the_noise_of_the_other_camera(read_noise, gain):
    """The noise of the first one is drawn by NumPy."""
    well, random = 2000, np.random.default_rng(0)
    camera = dataclasses.replace(CAMERA, full_well=well, read_noise=12.0, black_level=(0.2,) * 4)
    for light in (0.05, 0.4):
        electrons = random.poisson(light * well, (256, 256)) + random.normal(0, 12, (256, 256))
        raw = jnp.float32(0.2 + 0.8 * electrons / well)
        state = CameraState(read_noise=read_noise, photon_noise=gain)
        drifted = np.asarray(sensor_drift.apply(raw, KEY, state, camera=camera), np.float64)
        electrons, expected = (drifted - 0.2) / 0.8 * well, oracle.variance(light, well, 12 * read_noise, gain)
        assert electrons.mean() == pytest.approx(light * well, abs=4 * np.sqrt(expected / electrons.size))
        assert electrons.var() == pytest.approx(expected, rel=4 * np.sqrt(2 / electrons.size))


@pytest.mark.shows("isp.CameraState(hot_sites, dead_sites)")
@pytest.mark.parametrize(("name", "level"), [("hot_sites", 1.0), ("dead_sites", None)])
def test_so_many_sites_in_a_million_are_white_or_black(name, level):
    raw = jnp.full((128, 128), 0.5)
    drifted = np.asarray(sensor_drift.apply(raw, KEY, CameraState(**{name: 4e4}), camera=CAMERA))
    changed = drifted != 0.5
    assert changed.mean() == pytest.approx(0.04, abs=4 * np.sqrt(0.04 / raw.size))
    black = np.tile(np.reshape(CAMERA.black_level, (2, 2)), (64, 64))
    np.testing.assert_allclose(drifted[changed], level or black[changed], rtol=1e-6)


@pytest.mark.shows("isp.CameraState(row_noise, column_noise)", "isp.sensor_drift.apply(sensor_key)")
def test_images_of_a_batch_share_the_column_noise_of_their_sensor_and_have_their_own_row_noise():
    camera, raw = dataclasses.replace(CAMERA, full_well=1e4), jnp.full((3, 16, 24), 0.5)
    black = np.tile(np.reshape(CAMERA.black_level, (2, 2)), (8, 12))

    def electrons(name, key, batch):
        state = CameraState(**{name: 100.0})
        noisy = sensor_drift.apply(batch, jax.random.key(key), state, camera=camera, sensor_key=KEY)
        return (np.asarray(noisy) - 0.5) / (1 - black) * 1e4

    columns, rows = (electrons(name, 2, raw) for name in ("column_noise", "row_noise"))
    np.testing.assert_allclose(columns, np.broadcast_to(columns[0, :1], columns.shape), atol=0.02)
    assert 50 < columns[0, 0].std() < 150
    # In the next exposure, and in that of a single image.
    np.testing.assert_allclose(electrons("column_noise", 3, raw[0]), columns[0], atol=0.02)
    np.testing.assert_allclose(rows, np.broadcast_to(rows[..., :1], rows.shape), atol=0.02)
    every = np.concatenate([rows[..., 0], electrons("row_noise", 3, raw)[..., 0]])
    assert every.std() == pytest.approx(100, rel=0.2)
    # Levels of independent rows differ by 141 electrons, in the root of the mean square.
    differences = [every[one] - every[other] for one in range(6) for other in range(one)]
    assert np.std(differences, axis=1).min() > 70


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_as_many_bits_as_the_camera_has_change_no_bit(bits):
    levels = np.arange(2.0**bits) / (2.0**bits - 1)
    raw = jnp.asarray(levels.reshape(2, 2, -1), jnp.float32)
    camera = dataclasses.replace(CAMERA, bits=bits)
    np.testing.assert_array_equal(sensor_drift.apply(raw, KEY, CameraState(bits=bits), camera=camera), raw)
    # One bit less is half as many levels.
    coarser = sensor_drift.apply(raw, KEY, CameraState(bits=bits - 1), camera=camera)
    assert len(np.unique(coarser)) == 2 ** (bits - 1)


@pytest.mark.parametrize("times", [1.0, 3.0])
def test_a_blurred_image_has_the_whole_read_noise_of_each_site(times):
    camera = dataclasses.replace(CAMERA, full_well=1e4, read_noise=100.0)
    raw = sensor.expose_sites(jnp.full((256, 256), 0.25), jax.random.key(5), camera=camera, bits=16)
    drifted = sensor_drift.apply(raw, KEY, CameraState(**{"defocus": 2.0, "read_noise": times}), camera=camera)
    noise = 1e4 * (np.asarray(sensor.site_light(drifted, camera), np.float64) - 0.25)
    assert noise.var() == pytest.approx(2500 + (100 * times) ** 2, rel=0.03)
    # The next site of its color has noise of its own, and so have those at the border. Blurred noise alone would share
    # 0.067 of its variance.
    for near in (noise[:, 2:] * noise[:, :-2], noise[2:] * noise[:-2], noise[2:, :4] * noise[:-2, :4]):
        assert near.mean() == pytest.approx(0, abs=4 * noise.var() / near.size**0.5)


@pytest.mark.shows("isp.lens.through(defocus, chromatic_aberration)")
@pytest.mark.parametrize("name", AMOUNTS)
def test_drifts_without_noise_have_the_values_of_another_implementation(name):
    y, x = np.mgrid[:24, :36]
    raw = np.float32(0.1 + 0.35 * (1 + np.sin(0.4 * x + 0.3 * y)) * (0.5 + 0.5 * np.cos(0.21 * y * x / 9)))
    camera = dataclasses.replace(
        CAMERA, color_matrix=CAMERAS["drone"].color_matrix, full_well=1e12, read_noise=0.0, bits=None
    )
    for amount, expected in zip(AMOUNTS[name], VALUES[name], strict=True):
        drifted = np.asarray(getattr(sensor_drift, name)(raw, KEY, amount, camera=camera), np.float64)
        assert (drifted * (1 + np.cos(1.7 * x - 0.9 * y))).mean() == pytest.approx(expected, abs=5e-7)


def test_a_state_is_compiled_once_for_all_values_of_its_quantities():
    raw, compiled = jnp.full((2, 6, 8), 0.5), sensor_drift._apply
    sensor_drift.apply(raw, KEY, CameraState(exposure=-1, hot_sites=5), camera=CAMERA)
    before = compiled._cache_size()
    sensor_drift.apply(raw, KEY, CameraState(exposure=0.5, hot_sites=1e3), camera=CAMERA)
    assert compiled._cache_size() == before


def test_names_and_quantities_make_one_state():
    state = CameraState.named({"color_balance": 0.5, "overexposure": 1.0, "gamma": 2.0})
    assert state == CameraState(red_gain=0.5, blue_gain=-0.5, exposure=1.0, gamma=2.0)
    assert str(state) == "exposure=1,red_gain=0.5,blue_gain=-0.5,gamma=2"
    with pytest.raises(ValueError, match=r"^underexposure changes exposure, which another drift has changed"):
        CameraState.named({"exposure": 1.0, "underexposure": 1.0})
    with pytest.raises(ValueError, match=r"^drifts must be among underexposure, .*, pattern_shift, got blur"):
        CameraState.named({"defocus": 1.0, "blur": 1.0})


@pytest.mark.parametrize(("defocus", "motion"), [(0.0, 9.0), (1.6, 0.0), (1.6, 9.0), (3.0, 20.0)])
def test_two_blurs_leave_the_noise_of_both_together(defocus, motion):
    """The blurred noise of a bright image, by the squared weights of a point that both have spread."""
    camera = dataclasses.replace(CAMERA, black_level=(0.0,) * 4, full_well=1e12, read_noise=0.0)
    state = CameraState(defocus=defocus, motion=motion)
    point = jnp.zeros((256, 256)).at[128, 128].set(1.0)
    squares = (np.asarray(sensor_drift.apply(point, KEY, state, camera=camera), np.float64) ** 2).sum()
    # Where there is no light, read noise alone is added for what the blur has removed.
    noisy = dataclasses.replace(camera, full_well=100.0, read_noise=5.0, black_level=(0.5,) * 4)
    drifted = np.asarray(sensor_drift.apply(jnp.full((256, 256), 0.5), KEY, state, camera=noisy), np.float64)
    assert (200 * (drifted - 0.5)).var() == pytest.approx(25 * (1 - squares), rel=0.02)


def test_tone_curves_and_saturation_of_files_come_after_the_black_level():
    raw, state = jnp.full((2, 2), 0.5), CameraState(gamma=0.5, saturation=0.7, black_level=409.5)
    np.testing.assert_allclose(sensor_drift.apply(raw, KEY, state, camera=CAMERA), np.sqrt(0.6), rtol=1e-6)
    brighter = CameraState(gamma=0.5, saturation=0.7, black_level=1638)
    np.testing.assert_allclose(sensor_drift.apply(raw, KEY, brighter, camera=CAMERA), np.sqrt(0.7), rtol=1e-6)


def test_cameras_differ_by_the_ratios_of_their_gains_to_that_of_green():
    """A camera that multiplies red by a quarter of what its reference does has four times its red light, for one."""
    known = dataclasses.replace(CAMERA, white_balance=(2.0, 1.0, 1.5))
    found = difference(dataclasses.replace(CAMERA, white_balance=(1.0, 2.0, 6.0)), known)
    assert (found.red_gain, found.blue_gain) == (2.0, -1.0)
    # A common factor on all gains is no color.
    found = difference(dataclasses.replace(CAMERA, white_balance=(3.0, 1.5, 2.25)), known)
    assert (found.red_gain, found.blue_gain) == (0.0, 0.0)


@pytest.mark.parametrize("name", ["exposure", "read_noise", "photon_noise", "row_noise", "defocus", "vignetting"])
def test_the_mean_square_of_raw_images_has_the_slope_of_its_finite_difference(name):
    """Noise has slopes with respect to a state, as its amplitude does."""
    raw = sensor.from_light(jax.random.uniform(KEY, (64, 64), minval=0.2, maxval=0.4), CAMERA)
    start = {"read_noise": 8.0, "photon_noise": 8.0, "row_noise": 300.0}.get(name, 1.0)

    def square(amount):
        drifted = sensor_drift.apply(raw, KEY, CameraState(**{name: amount}), camera=CAMERA)
        return jnp.square(drifted - raw).mean()

    step = 0.01 * start
    difference = (square(start + step) - square(start - step)) / (2 * step)
    assert jax.jacfwd(square)(start) == pytest.approx(float(difference), rel=0.02)
    assert difference != 0


def test_few_electrons_are_counted_and_many_have_one_normal_number():
    """Photon counts show where the read-out adds less than their steps: at a mean of one, a third of sites has none."""
    counting = dataclasses.replace(CAMERA, black_level=(0.1,) * 4, full_well=1000.0, read_noise=0.0)
    # An image of 500 electrons keeps a five-hundredth of its own noise.
    raw = jnp.full((256, 256), 0.1 + 0.9 * 0.5)
    dim = sensor.re_expose(raw, KEY, camera=counting, light=1 / 500)
    electrons = 1000 * (np.asarray(dim, np.float64) - 0.1) / 0.9
    few = np.round(1 + (electrons - 1) / np.sqrt(1 - 1 / 500)).astype(int)
    np.testing.assert_allclose(np.bincount(few.ravel())[:4] / few.size, np.exp(-1) / np.array([1, 1, 2, 6]), rtol=0.04)
    # Above, the moments up to the fourth are those of counts and a normal read-out within 0.385 and 0.25 of its size.
    noisy = dataclasses.replace(counting, read_noise=4.0)
    electrons = 1000 * (np.asarray(sensor.re_expose(raw, KEY, camera=noisy, light=0.064), np.float64) - 0.1) / 0.9
    deviations = (electrons - electrons.mean()) / electrons.std()
    assert electrons.mean() == pytest.approx(32, abs=0.1)
    assert electrons.var() == pytest.approx(32 * (1 - 0.064) + 16 * (1 - 0.064**2), rel=0.02)
    assert abs((deviations**3).mean()) < 0.05
    assert (deviations**4).mean() == pytest.approx(3, abs=0.1)


def test_the_difference_of_two_cameras_is_a_state():
    reference = dataclasses.replace(CAMERA, full_well=8000.0, white_balance=(2, 1, 1.5))
    other = dataclasses.replace(
        reference,
        black_level=np.add(CAMERA.black_level, 0.01),
        white_balance=(1, 1, 3),
        full_well=2000.0,
        read_noise=9.0,
    )
    expected = {"red_gain": 1.0, "blue_gain": -1.0, "read_noise": 1.5, "photon_noise": 4.0, "black_level": 41.0}
    assert difference(other, reference).given == expected
    neutral = {name: sensor_drift.QUANTITIES[name].neutral for name in expected}
    assert difference(reference, reference).given == neutral


def test_tone_curves_have_finite_slopes_at_black_sites():
    """The power itself has an infinite slope at 0."""
    raw = jnp.array([[0.0, 0.25], [0.5, 1.0]])
    camera = dataclasses.replace(CAMERA, black_level=(0.0,) * 4)
    states = [CameraState(gamma=0.5), CameraState(gamma=0.5, exposure=0.0)]
    for state in states:
        slopes = jax.jacfwd(lambda raw, state=state: sensor_drift.apply(raw, KEY, state, camera=camera).sum())(raw)
        assert np.isfinite(slopes).all()
    np.testing.assert_allclose(
        jax.grad(lambda g: sensor_drift.apply(raw, KEY, CameraState(gamma=g), camera=camera).sum())(0.5),
        0.5 * np.log(0.25) + 0.5**0.5 * np.log(0.5),
        rtol=1e-5,
    )

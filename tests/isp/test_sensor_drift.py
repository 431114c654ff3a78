"""Properties that sensor drifts share; their amounts are measured back in tests/r2l_jax/drift/test_sensor.py."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ive

from isp import sensor, sensor_drift
from isp.camera import CAMERAS, Camera

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


@pytest.mark.parametrize("name", NOTHING)
def test_an_amount_of_nothing_changes_nothing(name):
    steps = jax.random.randint(KEY, (2, 24, 36), 100, 900)
    raw = steps / 1023
    drifted = getattr(sensor_drift, name)(raw, KEY, NOTHING[name], camera=CAMERA)
    np.testing.assert_allclose(drifted, raw, atol=3e-6)


def test_motion_beyond_the_reach_of_the_kernel_is_refused():
    camera = dataclasses.replace(CAMERA, full_well=1e12, read_noise=0.0)
    point = sensor.from_light(jnp.zeros((128, 128)).at[64, 64].set(0.9), camera)
    streak = np.asarray(sensor.site_light(sensor_drift.motion(point, KEY, 32.0, camera=camera), camera), np.float64)
    y, x = np.mgrid[:128, :128] - 64
    assert np.sqrt(12 * (streak * (y**2 + x**2)).sum() / streak.sum()) == pytest.approx(32, rel=0.01)


@pytest.mark.parametrize(
    ("name", "amount", "valid"),
    [
        ("motion", 33.0, "from 0 to 32"),
        ("photon_noise", 0, "at least 1"),
        ("read_noise", jnp.float32(0.5), "at least 1"),
        ("bits", 0, "from 1 to 16"),
        ("defocus", -1.0, "at least 0"),
        ("lamp_color", 500, "from -113 to 446"),
        ("exposure", np.nan, "finite"),
        ("black_level", np.inf, "finite"),
    ],
)
def test_amounts_out_of_range_are_refused(name, amount, valid):
    raw = jnp.full((4, 4), 0.5)
    with pytest.raises(ValueError, match=rf"^{name} must be {valid}, got {amount}$"):
        sensor_drift.together(raw, KEY, {"row_noise": 1.0, name: amount}, camera=CAMERA)
    if name != "exposure":
        with pytest.raises(ValueError, match=rf"^{name} must be {valid}, got {amount}$"):
            getattr(sensor_drift, name)(raw, KEY, amount, camera=CAMERA)
        jax.eval_shape(lambda amount: sensor_drift.together(raw, KEY, {name: amount}, camera=CAMERA), 0.0)


@pytest.mark.parametrize("light", [0.02, 0.3])
def test_a_dimmed_mosaic_has_the_noise_of_a_real_exposure(light):
    settings = {"camera": CAMERA, "full_well": 15000.0, "bits": 16}
    bright = sensor.expose_sites(jnp.full((512, 512), 0.8), jax.random.key(2), **settings)
    dimmed = sensor.expose_again(bright, KEY, camera=CAMERA, light=light)
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
    with pytest.raises(ValueError, match=r"^camera must have color filters, got the pattern MONO"):
        sensor_drift.lamp_color(jnp.ones((2, 2)), KEY, 1.0, camera=Camera(black_level=(0.0,), pattern="MONO"))


@pytest.mark.parametrize("name", NOTHING)
def test_one_of_several_drifts_is_the_drift_itself(name):
    amount = {"bits": 4.0, "read_noise": 9.0, "hot_sites": 1e5, "dead_sites": 1e5, "motion": 4.0}.get(name, 1.7)
    raw = jax.random.uniform(KEY, (2, 24, 36), minval=0.1, maxval=0.6)
    together = sensor_drift.together(raw, KEY, {name: amount}, camera=CAMERA)
    # Motion comes second, with a key of its own.
    key = jax.random.fold_in(KEY, 1) if name == "motion" else KEY
    alone = getattr(sensor_drift, name)(raw, key, amount, camera=CAMERA)
    # Others draw the same noise in another way.
    if name in {"row_noise", "column_noise", "hot_sites", "dead_sites", "flicker"}:
        assert float(abs(together - raw).std()) == pytest.approx(float(abs(alone - raw).std()), rel=0.3)
    else:
        np.testing.assert_allclose(together, alone, atol=1e-6)


def test_several_drifts_expose_a_sensor_once():
    raw = sensor.from_light(jnp.full((64, 64), 0.7), CAMERA)
    light = {"exposure": -1.0, "red_gain": 1.0, "blue_gain": 1.5, "lamp_color": 0.0}
    drifted = sensor_drift.together(raw, KEY, {**light, "black_level": -81.9}, camera=CAMERA)
    # Light that doubles in one step and halves in another does not saturate between them.
    light = sensor.site_light(drifted + 81.9 / 4095, CAMERA).reshape(32, 2, 32, 2).mean((0, 2))
    np.testing.assert_allclose(light, [[0.7, 0.35], [0.35, 0.7 * 2**0.5]], atol=2e-3)
    # The noise is that of the light that is left, and of the gain.
    amounts = {"underexposure": 1.0, "photon_noise": 4.0, "read_noise": 3.0}
    drifted = sensor.site_light(sensor_drift.together(raw, KEY, amounts, camera=CAMERA), CAMERA)
    well = 15000.0
    variance = (4 * 0.35 / well) * (1 - 0.5 / 4) + (4 * 6.0 / well) ** 2 * (9 - (0.5 / 4) ** 2)
    assert drifted.mean() == pytest.approx(0.35, rel=2e-3)
    assert float(drifted.var()) == pytest.approx(variance, rel=0.05)
    with pytest.raises(ValueError, match=r"^amounts must be named after drifts, got blur, gamma"):
        sensor_drift.together(raw, KEY, {"gamma": 1.0, "defocus": 1.0, "blur": 1.0}, camera=CAMERA)


def test_images_of_a_camera_share_its_defects():
    raw = jnp.full((32, 32), 0.3)
    amounts = {"hot_sites": 1e5, "row_noise": 40.0}
    first, second = (
        sensor_drift.together(raw, key, amounts, camera=CAMERA, sensor_key=KEY) for key in jax.random.split(KEY)
    )
    np.testing.assert_array_equal(first == 1, second == 1)
    assert 50 < int((first == 1).sum()) < 160
    assert (first != second).any()


def test_images_of_a_batch_share_the_column_noise_of_their_sensor_and_have_their_own_row_noise():
    camera, raw = dataclasses.replace(CAMERA, full_well=1e4), jnp.full((3, 16, 24), 0.5)
    black = np.tile(np.reshape(CAMERA.black_level, (2, 2)), (8, 12))

    def electrons(name, key, batch):
        amounts = {name: 100.0}
        noisy = sensor_drift.together(batch, jax.random.key(key), amounts, camera=camera, sensor_key=KEY)
        return (np.asarray(noisy) - 0.5) / (1 - black) * 1e4

    columns, rows = (electrons(name, 2, raw) for name in ("column_noise", "row_noise"))
    np.testing.assert_allclose(columns, np.broadcast_to(columns[0, :1], columns.shape), atol=0.02)
    assert 50 < columns[0, 0].std() < 150
    # In the next exposure, and in that of a single image.
    np.testing.assert_allclose(electrons("column_noise", 3, raw[0]), columns[0], atol=0.02)
    np.testing.assert_allclose(rows, np.broadcast_to(rows[..., :1], rows.shape), atol=0.02)
    every = np.concatenate([rows[..., 0], electrons("row_noise", 3, raw)[..., 0]])
    # Levels of independent rows differ by 141 electrons, in the root of the mean square.
    differences = [every[one] - every[other] for one in range(6) for other in range(one)]
    assert np.std(differences, axis=1).min() > 70


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_as_many_bits_as_the_camera_has_change_no_bit(bits):
    levels = np.arange(2.0**bits) / (2.0**bits - 1)
    raw = jnp.asarray(levels.reshape(2, 2, -1), jnp.float32)
    camera = dataclasses.replace(CAMERA, bits=bits)
    np.testing.assert_array_equal(sensor_drift.together(raw, KEY, {"bits": float(bits)}, camera=camera), raw)
    # One bit less is half as many levels.
    coarser = sensor_drift.together(raw, KEY, {"bits": bits - 1.0}, camera=camera)
    assert len(np.unique(coarser)) == 2 ** (bits - 1)


@pytest.mark.parametrize("times", [1.0, 3.0])
def test_a_blurred_image_has_the_whole_read_noise_of_each_site(times):
    camera = dataclasses.replace(CAMERA, full_well=1e4, read_noise=100.0)
    raw = sensor.expose_sites(jnp.full((256, 256), 0.25), jax.random.key(5), camera=camera, bits=16)
    drifted = sensor_drift.together(raw, KEY, {"defocus": 2.0, "read_noise": times}, camera=camera)
    noise = 1e4 * (np.asarray(sensor.site_light(drifted, camera), np.float64) - 0.25)
    assert noise.var() == pytest.approx(2500 + (100 * times) ** 2, rel=0.03)
    # Only the noise of before, which is blurred by a pixel of its color, is shared with the next site of that color.
    shared = 12500 * ive(0, 2.0) * ive(1, 2.0)
    assert (noise[:, 2:] * noise[:, :-2]).mean() == pytest.approx(shared, abs=4 * noise.var() / 256)

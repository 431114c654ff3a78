import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isp
from isp.sensor import expose_sites, site_light
from r2l_jax.model.augment import sample_keys
from r2l_jax.model.camera_augmentation import retake

CAMERA = isp.Camera(
    black_level=(0.0,) * 4, white_balance=(1, 1, 1), color_matrix=np.eye(3), full_well=20000, read_noise=5.0, bits=12
)
INDEX = jnp.arange(400)


def retaken(raw, index, strength, camera=CAMERA, key=0):
    return np.asarray(retake(raw, sample_keys(jax.random.key(key), index), camera, strength), np.float64)


@pytest.fixture(scope="module", params=["weak", "strong"])
def flats(request):
    """Flat mosaics of half the full well, with the noise of one exposure, and their light after the changes."""
    keys = jax.random.split(jax.random.key(9), len(INDEX))
    raw = jax.vmap(lambda key: expose_sites(jnp.full((32, 32), 0.5), key, camera=CAMERA))(keys)
    return request.param, raw, np.asarray(site_light(retaken(raw, INDEX, request.param), CAMERA), np.float64)


def test_a_quarter_of_the_mosaics_stays(flats):
    _, raw, light = flats
    same = np.isclose(light, site_light(raw, CAMERA), atol=1e-6).all((1, 2))
    assert 0.18 < same.mean() < 0.32


def test_light_gains_and_noise_are_those_of_the_ranges(flats):
    """From the middle of the mosaics, where vignetting is small: 14x14 sites, 49 of each place in the tile."""
    strength, raw, light = flats
    changed = ~np.isclose(light, site_light(raw, CAMERA), atol=1e-6).all((1, 2))
    middle = light[changed, 9:23, 9:23]
    # The middle starts with an odd row and column of RGGB.
    blue, green, red = middle[:, ::2, ::2], middle[:, ::2, 1::2], middle[:, 1::2, 1::2]
    darkest, deviation = {"weak": (1.6, 0.1), "strong": (4.6, 0.3)}[strength]
    stops = -np.log2(np.maximum(green.mean((1, 2)), 1e-3) / 0.5)
    assert stops.mean() == pytest.approx(darkest / 2, abs=0.4)
    assert np.quantile(stops, 0.95) < darkest + 0.5
    for color in (red, blue):
        gains = np.log(np.maximum(color.mean((1, 2)), 1e-3) / np.maximum(green.mean((1, 2)), 1e-3))
        assert np.median(abs(gains)) == pytest.approx(0.6745 * deviation, rel=0.5)


def test_changes_follow_the_sample_and_the_epoch_and_not_the_batch():
    raw = jax.random.uniform(jax.random.key(1), (6, 16, 16))
    index = jnp.array([3, 14, 15, 92, 65, 35])
    together, order = retaken(raw, index, "strong"), np.array([4, 1, 0, 5])
    np.testing.assert_allclose(retaken(raw[order], index[order], "strong"), together[order], atol=1e-6)
    assert not np.isclose(retaken(raw, index, "strong", key=1), together).all((1, 2)).all()


def test_white_keeps_its_ratio_of_signal_to_noise():
    """A camera whose white has 128 electrons is dimmed to 64 of them, by one stop."""
    small = dataclasses.replace(CAMERA, full_well=128, read_noise=0.0)
    light = retaken(jnp.full((400, 16, 16), 0.9), INDEX, "strong", small)[:, 6:10, 6:10]
    green = light[:, ::2, 1::2].mean((1, 2))
    assert np.quantile(green, 0.02) == pytest.approx(0.45, abs=0.08)


def test_the_black_level_moves_by_a_share_of_the_camera_s():
    camera = dataclasses.replace(CAMERA, black_level=(0.1,) * 4)
    for strength, share in {"weak": 0.1, "strong": 0.25}.items():
        dark = retaken(jnp.full((400, 8, 8), 0.1), INDEX, strength, camera).mean((1, 2))
        moved = dark[abs(dark - 0.1) > 1e-6]
        assert moved.std() == pytest.approx(share * 0.1, rel=0.15)


def test_every_sensor_is_augmented():
    """Those without colors, those of large tiles, and those whose black level is 0, which moves all the same."""
    x_trans = "GBGGRG/RGRBGB/GBGGRG/GRGGBG/BGBRGR/GRGGBG"
    for camera in (
        isp.Camera(black_level=(0.0,), pattern="MONO"),
        isp.Camera(black_level=(0.0,) * 3, white_balance=(1, 1, 1), color_matrix=np.eye(3), pattern=x_trans),
    ):
        dark = retaken(jnp.zeros((8, 12, 12)), INDEX[:8], "strong", camera)
        assert np.isfinite(dark).all()
        assert np.ptp(dark.mean((1, 2))) > 1e-3

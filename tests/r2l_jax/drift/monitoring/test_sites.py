import numpy as np
import pytest
import smears

from r2l_jax.drift.monitoring import sites


@pytest.fixture(scope="module")
def scenes():
    random = np.random.default_rng(0)
    return np.stack([smears.scene(random, kind % 4) for kind in range(48)])


def test_sites_that_stay_dark_or_bright_are_found(scenes):
    random = np.random.default_rng(1)
    mosaics = smears.taken(scenes, random)
    dead, hot = (random.random(mosaics.shape[1:]) < 0.003 for _ in range(2))
    broken = np.where(hot & ~dead, 1, np.where(dead, np.float32(smears.BLACK), mosaics))
    defects = sites.found(broken, smears.CAMERA)
    assert np.array_equal(defects.dead, dead)
    assert np.array_equal(defects.hot, hot & ~dead)
    repaired = sites.repaired(broken, defects, smears.CAMERA)
    assert np.array_equal(repaired[:, ~(dead | hot)], broken[:, ~(dead | hot)])
    assert abs(repaired - mosaics)[:, dead | hot].mean() < 0.03


@pytest.mark.parametrize("stops", [0.0, 1.0, 2.0, 3.0])
def test_a_sound_sensor_has_none_even_where_scenes_saturate(scenes, stops):
    mosaics = smears.taken(scenes, np.random.default_rng(0), exposure=stops)
    defects = sites.found(mosaics, smears.CAMERA)
    assert not defects.hot.any()
    if stops == 0:
        assert not defects.dead.any()
        assert sites.repaired(mosaics, defects, smears.CAMERA) is mosaics

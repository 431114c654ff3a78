"""Defective sites are found from scenes, and repaired."""

import numpy as np
import pytest
import smears

from r2l_jax.drift.watch import sites


@pytest.fixture(scope="module")
def mosaics():
    random = np.random.default_rng(0)
    return smears.taken(np.stack([smears.scene(random, kind % 4) for kind in range(48)]), random)


def test_sites_that_stay_dark_or_bright_are_found(mosaics):
    random = np.random.default_rng(1)
    dead, hot = (random.random(mosaics.shape[1:]) < 0.003 for _ in range(2))
    broken = np.where(hot & ~dead, 1, np.where(dead, np.float32(smears.BLACK), mosaics))
    defects = sites.found(broken, smears.CAMERA)
    assert np.array_equal(defects.dead, dead)
    assert np.array_equal(defects.hot, hot & ~dead)
    repaired = sites.repaired(broken, defects, smears.CAMERA)
    assert np.array_equal(repaired[:, ~(dead | hot)], broken[:, ~(dead | hot)])
    assert abs(repaired - mosaics)[:, dead | hot].mean() < 0.03


def test_a_sound_sensor_has_none(mosaics):
    defects = sites.found(mosaics, smears.CAMERA)
    assert not defects.dead.any()
    assert not defects.hot.any()
    assert sites.repaired(mosaics, defects, smears.CAMERA) is mosaics


@pytest.mark.parametrize("stops", [1.0, 2.0, 3.0])
def test_bright_scenes_that_saturate_have_no_hot_sites(stops):
    random = np.random.default_rng(0)
    scenes = np.stack([smears.scene(random, kind % 4) for kind in range(48)])
    assert not sites.found(smears.taken(scenes, random, exposure=stops), smears.CAMERA).hot.any()

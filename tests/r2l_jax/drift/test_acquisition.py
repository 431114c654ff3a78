import dataclasses

import numpy as np
import pytest

import isp
from r2l_jax.config import TrainConfig
from r2l_jax.data.sets import datasets
from r2l_jax.drift import cases
from r2l_jax.drift.acquisition import drifted
from r2l_jax.runtime.flags import build


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return build(TrainConfig, data_dir=str(tmp_path_factory.mktemp("data")), synthetic_images=6, synthetic_size=32)


@pytest.fixture(scope="module")
def dataset(config):
    return datasets.load(config.data.dataset, **config.data.source)


def every_sample(dataset):
    return dataset.samples(np.arange(len(dataset)))


def of(config, dataset, drift, camera=None, seed=0):
    return every_sample(drifted(config.data, dataset, drift, camera, seed))


def test_a_camera_sees_the_scene_with_its_own_figures(config, dataset):
    camera = dataset.camera
    other = isp.Camera((0.1,) * 4, (1.5, 1.0, 2.5), camera.color_matrix, camera.pattern)
    drift = cases.Case("camera=other", "cameras")
    raws, targets = of(config, dataset, drift, other)
    np.testing.assert_array_equal(targets, every_sample(dataset)[1])
    pipeline, of_other = (isp.static(each, "bilinear", "none", "none") for each in (camera, other))
    ours, theirs = np.asarray(pipeline(every_sample(dataset)[0])), np.asarray(of_other(raws))
    # Up to noise and to what both interpolations blur, each processing gives the same picture of the scene.
    assert abs((theirs - ours).mean((0, 1, 2))).max() < 0.01
    # Without the other's figures, it would not.
    assert abs(np.asarray(pipeline(raws)) - ours).mean() > 0.05


def test_equal_mosaics_have_different_noise_under_a_camera_and_the_same_each_time(config, dataset):
    equal = dataclasses.replace(dataset, read=lambda index: dataset[0], files=None)
    drift, camera = cases.Case("camera=microscopy", "cameras"), isp.CAMERAS["microscopy"]
    raws, _ = of(config, equal, drift, camera)
    for index, other in enumerate(raws[1:], 1):
        assert (other != raws[0]).mean() > 0.2, index
    np.testing.assert_array_equal(drifted(config.data, equal, drift, camera, 0)[4][0], raws[4])
    for change in ({"seed": 1}, {"drift": cases.Case("camera=mine", "cameras")}):
        assert (of(config, equal, **{"drift": drift, "camera": camera, **change})[0] != raws).mean() > 0.2

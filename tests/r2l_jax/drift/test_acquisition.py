import dataclasses

import numpy as np
import pytest

import isp
from r2l_jax.cli.flags import build
from r2l_jax.config import TrainConfig
from r2l_jax.data.sets import datasets
from r2l_jax.drift import acquisition, cases
from r2l_jax.drift.acquisition import drifted


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return build(TrainConfig, data_dir=str(tmp_path_factory.mktemp("data")), synthetic_images=6, synthetic_size=32)


@pytest.fixture(scope="module")
def dataset(config):
    return datasets.load(config.data.dataset, **config.data.source)


def every_sample(dataset):
    return dataset.samples(np.arange(len(dataset)))


def of(config, dataset, drift, seed=0):
    return every_sample(drifted(config.data, dataset, drift, seed))


def of_camera(tmp_path, camera):
    (tmp_path / "other.json").write_text(camera.to_json())
    return cases.cameras([str(tmp_path / "other.json")])[0]


def test_a_camera_sees_the_scene_with_its_own_figures(config, dataset, tmp_path):
    camera = dataset.camera
    other = isp.Camera((0.1,) * 4, (1.5, 1.0, 2.5), camera.color_matrix, camera.pattern)
    drift = of_camera(tmp_path, other)
    raws, targets = of(config, dataset, drift)
    np.testing.assert_array_equal(targets, every_sample(dataset)[1])
    pipeline, of_other = (isp.static(each, "bilinear", "none", "none") for each in (camera, other))
    ours, theirs = np.asarray(pipeline(every_sample(dataset)[0])), np.asarray(of_other(raws))
    # Up to noise, each processing gives the same picture of the scene.
    assert abs((theirs - ours).mean((0, 1, 2))).max() < 0.02
    # Without the other's figures, it would not.
    assert abs(np.asarray(pipeline(raws)) - ours).mean() > 0.05


def test_a_camera_has_its_noise_and_equal_mosaics_different_noise_the_same_each_time(config, dataset, tmp_path):
    equal = dataclasses.replace(dataset, read=lambda index: dataset[0], files=None)
    noise = isp.sensor.noise_of(dataset.camera)
    other = dataclasses.replace(dataset.camera, read_noise=5 * noise.read_noise)
    drift = of_camera(tmp_path, other)
    raws, _ = of(config, equal, drift)
    added = np.stack([np.asarray(isp.sensor.site_light(raw, other)) for raw in (*raws, dataset[0][0])])
    assert (added[:-1] - added[-1]).std() * noise.full_well == pytest.approx(np.sqrt(24) * noise.read_noise, rel=0.1)
    for index, raw in enumerate(raws[1:], 1):
        assert (raw != raws[0]).mean() > 0.2, index
    np.testing.assert_array_equal(drifted(config.data, equal, drift, 0)[4][0], raws[4])
    assert (of(config, equal, drift, seed=1)[0] != raws).mean() > 0.2


def test_an_intensity_and_a_state_apply_together(config, dataset, monkeypatch):
    darker = dataclasses.replace(dataset, read=lambda index: (dataset[index][0] / 2, dataset[index][1]))
    monkeypatch.setattr(acquisition.datasets, "load", lambda name, iso, **source: {0.5: darker}[iso])
    monkeypatch.setattr(acquisition.datasets, "pooled", lambda found: next(iter(found.values())))
    drift = cases.intensities([0.5])[0]._replace(state=isp.CameraState(black_level=41.0))
    raws, _ = of(config, dataset, drift)
    np.testing.assert_allclose(raws, np.clip(every_sample(dataset)[0] / 2 + 41 / 4095, 0, 1), atol=1e-6)

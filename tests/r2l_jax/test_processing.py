import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import events, metrics, model

import isp
from r2l_jax.cli.flags import replace
from r2l_jax.data.sets import datasets
from r2l_jax.errors import InputError
from r2l_jax.model.processors import half_size
from r2l_jax.training import plan, train

SHORT = {"epochs": 1, "save_locally": True, "log_model": False}


def synthetic(config):
    return datasets.load("Synthetic", **config.data.source)


@pytest.mark.shows("train --processing_mode")
def test_fixed_processing_is_normalized_by_the_training_set(base):
    config = replace(base, run_name="none", processing_mode="none", **SHORT)
    train.run(config)
    dataset = synthetic(config)
    images = half_size(dataset.camera)(np.stack([dataset[index][0] for index in metrics(config)["train_indices"]]))
    assert images.shape == (32, 16, 16, 3)
    np.testing.assert_allclose(model(config)["normalizer.mean"], images.mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(model(config)["normalizer.std"], jnp.sqrt(images.var((0, 1, 2)) + 1e-5), rtol=1e-3)


STATIC = [[0.91, 0.84, 0.94], [0.08, 0.12, 0.05]]
MOSAICS = [[0.5663, 0.1401, 0.0731], [0.097, 0.0423, 0.008]]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"processing_mode": "static"}, STATIC),
        ({"processing_mode": "static", "sp_debayer": "malvar2004"}, STATIC),
        ({"processing_mode": "none"}, MOSAICS),
        ({"processing_mode": "neural_network"}, MOSAICS),
        # Other processing and other light make other images.
        ({"processing_mode": "static", "auto": ("exposure",)}, None),
        ({"processing_mode": "static", "half_size": True}, None),
        ({"processing_mode": "static", "iso": (0.05,)}, None),
        ({"processing_mode": "none", "iso": (0.05, 1.0)}, None),
        ({"processing_mode": "none", "dataset": "Drone"}, None),
    ],
)
def test_published_data_sets_are_normalized_as_published_if_they_are_processed_so(base, settings, expected):
    found = plan.published_statistics(replace(base, **{"dataset": "Microscopy", **settings}))
    np.testing.assert_equal(
        found if found is None else [*map(np.asarray, found)], np.float32(expected) if expected else None
    )


def test_published_images_in_other_light_are_normalized_by_their_own_statistics(base, monkeypatch):
    dim = dataclasses.replace(synthetic(replace(base, iso=(0.05,))), name="Microscopy")
    monkeypatch.setattr(datasets, "load", lambda *arguments, **options: dim)
    config = replace(base, run_name="dim", dataset="Microscopy", iso=(0.05,), processing_mode="none", **SHORT)
    train.run(config)
    images = half_size(dim.camera)(dim.samples(np.array(metrics(config)["train_indices"]))[0])
    mean = np.asarray(images, np.float64).mean((0, 1, 2))
    np.testing.assert_allclose(model(config)["normalizer.mean"], mean, rtol=1e-5)


@pytest.mark.slow
def test_a_network_in_place_of_the_pipeline_is_trained_and_recorded(base):
    short = {"epochs": 1, "save_locally": True, "track": ("processing", "gradients", "arrays")}
    config = replace(base, run_name="neural", processing_mode="neural_network", **short)
    train.run(config)
    variables = model(config)
    dataset = synthetic(config)
    mosaics = isp.demosaic.binned(np.stack([dataset[index][0] for index in metrics(config)["train_indices"]]))
    np.testing.assert_allclose(variables["processor.normalizer.mean"], mosaics.mean((0, 1, 2)), rtol=1e-4)
    assert (variables["processor.network.bn1.mean"] != 0).all()
    assert (variables["normalizer.mean"] != 0).all()
    for group in ("stages", "gradients"):
        for name in ("0_demosaic", "1_rgb"):
            tensor = np.load(config.run_dir / f"fold_0/results/epoch_0000/{group}/{name}.npy")
            assert tensor.shape == (5, 16, 16, 3)
            assert np.abs(tensor).max() > 0
    recorded = events(config.run_dir / "fold_0")
    assert recorded.Scalars("processor_gradient_norm/network")[0].value > 0

    frozen = replace(config, run_name="frozen_neural", processor_uri=str(config.run_dir), freeze_processor=True)
    train.run(frozen)
    for name, value in model(frozen).items():
        if name.startswith("processor."):
            np.testing.assert_array_equal(value, variables[name], err_msg=name)


def test_processed_images_are_trained_on_as_they_are(base, monkeypatch):
    scenes = synthetic(base)
    render = isp.static(scenes.camera)

    def read(index):
        raw, target = scenes.read(index)
        return np.asarray(render(raw)), target

    processed = dataclasses.replace(scenes, name="MicroscopyRGB", camera=None, read=read)
    monkeypatch.setattr(datasets, "load", lambda *arguments, **options: processed)
    with pytest.raises(InputError, match=r"has processed images and needs `processing_mode=none`"):
        train.run(replace(base, run_name="refused"))
    config = replace(base, run_name="images", processing_mode="none", **SHORT, track=("processing", "arrays"))
    train.run(config)
    images = np.stack([processed[index][0] for index in range(40)])
    np.testing.assert_array_equal(np.load(config.run_dir / "fold_0/results/epoch_0000/stages/0_rgb.npy"), images[:5])
    mean = images[metrics(config)["train_indices"]].mean((0, 1, 2))
    np.testing.assert_allclose(model(config)["normalizer.mean"], mean, rtol=1e-4)


@pytest.mark.shows("train --processor_uri --freeze_processor --classifier_uri --freeze_classifier")
@pytest.mark.parametrize(
    ("frozen", "kept"), [("freeze_processor", "processor."), ("freeze_classifier", "head.")], ids=["processor", "head"]
)
def test_what_is_frozen_keeps_its_values_and_statistics(base, one_epoch, frozen, kept):
    earlier = str(one_epoch.run_dir)
    config = replace(base, run_name=frozen, **SHORT, processor_uri=earlier, classifier_uri=earlier, **{frozen: True})
    train.run(config)
    before = model(one_epoch)
    for name, value in model(config).items():
        if name.startswith(kept):
            np.testing.assert_array_equal(value, before[name], err_msg=name)
        elif name.startswith(("head.", "processor.")):
            assert (value != before[name]).any(), name
    assert (model(config)["normalizer.mean"] != before["normalizer.mean"]).any()

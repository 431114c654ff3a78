import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_runs import history

from r2l_jax.cli.flags import replace
from r2l_jax.data import loader
from r2l_jax.data.sets import datasets
from r2l_jax.devices.placement import shardings, to_devices
from r2l_jax.errors import InputError
from r2l_jax.model.raw_to_logit import unknown_statistics
from r2l_jax.training import train
from r2l_jax.training.steps import GradientDescent, Steps, StepSettings, Updated, make_steps


def test_an_epoch_has_a_key_of_its_own_and_its_loss_is_the_mean_over_its_steps(base, monkeypatch):
    train_step, losses, keys = Steps.train, [], []

    def step(steps, state, batch, key):
        state, outcome = train_step(steps, state, batch, key)
        losses.append(float(outcome["loss"].mean()))
        keys.append(jax.random.key_data(key).tolist())
        return state, outcome

    monkeypatch.setattr(Steps, "train", step)
    config = replace(base, run_name="means", log_model=False)
    train.run(config)
    assert len(set(losses)) == 8
    assert keys == 4 * [keys[0]] + 4 * [keys[4]]
    assert keys[0] != keys[4]
    means = np.reshape(losses, (2, 4)).mean(1)
    assert [row["train_loss"] for row in history(config)] == pytest.approx(means, rel=1e-5)


def test_static_pipelines_share_the_program_of_the_head(base):
    """As the compilation cache keeps it, the step holds nothing of the processing."""
    dataset, key = datasets.load(base.data.dataset, **base.data.source), jax.random.key(0)
    batch, programs = loader.shapes(dataset, 8, shardings().split), []
    for algorithms in (
        {"sp_debayer": "bilinear", "sp_denoising": "gaussian_denoising"},
        {"sp_debayer": "malvar2004", "sp_denoising": "median_denoising"},
    ):
        config = replace(base, processing_mode="static", **algorithms)
        steps = make_steps(StepSettings.of(config, dataset, 4))
        state = jax.eval_shape(steps.begin, jax.eval_shape(steps.init, key, unknown_statistics()))
        images = jax.eval_shape(steps._process, state.model, batch["raw"])
        _, trained = steps._parts(state.model)
        programs.append(steps._train.lower(state.replace(model=trained), {**batch, "raw": images}, key).as_text())
    assert programs[0] == programs[1]


def test_a_frozen_head_normalizes_with_its_own_statistics_and_keeps_them(base):
    config = replace(base, augmentation="none", freeze_classifier=True, classifier_uri="of an earlier run")
    dataset = datasets.load(base.data.dataset, **base.data.source)
    steps, batch = make_steps(StepSettings.of(config, dataset, 4)), loader.batch_of(dataset, np.arange(8))
    model = steps.init(jax.random.key(0), None)
    # Far from those of any batch.
    model["head"]["bn1"]["mean"][...] += 0.5
    before, merged = jax.device_get(nnx.to_pure_dict(model)), nnx.merge(steps._graph, jax.tree.map(jnp.copy, model))
    state, outcome = steps.train(steps.begin(model), to_devices(batch, shardings().split), jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, nnx.to_pure_dict(state.model)["head"], before["head"])
    assert (state.model["normalizer"]["mean"][...] != before["normalizer"]["mean"]).all()
    images = np.asarray(merged.processor(batch["raw"]))
    normalized = (images - images.mean((0, 1, 2))) / np.sqrt(images.var((0, 1, 2)) + 1e-5)
    logits = merged.head(jnp.asarray(normalized))
    losses = -jax.nn.log_softmax(logits)[np.arange(8), batch["target"]]
    np.testing.assert_allclose(outcome["loss"], losses, rtol=1e-4, atol=1e-6)


class Seen(GradientDescent):
    """Changes nothing, and records the levels and the targets that an update gets."""

    def zero_sums(self):
        target = jnp.zeros((32, 32, 32) if self._task.has_masks else 32, int)
        return {**super().zero_sums(), "levels": jnp.zeros(32), "target": target}

    def update(self, model, state, batch, *rest):
        seen = {"levels": batch["raw"].reshape(32, -1).mean(1), "target": batch["target"].astype(int)}
        return Updated(model, state, {}, {**self.zero_sums(), **seen})


def synthetic(config):
    return datasets.load(config.data.dataset, **config.data.source)


def seen_of(config, epochs=2, order=slice(None)):
    """Returns the sums of `Seen` for a batch of all samples in each of some epochs, and the batch itself."""
    dataset = datasets.load(config.data.dataset, **config.data.source)
    steps = make_steps(StepSettings.of(config, dataset, 1), Seen)
    batch, found = loader.batch_of(dataset, np.arange(32)[order]), []
    state = steps.begin(steps.init(jax.random.key(0), unknown_statistics()))
    for epoch in range(epochs):
        state, _ = steps.train(state, to_devices(batch, shardings().split), jax.random.key(epoch))
        found.append(jax.device_get(state.sums))
        state = state.replace(sums=steps.zero_sums())
    return found, batch


@pytest.mark.shows("train --camera_augmentation")
@pytest.mark.parametrize("processing", ["parametrized", "static", pytest.param("none", marks=pytest.mark.slow)])
def test_cameras_are_augmented_before_every_processing(base, processing):
    """Frozen processing gets the changed mosaics as well; a quarter of the samples stays, others in each epoch."""
    config = replace(base, processing_mode=processing, augmentation="none")
    (plain,), _ = seen_of(config, epochs=1)
    found, _ = seen_of(replace(config, camera_augmentation=("light",)))
    stays = [np.isclose(each["levels"], plain["levels"], atol=1e-5) for each in found]
    for each in stays:
        assert 0.05 < each.mean() < 0.5
    assert (stays[0] != stays[1]).any()


def test_processed_images_have_no_camera_to_augment(base):
    dataset = dataclasses.replace(datasets.load(base.data.dataset, **base.data.source), camera=None, name="Pictures")
    config = replace(base, processing_mode="none", camera_augmentation=("light", "readout"))
    with pytest.raises(
        InputError, match="`camera_augmentation=light,readout`: Pictures is processed already: there is"
    ):
        StepSettings.of(config, dataset, 4)


def orientations(masks):
    """The eight orientations of square masks, `(8, N, H, W)`."""
    return np.stack([each[:, ::v, ::h] for each in (masks, masks.swapaxes(1, 2)) for v in (1, -1) for h in (1, -1)])


@pytest.mark.shows("train --augmentation")
def test_each_sample_is_augmented_on_its_own_and_anew_in_each_epoch_wherever_it_stands(base):
    config = replace(base, dataset="SyntheticSegmentation", augmentation="none")
    for each in seen_of(config)[0]:
        np.testing.assert_array_equal(each["target"], loader.batch_of(synthetic(config), np.arange(32))["target"])
    config = replace(config, augmentation="weak")
    (first, second), batch = seen_of(config)
    fits = [(orientations(batch["target"]) == each["target"]).all((2, 3)) for each in (first, second)]
    for fit in fits:
        assert fit.any(0).all()
        # No orientation is that of all samples.
        assert not fit.all(1).any()
    # One in eight is the same by chance.
    assert (fits[0] & fits[1]).any(0).mean() < 0.5
    (turned, _), _ = seen_of(config, order=slice(None, None, -1))
    np.testing.assert_array_equal(turned["target"], first["target"][::-1])

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import history
from whole_sets import every_sample

from r2l_jax.data import loader
from r2l_jax.data.sets import datasets
from r2l_jax.model.build import unknown_statistics
from r2l_jax.runtime.devices import shardings
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.flags import replace
from r2l_jax.training import train
from r2l_jax.training.steps import Steps, make_steps
from r2l_jax.training.update import GradientDescent, StepSettings, Updated


@pytest.fixture
def watched(monkeypatch):
    """A function that lists what another one reads of the state and the loss after each step of a run."""
    train_step = Steps.train

    def watched(read):
        seen = []

        def step(*arguments):
            state, loss = train_step(*arguments)
            seen.append(jax.device_get(read(state, loss)))
            return state, loss

        monkeypatch.setattr(Steps, "train", step)
        return seen

    return watched


def test_the_training_loss_of_an_epoch_is_the_mean_over_its_own_steps(base, watched):
    losses = watched(lambda state, loss: loss)
    config = replace(base, run_name="means", log_model=False)
    train.run(config)
    assert len(set(map(float, losses))) == 8
    means = np.reshape(losses, (2, 4)).mean(1)
    assert [row["train_loss"] for row in history(config)] == pytest.approx(means, rel=1e-5)


class Shifting(GradientDescent):
    metrics = ("shift",)


def test_the_numbers_that_sum_a_run_up(base):
    dataset = datasets.load(base.data.dataset, **base.data.source)
    numbers = make_steps(StepSettings.of(base, dataset, 4), Shifting).summary
    assert numbers == ("val_accuracy", "val_loss", "train_accuracy", "train_loss", "val_shift", "train_shift")


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


class Masks(GradientDescent):
    """Changes nothing, and records the indices and the masks of a step's samples."""

    def zero_sums(self):
        return {**super().zero_sums(), "indices": jnp.zeros(32, int), "masks": jnp.zeros((32, 32, 32), jnp.uint8)}

    def update(self, model, state, batch, *rest):
        loss, confusion = jnp.zeros(()), jnp.ones((2, 2))
        seen = {"loss": loss, "confusion": confusion, "indices": batch["index"], "masks": batch["target"]}
        return Updated(model, state, loss, {**self.zero_sums(), **seen})


class Raws(GradientDescent):
    """Changes nothing, and records the indices and what the update gets of a step's samples."""

    def zero_sums(self):
        return {**super().zero_sums(), "indices": jnp.zeros(32, int), "levels": jnp.zeros(32)}

    def update(self, model, state, batch, *rest):
        loss, confusion, levels = jnp.zeros(()), jnp.ones((5, 5)), batch["raw"].reshape(32, -1).mean(1)
        seen = {"loss": loss, "confusion": confusion, "indices": batch["index"], "levels": levels}
        return Updated(model, state, loss, {**self.zero_sums(), **seen})


@pytest.mark.parametrize("processing", ["parametrized", "static", pytest.param("none", marks=pytest.mark.slow)])
def test_cameras_are_augmented_before_every_processing(base, watched, processing):
    """A fixed processing gets the changed mosaics as well; a quarter of the samples stays, others in each epoch."""
    levels = {}
    for augmentation in ((), ("light", "optics")):
        config = replace(
            base,
            run_name=f"cameras_{processing}_{len(augmentation)}",
            processing_mode=processing,
            camera_augmentation=augmentation,
            augmentation="none",
            batch_size=32,
            log_model=False,
        )
        seen = watched(lambda state, loss: (state.sums["indices"], state.sums["levels"]))
        train.run(config, Raws)
        levels[augmentation] = [of_step[np.argsort(indices)] for indices, of_step in seen]
    stays = [np.isclose(*pair, atol=1e-5) for pair in zip(*levels.values(), strict=True)]
    for each in stays:
        assert 0.05 < each.mean() < 0.5
    assert (stays[0] != stays[1]).any()


def test_processed_images_have_no_camera_to_augment(base):
    dataset = dataclasses.replace(datasets.load(base.data.dataset, **base.data.source), camera=None, name="Pictures")
    config = replace(base, processing_mode="none", camera_augmentation=("light", "readout"))
    with pytest.raises(
        InputError, match="--camera_augmentation=light,readout: Pictures is processed already: there is"
    ):
        StepSettings.of(config, dataset, 4)


def orientations(masks):
    """The eight orientations of square masks, `(8, N, H, W)`."""
    return np.stack([each[:, ::v, ::h] for each in (masks, masks.swapaxes(1, 2)) for v in (1, -1) for h in (1, -1)])


def test_each_sample_is_augmented_on_its_own_and_anew_in_each_epoch(base, watched):
    config = replace(
        base, run_name="masks", dataset="SyntheticSegmentation", augmentation="weak", batch_size=32, log_model=False
    )
    # An epoch is one step.
    steps = watched(lambda state, loss: (state.sums["indices"], state.sums["masks"]))
    train.run(config, Masks)
    _, own = every_sample(datasets.load(config.data.dataset, **config.data.source))
    fits = [(orientations(own[indices]) == masks).all((2, 3)) for indices, masks in steps]
    for fit in fits:
        assert fit.any(0).all()
        # No orientation is that of all samples.
        assert not fit.all(1).any()
    # One in eight is the same by chance, at a place of the batch as well as of a sample.
    by_sample = [fit[:, np.argsort(indices)] for fit, (indices, _) in zip(fits, steps, strict=True)]
    for first, second in (fits, by_sample):
        assert (first & second).any(0).mean() < 0.5

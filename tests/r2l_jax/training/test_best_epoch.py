import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from small_runs import history, metrics, model

import r2l_jax
from r2l_jax.cli.flags import replace
from r2l_jax.config import FinishedRun
from r2l_jax.drift.trained_folds import folds_of
from r2l_jax.training import plan, train
from r2l_jax.training.steps import GradientDescent


class Ascent(GradientDescent):
    """Trains uphill in the task loss, so that an early epoch is the best."""

    def __init__(self, settings, model):
        super().__init__(settings, model)
        self._optimizer = optax.adam(-settings.optimizer.rate.peak)


@pytest.fixture(scope="module")
def worsening(base):
    config = replace(base, run_name="worsening", epochs=3, lr=1e-2, augmentation="none", save_locally=True)
    train.run(config, Ascent)
    assert metrics(config)["best_epoch"] < 2
    return config


def test_a_finished_run_is_loaded_and_another_starts_at_its_best_epoch(worsening):
    config, rows, epoch = worsening, history(worsening), metrics(worsening)["best_epoch"]
    last, best = (r2l_jax.load(config.run_dir, checkpoint=which) for which in ("last", "best"))
    assert (last.about.epoch, best.about.epoch) == (2, epoch)
    assert (last.score, best.score) == (rows[-1]["val_accuracy"], rows[epoch]["val_accuracy"])
    assert metrics(config)["best_val_loss"] == rows[epoch]["val_loss"] < rows[-1]["val_loss"]
    raws, targets = best.dataset.samples(best.folds[0].split.valid)
    losses = [-np.log(run.predict(raws)[np.arange(len(raws)), targets]).mean() for run in (last, best)]
    assert losses == pytest.approx([rows[-1]["val_loss"], rows[epoch]["val_loss"]], rel=1e-4)
    state = jax.tree.map(jnp.zeros_like, nnx.state(best.model))
    plan.provide(state, replace(config, classifier_uri=str(config.run_dir)), best.folds[0].architecture, 0)
    kernel = nnx.to_pure_dict(state)["head"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kernel, best.model.head.conv1.kernel[...])
    np.testing.assert_array_equal(kernel, model(config)["head.conv1.kernel"])
    assert not nnx.to_pure_dict(state)["processor"]["white_balance"].any()


def test_folds_are_opened_at_the_checkpoint_and_with_the_data_of_the_settings(worsening, data_dir, tmp_path):
    group = tmp_path / "group"
    for seed in (1, 2):
        shutil.copytree(worsening.run_dir, group / f"seed_{seed}")
    shutil.copytree(data_dir, tmp_path / "moved")
    for checkpoint, epoch in (("best", metrics(worsening)["best_epoch"]), ("last", 2)):
        folds = folds_of(FinishedRun(run=str(group), checkpoint=checkpoint, data_dir=str(tmp_path / "moved")))
        assert [trained.name for trained in folds] == ["seed_1/fold_0", "seed_2/fold_0"]
        for trained in folds:
            assert (trained.fold.about.checkpoint, trained.fold.about.epoch) == (checkpoint, epoch)
            assert trained.fold.config.data.data_dir == str(tmp_path / "moved")

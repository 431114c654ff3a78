"""Runs that take seconds."""

import dataclasses

import pytest
import small_runs

import tasks
from r2l_jax import compiler, train
from r2l_jax.config import TrainConfig


@pytest.fixture(scope="module")
def small_heads():
    """Puts small heads in place of ResNets and U-Nets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "resnet", small_runs.resnet)
        # The few steps of these runs take less time than optimising them.
        patch.setattr(compiler, "options", lambda: {"xla_backend_optimization_level": 0})
        patch.setattr(tasks, "unet", small_runs.unet)
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory, small_heads):
    """A run that takes seconds: 40 scenes of 32x32, 32 of them to train on, in 4 batches an epoch."""
    folder = tmp_path_factory.mktemp("train")
    return TrainConfig(
        logdir=str(folder / "runs"),
        experiment_name="test",
        data_dir=str(folder / "data"),
        synthetic_images=40,
        synthetic_size=32,
        lr=1e-3,
        epochs=2,
        batch_size=8,
        augmentation="strong",
    )


@pytest.fixture(scope="module")
def one_epoch(base):
    """A finished run whose only epoch is its best and its last, with a model that its file and its checkpoint share."""
    config = dataclasses.replace(base, run_name="one_epoch", epochs=1, save_locally=True)
    train.run(config)
    return config

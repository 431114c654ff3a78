"""Runs that take seconds."""

import contextlib

import pytest
import sketches
import small_runs

import tasks
from r2l_jax.cli.flags import build, replace
from r2l_jax.config import TrainConfig
from r2l_jax.results.result import Figure
from r2l_jax.training import train
from r2l_jax.training.settings import PUBLISHED_OPTIMIZATION

Figure.rendered = sketches.sketched


@pytest.fixture
def rendered_figures(monkeypatch):
    """Lays figures out and rasterizes them, as programs do."""
    monkeypatch.setattr(Figure, "rendered", sketches.rendered)


@pytest.fixture
def drawn(monkeypatch):
    """The axes of the figures that are written, by their captions."""
    return sketches.recorded(monkeypatch)


@contextlib.contextmanager
def _small_heads():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "resnet", small_runs.resnet)
        patch.setattr(tasks, "unet", small_runs.unet)
        yield


@pytest.fixture(scope="module")
def small_heads():
    """Puts small heads in place of ResNets and U-Nets.

    Runs of equal settings share their compiled steps (`make_steps`): a run with real heads needs other settings.
    """
    with _small_heads():
        yield


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """The folder of the scenes, rendered once."""
    return str(tmp_path_factory.mktemp("data"))


def _base(folder, data_dir):
    return build(
        TrainConfig,
        PUBLISHED_OPTIMIZATION,
        logdir=str(folder),
        experiment_name="test",
        data_dir=data_dir,
        synthetic_images=40,
        synthetic_size=32,
        lr=1e-3,
        epochs=2,
        batch_size=8,
        augmentation="strong",
        auto=(),
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory, data_dir, small_heads):
    """A run that takes seconds: 40 scenes of 32x32, 32 of them to train on, in 4 batches an epoch."""
    return _base(tmp_path_factory.mktemp("runs"), data_dir)


@pytest.fixture(scope="session")
def _one_epoch(tmp_path_factory, data_dir):
    base = _base(tmp_path_factory.mktemp("one_epoch"), data_dir)
    config = replace(base, run_name="one_epoch", epochs=1, save_locally=True)
    with _small_heads():
        train.run(config)
    return config


@pytest.fixture(scope="module")
def one_epoch(_one_epoch, small_heads):
    """A finished run whose only epoch is its best and its last, with a model that its file and its checkpoint share.

    All modules share it: a test may add to its folder, but leaves what is there as it was.
    """
    fold = _one_epoch.run_dir / "fold_0"
    before = {file: file.read_bytes() for file in (fold / "metrics.json", fold / "model.safetensors")}
    yield _one_epoch
    for file, content in before.items():
        assert file.read_bytes() == content, f"a test of this module has changed {file.name} of the run that all share"

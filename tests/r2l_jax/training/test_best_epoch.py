import by_hand
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from small_runs import history, metrics, model

import r2l_jax
from r2l_jax.runtime.flags import replace
from r2l_jax.training import train
from r2l_jax.training.run import load
from r2l_jax.training.start import Sources
from r2l_jax.training.update import GradientDescent


class Ascent(GradientDescent):
    """Trains uphill in the task loss, so that an early epoch is the best."""

    def __init__(self, settings, blueprint):
        super().__init__(settings, blueprint)
        self._optimizer = optax.adam(-settings.optimizer.rate.peak)


@pytest.fixture(scope="module")
def worsening(base):
    """A finished run whose best epoch is not its last."""
    config = replace(base, run_name="worsening", epochs=3, lr=1e-2, augmentation="none", save_locally=True)
    train.run(config, Ascent)
    assert metrics(config)["best_epoch"] < 2
    return config


def test_a_finished_run_is_loaded_at_its_best_epoch(worsening):
    content = metrics(worsening)
    (fold,) = load(str(worsening.run_dir))
    loss, _ = by_hand.evaluate(fold, fold.model.processor)
    assert loss == pytest.approx(history(worsening)[content["best_epoch"]]["val_loss"], rel=1e-4)
    assert content["val_loss"] > 1.01 * loss
    last, best = (r2l_jax.load(worsening.run_dir, checkpoint=which) for which in ("last", "best"))
    rows = history(worsening)
    assert (last.score, best.score) == (rows[-1]["val_accuracy"], rows[content["best_epoch"]]["val_accuracy"])
    assert (last.about.epoch, best.about.epoch) == (2, content["best_epoch"])
    assert last.identity != best.identity


def test_a_run_starts_from_the_parts_of_the_best_epoch(worsening):
    (fold,) = load(str(worsening.run_dir))
    state = jax.tree.map(jnp.zeros_like, nnx.state(fold.model))
    Sources(None, str(worsening.run_dir), pretrained=False, weights=None).provide(state, 0, fold.task)
    best, kernel = fold.model.head.conv1.kernel[...], nnx.to_pure_dict(state)["head"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kernel, best)
    np.testing.assert_array_equal(model(worsening)["head.conv1.kernel"], best)
    (last,) = load(worsening.run_dir, checkpoint="last")
    assert (last.model.head.conv1.kernel[...] != best).any()
    assert not nnx.to_pure_dict(state)["processor"]["white_balance"].any()

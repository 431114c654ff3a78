import by_hand
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from small_runs import history, metrics, model

from r2l_jax.runtime.flags import replace
from r2l_jax.training import stored, train, trained
from r2l_jax.training.update import GradientDescent


class Ascent(GradientDescent):
    """Trains uphill in the task loss, so that an early epoch is the best."""

    def __init__(self, config, *arguments):
        super().__init__(config, *arguments)
        self._optimizer = optax.adam(-config.optimization.lr)


@pytest.fixture(scope="module")
def worsening(base):
    """A finished run whose best epoch is not its last."""
    config = replace(base, run_name="worsening", epochs=3, lr=1e-2, augmentation="none", save_locally=True)
    train.run(config, Ascent)
    assert metrics(config)["best_epoch"] < 2
    return config


def test_a_finished_run_is_loaded_at_its_best_epoch(worsening):
    content = metrics(worsening)
    ((fold,),) = trained.load_runs([str(worsening.run_dir)])
    loss, _ = by_hand.evaluate(fold, fold.model.processor)
    assert loss == pytest.approx(history(worsening)[content["best_epoch"]]["val_loss"], rel=1e-4)
    assert content["val_loss"] > 1.01 * loss


def test_the_parts_that_a_run_starts_from_are_those_of_the_best_epoch(worsening):
    ((fold,),) = trained.load_runs([str(worsening.run_dir)])
    state = jax.tree.map(jnp.zeros_like, nnx.state(fold.model))
    stored.load_parts(state, ("head",), str(worsening.run_dir), 0, "classifier_uri")
    best, kernel = fold.model.head.conv1.kernel[...], nnx.to_pure_dict(state)["head"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kernel, best)
    np.testing.assert_array_equal(model(worsening)["head.conv1.kernel"], best)
    (last,), *_ = trained.load_runs([str(worsening.run_dir)], checkpoint="last")
    assert (last.model.head.conv1.kernel[...] != best).any()
    assert not nnx.to_pure_dict(state)["processor"]["white_balance"].any()

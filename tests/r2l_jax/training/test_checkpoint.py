import logging
import shutil
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from r2l_jax.errors import InputError
from r2l_jax.training.checkpoint import Checkpoints, drop_optimizer, stored_model
from r2l_jax.training.steps import TrainState


def state(step):
    """A state whose numbers are those of its step."""
    full = jnp.full(3, float(step))
    model = nnx.State({"head": {"kernel": nnx.Param(full)}})
    return TrainState(step=jnp.asarray(step), model=model, opt_state={"moment": full + 0.5}, sums={"loss": full[0]})


def train(folder, scores, stops_at=None):
    """Saves ten steps an epoch, of the given scores, and another checkpoint within the next epoch."""
    history = [{"epoch": epoch} for epoch in range(len(scores))]
    with Checkpoints(folder / "fold_0" / "checkpoints") as checkpoints:
        for epoch, score in enumerate(scores):
            checkpoints.save(state(10 * (epoch + 1)), history[: epoch + 1], score and [score, -float(epoch)])
        if stops_at is not None:
            checkpoints.save(state(stops_at), history, None, {"predicted": np.arange(stops_at, dtype=np.uint8) % 7})
    return folder / "fold_0" / "checkpoints"


def steps(checkpoints):
    return sorted(int(each.name) for each in checkpoints.glob("[0-9]*"))


def best(folder):
    """The step of the checkpoint that whoever asks for the best is given."""
    device = jax.sharding.make_single_device_sharding(jax.devices()[0])
    return float(stored_model(folder / "fold_0", device, "best", f"--run={folder}")["head"]["kernel"][0])


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.5, 0.9, 0.7], 20),
        ([0.5, 0.5], 10),  # the first of equals
        ([0.5, None, 0.4, None], 10),  # whether validated or not
        ([float("-inf"), 0.1, float("-inf")], 20),
    ],
)
def test_the_best_and_the_last_checkpoint_are_kept(tmp_path, scores, expected):
    checkpoints = train(tmp_path, scores)
    assert steps(checkpoints) == [expected, 10 * len(scores)]
    assert best(tmp_path) == expected
    with Checkpoints(checkpoints) as again:
        restored, history, _ = again.restore(state(0))
    assert int(restored.step) == 10 * len(scores)
    assert float(restored.opt_state["moment"][0]) == 10 * len(scores) + 0.5
    assert [row["epoch"] for row in history] == list(range(len(scores)))


def test_a_run_goes_on_with_the_best_of_earlier_calls_from_within_an_epoch(tmp_path):
    train(tmp_path / "first", [], stops_at=5)
    with pytest.raises(InputError, match=r"--run=.*first has no best checkpoint"):
        best(tmp_path / "first")
    checkpoints = train(tmp_path, [0.9, 0.7], stops_at=25)
    assert (steps(checkpoints), best(tmp_path)) == ([10, 25], 10)
    with Checkpoints(checkpoints) as again:
        restored, history, outcomes = again.restore(state(0))
        assert int(restored.step) == 25
        np.testing.assert_array_equal(outcomes["predicted"], np.arange(25) % 7)
        again.save(state(30), [*history, {"epoch": 2}], [0.8, -2.0])
    assert steps(checkpoints) == [10, 30]
    assert best(tmp_path) == 10


def test_a_checkpoint_that_was_not_finished_is_never_read_and_is_removed(tmp_path):
    checkpoints = train(tmp_path, [0.5])
    shutil.copytree(checkpoints / "10", checkpoints / "20.orbax-checkpoint-tmp")
    assert best(tmp_path) == 10
    with Checkpoints(checkpoints) as again:
        restored, history, _ = again.restore(state(0))
        assert int(restored.step) == 10
        # Orbax removes in the background, and waits for that before it saves.
        again.save(state(30), [*history, {"epoch": 1}], [0.4, -1.0])
    assert sorted(each.name for each in checkpoints.iterdir()) == ["10", "30"]


def test_a_kill_leaves_no_part_of_a_checkpoint_that_is_not_kept(tmp_path, monkeypatch):
    with monkeypatch.context() as killed:
        killed.setattr(Checkpoints, "_clear", lambda self: None)
        checkpoints = train(tmp_path, [0.9, 0.5, 0.7])
    assert steps(checkpoints) == [10, 30]
    assert steps(checkpoints / "removed") == [20]
    with Checkpoints(checkpoints):
        assert sorted(each.name for each in checkpoints.iterdir()) == ["10", "30"]


def test_a_finished_run_drops_its_optimizer_and_is_read_without_it(tmp_path):
    checkpoints = train(tmp_path, [0.9, 0.7])
    drop_optimizer(checkpoints)
    assert not list(checkpoints.rglob("*progress*"))
    assert best(tmp_path) == 10
    with Checkpoints(checkpoints) as again:
        restored, history, _ = again.restore(state(0))
    assert (int(restored.step), len(history)) == (20, 2)
    assert float(restored.model["head"]["kernel"][...][0]) == 20


def test_a_damaged_checkpoint_is_named_in_one_line(tmp_path):
    checkpoints = train(tmp_path, [0.5])
    shutil.rmtree(checkpoints / "10" / "model")
    reads = {
        "has no readable checkpoint": lambda: best(tmp_path),
        "cannot be resumed": lambda: Checkpoints(checkpoints).restore(state(0)),
    }
    for message, read in reads.items():
        with pytest.raises(InputError, match=message) as raised:
            read()
        assert "\n" not in str(raised.value)


def test_only_what_is_raised_besides_is_hidden_and_only_meanwhile(tmp_path, monkeypatch):
    shown, logger = [], logging.getLogger("absl")
    monkeypatch.setattr(sys, "unraisablehook", shown.append)
    level = logger.level
    with Checkpoints(tmp_path / "checkpoints"):
        for error in (RuntimeError("Event loop is closed"), ValueError("another error")):
            sys.unraisablehook(types.SimpleNamespace(exc_value=error))
        assert logger.level == logging.CRITICAL
    assert [str(each.exc_value) for each in shown] == ["another error"]
    assert sys.unraisablehook == shown.append
    assert logger.level == level != logging.CRITICAL

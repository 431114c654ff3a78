import shutil

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from r2l_jax.runtime.errors import InputError
from r2l_jax.training import checkpoint
from r2l_jax.training.checkpoint import Checkpoints, best_of, drop_optimizer, stored_model
from r2l_jax.training.steps import TrainState


def quality(row):
    if "val_accuracy" not in row:
        return None
    return {"score": row["val_accuracy"], "loss": -row["val_loss"], "epoch": row["epoch"]}


def state(step):
    """A state whose numbers are those of its step."""
    full = jnp.full(3, float(step))
    model = nnx.State({"head": {"kernel": nnx.Param(full)}})
    return TrainState(step=jnp.asarray(step), model=model, opt_state={"moment": full + 0.5}, sums={"loss": full[0]})


def row(epoch, score=None, loss=0.0):
    return {"epoch": epoch} if score is None else {"epoch": epoch, "val_accuracy": score, "val_loss": loss}


def train(folder, rows, stops_at=None):
    """Saves ten steps an epoch, and another checkpoint within the next epoch."""
    with Checkpoints(folder / "fold_0" / "checkpoints", quality) as checkpoints:
        for epoch in range(len(rows)):
            checkpoints.save(state(10 * (epoch + 1)), rows[: epoch + 1])
        if stops_at is not None:
            checkpoints.save(state(stops_at), rows, ends_epoch=False)
    return folder / "fold_0" / "checkpoints"


def steps(checkpoints):
    return sorted(int(each.name) for each in checkpoints.glob("[0-9]*"))


def best(folder):
    """The step of the checkpoint that whoever asks for the best is given."""
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return float(stored_model(folder / "fold_0", device, "best", f"--run={folder}")["head"]["kernel"][0])


def test_the_best_and_the_last_checkpoint_are_kept_and_differ(tmp_path):
    rows = [row(0, 0.5), row(1, 0.9), row(2, 0.7)]
    checkpoints = train(tmp_path, rows)
    assert steps(checkpoints) == [20, 30]
    assert best(tmp_path) == 20
    with Checkpoints(checkpoints, quality) as again:
        restored, history = again.restore_last(state(0), 3)
    assert int(restored.step) == 30
    assert float(restored.opt_state["moment"][0]) == 30.5
    assert history == rows


def test_only_the_last_checkpoint_keeps_the_optimizer_s_state(tmp_path):
    checkpoints = train(tmp_path, [row(0, 0.9), row(1, 0.7)])
    assert [each.parent.name for each in checkpoints.glob("*/progress")] == ["20"]
    drop_optimizer(checkpoints)
    assert not list(checkpoints.rglob("*progress*"))
    assert best(tmp_path) == 10


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([row(0, 0.5, 2.0), row(1, 0.5, 1.0), row(2, 0.4, 0.5)], 20),  # by the loss among equal scores
        ([row(0, 0.5, 1.0), row(1, 0.5, 1.0)], 10),  # the first of equals
        ([row(0, 0.5), row(1), row(2, 0.4), row(3)], 10),  # whether validated or not
        ([row(0, float("nan")), row(1, 0.1), row(2, float("nan"))], 20),
        ([row(0, 0.5, float("nan")), row(1, 0.5, 1.0), row(2, 0.5, float("nan"))], 20),
    ],
)
def test_the_best_is_that_of_the_history(tmp_path, rows, expected):
    train(tmp_path, rows)
    assert best(tmp_path) == expected
    assert 10 * (best_of(rows, quality)["epoch"] + 1) == expected


def test_what_is_saved_within_an_epoch_is_the_last_and_never_the_best(tmp_path):
    checkpoints = train(tmp_path, [row(0, 0.5)], stops_at=15)
    assert steps(checkpoints) == [10, 15]
    assert best(tmp_path) == 10
    checkpoints = train(tmp_path / "first", [], stops_at=5)
    with pytest.raises(InputError, match=r"--run=.*first holds no checkpoint of a best epoch"):
        best(tmp_path / "first")


@pytest.mark.parametrize("lacking", [0, 1])
def test_a_checkpoint_is_written_only_if_the_disk_holds_it(tmp_path, monkeypatch, lacking):
    """The step and the loss of a state have 4 bytes, its other arrays 12 each."""
    needed = checkpoint._SLACK + 2 * 4 + 2 * 12
    usage = shutil.disk_usage(tmp_path)._replace(free=needed - lacking)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage)
    if not lacking:
        assert steps(train(tmp_path, [row(0, 0.5)])) == [10]
        return
    with pytest.raises(InputError, match=rf"a checkpoint needs {needed} bytes, and only {needed - 1} are free on the"):
        train(tmp_path, [row(0, 0.5)])


def test_a_run_goes_on_with_the_best_of_earlier_calls(tmp_path):
    rows = [row(0, 0.9), row(1, 0.7)]
    checkpoints = train(tmp_path, rows, stops_at=25)
    with Checkpoints(checkpoints, quality) as again:
        restored, history = again.restore_last(state(0), 3)
        assert (int(restored.step), history) == (25, rows)
        again.save(state(30), [*rows, row(2, 0.8)])
    assert steps(checkpoints) == [10, 30]
    assert best(tmp_path) == 10


def test_without_the_best_checkpoint_no_other_one_takes_its_place(tmp_path):
    checkpoints = train(tmp_path, [row(0, 0.9), row(1, 0.7)])
    shutil.rmtree(checkpoints / "10")
    with pytest.raises(InputError, match="holds no checkpoint of a best epoch"):
        best(tmp_path)
    with (
        pytest.raises(InputError, match=r"checkpoints lacks the checkpoint of the best epoch; start anew with"),
        Checkpoints(checkpoints, quality) as again,
    ):
        again.restore_last(state(0), 3)


def test_a_checkpoint_that_was_not_finished_is_never_read_and_is_removed(tmp_path):
    checkpoints = train(tmp_path, [row(0, 0.5)])
    shutil.copytree(checkpoints / "10", checkpoints / "20.orbax-checkpoint-tmp")
    assert best(tmp_path) == 10
    with Checkpoints(checkpoints, quality) as again:
        restored, history = again.restore_last(state(0), 2)
        assert int(restored.step) == 10
        # Orbax removes in the background, and waits for that before it saves.
        again.save(state(30), [*history, row(1, 0.4)])
    assert sorted(each.name for each in checkpoints.iterdir()) == ["10", "30"]


def test_without_its_optimizer_a_run_is_read_but_not_continued(tmp_path):
    rows = [row(0, 0.5), row(1, 0.9)]
    checkpoints = train(tmp_path, rows)
    drop_optimizer(checkpoints)
    with Checkpoints(checkpoints, quality) as again:
        restored, history = again.restore_last(state(0), 2)
        assert (int(restored.step), float(restored.model["head"]["kernel"][...][0]), history) == (20, 20.0, rows)
        with pytest.raises(InputError, match=r"dropped the optimizer's state after epoch 2, .* to epoch 3; .*keep_opt"):
            again.restore_last(state(0), 3)

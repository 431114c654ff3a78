import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import history

from r2l_jax.data.sets import datasets
from r2l_jax.runtime.flags import replace
from r2l_jax.training import train
from r2l_jax.training.update import GradientDescent, Updated


@pytest.fixture
def watched(monkeypatch):
    """A function that lists what another one reads of the state and the loss after each step of a run."""
    make_steps = train.make_steps

    def watched(read):
        seen = []

        def watching(*arguments):
            steps = make_steps(*arguments)

            def step(*arguments):
                state, loss = steps.train(*arguments)
                seen.append(jax.device_get(read(state, loss)))
                return state, loss

            return steps._replace(train=step)

        monkeypatch.setattr(train, "make_steps", watching)
        return seen

    return watched


def test_the_training_loss_of_an_epoch_is_the_mean_over_its_own_steps(base, watched):
    losses = watched(lambda state, loss: loss)
    config = replace(base, run_name="means", log_model=False)
    train.run(config)
    assert len(set(map(float, losses))) == 8
    means = np.reshape(losses, (2, 4)).mean(1)
    assert [row["train_loss"] for row in history(config)] == pytest.approx(means, rel=1e-5)


class Masks(GradientDescent):
    """Changes nothing, and records the masks of a step, each at its sample's index."""

    def zero_sums(self):
        return {**super().zero_sums(), "masks": jnp.zeros((40, 32, 32))}

    def update(self, model, state, batch, *rest):
        masks = self.zero_sums()["masks"].at[batch["index"]].add(batch["target"])
        loss, confusion = jnp.zeros(()), jnp.ones((2, 2))
        return Updated(model, state, loss, {**self.zero_sums(), "loss": loss, "confusion": confusion, "masks": masks})


def orientations(masks):
    """The eight orientations of square masks, `(8, N, H, W)`."""
    return np.stack([each[:, ::v, ::h] for each in (masks, masks.swapaxes(1, 2)) for v in (1, -1) for h in (1, -1)])


def test_each_sample_is_augmented_on_its_own_and_anew_in_each_epoch(base, watched):
    config = replace(
        base, run_name="masks", dataset="SyntheticSegmentation", augmentation="weak", batch_size=32, log_model=False
    )
    # An epoch is one step.
    epochs = watched(lambda state, loss: state.sums["masks"])
    train.run(config, Masks)
    dataset = datasets.load(config.data.dataset, **config.data.source)
    trained = np.flatnonzero(epochs[0].any((1, 2)))
    assert len(trained) == 32
    own, first, second = (masks[trained] for masks in (dataset.decoded[1], *epochs))
    for epoch in (first, second):
        same = (orientations(own) == epoch).all((2, 3))
        assert same.any(0).all()
        # No orientation is that of all samples.
        assert not same.all(1).any()
    # One in eight stays by chance.
    assert (first != second).any((1, 2)).sum() > 16

"""Checks for tasks of one's own."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Scores that differ by less are equal up to rounding.
_ROUNDING = 1e-6


def check_task(task: Any, logits: Any, batch: Mapping[str, Any]) -> None:
    """Checks that a task's score is a function of outcomes and weights, and that its loss leaves out padding.

    The score with a weight of 0 must be that without the sample, with 2 that of the sample twice, and the same in any
    order of the samples; several weightings at once must give what each gives alone; and samples that only pad the
    batch must change neither the outcome of the others nor the loss.

    Args:
        task: the task.
        logits: the logits of a batch of at least four samples, a tree of arrays `(B, ...)`.
        batch: the batch: `target`, `index` and `weight`, and whatever else the task uses.

    Raises:
        AssertionError: a law does not hold.
    """
    outcome = {name: np.asarray(array) for name, array in task.outcome(logits, batch).items()}
    count = len(next(iter(outcome.values())))
    assert count >= 4, f"a check needs at least four samples, got {count}"
    assert all(len(array) == count for array in outcome.values()), "each array of an outcome has a row for each sample"

    def taken(places: np.ndarray) -> dict[str, np.ndarray]:
        return {name: array[places] for name, array in outcome.items()}

    def score(outcome: Mapping[str, np.ndarray], weights: Any) -> np.ndarray:
        return np.asarray(task.score(outcome, np.asarray(weights, float)), float)

    def equal(found: Any, expected: Any, law: str) -> None:
        np.testing.assert_allclose(found, expected, _ROUNDING, _ROUNDING, err_msg=f"{law} changes the score")

    random = np.random.default_rng(0)
    weights = random.integers(0, 3, (5, count)).astype(float)
    weights[:, :2] = 1  # At least two samples count.
    for row in weights:
        repeated = np.repeat(np.arange(count), row.astype(int))
        law = "leaving a sample out in place of a weight of 0, or taking it twice in place of 2,"
        equal(score(taken(repeated), np.ones(len(repeated))), score(outcome, row), law)
    order = random.permutation(count)
    equal(score(taken(order), weights[0][order]), score(outcome, weights[0]), "another order")
    equal(score(outcome, weights), [score(outcome, row) for row in weights], "weighting several times at once")
    padded = {**batch, "weight": (jnp.arange(count) < count - 1).astype(jnp.float32)}
    other = jax.tree.map(lambda leaf: jnp.concatenate([leaf[:-1], leaf[:1]]), logits)
    for name, array in task.outcome(other, padded).items():
        np.testing.assert_allclose(array[:-1], outcome[name][:-1], _ROUNDING, err_msg=f"padding changes {name}")
    losses = [np.asarray(task.loss(each, padded)) for each in (logits, other)]
    np.testing.assert_allclose(losses[1], losses[0], _ROUNDING, err_msg="padding changes the loss")

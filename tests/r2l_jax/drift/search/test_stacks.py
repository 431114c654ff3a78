import jax
import numpy as np
import pytest

from r2l_jax.drift.search import stacks


def trees(count):
    return [{"a": np.float32([number, 0.5]), "b": np.float32(10 * number)} for number in range(count)]


def added(factor, tree, other, shared):
    return tree["a"] + factor * tree["b"] + other + shared


def asked(*arguments):
    """Takes its numbers from the host, as a PyTorch network does."""
    numbers = jax.ShapeDtypeStruct((2,), np.float32)
    return jax.pure_callback(np.asarray, numbers, added(*arguments), vmap_method="broadcast_all")


@pytest.mark.parametrize("function", [added, asked])
def test_a_function_of_one_is_computed_for_all(function):
    (carried, others), shared = stacks.placed((stacks.stack(trees(3)), np.zeros((1, 3), np.float32)), np.float32(100))
    found = stacks.unstack(stacks.mapped(function)(2, carried, others, shared), 3)
    np.testing.assert_allclose(found, [[100, 100.5], [121, 120.5], [142, 140.5]])

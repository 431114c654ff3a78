"""Values come into a model whole, and in one way."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from r2l_jax.errors import InputError
from r2l_jax.model.processors import Standardize, Unprocessed
from r2l_jax.model.raw_to_logit import RawToLogit
from r2l_jax.training.model_io import restore

ONES, TWOS = np.ones(3, np.float32), np.full(3, 2.0, np.float32)


@pytest.fixture
def state():
    """The state of a model that normalizes with zeros, and whose head has one layer, of ones."""
    head = nnx.Dict(fc=nnx.Linear(3, 2, kernel_init=nnx.initializers.ones, rngs=nnx.Rngs(0)))
    return nnx.state(RawToLogit(Unprocessed(), Standardize(jnp.zeros(3), jnp.zeros(3)), head))


def values(state):
    found = nnx.to_pure_dict(state)
    return {**found["normalizer"], **found["head"]["fc"]}


def test_parts_are_replaced_and_others_stay(state):
    source = {"normalizer": {"mean": ONES, "std": TWOS}, "head": "ignored"}
    assert restore(state, source, ("normalizer",)) == []
    np.testing.assert_array_equal([values(state)[name] for name in ("mean", "std")], [ONES, TWOS])
    np.testing.assert_array_equal(values(state)["kernel"], np.ones((3, 2)))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"mean": ONES}, r"^here does not fit this run: normalizer.std expects \(3,\), got no array$"),
        ({"mean": ONES, "std": TWOS[:2]}, r"normalizer.std expects \(3,\), got \(2,\)$"),
        ({"mean": ONES, "std": TWOS, "var": TWOS}, r"normalizer.var expects no array, got \(3,\)$"),
    ],
)
def test_a_part_that_does_not_fit_is_refused_and_nothing_changes(state, source, message):
    with pytest.raises(InputError, match=message):
        restore(state, {"normalizer": source}, ("normalizer",), "here")
    np.testing.assert_array_equal(values(state)["mean"], np.zeros(3))


def test_optional_variables_and_resized_layers_are_kept(state):
    restore(state, {"normalizer": {"std": TWOS}}, ("normalizer",), optional=("mean",))
    np.testing.assert_array_equal([values(state)[name] for name in ("mean", "std")], [np.zeros(3), TWOS])
    wider = {"fc": {"kernel": np.zeros((3, 5), np.float32), "bias": np.zeros(5, np.float32)}}
    assert restore(state, {"head": wider}, ("head",), resized=("fc",)) == ["fc"]
    np.testing.assert_array_equal(values(state)["kernel"], np.ones((3, 2)))

import gc
import weakref

import jax
import numpy as np
import pytest

from r2l_jax.drift.search.stacks import Stacks


def trees(count):
    return [{"a": np.float32([number, 0.5]), "b": np.float32(10 * number)} for number in range(count)]


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("count", [1, 5, 12, 13])
def test_devices_share_a_stack(monkeypatch, devices, count):
    monkeypatch.setattr(jax, "local_devices", lambda: [None] * devices)
    stack = Stacks().stack(trees(count))
    assert stack["b"].shape == (devices, -(-count // devices))  # no device has more than its part
    assert stack["a"].shape == (*stack["b"].shape, 2)
    for tree, expected in zip(Stacks().unstack(stack, count), trees(count), strict=True):
        jax.tree.map(np.testing.assert_array_equal, tree, expected)


class Adds:
    """Adds what it keeps, and compiles its own method, as searches and measurements do."""

    def __init__(self, kept):
        self.kept, self.stacks = kept, Stacks()

    def __call__(self, count):
        stack = self.stacks.stack(trees(count))
        compiled = self.stacks.compile(self.added, (stack,), (np.float32(100),))
        return self.stacks.unstack(compiled(stack, np.float32(100)), count)

    def added(self, tree, shared):
        return tree["a"] + self.kept * tree["b"] + shared


def test_a_function_of_one_is_computed_for_all():
    np.testing.assert_allclose(Adds(np.float32(2))(3), [[100, 100.5], [121, 120.5], [142, 140.5]])


def test_what_was_compiled_goes_with_its_stacks():
    adds, client = Adds(np.float32(2)), jax.devices()[0].client
    adds(3)
    gc.collect()
    kept, compiled = weakref.ref(adds), len(client.live_executables())
    del adds
    gc.collect()
    assert kept() is None
    assert len(client.live_executables()) < compiled

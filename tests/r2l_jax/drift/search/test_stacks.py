import jax
import numpy as np
import pytest

from r2l_jax.drift.search import stacks
from r2l_jax.drift.search.stacks import Stacks


def trees(count):
    return [{"a": np.float32([number, 0.5]), "b": np.float32(10 * number)} for number in range(count)]


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("count", [1, 2, 5, 12, 13])
def test_processes_share_a_stack_and_gather_its_results(monkeypatch, processes, devices, count):
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    monkeypatch.setattr(jax, "local_devices", lambda: [None] * devices)
    parts, sent = [], []
    for process in range(processes):
        monkeypatch.setattr(jax, "process_index", lambda p=process: p)
        parts.append(Stacks().stack(trees(count)))
        # As a compiled function returns it: an array of each device's results.
        assert parts[-1]["b"].shape[0] == devices
        assert parts[-1]["a"].shape == (*parts[-1]["b"].shape, 2)
    # No device has more than its part of the searches.
    assert max(part["b"].shape[1] for part in parts) == -(-count // (processes * devices))
    monkeypatch.setattr(stacks, "gathered", lambda mine: sent.append(mine) or mine)
    for part in parts:
        Stacks().unstack(jax.tree.map(np.asarray, part), min(count, processes) if processes > 1 else count)
    sent.clear()
    # What each process sends has one shape; in their order they are the whole stack.
    monkeypatch.setattr(stacks, "gathered", lambda mine: sent.append(mine) or everything(sent, count))
    for part in parts:
        whole = Stacks().unstack(part, count)
    assert len({mine["b"].shape for mine in sent}) == 1
    for tree, expected in zip(whole, trees(count), strict=True):
        jax.tree.map(np.testing.assert_array_equal, tree, expected)

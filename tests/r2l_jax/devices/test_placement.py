"""Batches on devices."""

import numpy as np

from r2l_jax.devices import placement


def test_one_batch_is_moved_while_the_devices_compute_another(monkeypatch):
    done = []

    class Result:
        """Stands for an array that a device still computes."""

        def __init__(self, number):
            self.number = number

        def block_until_ready(self):
            done.append(f"computed {self.number}")
            return self

    def moved(batch, sharding):
        assert sharding == placement.shardings().split
        done.append(f"moved {batch}")
        return batch

    monkeypatch.setattr(placement, "to_devices", moved)
    results = [*placement.each_on_devices(Result, iter(range(3)))]
    assert [result.number for result in results] == [0, 1, 2]
    assert done == ["moved 0", "moved 1", "computed 0", "moved 2", "computed 1"]


def test_batches_of_arrays_reach_a_function_on_the_devices():
    batches = [{"raw": np.full((4, 2), number, np.float32)} for number in range(3)]
    found = placement.each_on_devices(lambda batch: (batch["raw"].sum(), batch["raw"].sharding), batches)
    assert [(float(total), sharding) for total, sharding in found] == [
        (8 * number, placement.shardings().split) for number in range(3)
    ]

import unittest.mock

import pytest

pytest.importorskip("distributed")

import distributed

from r2l_jax.runtime import worker


def test_gpus_are_those_that_the_environment_names():
    assert worker.visible_gpus({"CUDA_VISIBLE_DEVICES": "2,5"}) == ["2", "5"]
    assert worker.visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == []


@pytest.mark.parametrize(("name", "gpu"), [(0, "2"), (1, "5"), (3, "5"), ("tcp://10.0.0.1", "2,5")])
def test_each_worker_of_this_machine_has_a_gpu_of_its_own(monkeypatch, name, gpu):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    monkeypatch.setattr(worker, "collect_rarely", lambda: None)
    monkeypatch.setattr(worker.startup, "prepare", lambda *arguments, **options: None)
    one = unittest.mock.create_autospec(distributed.Worker, instance=True)
    one.name = name
    worker.Prepared().setup(one)
    assert worker.os.environ["CUDA_VISIBLE_DEVICES"] == gpu

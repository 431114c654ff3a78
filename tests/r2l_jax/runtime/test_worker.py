import pytest

pytest.importorskip("distributed")

from r2l_jax.runtime import worker


def test_gpus_are_those_that_the_environment_names():
    assert worker.visible_gpus({"CUDA_VISIBLE_DEVICES": "2,5"}) == ["2", "5"]
    assert worker.visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == []

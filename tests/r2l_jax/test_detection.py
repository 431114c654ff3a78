"""A detector of the user's in every program."""

import detection_files
import numpy as np
import pytest
from small_runs import metrics

import r2l_jax
from r2l_jax.config import TrainConfig
from r2l_jax.runtime.flags import build
from r2l_jax.training import train

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A run of the detector on 12 frames."""
    folder = tmp_path_factory.mktemp("detection")
    flags = detection_files.write(folder)
    config = build(TrainConfig, logdir=str(folder / "runs"), experiment_name="test", run_name="cells", **flags)
    train.run(config)
    return config


def test_a_run_without_training_has_the_average_precision_of_each_class(config, capsys):
    found = metrics(config)
    assert (found["task"], found["scored_by"]) == ("detection", "map")
    assert found["val_map"] == found["val_map50"] == 1
    assert found["val_AP50"] == {"dim": 1, "bright": 1}
    assert sum(found["val_samples"].values()) > 12
    run = r2l_jax.load(config.run_dir, code=config.code)
    raws, targets = run.dataset.samples(np.arange(3))
    for boxes, target in zip(run.predict(raws), targets, strict=True):
        boxes, target = boxes[boxes[:, 5] >= 0], target[target[:, 4] >= 0]
        order = [np.lexsort(each[:, :2].T) for each in (boxes, target)]
        np.testing.assert_array_equal(boxes[order[0]][:, [0, 1, 2, 3, 5]], target[order[1]][:, :5])

"""Runs of earlier versions: `run_of_0_1` was left by version 0.1 with the small heads, and is loaded as it is."""

import json
import pathlib
import shutil

import jax.numpy as jnp
import pytest
from small_runs import metrics

from r2l_jax.config import TrainConfig
from r2l_jax.runtime.flags import build, flat
from r2l_jax.training import train
from r2l_jax.training.trained import load_runs

RUN = pathlib.Path(__file__).with_name("run_of_0_1")
METRICS = json.loads((RUN / "fold_0" / "metrics.json").read_text())


@pytest.mark.usefixtures("small_heads")
def test_a_run_of_version_0_1_is_loaded_and_scores_as_it_did(tmp_path):
    ((fold,),) = load_runs([str(RUN)], str(tmp_path))
    raws, targets = map(jnp.asarray, fold.dataset.samples(fold.fold.valid_indices))
    batch = {"raw": raws, "target": targets, "weight": jnp.ones(len(raws))}
    sums = fold.task.sums(fold.model(raws), batch)
    assert sums["loss"] / len(raws) == pytest.approx(METRICS["val_loss"], rel=1e-4)
    assert fold.task.score_of(sums["confusion"]) == pytest.approx(METRICS["val_accuracy"])
    assert fold.config.data.synthetic_images == 25


@pytest.mark.slow
@pytest.mark.usefixtures("small_heads")
def test_a_run_of_version_0_1_goes_on(tmp_path):
    shutil.copytree(RUN, tmp_path / "version_0_1" / "small")
    # The scenes are rendered on this machine, to other roundings.
    others = {name: value for name, value in METRICS.items() if name != "data"}
    (tmp_path / "version_0_1" / "small" / "fold_0" / "metrics.json").write_text(json.dumps(others))
    places = {"logdir": str(tmp_path), "data_dir": str(tmp_path / "data")}
    config = build(TrainConfig, METRICS["flags"], **places, epochs=2)
    train.run(config)
    assert metrics(config)["history"][0] == METRICS["history"][0]
    assert metrics(config)["complete"]
    load_runs([str(config.run_dir)])


def test_it_recorded_the_settings_that_runs_record_now_but_for_new_ones():
    assert set(flat(TrainConfig())) - set(METRICS["flags"]) == {
        *("keep_optimizer", "half_size", "optimizer", "weight_decay", "schedule", "warmup_epochs", "patience"),
        *("label_smoothing", "class_weights", "ema", "precision"),
    }
    assert set(METRICS["flags"]) <= set(flat(TrainConfig()))

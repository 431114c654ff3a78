import json

import numpy as np
import pytest
from small_runs import metrics

from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.drift.adjustment import learning
from r2l_jax.drift.adjustment.config import LearningConfig
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.flags import replace
from r2l_jax.training import train
from r2l_jax.training.record import training_id


@pytest.fixture(scope="module")
def trained(base):
    config = replace(base, run_name="two_folds", n_splits=2, augmentation="none")
    train.run(config)
    return config


@pytest.fixture(scope="module")
def config(trained, tmp_path_factory):
    return LearningConfig(
        run=str(trained.run_dir), output=str(tmp_path_factory.mktemp("adjustment")), target_score=0.01
    )


@pytest.fixture(scope="module")
def result(config):
    return learning.run(config)


def history(folder, fold):
    return json.loads((folder / f"fold_{fold}" / "metrics.json").read_text())["history"]


def test_curves_are_those_of_both_runs(config, trained, result):
    folders = {"learnt": trained.run_dir, "frozen": config.output_dir / "learning" / "frozen"}
    assert list(result["runs"]) == list(folders)
    for name, folder in folders.items():
        assert len(result["runs"][name]["folds"]) == 2
        for fold, curve in enumerate(result["runs"][name]["folds"]):
            rows = history(folder, fold)
            assert curve["scores"] == [row["val_accuracy"] for row in rows]
            np.testing.assert_allclose(curve["seconds"], np.cumsum([row["seconds"] for row in rows]))


def test_both_runs_have_the_same_splits(config, trained, result):
    for fold in range(2):
        ours, theirs = (
            json.loads((folder / f"fold_{fold}" / "metrics.json").read_text())["train_indices"]
            for folder in (trained.run_dir, config.output_dir / "learning" / "frozen")
        )
        assert ours == theirs


def test_parameters_are_those_learned_beside_the_cameras(result):
    gains = result["parameters"]["white_balance"]
    assert np.shape(gains["folds"]) == (2, 3)
    assert (np.array(gains["folds"]) != gains["camera"]).any()
    # Adam moves by the learning rate in a step at most, 8 of them.
    assert np.abs(np.subtract(gains["folds"], gains["camera"])).max() < 1.01 * 8 * 1e-3


@pytest.mark.parametrize(("target", "epochs", "seconds"), [(0.3, 2, 5.0), (0.2, 1, 2.0), (0.7, None, None)])
def test_the_first_epoch_that_reaches_the_target_counts(target, epochs, seconds):
    rows = [
        {"epoch": 0, "seconds": 2.0, "val_iou": 0.2},
        {"epoch": 1, "seconds": 3.0, "val_iou": 0.6},
        {"epoch": 2, "seconds": 1.0},
        {"epoch": 3, "seconds": 1.0, "val_iou": 0.3},
    ]
    curve = learning.curve(rows, "val_iou", target)
    assert curve["epochs"] == [1, 2, 4]
    assert curve["seconds"] == [2.0, 5.0, 7.0]
    assert (curve["epochs_to_target"], curve["seconds_to_target"]) == (epochs, seconds)


def test_a_finished_counterpart_is_not_trained_again(trained, config, result):
    file = config.output_dir / "learning/frozen/fold_0/metrics.json"
    before = file.stat().st_mtime_ns
    assert learning.run(config)["runs"] == result["runs"]
    assert file.stat().st_mtime_ns == before
    written = json.loads((config.output_dir / "learning.json").read_text())
    assert written["parameters"] == result["parameters"]
    assert written["training"] == {f"{fold}": training_id(metrics(trained, fold)) for fold in range(2)}
    assert (config.output_dir / "learning" / "learning_curves.png").exists()


@pytest.mark.slow
def test_the_frozen_run_can_be_the_one_that_is_given(config, result, tmp_path):
    frozen = replace(config, run=str(config.output_dir / "learning/frozen"), output=str(tmp_path))
    other = learning.run(frozen)
    assert [fold["scores"] for fold in other["runs"]["frozen"]["folds"]] == [
        fold["scores"] for fold in result["runs"]["frozen"]["folds"]
    ]
    # The same flags and seed train the same run, but for the time that it takes.
    assert other["parameters"] == result["parameters"]


def test_a_counterpart_of_other_code_or_settings_is_trained_anew(config, result, monkeypatch, capsys):
    file = config.output_dir / "learning/frozen/fold_0/metrics.json"
    before, anew = file.read_text(), []
    monkeypatch.setattr(learning.train, "run", lambda counterpart: anew.append(counterpart.tracking.overwrite))
    learning.run(config)
    file.write_text(json.dumps(json.loads(before) | {"made_by": [{"source": "other"}]}))
    learning.run(config)
    assert "learning/frozen: made anew (different source code or another version of JAX" in capsys.readouterr().err
    content = json.loads(before)
    file.write_text(json.dumps(content | {"flags": content["flags"] | {"lr": 1.0}}))
    learning.run(config)
    assert "learning/frozen: made anew (lr was 1.0, is 0.001)" in capsys.readouterr().err
    file.write_text(before)
    assert anew == [False, True, True]


def test_refuses_a_run_of_other_data(config, trained, monkeypatch):
    content = json.loads((trained.run_dir / "fold_0/metrics.json").read_text())
    monkeypatch.setattr(RawDataset, "content", "other")
    assert content["data"] != "other"
    with pytest.raises(InputError, match=r"was trained on other data \(the data has changed\): what is trained"):
        learning.run(config)


def test_refuses_a_fold_and_what_is_not_learned(base, trained, config):
    with pytest.raises(InputError, match="fold_0 is one fold: the whole run is compared"):
        learning.run(replace(config, run=str(trained.run_dir / "fold_0")))
    with pytest.raises(InputError, match=r"--target_score must be in \(0, 1\], got 2.0"):
        replace(config, target_score=2.0)
    static = replace(base, run_name="static", processing_mode="static", epochs=1)
    train.run(static)
    with pytest.raises(InputError, match="with --processing_mode=static; learning is compared for --processing_mode=p"):
        learning.run(replace(config, run=str(static.run_dir)))

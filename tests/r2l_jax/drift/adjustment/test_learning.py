import dataclasses
import json
import shutil

import numpy as np
import pytest
from small_runs import metrics

from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.drift import statistics
from r2l_jax.drift.adjustment import learning
from r2l_jax.drift.adjustment.config import LearningConfig
from r2l_jax.drift.results import Estimate, plain
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.files import write_json
from r2l_jax.runtime.flags import flat, replace
from r2l_jax.training.record import training_id
from r2l_jax.training.run import Run


@pytest.fixture(scope="module")
def config(one_epoch, tmp_path_factory):
    output = tmp_path_factory.mktemp("adjustment")
    return LearningConfig(run=str(one_epoch.run_dir), output=str(output), target_score=0.01)


@pytest.fixture(scope="module")
def trained(one_epoch):
    """The counterparts that were trained; each is a copy of the run, a little worse."""
    counterparts = []

    def train(counterpart):
        counterparts.append(counterpart)
        shutil.copytree(one_epoch.run_dir, counterpart.run_dir, dirs_exist_ok=True)
        content = metrics(one_epoch)
        content["history"][0]["val_accuracy"] -= 0.05
        write_json(counterpart.run_dir / "fold_0/metrics.json", content | {"flags": flat(counterpart)})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning.train, "run", train)
        yield counterparts


@pytest.fixture(scope="module")
def result(config, trained):
    return learning.run(config)


def test_a_run_is_compared_with_its_counterpart(config, one_epoch, result, trained):
    (counterpart,) = trained
    where = {"logdir": config.output, "experiment_name": "learning", "run_name": "frozen"}
    assert flat(counterpart) == {**flat(one_epoch), **where, "freeze_processor": True}
    assert list(result["runs"]) == ["learnt", "frozen"]
    (row,) = metrics(one_epoch)["history"]
    for name, loss in (("learnt", 0), ("frozen", 0.05)):
        (curve,) = result["runs"][name]["folds"]
        assert curve["scores"] == pytest.approx([row["val_accuracy"] - loss])
        assert curve["seconds"] == [row["seconds"]]
        assert curve["epochs_to_target"] == 1


@pytest.fixture
def outcomes(monkeypatch):
    """Gives the learned run of each seed, from 1 on, other outcomes than the fixed one."""
    learned = np.array([[1, 1, 1, 0, 1, 1, 0, 1], [1, 1, 1, 1, 1, 1, 0, 1.0]])
    fixed = np.array([[1, 0, 1, 0, 1, 1, 0, 0], [1, 1, 1, 0, 0, 1, 0, 0.0]])

    def of(folds):
        folder = str(folds[0].folder)
        return (fixed if "/learning/" in folder else learned)[int("seed_2" in folder)]

    monkeypatch.setattr(learning, "own_outcomes", of)
    return learned - fixed


def test_the_difference_is_paired_by_sample(config, result, outcomes, capsys):
    again = learning.run(config)
    found = statistics.interval(outcomes[:1], "model")
    assert again["difference"] == pytest.approx(found._asdict())
    assert (again["about"], again["measured"], again["samples"]) == ("model", "validation samples", 8)
    assert f"learned minus fixed, in points: 25.0 ({100 * found.low:.1f} to " in capsys.readouterr().out


def test_members_of_a_group_are_paired_with_their_counterparts(one_epoch, trained, outcomes, tmp_path, capsys):
    for seed in (1, 2):
        shutil.copytree(one_epoch.run_dir, tmp_path / f"two/seed_{seed}")
    trained.clear()
    compared = learning.run(LearningConfig(run=str(tmp_path / "two")))
    assert [str(each.run_dir) for each in trained] == [
        f"{tmp_path}/two/seed_{seed}/adjustment/learning/frozen" for seed in (1, 2)
    ]
    assert compared["difference"] == pytest.approx(plain(Estimate.of(statistics.interval(outcomes, "recipe"), -1.0)))
    assert (compared["about"], compared["members"]) == ("recipe", ["seed_1", "seed_2"])
    assert [len(run["folds"]) for run in compared["runs"].values()] == [2, 2]
    assert list(compared["training"]) == ["seed_1/0", "seed_2/0"]
    own = json.loads((tmp_path / "two/seed_2/adjustment/learning.json").read_text())
    assert own["difference"] == pytest.approx(plain(Estimate.of(statistics.interval(outcomes[1:], "model"), -1.0)))
    assert "about the recipe (2 trainings, 8 validation samples)" in capsys.readouterr().out


def test_parameters_are_those_learned_beside_the_cameras(result):
    gains = result["parameters"]["white_balance"]
    assert np.shape(gains["folds"]) == (1, 3)
    assert (np.array(gains["folds"]) != gains["camera"]).any()
    # Adam moves by the learning rate in a step at most, 4 of them.
    assert np.abs(np.subtract(gains["folds"], gains["camera"])).max() < 1.01 * 4 * 1e-3


@pytest.mark.parametrize(("target", "epochs", "seconds"), [(0.3, 2, 5.0), (0.2, 1, 2.0), (0.7, None, None)])
def test_the_first_epoch_that_reaches_the_target_counts(target, epochs, seconds):
    rows = [
        {"epoch": 0, "seconds": 2.0, "val_iou": 0.2},
        {"epoch": 1, "seconds": 3.0, "val_iou": 0.6},
        {"epoch": 2, "seconds": 1.0},
        {"epoch": 3, "seconds": 1.0, "val_iou": 0.3},
    ]
    curve = learning.curve(rows, "val_iou", target)
    assert (curve.epochs, curve.seconds, curve.scores) == ([1, 2, 4], [2.0, 5.0, 7.0], [0.2, 0.6, 0.3])
    assert (curve.epochs_to_target, curve.seconds_to_target) == (epochs, seconds)


def test_files_hold_the_comparison(one_epoch, config, result):
    written = json.loads((config.output_dir / "learning.json").read_text())
    assert written["parameters"] == result["parameters"]
    assert written["training"] == {"0": training_id(metrics(one_epoch))}
    assert (config.output_dir / "learning" / "learning_curves.png").exists()


def test_the_frozen_run_can_be_the_one_that_is_given(config, result, trained, tmp_path):
    other = learning.run(replace(config, run=str(config.output_dir / "learning/frozen"), output=str(tmp_path)))
    assert (trained[-1].tracking.run_name, trained[-1].processing.freeze_processor) == ("learnt", False)
    assert other["runs"]["frozen"] == result["runs"]["frozen"]


def test_a_counterpart_of_other_code_or_settings_is_trained_anew(config, result, trained, capsys):
    file = config.output_dir / "learning/frozen/fold_0/metrics.json"
    trained.clear()
    learning.run(config)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"made_by": [{"source": "other"}]}))
    learning.run(config)
    assert "learning/frozen: made anew (different source code or another version of JAX" in capsys.readouterr().err
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"flags": content["flags"] | {"lr": 1.0}}))
    learning.run(config)
    assert "learning/frozen: made anew (lr was 1.0, is 0.001)" in capsys.readouterr().err
    # Training is called for finished runs as well, and leaves them alone.
    assert [counterpart.tracking.overwrite for counterpart in trained] == [False, True, True]


def test_refuses_a_run_of_other_data(config, one_epoch, monkeypatch):
    monkeypatch.setattr(RawDataset, "content", "other")
    assert metrics(one_epoch)["data"] != "other"
    with pytest.raises(InputError, match=r"was trained on other data \(the data has changed\): what is trained"):
        learning.run(config)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"processing_mode": "static"}, "with --processing_mode=static; learning is compared for --processing_mode=p"),
        ({"freeze_classifier": True}, "--freeze_classifier: with both fixed nothing is trained"),
    ],
)
def test_refuses_a_run_that_is_not_learned(one_epoch, config, monkeypatch, flags, message):
    load = learning.load

    def other(*arguments, **given):
        run = load(*arguments, **given)
        return Run([dataclasses.replace(fold, config=replace(fold.config, **flags)) for fold in run.folds])

    monkeypatch.setattr(learning, "load", other)
    with pytest.raises(InputError, match=message):
        learning.run(config)


def test_refuses_a_fold_and_a_score_that_nobody_reaches(one_epoch, config):
    with pytest.raises(InputError, match="fold_0 is one fold: the whole run is compared"):
        learning.run(replace(config, run=str(one_epoch.run_dir / "fold_0")))
    with pytest.raises(InputError, match=r"--target_score must be in \(0, 1\], got 2.0"):
        replace(config, target_score=2.0)

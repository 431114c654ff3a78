"""A trained PyTorch network in every program, beside the same network in JAX."""

import json

import custom_code
import jax
import numpy as np
import pytest
from small_runs import metrics, model

import r2l_jax
from r2l_jax.apps.report.page import make_page
from r2l_jax.apps.report.runs import read_runs
from r2l_jax.cli.flags import build, replace
from r2l_jax.drift.adjustment import drifts
from r2l_jax.drift.adjustment.config import AdjustmentConfig
from r2l_jax.errors import InputError
from r2l_jax.model import heads
from r2l_jax.model.settings import NetworkSettings
from r2l_jax.programs import export
from r2l_jax.training import train
from r2l_jax.training.run import load

torch = pytest.importorskip("torch")


# The head of a run, in PyTorch.
CODE = """
import torch
from safetensors.torch import load_file
import r2l_jax

ARRAYS = load_file({file!r})

def module():
    bn = torch.nn.BatchNorm2d(8)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, 2, 1, bias=False), bn, torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 5),
    )
    net[0].weight.data = ARRAYS["head.conv1.kernel"].permute(3, 2, 0, 1).contiguous()
    names = dict(weight="scale", bias="bias", running_mean="mean", running_var="var")
    bn.load_state_dict({{name: ARRAYS["head.bn1." + ours] for name, ours in names.items()}}, strict=False)
    net[5].weight.data, net[5].bias.data = ARRAYS["head.fc.kernel"].T.contiguous(), ARRAYS["head.fc.bias"]
    return net.eval()

def make():
    mean, variance = ARRAYS["normalizer.mean"], ARRAYS["normalizer.var"]
    return r2l_jax.from_torch(module(), mean.tolist(), (variance + 1e-5).sqrt().tolist())
"""


@pytest.fixture(scope="module")
def file(one_epoch, tmp_path_factory):
    file = tmp_path_factory.mktemp("own") / "my_network.py"
    custom_code.write(file, CODE.format(file=str(one_epoch.run_dir / "fold_0/model.safetensors")))
    return file


@pytest.fixture(scope="module")
def taken(one_epoch, file, base):
    """The network taken as it is, with the processing of the run that it comes from."""
    config = replace(
        one_epoch,
        logdir=base.tracking.logdir,
        run_name="taken",
        epochs=0,
        classifier_network=f"{file}:make",
        processor_uri=str(one_epoch.run_dir),
        state_dict_uri=str(one_epoch.run_dir),
    )
    train.run(config)
    return config


def test_a_network_that_is_taken_as_it_is_scores_as_the_same_one_in_jax(taken, one_epoch):
    content, ours = metrics(taken), metrics(one_epoch)
    assert (content["complete"], len(content["history"]), content["best_epoch"]) == (True, 1, 0)
    assert content["val_loss"] == pytest.approx(ours["val_loss"], rel=1e-5)
    assert content["val_confusion_matrix"] == ours["val_confusion_matrix"]
    arrays, trained = model(taken), model(one_epoch)
    assert not [name for name in arrays if name.startswith("head.")]
    np.testing.assert_allclose(arrays["normalizer.mean"], trained["normalizer.mean"], rtol=1e-6)
    np.testing.assert_array_equal(arrays["processor.black_level"], trained["processor.black_level"])


def test_a_second_call_changes_nothing_and_it_is_never_trained_on(taken):
    before = metrics(taken)
    train.run(taken)
    assert metrics(taken) == before
    with pytest.raises(InputError, match=r"is a different run .*epochs was 0, is 2"):
        train.run(replace(taken, epochs=2, freeze_classifier=True))


def test_export_leaves_the_network_to_its_own_program(taken, file, tmp_path, capsys):
    run = {"run": str(taken.run_dir), "code": (f"{file}:make",), "output": str(tmp_path)}
    with pytest.raises(InputError, match="`parts=whole`: this model can be exported only as isp"):
        export.main(build(export.ExportConfig, **run, parts=("whole",), formats=["stablehlo"]))
    assert export.main(build(export.ExportConfig, **run, formats=["safetensors"])) == 0
    assert "export the network with its own framework; its input is (image - mean) / " in capsys.readouterr().out
    kept = json.loads((tmp_path / "model.json").read_text())["normalization"]
    np.testing.assert_allclose(kept["mean"], model(taken)["normalizer.mean"])


def test_the_processing_is_learned_for_it(base, file):
    learning = {
        "freeze_classifier": True,
        "camera_augmentation": ("light",),
        "lr": 0.01,
        "save_locally": True,
        "epochs": 4,
    }
    config = replace(base, run_name="learned", classifier_network=f"{file}:make", **learning)
    train.run(config)
    history = metrics(config)["history"]
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    for value in model(config).values():
        assert np.isfinite(value).all()


def test_a_frozen_network_is_not_trained(base, file):
    config = replace(base, run_name="wrong", classifier_network=f"{file}:make")
    with pytest.raises(InputError, match=r"is a frozen network: add `freeze_classifier` to"):
        train.run(config)


def test_other_weights_are_another_network(base, file, tmp_path):
    code = file.read_text() + (
        "\nimport pathlib\ndef weighted():\n    net = module()\n"
        f"    net[5].bias.data += float(pathlib.Path({str(tmp_path / 'number')!r}).read_text())\n    return net\n"
    )
    other = custom_code.write(tmp_path / "my_network.py", code, "weighted")
    (tmp_path / "number").write_text("0")
    config = replace(base, run_name="weighted", epochs=0, classifier_network=other)
    train.run(config)
    (tmp_path / "number").write_text("1")
    heads.made_once.cache_clear()  # as in a new process
    with pytest.raises(InputError, match=r"the weights or code of `classifier_network=.*:weighted` have changed since"):
        r2l_jax.load(config.run_dir, code=other)


def test_all_images_are_scored_and_nothing_speaks_of_a_training(taken, file, tmp_path):
    config = replace(taken, logdir=str(tmp_path), state_dict_uri=None)
    summary = train.run(config)
    content = metrics(config)
    assert content["test_indices"] == list(range(40))
    assert np.sum(content["val_confusion_matrix"]) == 40
    assert summary["val_accuracy"]["mean"] == pytest.approx(np.trace(content["val_confusion_matrix"]) / 40)
    assert not [name for name in summary if "train" in name]
    runs = read_runs([str(config.run_dir)])
    assert runs[0].folds[0].epochs == 0
    assert "Losses and scores by epoch" not in make_page(runs)
    # Half of them are left to measure an adaptation.
    run = load(config.run_dir, code=f"{file}:make")
    settings = build(AdjustmentConfig, run=str(config.run_dir), intensities=(0.25,), unlabeled=64, labeled=8)
    found = drifts.drifted(settings, run.folds[0], *settings.drifts)
    assert len(found.unlabeled) == 20
    assert sorted([*found.unlabeled, *found.samples]) == list(range(40))


def test_several_devices_are_refused(file, monkeypatch):
    head = heads.find_head(build(NetworkSettings, classifier_network=f"{file}:make"), tuple("abcde"))
    heads.made_once.cache_clear()
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    with pytest.raises(InputError, match="is not a JAX network and needs a single device, found 2: select"):
        head.weights(5)

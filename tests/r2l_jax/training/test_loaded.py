import json
import pathlib
import shutil
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import own_code
import pytest
from small_runs import metrics

import r2l_jax
from r2l_jax.data.sets import datasets
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.flags import replace
from r2l_jax.training import train, trained

RUN_OF_0_1 = pathlib.Path(__file__).with_name("run_of_0_1")


@pytest.fixture(scope="module")
def model(one_epoch):
    return r2l_jax.load(one_epoch.run_dir)


@pytest.fixture(scope="module")
def fold(one_epoch):
    ((fold,),) = trained.load_runs([str(one_epoch.run_dir)])
    return fold


@pytest.fixture(scope="module")
def samples(fold):
    return fold.dataset.samples(fold.fold.valid_indices)


def test_it_needs_the_run_s_folder_alone(one_epoch, tmp_path, monkeypatch, model, samples):
    shutil.copytree(one_epoch.run_dir, tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "load", None)
    moved = r2l_jax.load("elsewhere", fold=0, checkpoint="best")
    raws, _ = samples
    np.testing.assert_array_equal(moved.predict(raws), model.predict(raws))
    assert moved.identity == model.identity


def test_it_predicts_as_the_run_was_validated(model, samples, one_epoch):
    raws, targets = samples
    probabilities = model.predict(raws)
    assert probabilities.shape == (len(raws), len(model.classes))
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)
    assert (probabilities.argmax(-1) == targets).mean() == pytest.approx(metrics(one_epoch)["val_accuracy"])
    assert model.score == metrics(one_epoch)["best_val_accuracy"]
    assert (model.task, model.shape, model.multiple) == ("classification", (32, 32), 1)


def test_it_renders_and_traces_by_what_was_learned(model, fold, samples):
    raws, _ = samples
    expected, stages = fold.model.processor.trace(raws)
    np.testing.assert_allclose(model.render(raws), expected, atol=1e-5)
    traced = model.trace(raws[0])
    assert list(traced) == list(stages) == list(model.pipeline.stage_names)
    np.testing.assert_allclose(traced["demosaic"], stages["demosaic"][0], atol=1e-5)
    assert model.camera == fold.dataset.camera
    assert model.classes == fold.dataset.classes


def test_results_depend_neither_on_batches_nor_on_leading_axes(model, samples):
    raws, _ = samples
    whole = model.predict(raws)
    np.testing.assert_allclose(model.predict(raws, batch_size=3), whole, atol=1e-6)
    np.testing.assert_allclose(model.predict(raws[:6].reshape(2, 3, 32, 32)), whole[:6].reshape(2, 3, -1), atol=1e-6)
    assert model.render(raws[0]).shape == (32, 32, 3)


def test_the_last_state_differs_from_the_best(base):
    config = replace(base, run_name="two_states", epochs=3, lr=1e-2, optimizer="sgd", processing_mode="static")
    train.run(config)
    rows, best = metrics(config)["history"], metrics(config)["best_epoch"]
    last, chosen = (r2l_jax.load(config.run_dir, checkpoint=which) for which in ("last", "best"))
    assert (last.score, chosen.score) == (rows[-1]["val_accuracy"], rows[best]["val_accuracy"])
    assert (last.about.epoch, chosen.about.epoch) == (2, best)
    assert (last.identity == chosen.identity) == (best == 2)


@pytest.mark.usefixtures("small_heads")
def test_a_run_of_version_0_1_is_loaded_without_what_it_did_not_record():
    model = r2l_jax.load(RUN_OF_0_1)
    assert (model.task, model.shape) == ("classification", (32, 32))
    assert model.classes == ("BAS", "EOS", "LYT", "MON", "NGS")
    assert model.predict(np.full((2, 32, 32), 0.5, np.float32)).shape == (2, 5)
    with pytest.raises(InputError, match="holds no last checkpoint"):
        r2l_jax.load(RUN_OF_0_1, checkpoint="last")


def test_masks_have_the_size_of_mosaics(base):
    config = replace(base, dataset="SyntheticSegmentation", run_name="masks", epochs=1)
    train.run(config)
    model = r2l_jax.load(config.run_dir)
    ((fold,),) = trained.load_runs([str(config.run_dir)])
    raws, masks = fold.dataset.samples(fold.fold.valid_indices)
    found = model.predict(raws)
    assert (model.task, found.shape, model.multiple) == ("segmentation", masks.shape, 32)
    assert model.score == metrics(config)["best_val_iou"]
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-np.asarray(fold.model(jnp.asarray(raws))[..., 0]))), atol=1e-5)
    with pytest.raises(InputError, match="height and width must be multiples of 32 for this model, got 16x32"):
        model.predict(raws[:, :16])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"complete": False}, "is not trained to its end"),
        ({"camera": {"black_level": 3}}, "its metrics.json has no camera: "),
        ({"task": "detection"}, "is not what a run of this program writes"),
        ({"classes": []}, "its metrics.json has no classes"),
        ({"classes": ["one", "two"]}, r"does not fit this run: its head has fc.bias \(5,\), this run's \(2,\)"),
        ({"best_epoch": "x"}, "its metrics.json has"),
        ({"best_val_accuracy": None}, "its metrics.json has"),
        ({"shape": [0, 1]}, "is not what a run of this program writes"),
    ],
)
def test_damage_is_one_line(one_epoch, tmp_path, change, message):
    shutil.copytree(one_epoch.run_dir, tmp_path / "run")
    (tmp_path / "run/fold_0/metrics.json").write_text(json.dumps(metrics(one_epoch) | change))
    with pytest.raises(InputError, match=message) as error:
        r2l_jax.load(tmp_path / "run")
    assert "\n" not in str(error.value)


def test_wrong_arguments_are_named(one_epoch, model):
    with pytest.raises(InputError, match=r"^nowhere is no run's folder with a fold_0: not found$"):
        r2l_jax.load("nowhere")
    with pytest.raises(InputError, match=r"is no run's folder with a fold_3: it has fold_0$"):
        r2l_jax.load(one_epoch.run_dir, fold=3)
    with pytest.raises(InputError, match=r"^checkpoint must be one of best, last, got 'first'$"):
        r2l_jax.load(one_epoch.run_dir, checkpoint="first")
    with pytest.raises(InputError, match=r"^expected mosaics \(..., H, W\), got an array of shape \(3,\)$"):
        model.render(np.zeros(3, np.float32))


OWN = """
import isp
def make(camera):
    return isp.parametrized(camera).without("gaussian")
"""


def test_a_pipeline_from_a_file_must_be_as_recorded(base, tmp_path):
    file = tmp_path / "my_isp.py"
    name = own_code.write(file, OWN)
    config = replace(base, run_name="own", processing_mode=None, pipeline=name, epochs=1)
    train.run(config)
    assert "gaussian" not in r2l_jax.load(config.run_dir).pipeline.stage_names
    file.write_text(OWN + "\n")
    with pytest.raises(InputError, match=r"if you have the earlier file, name it by pipeline=<file>.py:make$"):
        r2l_jax.load(config.run_dir)
    (tmp_path / "moved.py").write_text(OWN)
    assert r2l_jax.load(config.run_dir, pipeline=f"{tmp_path}/moved.py:make").pipeline is not None


def test_importing_the_package_imports_nothing_of_it():
    code = "import sys, r2l_jax; print(any(name.startswith('r2l_jax.') for name in sys.modules), r2l_jax.load.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False load\n"

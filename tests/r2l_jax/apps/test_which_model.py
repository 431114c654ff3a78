"""Programs that take a fold and a checkpoint use that model, told by its losses in the run's own history."""

import dataclasses
import shutil

import numpy as np
import pickled_jobs
import pytest
import tifffile
from programs import call
from small_runs import metrics

import r2l_jax
from r2l_jax import jobs
from r2l_jax.apps import monitor
from r2l_jax.apps.lab import lab
from r2l_jax.apps.lab.lab import make_lab
from r2l_jax.cli.flags import replace
from r2l_jax.drift import trained_folds
from r2l_jax.errors import InputError
from r2l_jax.programs import export, predict, process
from r2l_jax.results import result
from r2l_jax.results.files import read_csv
from r2l_jax.training import run as training_run
from r2l_jax.training import train
from r2l_jax.training.run import Run, load


@pytest.fixture(scope="module")
def run(base):
    """A run of two folds whose first epoch is the best one."""
    config = replace(base, run_name="first_is_best", n_splits=2, save_locally=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.FoldTraining, "_quality", lambda _, row: [-float(row["epoch"]), 0.0, 0.0])
        train.run(config)
    return config


@pytest.fixture(scope="module")
def folds(run):
    return load(run.run_dir, None).folds


# A program that ignored the fold or the checkpoint would be wrong in one of these.
NAMED = pytest.mark.parametrize(("fold", "checkpoint"), [(0, "best"), (1, "last")])


def losses(run, fold):
    """The validation losses of a fold's best and last epochs, as training has recorded them."""
    first, last = (row["val_loss"] for row in metrics(run, fold)["history"])
    return {"best": first, "last": last}


# Where each program looks a run up, and the flags that it needs besides.
OPENED = {
    "evaluate": (trained_folds, None, []),
    "forensics": (trained_folds, None, []),
    "adjust": (trained_folds, None, ["--exposures=0.5"]),
    "monitor": (monitor, 0, []),
    "lab": (lab, 0, []),
    "export": (training_run, 1, ["--output=out", "--fold=1"]),
    "process": (training_run, 0, ["--input=0.tiff", "--output=out"]),
    "predict": (training_run, [0, 1], ["--input=0.tiff", "--output=p.csv", "--folds=0,1"]),
}


@pytest.mark.shows(
    "evaluate --checkpoint --data_dir --code",
    "forensics --run --checkpoint --data_dir --code",
    "adjust --run --checkpoint --data_dir --code",
    "monitor --checkpoint --data_dir --code",
    "lab --run --checkpoint --data_dir --code",
    "export --run --checkpoint --data_dir --code",
    "process --code",
    "predict --code",
)
@pytest.mark.parametrize("name", OPENED)
def test_a_run_is_opened_as_the_flags_say(run, tmp_path, monkeypatch, name):
    """Each program passes its flags on to `load`, which has tests of its own."""
    if name == "lab":
        pytest.importorskip("nicegui")
    module, fold, more = OPENED[name]
    seen = []

    def opened(*given, **_):
        seen.append(given)
        raise InputError("enough")

    monkeypatch.setattr(module, "load", opened)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "0.tiff").touch()
    flags = [f"--run={run.run_dir}", "--checkpoint=last", "--code=a.py:make"]
    flags += ["--data_dir=moved"] * (name not in ("process", "predict"))
    assert call(f"{name}.py", *flags, *more).stderr.splitlines()[-1] == f"{name}.py: error: enough"
    ((uri, *given),) = seen
    moved = ["moved"] * (name not in ("process", "predict"))
    assert (str(uri), *given) == (str(run.run_dir), fold, "last", ("a.py:make",), *moved)


@pytest.mark.shows("export --fold")
@NAMED
def test_the_fold_and_checkpoint_that_are_named_are_exported(run, folds, tmp_path, fold, checkpoint):
    settings = {"run": str(run.run_dir), "fold": fold, "checkpoint": checkpoint, "formats": ("safetensors",)}
    assert export.main(export.ExportConfig(output=str(tmp_path / "out"), **settings)) == 0
    raws, labels = folds[fold].dataset.samples(folds[fold].split.valid)
    model = r2l_jax.load(tmp_path / "out" / "model.safetensors", checkpoint=checkpoint)
    right = model.predict(raws)[np.arange(len(labels)), labels]
    assert -np.log(right).mean() == pytest.approx(losses(run, fold)[checkpoint], abs=1e-4)


@pytest.mark.shows("process --checkpoint")
@pytest.mark.parametrize("checkpoint", ["best", "last"])
def test_files_are_rendered_by_the_checkpoint_that_is_named(run, folds, tmp_path, checkpoint):
    settings = {"run": str(run.run_dir), "checkpoint": checkpoint, "output": str(tmp_path / "out")}
    assert process.main(process.RenderConfig(input=(str(folds[0].dataset.files[0][0]),), **settings)) == 0
    (picture,) = (tmp_path / "out").glob("*.tiff")
    raws, _ = folds[0].dataset.samples(np.arange(1))
    found = tifffile.imread(picture) / 65535
    apart = {each: np.abs(load(run.run_dir, 0, each).render(raws)[0] - found).max() for each in ("best", "last")}
    assert apart.pop(checkpoint) < 1e-4
    assert min(apart.values()) > 1e-3


def predicted(dataset, indices, tmp_path, **settings):
    """Predicts the files of samples by the program; returns their probabilities."""
    files = [str(dataset.files[index][0]) for index in indices]
    config = predict.PredictionConfig(input=tuple(files), output=str(tmp_path / "p.csv"), **settings)
    assert predict.main(config) == 0
    rows = {row["file"]: [float(row[name]) for name in dataset.classes] for row in read_csv(tmp_path / "p.csv")}
    return np.array([rows[file] for file in files])


@pytest.mark.shows(
    "predict --run --input --output --folds --checkpoint", "apps.predict keys: camera, checkpoint, masks, models, run"
)
@NAMED
def test_files_are_predicted_by_the_fold_and_checkpoint_that_are_named(run, folds, tmp_path, fold, checkpoint):
    dataset, indices = folds[fold].dataset, folds[fold].split.valid
    settings = {"run": str(run.run_dir), "folds": (str(fold),), "checkpoint": checkpoint}
    probabilities = predicted(dataset, indices, tmp_path, **settings)
    about = result.read(tmp_path / ".p.csv.parts").metadata
    identity = load(run.run_dir, fold, checkpoint).identity
    assert about == {"run": "first_is_best", "checkpoint": checkpoint, "models": [identity], "masks": []} | {
        "camera": "by default"
    }
    right = probabilities[np.arange(len(indices)), dataset.labels[indices]]
    assert -np.log(right).mean() == pytest.approx(losses(run, fold)[checkpoint], abs=1e-4)


@pytest.mark.shows("predict --camera --scheduler")
def test_files_are_predicted_by_the_camera_that_is_named_and_by_the_workers(run, folds, tmp_path, monkeypatch):
    """Files from a camera whose black level is higher by a fifth of the rest."""
    (model,), seen = load(run.run_dir), []
    raws, _ = model.dataset.samples(np.arange(3))
    camera = dataclasses.replace(model.camera, black_level=[0.2 + 0.8 * each for each in model.camera.black_level])
    (tmp_path / "other.json").write_text(camera.to_json())
    for number, raw in enumerate(raws):
        tifffile.imwrite(tmp_path / f"{number}.tiff", np.round((0.2 + 0.8 * raw) * 65535).astype(np.uint16))

    def run_elsewhere(given, scheduler, *rest):
        seen.append(scheduler)
        return pickled_jobs.run_elsewhere(given, scheduler, *rest)

    monkeypatch.setattr(jobs, "prepare", lambda scheduler: None)
    monkeypatch.setattr(jobs, "run_elsewhere", run_elsewhere)
    flags = [f"--run={run.run_dir}", f"--input={tmp_path}", f"--output={tmp_path}/p.csv"]
    done = call("predict.py", *flags, f"--camera={tmp_path}/other.json", "--scheduler=local:2")
    assert (done.returncode, {*seen}) == (0, {"local:2"}), done.stderr
    found = [[float(row[name]) for name in model.dataset.classes] for row in read_csv(tmp_path / "p.csv")]
    np.testing.assert_allclose(found, Run([model]).predict(raws), atol=1e-3)
    assert np.abs(Run([model]).predict(0.2 + 0.8 * raws) - found).max() > 0.01


@pytest.fixture(scope="module")
def group(run, tmp_path_factory):
    """A group of two seeds, the folds of the run."""
    folder = tmp_path_factory.mktemp("runs") / "group"
    for seed, fold in ((1, 0), (2, 1)):
        shutil.copytree(run.run_dir / f"fold_{fold}", folder / f"seed_{seed}/fold_0")
    return folder


@pytest.mark.shows("r2l_jax.load(fold)")
def test_a_group_predicts_files_together(group, run, folds, tmp_path, capsys):
    found = predicted(folds[0].dataset, range(3), tmp_path, run=str(group))
    assert f"{group}: the best checkpoint of 2 runs\n" in capsys.readouterr().out
    raws, _ = folds[0].dataset.samples(np.arange(3))
    expected = np.mean([r2l_jax.load(run.run_dir, fold=fold).predict(raws) for fold in range(2)], axis=0)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_files_are_rendered_and_shown_by_the_first_of_a_group(group, folds, tmp_path, capsys):
    settings = {"run": str(group), "input": (str(folds[0].dataset.files[0][0]),), "output": str(tmp_path / "out")}
    assert process.main(process.RenderConfig(**settings)) == 0
    assert f"{group}/seed_1: the best checkpoint\n" in capsys.readouterr().out
    assert folds[0].identity[:12] in (tmp_path / "out/result.json").read_text()
    lab = make_lab(str(group), "best", None, (), None, None)
    assert [fold.identity for fold in lab.model.folds] == [folds[0].identity]
    assert lab.title.startswith(f"{group}/seed_1, best checkpoint")


@pytest.mark.parametrize("folds", [("0", "0"), ("a",), ("all", "0"), ("-1",), ()])
def test_folds_are_all_or_different_numbers(folds):
    said = f"`folds` must be all, or different fold numbers, got {','.join(folds)}"
    with pytest.raises(InputError, match=f"^{said}$"):
        predict.PredictionConfig(run="r", input=("x",), output="p.csv", folds=folds)

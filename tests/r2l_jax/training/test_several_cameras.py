"""Runs of several cameras."""

import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest
import two_cameras
from small_runs import metrics
from two_cameras import CAMERAS, FAR, NEAR

import isp
import r2l_jax
from r2l_jax.apps.export.description import learned_camera
from r2l_jax.apps.predict import predict_files
from r2l_jax.data.files.known_camera import KnownCamera
from r2l_jax.drift.forensics import forensics
from r2l_jax.drift.forensics.config import ForensicsConfig
from r2l_jax.drift.synthesis import evaluation
from r2l_jax.drift.synthesis.config import EvaluationConfig
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.flags import build, replace
from r2l_jax.training import train
from r2l_jax.training.plan import Plan
from r2l_jax.training.run import open_runs
from r2l_jax.training.steps import make_steps
from r2l_jax.training.update import GradientDescent


@pytest.fixture(scope="module")
def several(base, tmp_path_factory):
    """A finished run of two cameras, which take the same scenes."""
    root = two_cameras.write(tmp_path_factory.mktemp("cells") / "cells")
    folder = {"dataset": "Folder", "data_dir": str(root), "camera": "auto"}
    config = replace(
        base,
        run_name="cameras",
        synthetic_images=None,
        synthetic_size=None,
        camera_augmentation="weak",
        lr=3e-2,
        epochs=1,
        save_locally=True,
        track=("predictions", "processing"),
        **folder,
    )
    train.run(config)
    return config


@pytest.fixture(scope="module")
def model(several):
    return r2l_jax.load(several.run_dir)


def test_one_compiled_step_serves_all_mixtures_of_cameras(several):
    steps = make_steps(Plan(several).steps, GradientDescent)
    assert (steps._train._cache_size(), steps._retake._cache_size(), steps._process._cache_size()) == (1, 1, 1)


def test_a_run_records_its_cameras_and_resumes(several):
    found = metrics(several)
    assert {name: isp.Camera(**fields) for name, fields in found["cameras"]["each"].items()} == CAMERAS
    assert found["camera"] == found["cameras"]["each"]["far"]
    # The same command finds the run finished.
    before = found["history"]
    train.run(several)
    assert metrics(several)["history"] == before


def test_another_value_of_a_camera_makes_other_data(several, tmp_path):
    moved = tmp_path / "cells"
    shutil.copytree(several.data.data_dir, moved)
    Plan(replace(several, data_dir=str(moved))).check_folders(Plan(several).folds)
    near = dataclasses.replace(NEAR, white_balance=(2.3, 1, 1.7))
    (moved / "near/camera.json").write_text(near.to_json())
    with pytest.raises(InputError, match=r"another run \(the data has changed; the cameras' calibration values have"):
        train.run(replace(several, data_dir=str(moved)))


def test_what_is_learned_moves_with_the_camera(several, model):
    learned = model.pipeline.parameters()
    factor = np.asarray(learned["white_balance"]) / FAR.white_balance
    assert abs(factor - 1).max() > 0.01
    for camera in CAMERAS.values():
        own = model.for_camera(camera).pipeline.parameters()
        np.testing.assert_allclose(own["white_balance"], factor * camera.white_balance, rtol=1e-5)
        np.testing.assert_allclose(
            own["black_level"] - np.array(camera.black_level),
            np.asarray(learned["black_level"]) - FAR.black_level,
            atol=1e-6,
        )
        np.testing.assert_allclose(model.named_pipeline(camera).parameters()["gamma_correct"], learned["gamma_correct"])
        exported = learned_camera(model.for_camera(camera))
        np.testing.assert_allclose(exported.white_balance, own["white_balance"])


def test_predictions_are_those_of_validation(several, model):
    dataset, fold = model.dataset, model.folds[0]
    raws, targets = dataset.samples(fold.valid_indices)
    cameras = [dataset.camera_of(index) for index in fold.valid_indices.tolist()]
    probabilities = model.predict(raws, cameras=cameras)
    assert (probabilities.argmax(-1) == targets).mean() == pytest.approx(metrics(several)["val_accuracy"])
    for place in (0, len(raws) - 1):
        own = model.for_camera(cameras[place])
        np.testing.assert_allclose(own.predict(raws[place]), probabilities[place], atol=1e-5)
        np.testing.assert_allclose(own.render(raws[place]), model.render(raws, cameras=cameras)[place], atol=1e-5)
    # Other values make other images.
    assert abs(model.render(raws, cameras=cameras[::-1]) - model.render(raws, cameras=cameras)).max() > 0.05
    with pytest.raises(InputError, match=r"trained on several cameras \(far, near\): name those of the mosaics"):
        model.predict(raws)
    with pytest.raises(InputError, match=r"one camera, or one for each of \d+ mosaics, got 1"):
        model.predict(raws, cameras=cameras[:1])
    with pytest.raises(InputError, match="leave cameras out"):
        own.predict(raws, cameras=cameras)


def test_a_model_in_one_file_keeps_its_cameras(several, model):
    stored = r2l_jax.load(several.run_dir / "fold_0/model.safetensors")
    assert (stored.cameras, stored.identity) == (CAMERAS, model.identity)


def test_files_are_predicted_for_their_own_camera(several, model, tmp_path, capsys):
    files = sorted(pathlib.Path(several.data.data_dir, "near").glob("*/0.tiff"))
    with pytest.raises(InputError, match=r"0.tiff names no camera, .* on several \(far, near\): name one by --camera"):
        predict_files(files, tmp_path / "none.csv", model)
    predict_files(files, tmp_path / "near.csv", model, KnownCamera.of(NEAR))
    rows = [line.split(",") for line in (tmp_path / "near.csv").read_text().splitlines()[1:]]
    raws = np.stack([r2l_jax.data.read_raw(file, NEAR)[0] for file in files])
    wanted = model.predict(raws, cameras=NEAR)
    np.testing.assert_allclose(np.array([row[2:] for row in rows], float), wanted, atol=1e-5)
    assert abs(model.predict(raws, cameras=FAR) - wanted).max() > 1e-3
    capsys.readouterr()


def test_each_file_of_a_batch_is_predicted_for_the_camera_that_it_names_or_by_its_own_values(model, tmp_path):
    files = two_cameras.write_mixed(tmp_path / "mixed")
    predict_files([*files], tmp_path / "p.csv", model)
    rows = [line.split(",") for line in (tmp_path / "p.csv").read_text().splitlines()[1:]]
    found = np.array([row[2:] for row in rows], float)
    read = [r2l_jax.data.read_raw(file) for file in files]
    raws = np.stack([raw for raw, _ in read])
    own = [camera for _, camera in read]
    cameras = [known or written for known, written in zip(files.values(), own, strict=True)]
    np.testing.assert_allclose(found, model.predict(raws, cameras=cameras), atol=1e-5)
    # Other cameras give other probabilities for each of the files.
    unknown = [index for index, known in enumerate(files.values()) if known is None]
    for others, places in (
        (own, sorted({*range(len(files))} - {*unknown})),
        (cameras[1:] + cameras[:1], range(len(files) - 1)),
        ([model.camera] * len(files), unknown),
    ):
        assert abs(model.predict(raws, cameras=others) - found).max(1)[list(places)].min() > 1e-4


def test_evaluation_tells_cameras_apart(several, model, tmp_path):
    config = EvaluationConfig(
        run=(str(several.run_dir),),
        against=("pipelines", "exposures", "sensor"),
        pipelines=("bilinear.sharpening_filter.gaussian_denoising",),
        exposures=(0.5,),
        sensor=("defocus",),
        severities=(3,),
        by=("camera",),
        output=str(tmp_path),
    )
    result = evaluation.run(config)
    groups = result["by"]["camera"]
    assert groups["rows"] == ["far", "near"]
    (run,) = result["runs"].values()
    assert run["tests"]["own"]["loss"]["mean"] == pytest.approx(metrics(several)["val_loss"], rel=1e-4)
    (opened,) = open_runs([str(several.run_dir)])
    fold = opened.folds[0]
    names = np.array([fold.dataset.shot(index).camera for index in fold.valid_indices.tolist()])
    assert groups["samples"] == [int((names == name).sum()) for name in groups["rows"]]


@pytest.mark.slow
def test_forensics_measures_each_image_with_its_own_camera(several, tmp_path):
    config = build(
        ForensicsConfig,
        run=str(several.run_dir),
        analyses=("sensitivity", "worst_case"),
        steps=1,
        samples=8,
        starts=1,
        adv_parameters=("white_balance",),
        adv_aux_weight=(1.0,),
        by=("camera",),
        output=str(tmp_path),
    )
    forensics.run(config)
    found = {
        each: json.loads((tmp_path / f"fold_0/{each}/{each}.json").read_text()) for each in ("sensitivity", "shots")
    }
    # The loss of the samples is that of the validation, in which each has its own camera.
    assert found["sensitivity"]["overall"]["loss"] == pytest.approx(metrics(several)["val_loss"], rel=1e-4)
    assert found["shots"]["fields"]["camera"]["rows"] == ["far", "near"]
    with pytest.raises(InputError, match=r"--check: .* was trained on several cameras"):
        forensics.check(replace(config, check="drone"))


def test_a_processing_that_started_from_another_camera_is_refused(several, tmp_path):
    other = two_cameras.write(tmp_path / "other", count=8, cameras={"a": NEAR, "b": FAR})
    config = replace(several, run_name="next", data_dir=str(other), processor_uri=str(several.run_dir))
    with pytest.raises(InputError, match=r"--processor_uri=.*cameras started from another camera than a, the first"):
        Plan(config)

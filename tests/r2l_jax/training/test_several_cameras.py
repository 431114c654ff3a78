"""Runs of several cameras."""

import dataclasses
import shutil

import dng
import msgspec
import numpy as np
import pytest
import two_cameras
from small_runs import metrics
from two_cameras import CAMERAS, FAR, NEAR

import isp
import r2l_jax
from r2l_jax.apps.lab.sources import file_source
from r2l_jax.apps.predict import predict_files, read_file
from r2l_jax.data.files.known_camera import KnownCamera
from r2l_jax.drift.synthesis import evaluation
from r2l_jax.drift.synthesis.config import EvaluationConfig
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.flags import replace
from r2l_jax.training import train
from r2l_jax.training.plan import Plan
from r2l_jax.training.run import Run, load


@pytest.fixture(scope="module")
def several(base, tmp_path_factory):
    """A finished run of two cameras, which take the same scenes."""
    root = two_cameras.write(tmp_path_factory.mktemp("cells") / "cells")
    folder = {"dataset": "Folder", "data_dir": str(root), "camera": "auto"}
    config = replace(
        base,
        run_name="cameras",
        camera_augmentation=("light", "readout"),
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


def test_a_run_records_its_cameras_and_resumes(several):
    found = metrics(several)
    assert {name: isp.Camera(**fields) for name, fields in found["cameras"].items()} == CAMERAS
    assert found["camera"] == found["cameras"]["far"]
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


def test_a_model_in_one_file_keeps_its_cameras(several, model):
    stored = r2l_jax.load(several.run_dir / "fold_0/model.safetensors")
    assert (stored.cameras, stored.identity) == (CAMERAS, model.identity)


OTHER = dataclasses.replace(NEAR, black_level=(0.125,) * 4, white_balance=(1.6, 1, 2.5))


@pytest.mark.parametrize("trained_on", ["one camera", "several"])
@pytest.mark.parametrize(
    ("file", "given", "one", "of_several"),
    [
        # A file without calibration values, with and without --camera.
        ("plain.npy", None, FAR, None),
        ("plain.npy", OTHER, OTHER, OTHER),
        # A file that names a camera of the training, and states other values: those of the training hold.
        ("near.dng", None, "stated", NEAR),
        ("near.dng", OTHER, OTHER, OTHER),
        # A file of a camera that the training has not seen.
        ("unseen.dng", None, "stated", "stated"),
        ("unseen.dng", OTHER, OTHER, OTHER),
    ],
)
def test_a_file_of_another_camera_is_brought_to_that_of_the_run(
    model, tmp_path, trained_on, file, given, one, of_several
):
    """Its own black level and, after a training on several cameras, its gains; otherwise, the run's gains apply."""
    samples = np.random.default_rng(0).integers(9000, 30000, (32, 32)).astype(np.uint16)
    path = tmp_path / file
    if file.endswith("npy"):
        np.save(path, samples)
    else:
        dng.write(path, samples, black=(4000, 5000, 4500, 5500), white=65535, camera=("", path.stem))
    several = trained_on == "several"
    wanted = of_several if several else one
    run = model if several else Run([of_one_camera(model.folds[0])])
    known = None if given is None else KnownCamera.of(given)
    if wanted is None:
        with pytest.raises(InputError, match=r"plain.npy names no camera, .* on several \(far, near\): name one"):
            predict_files([path], tmp_path / "p.csv", run)
        return
    own = r2l_jax.data.read_raw(path)[1] if wanted == "stated" else wanted
    black, reference = (np.tile(np.reshape(each.black_level, (2, 2)), (16, 16)) for each in (own, FAR))
    gains = np.array(own.white_balance) / FAR.white_balance if several else np.ones(3)
    gains = np.tile(gains[isp.cfa.tile("RGGB")], (16, 16))
    raw = reference + (samples / 65535 - black) * (1 - reference) / (1 - black) * gains
    np.testing.assert_allclose(read_file(path, run, known, None), raw, atol=1e-6)
    frame, _ = file_source(file, path, run).read(known or KnownCamera())
    np.testing.assert_allclose(frame.raw, raw, atol=1e-6)
    assert frame.camera == FAR
    predict_files([path], tmp_path / "p.csv", run, known)
    row = (tmp_path / "p.csv").read_text().splitlines()[1].split(",")
    np.testing.assert_allclose(np.array(row[2:], float), run.predict(raw), atol=1e-5)


def of_one_camera(fold):
    """Returns a fold as of a training on the camera far alone."""
    return dataclasses.replace(fold, about=msgspec.structs.replace(fold.about, cameras=None))


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
    opened = load(str(several.run_dir))
    fold = opened.folds[0]
    names = np.array([fold.dataset.shot(index).camera for index in fold.valid_indices.tolist()])
    assert groups["samples"] == [int((names == name).sum()) for name in groups["rows"]]


def test_metering_and_an_earlier_processing_take_several_cameras(several, tmp_path):
    """Metering counts light from the black level of the reference camera, which is a's in these data."""
    other = two_cameras.write(tmp_path / "other", count=8, cameras={"a": NEAR, "b": FAR})
    config = replace(several, run_name="metered", auto=("exposure",))
    next_one = replace(several, run_name="next", data_dir=str(other), processor_uri=str(several.run_dir))
    for each in (config, next_one):
        train.run(each)
        assert metrics(each)["complete"]

"""Runs of several cameras."""

import dataclasses

import dng
import msgspec
import numpy as np
import pytest
import two_cameras
from two_cameras import CAMERAS, FAR, NEAR

import isp
import r2l_jax
from r2l_jax.apps.lab.sources import file_source
from r2l_jax.apps.predict import predict_files, read_file
from r2l_jax.cli.flags import replace
from r2l_jax.data.files.known_camera import KnownCamera
from r2l_jax.errors import InputError
from r2l_jax.training import train
from r2l_jax.training.run import Run


@pytest.fixture(scope="module")
def several(base, tmp_path_factory):
    """A finished run of two cameras, which take the same scenes."""
    root = two_cameras.write(tmp_path_factory.mktemp("cells") / "cells")
    folder = {"dataset": "Folder", "data_dir": str(root), "camera": "auto"}
    settings = {"camera_augmentation": ("light", "readout"), "lr": 3e-2, "epochs": 1, "save_locally": True}
    config = replace(base, run_name="cameras", **settings, **folder)
    train.run(config)
    return config


@pytest.fixture(scope="module")
def model(several):
    return r2l_jax.load(several.run_dir)


@pytest.fixture(scope="module")
def of_one(model):
    """The model as if it had been trained on the first camera alone."""
    (fold,) = model
    return Run([dataclasses.replace(fold, about=msgspec.structs.replace(fold.about, cameras=None))])


def test_a_model_keeps_its_cameras(several, model, of_one):
    stored = r2l_jax.load(several.run_dir / "fold_0/model.safetensors")
    assert (stored.cameras, stored.camera, stored.identity) == (CAMERAS, FAR, model.identity)
    assert model.identity != of_one.identity


OTHER = dataclasses.replace(NEAR, black_level=(0.125,) * 4, white_balance=(1.6, 1, 2.5), color_matrix=np.eye(3))


@pytest.mark.parametrize(
    ("of_many", "file", "given", "wanted"),
    [
        # A file without calibration values.
        (False, "plain.npy", None, FAR),
        (False, "plain.npy", OTHER, OTHER),
        (True, "plain.npy", None, None),
        (True, "plain.npy", OTHER, OTHER),
        # A file that names a camera of the training, and states other values: those of the training hold.
        (False, "near.dng", None, "stated"),
        (False, "near.dng", OTHER, OTHER),
        (True, "near.dng", None, NEAR),
        (True, "near.dng", OTHER, OTHER),
        # A file of a camera that the training has not seen.
        (True, "unseen.dng", None, "stated"),
    ],
)
def test_a_file_of_another_camera_is_brought_to_that_of_the_run(model, of_one, tmp_path, of_many, file, given, wanted):
    """In the black level; and in the gains if they are given, or if the run was trained on several cameras."""
    samples = np.random.default_rng(0).integers(9000, 30000, (32, 32)).astype(np.uint16)
    path = tmp_path / file
    if file.endswith("npy"):
        np.save(path, samples)
    else:
        dng.write(path, samples, black=(4000, 5000, 4500, 5500), white=65535, camera=("", path.stem))
    run = model if of_many else of_one
    known = None if given is None else KnownCamera.of(given)
    if wanted is None:
        with pytest.raises(InputError, match=r"plain.npy names no camera, .* on several \(far, near\): name one"):
            predict_files([path], tmp_path / "p.csv", run)
        with pytest.raises(InputError, match=r"plain.npy: .*give a camera"):
            file_source(path, run).read(KnownCamera())
        return
    own = r2l_jax.data.read_raw(path)[1] if wanted == "stated" else wanted
    black, reference = (np.tile(np.reshape(each.black_level, (2, 2)), (16, 16)) for each in (own, FAR))
    gains = np.array(own.white_balance) / FAR.white_balance if of_many or given else np.ones(3)
    gains = np.tile(gains[isp.cfa.tile("RGGB")], (16, 16))
    raw = reference + (samples / 65535 - black) * (1 - reference) / (1 - black) * gains
    np.testing.assert_allclose(read_file(path, run, known, None), raw, atol=1e-6)
    frame, warnings = file_source(path, run).read(known or KnownCamera())
    np.testing.assert_allclose(frame.raw, raw, atol=1e-6)
    assert frame.camera == FAR
    # The run's color matrix applies; each camera of a training on several has its own.
    said = [line for line in warnings if "color_matrix" in line]
    line = f"{path}: the stated color_matrix cannot be converted; the run's values are used"
    assert said == [line] * (given is OTHER)

"""Folders whose files were taken by several cameras."""

import dataclasses

import numpy as np
import pytest
import tifffile
import two_cameras
from PIL import Image
from two_cameras import CAMERAS, FAR, NEAR

import isp
from r2l_jax.data.files.reference_camera import scaled
from r2l_jax.data.sets import datasets
from r2l_jax.drift import shot_groups
from r2l_jax.errors import InputError


@pytest.fixture
def root(tmp_path):
    return two_cameras.write(tmp_path / "cells", count=2)


def load(root, camera="auto", **settings):
    return datasets.load("Folder", data_dir=root, camera=camera, **settings)


def test_each_sub_folder_has_its_camera(root):
    dataset = load(root)
    assert dataset.classes == ("blue", "green", "red")
    assert (dataset.camera, dataset.cameras) == (FAR, CAMERAS)
    assert dataset.names[0] == "far/blue/0.tiff"
    for index, name in enumerate(dataset.names):
        camera, color, _ = name.split("/")
        assert dataset.classes[dataset.labels[index]] == color
        assert dataset.shot(index).camera == camera
    groups = shot_groups.groups(dataset, np.arange(12), ["camera"])["camera"]
    assert {name: samples.tolist() for name, samples in groups.items()} == {"far": [*range(6)], "near": [*range(6, 12)]}


def test_one_scene_of_two_cameras_reads_as_one_raw_image(root):
    """Their black levels, gains and white levels differ."""
    light = np.random.default_rng(0).uniform(0, 0.3, (32, 32))
    sites = isp.cfa.tile("RGGB")[np.arange(32)[:, None] % 2, np.arange(32) % 2]
    for (name, camera), white in zip(CAMERAS.items(), (1023, 4095), strict=True):
        black = np.tile(np.reshape(camera.black_level, (2, 2)), (16, 16))
        raw = black + (1 - black) * light / np.array(camera.white_balance)[sites]
        (root / name / "red/0.tiff").unlink()
        np.save(root / name / "red/0.npy", white * raw)
        (root / name / "camera.json").write_text(dataclasses.replace(camera, white_level=white).to_json())
    dataset = load(root)
    far, near = (dataset[dataset.names.index(f"{name}/red/0.npy")][0] for name in CAMERAS)
    assert near.dtype == np.float32
    np.testing.assert_allclose(near, far, atol=1e-6)
    assert dataset.white_level is None


def test_another_value_of_one_camera_changes_the_identity_of_its_samples(root):
    first = load(root)
    near = dataclasses.replace(NEAR, white_balance=(2.3, 1, 1.7))
    (root / "near/camera.json").write_text(near.to_json())
    second = load(root)
    assert first.fingerprint == second.fingerprint
    assert first.content_of([6]) != second.content_of([6])


def test_what_does_not_fit_is_said_in_one_line(root):
    with pytest.raises(InputError, match=r"`camera` must be auto for .*, such as .*far/camera.json, got drone"):
        load(root, "drone")
    (root / "near/camera.json").write_text(dataclasses.replace(NEAR, pattern="BGGR").to_json())
    with pytest.raises(InputError, match="camera near: the color filter array must be RGGB, got BGGR, to be"):
        load(root)
    (root / "near/camera.json").unlink()
    with pytest.raises(InputError, match=r"near must contain a camera.json, as .*far does"):
        load(root)


def test_a_camera_beside_the_files_of_a_class_is_no_layout_of_cameras(root):
    """It says nothing: the folder is one of classes, whose cameras the flag names."""
    (root / "far/blue/camera.json").write_text(NEAR.to_json())
    dataset = load(root / "far", "drone")
    assert (dataset.camera, dataset.cameras) == (isp.CAMERAS["drone"], {})
    with pytest.raises(InputError, match=r"`by=camera`: all samples of Folder are from one camera"):
        shot_groups.groups(dataset, np.arange(6), ["camera"])


def test_files_of_two_models_are_of_two_cameras(tmp_path, write_dng):
    def write(name, **metadata):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_dng(np.full((32, 32), 1000, np.uint16), **metadata).rename(tmp_path / name)

    other = {"camera": ("Maker", "Other"), "black": (128,) * 4}
    for name, red in (("a/0.dng", 0.4), ("b/1.dng", 0.5), ("a/2.dng", 0.8)):
        write(name, neutral=(red, 1.0, 0.7))
    assert not load(tmp_path).cameras
    write("b/x.dng", neutral=(0.25, 1.0, 0.7), **other)
    dataset = load(tmp_path)
    assert [*dataset.cameras] == ["Maker Model", "Maker Other"]
    # The gains as shot vary within a camera, whose median they become.
    np.testing.assert_allclose([camera.white_balance[0] for camera in dataset.cameras.values()], [2, 4], rtol=1e-3)
    assert [dataset.shot(index).camera for index in (0, 3)] == ["Maker Model", "Maker Other"]
    # A whole camera stands for all files.
    assert not load(tmp_path, "drone").cameras
    write("b/y.dng", cfa=(2, 1, 1, 0))
    with pytest.raises(InputError, match=r"same color filter array: .*a/0.dng has RGGB, .*b/y.dng has BGGR"):
        load(tmp_path)


def test_frames_of_several_cameras_are_cut_apart(tmp_path):
    root = tmp_path / "frames"
    for name, camera in CAMERAS.items():
        for kind in ("images", "masks"):
            (root / name / kind).mkdir(parents=True)
        raw = np.full((70, 96), 1000 if camera is FAR else 2000, np.uint16)
        tifffile.imwrite(root / name / "images/1.tiff", raw, metadata=None, extratags=[(271, "s", 0, name)])
        Image.fromarray((np.arange(70 * 96).reshape(70, 96) % 2).astype(np.uint8)).save(root / name / "masks/1.png")
        (root / name / "camera.json").write_text(camera.to_json())
    dataset = load(root, tile_size=32)
    assert (dataset.task, dataset.names[0]) == ("segmentation", "far/1_00_00")
    assert [dataset.shot(index).camera for index in (0, 11)] == ["far", "near"]
    assert [dataset.shot(index).maker for index in (0, 11)] == ["far", "near"]
    assert [dataset.files[index][0].relative_to(root).parts[0] for index in (0, 11)] == ["far", "near"]
    assert len(set(dataset.sample_hashes(range(12)))) == 2
    raws, _ = dataset.samples(np.arange(12))
    np.testing.assert_allclose(raws[:6].raw, 1000 / 65535, rtol=1e-3)
    wanted = scaled(np.full((32, 32), 2000 / 65535, np.float32), NEAR, FAR)
    np.testing.assert_allclose(raws[6:].raw, [wanted] * 6, atol=1e-6)
    assert abs(wanted - 2000 / 65535).max() > 0.01

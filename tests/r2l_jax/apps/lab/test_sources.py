import dataclasses

import msgspec
import numpy as np
import programs
import pytest
import tifffile

import isp
from r2l_jax.apps.lab import sources
from r2l_jax.apps.lab.lab import make_lab, tolerated
from r2l_jax.data.files.known_camera import KnownCamera
from r2l_jax.data.sets.folder import center_crop
from r2l_jax.errors import InputError
from r2l_jax.results import result
from r2l_jax.results.result import Result
from r2l_jax.training.run import Run

DRONE = KnownCamera.of(isp.CAMERAS["drone"])


@pytest.fixture
def mosaic(tmp_path):
    file = tmp_path / "mine.tiff"
    tifffile.imwrite(file, np.random.default_rng(0).integers(20000, 40000, (38, 52), np.uint16))
    return file


def test_a_file_is_read_as_its_camera_says_and_the_camera_of_the_program_comes_first(mosaic):
    lab = make_lab(None, "best", None, [str(mosaic)], "drone", None)
    assert next(iter(lab.cameras)) == sources.GIVEN_CAMERA
    (found,) = lab.sources
    frame, warnings = found.read(DRONE)
    assert (found.name, frame.raw.shape, frame.camera, warnings) == ("mine.tiff", (38, 52), isp.CAMERAS["drone"], [])
    np.testing.assert_allclose(frame.raw, tifffile.imread(mosaic) / 65535, atol=1e-6)
    tifffile.imwrite(mosaic, np.full((16, 24), 100, np.uint16))
    _, (warning,) = found.read(DRONE)
    assert "the highest value is 100" in warning
    with pytest.raises(InputError, match=r"mine\.tiff: TIFF, PNG, PGM, NPY, CZI and ND2 hold no calibration values"):
        found.read(KnownCamera())


@pytest.mark.shows("lab --input --camera --pipeline --port")
def test_the_program_offers_what_its_flags_name(mosaic, tmp_path, monkeypatch):
    pytest.importorskip("nicegui")
    from r2l_jax.apps.lab import server

    served = []
    monkeypatch.setattr(server, "serve", lambda *lab_and_port: served.append(lab_and_port))
    (tmp_path / "mine.py").write_text("import isp\n\nmake = isp.parametrized\n")
    flags = [f"--input={mosaic}", "--camera=drone", f"--pipeline={tmp_path}/mine.py:make", "--port=9001"]
    done = programs.call("lab.py", *flags)
    assert done.returncode == 0, done.stderr
    ((lab, port),) = served
    assert ([each.name for each in lab.sources], port) == (["mine.tiff"], 9001)
    assert next(iter(lab.cameras.values())).camera == isp.CAMERAS["drone"]
    assert next(iter(lab.pipelines.values())).source is not None


def test_a_model_takes_the_middle_of_a_file_by_its_camera(mosaic, model):
    frame, _ = sources.file_source(mosaic, model).read(KnownCamera())
    assert frame.camera == model.calibration
    np.testing.assert_allclose(frame.raw, center_crop(tifffile.imread(mosaic), 32, 32, "RGGB") / 65535, atol=1e-6)


def test_samples_are_those_of_the_validation_with_their_targets(model):
    found = sources.samples(model)
    assert len(found) == 8
    raws, targets = model.dataset.samples(model.folds[0].split.valid)
    for source, raw, target in zip(found, raws, targets, strict=True):
        frame, _ = source.read(KnownCamera())
        np.testing.assert_array_equal(frame.raw, raw)
        assert frame.target == target


def test_tolerances_of_another_fold_or_model_and_damaged_ones_are_not_shown(model, tmp_path, capsys):
    folder, knobs = tmp_path / "forensics" / "fold_0" / "tolerances", {"gamma_correct": (1.8, 2.4)}
    other = Run([dataclasses.replace(model.folds[0], about=msgspec.structs.replace(model.about, fold=1))])
    for identity, words in ((model.identity, ""), ("another", "the tolerances belong to another model")):
        result.write(folder, Result({"model": identity, "tolerated": knobs}))
        assert tolerated(str(tmp_path), model) == ({} if words else knobs)
        assert words in capsys.readouterr().err
        assert tolerated(str(tmp_path), other) == {}
    (folder / result.FILE).write_text('{"metadata": 3}')
    assert tolerated(str(tmp_path), model) == {}
    assert "cannot be read" in capsys.readouterr().err

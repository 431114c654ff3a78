import json
import shutil

import numpy as np
import pytest
import report_runs
import tifffile

import isp
import r2l_jax
from r2l_jax.apps.lab import sources
from r2l_jax.apps.lab.lab import make_lab, read_tolerances
from r2l_jax.data.files.known_camera import KnownCamera
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.store import hash_json

DRONE = KnownCamera.of(isp.CAMERAS["drone"])


@pytest.fixture
def write(tmp_path):
    def write(shape=(16, 24), value=20000):
        file = tmp_path / "upload.tiff"
        tifffile.imwrite(file, np.full(shape, value, np.uint16))
        return file

    return write


def test_a_file_is_read_as_its_camera_says_and_the_camera_of_the_program_comes_first(write):
    assert next(iter(sources.cameras(None, None))) == sources.OWN_CAMERA
    assert next(iter(sources.cameras(None, DRONE))) == sources.GIVEN_CAMERA
    frame, warnings = sources.file_source("mine.tiff", write(), None).read(DRONE)
    assert (frame.name, frame.raw.shape, frame.camera, warnings) == ("mine.tiff", (16, 24), isp.CAMERAS["drone"], [])
    assert frame.raw[0, 0] == pytest.approx(20000 / 65535)


def test_warnings_and_errors_name_the_file_as_its_owner_does(write, tmp_path):
    _, (warning,) = sources.file_source("mine.tiff", write(value=100), None).read(DRONE)
    assert warning.startswith("mine.tiff: the highest value is 100")
    with pytest.raises(InputError, match=r"^mine\.tiff: TIFF, PNG, PGM, NPY, CZI and ND2 hold no calibration values"):
        sources.file_source("mine.tiff", write(), None).read(KnownCamera())
    (tmp_path / "upload.tiff").write_bytes(b"no TIFF")
    with pytest.raises(InputError, match=r"^mine\.tiff: ") as caught:
        sources.file_source("mine.tiff", tmp_path / "upload.tiff", None).read(DRONE)
    assert str(tmp_path) not in str(caught.value)


def test_a_model_s_camera_is_that_of_files_without_one(write, model):
    frame, _ = sources.file_source("mine.tiff", write((32, 32)), model).read(KnownCamera())
    assert frame.camera == model.calibration


def test_files_that_the_model_cannot_see_are_refused(write, model):
    with pytest.raises(InputError, match=r"mine\.tiff: it is 16x24, smaller than the mosaics of the model, 32x32"):
        sources.file_source("mine.tiff", write(), model).read(DRONE)
    other = KnownCamera.of(isp.Camera([0.1] * 4, [1, 1, 1], np.eye(3), "BGGR"))
    with pytest.raises(InputError, match=r"mine\.tiff: its color filter array must be RGGB, got BGGR"):
        sources.file_source("mine.tiff", write((32, 32)), model).read(other)


@pytest.mark.parametrize("name", ["notes.txt", "program.py", "tiff", "a.tiff/../../b", "x.so"])
def test_only_files_of_known_suffixes_are_taken(name):
    with pytest.raises(InputError, match="expected a raw file"):
        sources.check_name(name)
    assert sources.check_name("IMG.DNG") == ".dng"


def test_a_camera_from_elsewhere_must_not_name_files_of_this_machine(tmp_path):
    fields = json.loads(isp.CAMERAS["drone"].to_json())
    file = tmp_path / "upload.json"
    file.write_text(json.dumps(fields))
    assert sources.uploaded_camera("mine.json", file).camera == isp.CAMERAS["drone"]
    file.write_text(json.dumps({**fields, "dark": "/etc/passwd"}))
    with pytest.raises(InputError, match=r"^mine\.json: names other files \(dark\), which are not read here"):
        sources.uploaded_camera("mine.json", file)


def test_samples_are_those_of_the_validation_with_their_targets(one_epoch, model):
    found = sources.validation_samples(str(one_epoch.run_dir), model, None)
    assert len(found) == 8
    frame, _ = found[0].read(KnownCamera())
    assert frame.raw.shape == (32, 32)
    assert 0 <= int(frame.target) < len(model.classes)


def test_a_run_without_its_data_has_no_samples_and_says_so(one_epoch, model, tmp_path, capsys):
    file = one_epoch.run_dir / "fold_0" / "model.safetensors"
    assert sources.validation_samples(str(file), model, None) == []
    with pytest.raises(InputError, match="a model's file does not say which samples"):
        sources.validation_samples(str(file), model, "data")
    shutil.copytree(one_epoch.run_dir, tmp_path / "run")
    record = tmp_path / "run/fold_0/metrics.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"fingerprint": "of other data"}))
    other = r2l_jax.load(tmp_path / "run")
    assert sources.validation_samples(str(tmp_path / "run"), other, None) == []
    assert "warning: no validation samples" in capsys.readouterr().err
    with pytest.raises(InputError, match="was trained on other data"):
        sources.validation_samples(str(tmp_path / "run"), other, "data")


def test_the_names_of_algorithms_are_no_way_to_run_a_file(tmp_path):
    (tmp_path / "evil.py").write_text("raise SystemExit")
    lab = make_lab(None, "best", None, [], "drone", None)
    with pytest.raises(InputError, match=r"evil\.py"):
        lab.pipeline(f"{tmp_path}/evil.py:make")
    assert lab.pipeline("bilinear.none.none").name == "bilinear.none.none"
    assert (list(lab.pipelines), next(iter(lab.cameras))) == (["parametrized", "full"], sources.GIVEN_CAMERA)


def test_tolerances_of_another_model_and_damaged_ones_are_not_shown(model, tmp_path, capsys):
    file = tmp_path / "forensics" / "fold_0" / "tolerances" / "tolerances.json"
    file.parent.mkdir(parents=True)
    content = report_runs.tolerances("", report_runs.Numbers())
    for text, words in (
        (json.dumps(content | {"identity": {"model": hash_json(model.identity)}}), ""),
        (json.dumps(content | {"identity": {"model": "another"}}), "the tolerances belong to another model"),
        ('{"knobs": 3}', "is damaged or of another version"),
    ):
        file.write_text(text)
        assert (read_tolerances(str(tmp_path), model) is None) == bool(words)
        assert words in capsys.readouterr().err
    file.unlink()
    assert read_tolerances(str(tmp_path), model) is None

import json
import resource
import shutil

import numpy as np
import pytest
import safetensors.numpy
from safetensors import safe_open

import r2l_jax
from r2l_jax.runtime.errors import InputError
from r2l_jax.training import model_file


@pytest.fixture(scope="module")
def file(one_epoch):
    return one_epoch.run_dir / "fold_0" / "model.safetensors"


@pytest.fixture
def changed(file, tmp_path):
    """A function that writes the file with other metadata or arrays; None leaves an entry out."""
    with safe_open(file, "np") as opened:
        original = opened.metadata()

    def write(metadata=(), arrays=()):
        entries = {**original, **dict(metadata)}
        tensors = {**safetensors.numpy.load_file(file), **dict(arrays)}
        safetensors.numpy.save_file(
            {name: value for name, value in tensors.items() if value is not None},
            tmp_path / "changed.safetensors",
            {name: value for name, value in entries.items() if value is not None},
        )
        return tmp_path / "changed.safetensors"

    return write


def test_the_file_alone_is_the_model_of_the_run(file, one_epoch, tmp_path, monkeypatch):
    shutil.copy(file, tmp_path / "any_name.st")
    monkeypatch.chdir(tmp_path)
    alone, run = r2l_jax.load("any_name.st"), r2l_jax.load(one_epoch.run_dir)
    raws = np.random.default_rng(0).random((3, 32, 32)).astype(np.float32)
    np.testing.assert_array_equal(alone.predict(raws), run.predict(raws))
    assert alone.identity == run.identity
    assert alone.about == run.about


def test_the_metadata_says_what_the_arrays_are(file, one_epoch):
    with safe_open(file, "np") as opened:
        metadata = {name: json.loads(value) for name, value in opened.metadata().items() if name != "format"}
    assert metadata["task"] == "classification"
    assert metadata["flags"]["run_name"] == "one_epoch"
    assert metadata["classes"] == list(r2l_jax.load(file).classes)
    assert metadata["camera"]["pattern"] == "RGGB"
    assert metadata["shape"] == [32, 32]
    assert metadata["pipeline"] is None
    assert metadata["identity"] == r2l_jax.load(file).identity


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"format": None}, r"no model that r2l_jax.load takes: its metadata has the format None, not 'r2l_jax 1'"),
        ({"task": None}, "its metadata lacks task"),
        ({"task": '"detection"'}, "its metadata has Invalid enum value 'detection' - at task"),
        ({"classes": "[1]"}, "its metadata has Expected str, got int - at classes"),
        ({"classes": "[" * 10**5}, "its metadata has classes, which is not JSON"),
        ({"flags": "[]"}, "its metadata has Expected object, got array - at flags"),
        ({"flags": '{"lr": "high"}'}, "is damaged: --lr: expected float"),
        ({"flags": '{"new": 1}'}, "was trained by another version: it has the flags new"),
        ({"flags": '{"pipeline": "x.py:make", "processing_mode": null}'}, "is damaged: it lacks the file of"),
        ({"camera": '{"black_level": 1}'}, "its metadata has no camera"),
        ({"shape": "[-1, 3]"}, "its metadata has Expected int >= 1 - at shape"),
        ({"score": "NaN"}, "its metadata has a score that is not finite"),
        ({"identity": "1"}, "its metadata has identity, which is not text"),
        ({"identity": '"abc"'}, "is damaged: its arrays have changed since it was written"),
    ],
)
def test_metadata_of_others_is_refused_in_one_line(changed, metadata, message):
    with pytest.raises(InputError, match=message) as error:
        r2l_jax.load(changed(metadata))
    assert "\n" not in str(error.value)
    assert "changed.safetensors" in str(error.value)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"head.fc.bias": None}, r"does not fit this run: its head has fc.bias not at all, this run's \(5,\)"),
        ({"head.fc.bias": np.zeros(7, np.float32)}, r"its head has fc.bias \(7,\), this run's \(5,\)"),
        ({"head.fc.bias": np.zeros(5, np.float64)}, "its array head.fc.bias must be float32, got float64"),
        ({"head.fc.bias.more": np.zeros(5, np.float32)}, "one of its arrays lies in another one"),
        ({"head.fc.bias": np.ones(5, np.float32)}, "its arrays have changed since it was written"),
    ],
)
def test_arrays_of_others_are_refused(changed, arrays, message):
    with pytest.raises(InputError, match=message):
        r2l_jax.load(changed(arrays=arrays))


def test_another_file_is_no_model(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"12345678 no safetensors")
    with pytest.raises(InputError, match=r"x.safetensors: truncated, corrupt or not a valid SAFETENSORS"):
        r2l_jax.load(tmp_path / "x.safetensors")


def test_a_full_disk_is_an_error_that_names_the_file(file, tmp_path):
    about, _, identity = model_file.read(file)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A quota of the user's, which the free space of the disk does not show.
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as raised:
            model_file.write(tmp_path / "model.safetensors", {"head": np.zeros(50_000, np.float32)}, about, identity)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert raised.value.filename == str(tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []

"""A run or a model file of somebody else names a Python file, which is not run."""

import hashlib
import json
import pathlib
import re
import shutil

import pytest
import safetensors.numpy
from safetensors import safe_open
from small_runs import metrics

import r2l_jax
from r2l_jax.errors import InputError

REFUSED = "which runs only if you name it: if you trust it, pass `code="


@pytest.fixture
def received(one_epoch, tmp_path, monkeypatch):
    """Returns the folder of a run that names the file beside.py in the current folder, which says when it is run."""
    run = shutil.copytree(one_epoch.run_dir, tmp_path / "received/run")
    monkeypatch.chdir(run.parent)
    code = f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\nfrom isp import parametrized as make\n"
    pathlib.Path("beside.py").write_text(code)
    source = {"file": "beside.py", "function": "make", "sha256": hashlib.sha256(code.encode()).hexdigest()}
    changes = {"flags": metrics(one_epoch)["flags"] | {"pipeline": "beside.py:make"}, "code": {"pipeline": source}}
    (run / "fold_0/metrics.json").write_text(json.dumps(metrics(one_epoch) | changes))
    model = run / "fold_0/model.safetensors"
    with safe_open(model, "np") as opened:
        about = json.loads(opened.metadata()["about"]) | changes
        entries = opened.metadata() | {"about": json.dumps(about)}
    safetensors.numpy.save_file(safetensors.numpy.load_file(model), model, entries)
    return run


@pytest.mark.parametrize("source", ["", "fold_0/model.safetensors"])
def test_it_is_run_only_where_the_user_names_it(received, tmp_path, source):
    with pytest.raises(InputError, match=f"{re.escape(REFUSED)}beside.py:make`$"):
        r2l_jax.load(received / source)
    assert not (tmp_path / "ran").exists()
    if not source:
        assert r2l_jax.load(received, code="beside.py:make").pipeline is not None
        # Naming it once does not allow it for the next call.
        with pytest.raises(InputError, match=REFUSED):
            r2l_jax.load(received)

import datetime
import json
import re

import jax
import numpy as np
import pytest

from r2l_jax.apps.export import stablehlo
from r2l_jax.apps.export.export import export_model
from r2l_jax.apps.export.samples import samples_of
from r2l_jax.errors import InputError


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    output = tmp_path_factory.mktemp("exported")
    export_model(model, output, samples_of(model), ["isp"], ["stablehlo"])
    return output


@pytest.fixture
def changed(exported):
    """Changes what model.json says of StableHLO, for one test."""
    file = exported / "model.json"
    before = file.read_text()

    def change(**values):
        about = json.loads(before)
        file.write_text(json.dumps({**about, "stablehlo": {**about["stablehlo"], **values}}))

    yield change
    file.write_text(before)


def test_model_json_states_the_version_and_a_date_half_a_year_later(exported, capsys):
    about = json.loads((exported / "model.json").read_text())["stablehlo"]
    assert about["jax"] == jax.__version__
    begin, end = (datetime.date.fromisoformat(about[name]) for name in ("exported", "guaranteed_until"))
    assert datetime.timedelta(days=181) <= end - begin <= datetime.timedelta(days=184)
    assert abs(datetime.date.today() - begin) <= datetime.timedelta(days=1)
    with np.load(exported / "samples.npz") as samples, np.load(exported / "parameters.npz") as parameters:
        samples, parameters = dict(samples), dict(parameters)
    found = stablehlo.load(exported / "isp.stablehlo").call(parameters, samples["raw"][:2])
    np.testing.assert_allclose(found, samples["images"][:2], atol=1e-4)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"guaranteed_until": "2026-01-31"}, "its guarantee ended on 2026-01-31"),
        ({"jax": "99.1.0"}, f"it was exported with JAX 99.1.0, newer than {jax.__version__} here"),
    ],
)
def test_a_file_without_a_guarantee_says_so_in_one_line(exported, changed, values, reason, capsys, tmp_path):
    changed(**values)
    file = exported / "isp.stablehlo"
    stablehlo.load(file)
    warning = f"warning: {file}: {reason}; export the model again, or keep an ONNX file or model.safetensors"
    assert capsys.readouterr().err.splitlines() == [warning]
    # The version of MLIR's bytecode follows its magic number, and a varint of 255 is 127.
    later, number = re.subn(rb"(?s)ML\xefR.", b"ML\xefR\xff", file.read_bytes())
    assert number == 1
    broken = exported / "later.stablehlo"
    broken.write_bytes(later)
    with pytest.raises(InputError) as error:
        stablehlo.load(broken)
    first, *others = str(error.value).splitlines()
    assert first.startswith(f"{broken} cannot be loaded by JAX {jax.__version__}: {reason}; export the model again")
    assert others == []
    broken.unlink()


def test_a_damaged_file_is_one_line_without_a_description(exported, tmp_path):
    (tmp_path / "isp.stablehlo").write_bytes((exported / "isp.stablehlo").read_bytes()[:100])
    with pytest.raises(InputError, match=r"isp.stablehlo cannot be loaded by JAX .*; export the model again"):
        stablehlo.load(tmp_path / "isp.stablehlo")

import json

import pytest

import r2l_jax
from r2l_jax.apps.lab import tolerated
from r2l_jax.apps.lab.engine import Engine
from r2l_jax.training.trained import load_runs


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "forensics" / "fold_0" / "tolerances" / "tolerances.json"
    path.parent.mkdir(parents=True)
    return path


@pytest.fixture(scope="module")
def model(one_epoch):
    return r2l_jax.load(one_epoch.run_dir)


def content(fingerprint):
    knobs = {"white_balance.red": {"low": 1.0, "high": 4.0}, "gamma_correct": {"low": 2.0, "high": 2.5}}
    return json.dumps({"tolerance": 0.02, "knobs": knobs, "identity": {"model": fingerprint}})


def test_intervals_are_those_that_forensics_has_found_for_this_model(file, model, one_epoch, tmp_path):
    ((fold,),) = load_runs([str(one_epoch.run_dir)])
    file.write_text(content(fold.fingerprint))
    found = tolerated.read(str(tmp_path), model)
    assert found.points == pytest.approx(2)
    knob = Engine(model.pipeline).knobs["white_balance.red"]
    low, high = found.positions(knob)
    assert (knob.value(low), knob.value(high)) == pytest.approx((1.0, 4.0))
    assert low < high
    assert found.positions(Engine(model.pipeline).knobs["white_balance.blue"]) is None


def test_those_of_another_model_and_damaged_ones_are_left_out_with_a_warning(file, model, tmp_path, capsys):
    assert tolerated.read(str(tmp_path), model) is None
    assert capsys.readouterr().err == ""
    for text, words in ((content("another"), "those of another model"), ('{"knobs": 3}', "no finished tolerances")):
        file.write_text(text)
        assert tolerated.read(str(tmp_path), model) is None
        assert words in capsys.readouterr().err

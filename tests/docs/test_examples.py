"""The scripts in docs/examples/ are short, linked, and find what they look for."""

import runpy

import numpy as np
import pytest
import small_runs
from pages import PAGES, ROOT

import tasks


def run(name):
    return runpy.run_path(str(ROOT / f"docs/examples/{name}.py"))


def test_examples_are_short_and_linked():
    for file in (ROOT / "docs/examples").glob("*.py"):
        assert len(file.read_text().splitlines()) <= 25
        assert f"(examples/{file.name})" in PAGES["docs/index.md"]


def test_the_training_loop_learns_the_white_balance():
    found = run("training_loop")
    np.testing.assert_allclose(found["gains"], found["camera"].white_balance, rtol=0.03)


@pytest.mark.slow
def test_the_gradient_agrees_with_finite_differences(capsys):
    found = run("check_gradient")
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(found["start"])


@pytest.mark.slow
def test_the_custom_stage_learns_the_haze():
    assert run("custom_stage")["haze"] == pytest.approx(0.3, abs=0.02)


@pytest.mark.slow
def test_the_worst_white_balance_is_worse_and_within_its_limits():
    found = run("worst_white_balance")
    own, worst = (found["loss"](found["weights"], offsets) for offsets in (np.zeros(3), found["offsets"]))
    assert worst > 2 * own
    assert abs(found["offsets"]).max() <= 0.2


@pytest.mark.slow
def test_a_small_model_predicts(monkeypatch, capsys):
    monkeypatch.setattr(tasks, "resnet", small_runs.resnet)
    found = run("predict")
    assert found["model"].predict(found["raws"]).shape == (5, len(found["model"].classes))
    assert capsys.readouterr().out.count(": predicted ") == 5

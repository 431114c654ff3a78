"""The notebooks of the documentation run from top to bottom, and what they show is as they say."""

import ast
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from pages import PAGES, code_blocks

pytestmark = pytest.mark.slow


def shown(name, changes, tmp_path, monkeypatch):
    """Runs the cells of a notebook, with some values changed; returns the last value of each cell, and all names."""
    monkeypatch.chdir(tmp_path)
    text = PAGES[f"docs/notebooks/{name}.md"]
    for each, other in changes.items():
        assert each in text
        text = text.replace(each, other)
    names, values = {"__name__": "notebook"}, []
    for cell in re.findall(r"```\{code-cell\}\n(.*?)```", text, re.DOTALL):
        tree = ast.parse(cell)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, name, "exec"), names)
        values.append(last and eval(compile(ast.Expression(last.value), name, "eval"), names))
    return values, names


def test_raw_data_is_looked_at_stage_by_stage(tmp_path, monkeypatch):
    values, names = shown("raw_data", {}, tmp_path, monkeypatch)
    (shape, dtype, low, high, pattern), sheets = values[1], [values[index] for index in (2, 3, 5)]
    assert (shape, dtype, pattern) == ((128, 128), np.float32, "RGGB")
    assert 0 <= low < high <= 1
    np.testing.assert_allclose(names["raw"], names["scene"], atol=0.51 / 4095)
    assert [sheet.size[0] > 700 for sheet in sheets] == [True] * 3
    assert float(np.sum(values[4])) > 0  # A higher gamma is brighter.


def test_arrays_of_eight_patients_lead_to_a_report(tmp_path, monkeypatch):
    changes = {"epochs=10": "epochs=2", "np.arange(240, 400)": "np.arange(240, 300)", "tolerance=20": "tolerance=60"}
    values, names = shown("robust", changes, tmp_path, monkeypatch)
    parts = values[2]
    assert len(parts["test"]) == 2
    assert not set(parts["test"]) & {*parts["train"], *parts["valid"]}
    assert "of 2 groups" in str(values[3])
    assert "<table>" in values[3]._repr_html_()
    assert [each.metadata["alarm"] for each in names["monitored"]] == [False, True]
    assert names["report"].path.stat().st_size > 10_000


def test_a_pytorch_network_is_measured_without_a_run(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    _, names = shown("pytorch", {"range(40)": "range(4)"}, tmp_path, monkeypatch)
    with torch.no_grad():
        logits = names["network"]((names["images"][300:] - 0.5) / 0.25)
    expected = (logits.argmax(1).numpy() == names["labels"][300:]).mean()
    assert names["result"].tables["drops"].numbers("accuracy")["clean"] == pytest.approx(expected, abs=0.011)


def test_a_data_loader_draws_a_camera_for_each_image(tmp_path):
    pytest.importorskip("torch")
    code, _ = code_blocks("python", PAGES["docs/data_loader.md"])
    (tmp_path / "loader.py").write_text(code)
    ended = subprocess.run([sys.executable, "loader.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines() == ["(32, 3, 64, 64) torch.float32"] * 2
    names = {"__name__": "page"}
    exec(code, names)
    pictures = np.asarray(names["augmented"](np.full((4, 64, 64), 0.4, np.float32), jax.random.key(0)))
    # Equal raw images, each in light of its own.
    assert len({round(float(picture.mean()), 3) for picture in pictures}) == 4

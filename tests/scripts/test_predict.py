import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import programs
import pytest
import tifffile


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "raw").mkdir()
    for name, level in (("a", 20000), ("b", 40000)):
        tifffile.imwrite(tmp_path / "raw" / f"{name}.tiff", np.full((48, 64), level, np.uint16))
    return tmp_path


@pytest.mark.slow
def test_predicts_files_by_a_run(folder, trained_run):
    flags = [f"--run={trained_run}", f"--input={folder}/raw", f"--output={folder}/predictions.csv"]
    done = programs.program("predict.py", *flags)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{trained_run}: the best checkpoint of 1 fold\n2 predicted, 0 failed\n"
    with (folder / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file", "class", "BAS", "EOS", "LYT", "MON", "NGS"]
    assert [Path(row["file"]).name for row in rows] == ["a.tiff", "b.tiff"]
    assert sum(float(rows[0][name]) for name in ("BAS", "EOS", "LYT", "MON", "NGS")) == pytest.approx(1, abs=1e-5)
    (folder / "raw" / "bad.tiff").write_bytes(b"no file")
    again = programs.program("predict.py", *flags)
    assert again.returncode == 1
    assert "0 predicted, 1 failed, 2 had been predicted before" in again.stdout
    assert "error: " in again.stderr.splitlines()[-1]
    assert "bad.tiff" in again.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--run is required"),
        (["--run=nowhere"], "--run=nowhere is no run's folder with a fold_0: not found"),
        (["--run=nowhere", "--folds=x"], "--folds must be all, or numbers of folds that differ, got x"),
        (["--run=nowhere", "--checkpoint=first"], "checkpoint"),
    ],
)
def test_mistakes_are_one_line(folder, monkeypatch, arguments, message):
    monkeypatch.chdir(folder)
    done = programs.call("predict.py", *arguments, "--input=raw", "--output=p.csv")
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_help_is_the_program_s_docstring():
    script = Path(__file__).parents[2] / "scripts" / "predict.py"
    done = subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Predicts raw files by a trained model")
    assert "--folds" in done.stdout

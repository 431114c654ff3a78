import json
from pathlib import Path

import numpy as np
import programs
import pytest

RUN_OF_0_1 = Path(__file__).parents[1] / "r2l_jax" / "training" / "run_of_0_1"


@pytest.mark.slow
def test_exports_a_run_of_version_0_1_checked_on_files(tmp_path):
    np.save(tmp_path / "a.npy", np.linspace(0.1, 0.9, 48 * 64, dtype=np.float32).reshape(48, 64))
    flags = [
        f"--run={RUN_OF_0_1}",
        f"--output={tmp_path}/out",
        f"--input={tmp_path}/a.npy",
        "--formats=stablehlo,camera",
    ]
    done = programs.program("export.py", *flags, "--parts=isp,head")
    assert done.returncode == 0, done.stderr
    first, *lines = done.stdout.splitlines()
    assert first == f"{RUN_OF_0_1}: the best checkpoint of fold 0"
    names = [line.split(": differs by ")[0] for line in lines]
    assert names == ["isp.stablehlo", "head.stablehlo", "camera.json"]
    assert json.loads((tmp_path / "out" / "model.json").read_text())["files"] == names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--run is required"),
        (["--run=nowhere"], "--run=nowhere is no run's folder with a fold_0: not found"),
        (["--run=x", "--parts=tail"], "--parts must be of whole, isp, head, got 'tail'"),
        (["--run=x", "--formats=tflite"], "--formats must be of stablehlo, onnx, safetensors, camera, got 'tflite'"),
        (["--run=x", "--camera=drone"], "--camera is for --input: give both"),
        (["--run=x", "--input=a", "--data_dir=b"], "--input and --data_dir both say what files are checked on"),
        (["--run=x", "--formats=camera", "--gradient"], "--gradient is for --formats=stablehlo, got --formats=camera"),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    done = programs.call("export.py", *arguments, "--output=out")
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1

import json
import os
import pathlib
import subprocess
import sys

import pytest

SCRIPTS = pathlib.Path(__file__).parents[2] / "scripts"


def program(name, *flags):
    # The few steps take less time than optimising them.
    environment = {**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    command = [sys.executable, str(SCRIPTS / name), *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


@pytest.mark.slow
def test_a_trained_run_is_evaluated(tmp_path):
    trained = program(
        "train.py", f"--logdir={tmp_path}", f"--data_dir={tmp_path}/data", "--experiment_name=test", "--run_name=run",
        "--synthetic_images=25", "--synthetic_size=32", "--batch_size=8", "--epochs=1",
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    cases = ["--pipelines=parametrized", "--exposures=0.5", "--corruptions=contrast,identity", "--severities=1,2"]
    done = program(
        "evaluate.py",
        f"--run={tmp_path}/test/run",
        "--against=pipelines,exposures,corruptions",
        *cases,
        "--batch_size=4",
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split()[0] for line in done.stdout.splitlines() if line]
    assert rows[2:7] == ["own", "parametrized", "exposure=0.5", "contrast", "identity"]
    assert "run fold 0: 100%" in done.stderr
    content = json.loads((tmp_path / "test/run/evaluation/evaluation.json").read_text())
    assert content["flags"]["severities"] == [1, 2]
    assert content["runs"]["run"]["tests"].keys() == {
        *("own", "parametrized", "exposure=0.5", "contrast.1", "contrast.2", "identity.1", "identity.2")
    }


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--run=nowhere"], "--run=nowhere is no run's folder: not found"),
        (
            ["--run=nowhere", "--severities=1,high"],
            "--severities must be whole numbers, separated by commas, got 1,high",
        ),
    ],
)
def test_mistakes_are_one_line(flags, message):
    done = program("evaluate.py", *flags)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"evaluate.py: error: {message}\n"

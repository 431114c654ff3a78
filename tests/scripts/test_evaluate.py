import json

import pytest
from programs import call, program


@pytest.mark.slow
def test_a_trained_run_is_evaluated(trained_run):
    cases = ["--pipelines=parametrized", "--exposures=0.5", "--corruptions=contrast,identity", "--severities=1,2"]
    done = program(
        "evaluate.py",
        f"--run={trained_run}",
        "--against=pipelines,exposures,corruptions",
        *cases,
        "--batch_size=4",
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split()[0] for line in done.stdout.splitlines() if line]
    assert rows[2:7] == ["own", "parametrized", "exposure=0.5", "contrast", "identity"]
    assert "run fold 0: 100%" in done.stderr
    content = json.loads((trained_run / "evaluation/evaluation.json").read_text())
    assert content["flags"]["severities"] == [1, 2]
    assert content["runs"]["run"]["tests"].keys() == {
        *("own", "parametrized", "exposure=0.5", "contrast.1", "contrast.2", "identity.1", "identity.2")
    }


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--run=nowhere"], "--run=nowhere is no run's folder: not found"),
        (
            ["--run=nowhere", "--against=pipelines", "--severities=1"],
            "--severities changes nothing without corruptions in --against",
        ),
    ],
)
def test_mistakes_are_one_line(flags, message):
    done = call("evaluate.py", *flags)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"evaluate.py: error: {message}\n"

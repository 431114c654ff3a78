import json

import pytest
from programs import call, program


@pytest.mark.slow
def test_a_trained_run_is_adapted_and_compared(trained_run, tmp_path):
    common = [f"--run={trained_run}", f"--output={tmp_path}"]
    done = program("adjust.py", *common, "--exposures=0.25", "--labelled=8", "--starts=2", "--steps=2")
    assert done.returncode == 0, done.stderr
    assert "fold 0: exposure=0.25" in done.stdout
    assert "2 searches: 100%" in done.stderr
    assert json.loads((tmp_path / "adaptation.json").read_text())["flags"]["exposures"] == [0.25]
    done = program("adjust.py", *common, "--mode=learn", "--target_score=0.01")
    assert done.returncode == 0, done.stderr
    assert "epochs to 0.01" in done.stdout
    assert json.loads((tmp_path / "learning.json").read_text())["runs"].keys() == {"learnt", "frozen"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--run=nowhere", "--exposures=0.5"], "--run=nowhere is no run's folder: not found"),
        (["--run=nowhere", "--mode=learn", "--lr=0.1"], "--lr changes nothing with --mode=learn"),
    ],
)
def test_mistakes_are_one_line(flags, message):
    done = call("adjust.py", *flags)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"adjust.py: error: {message}\n"

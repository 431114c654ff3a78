import json

import numpy as np
import pytest
from programs import call, ends, program, start_together


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


@pytest.mark.slow
def test_two_processes_adapt_and_compare_as_one(trained_run, tmp_path):
    adapt = ["--exposures=0.25", "--labeled=8", "--starts=3", "--steps=3", "--batch_size=8"]
    learn = ["--mode=learn", "--target_score=0.01"]
    results = {}
    for flags, file in ((adapt, "adaptation.json"), (learn, "learning.json")):
        command = ["adjust.py", f"--run={trained_run}", *flags]
        done = program(*command, f"--output={tmp_path}/one")
        assert done.returncode == 0, done.stderr
        first, second = ends(start_together(*command, f"--output={tmp_path}/two"))
        assert (first.returncode, second.returncode) == (0, 0), (first.stderr, second.stderr)
        # The first process alone writes, prints and shows progress.
        assert (second.stdout, second.stderr) == ("", "")
        assert first.stdout.splitlines()[0] == done.stdout.splitlines()[0]
        results[file] = [json.loads((tmp_path / folder / file).read_text()) for folder in ("one", "two")]
    one, two = (content["folds"]["0"]["exposure=0.25"] for content in results["adaptation.json"])
    assert one["start"] == two["start"]
    for name in ("undrifted", "before", "after"):
        assert one[name] == two[name], name
    for ours, theirs in zip(one["starts"], two["starts"], strict=True):
        assert ours.pop("stops") == theirs.pop("stops")
        assert ours == pytest.approx(theirs, rel=1e-4)
    for name, value in one["parameters"].items():
        np.testing.assert_allclose(value, two["parameters"][name], rtol=1e-3, atol=1e-4, err_msg=name)
    one, two = (content["runs"] for content in results["learning.json"])
    assert one["learnt"]["folds"][0]["scores"] == two["learnt"]["folds"][0]["scores"]
    # A trained counterpart: Adam turns the rounding of gradients near zero into updates of full size.
    assert one["frozen"]["folds"][0]["scores"] == pytest.approx(two["frozen"]["folds"][0]["scores"], abs=0.21)


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

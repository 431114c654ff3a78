import dataclasses
import json

import numpy as np
import pytest
from programs import call, program

from r2l_jax.data.sets.synthetic import CAMERA


@pytest.mark.slow
def test_a_trained_run_is_analysed_and_a_camera_checked(trained_run, tmp_path):
    common = [f"--run={trained_run}", f"--output={tmp_path}", "--batch_size=8"]
    done = program("forensics.py", *common, "--steps=2", "--adv_parameters=all", "--adv_aux_weight=1")
    assert done.returncode == 0, done.stderr
    for name in ("sensitivity", "tolerances", "worst_case"):
        assert json.loads((tmp_path / "fold_0" / name / f"{name}.json").read_text())["table"] in done.stdout
    # The same analyses again take no time.
    done = program("forensics.py", *common, "--steps=2", "--adv_parameters=all", "--adv_aux_weight=1")
    assert done.returncode == 0
    assert "searches" not in done.stderr
    # The camera that the model was trained with is tolerated, and one of another pattern is not.
    for pattern, status in ((CAMERA.pattern, 0), ("BGGR", 2)):
        camera = tmp_path / "camera.json"
        camera.write_text(dataclasses.replace(CAMERA, pattern=pattern).to_json())
        done = program("forensics.py", *common, f"--check={camera}")
        assert done.returncode == status, done.stderr
        assert ("not tolerated: pattern" in done.stdout) == bool(status)


@pytest.mark.slow
def test_one_device_and_four_find_the_same(trained_run, tmp_path):
    # Searches and points that four devices do not divide.
    flags = ["--adv_parameters=all", "--adv_aux_weight=1", "--starts=3", "--steps=3", "--batch_size=8"]
    for devices in (1, 4):
        output = f"--output={tmp_path}/{devices}"
        done = program("forensics.py", f"--run={trained_run}", output, *flags, devices=devices)
        assert done.returncode == 0, done.stderr
    one, four = (
        {
            name: json.loads((tmp_path / f"{devices}/fold_0" / name / f"{name}.json").read_text())
            for name in ("sensitivity", "tolerances", "worst_case")
        }
        for devices in (1, 4)
    )
    for name, knob in one["tolerances"]["knobs"].items():
        assert (knob["low"], knob["high"]) == pytest.approx(
            [four["tolerances"]["knobs"][name][end] for end in ("low", "high")], rel=1e-4
        ), name
    for name, change in one["sensitivity"]["overall"]["parameters"].items():
        assert change["worst"] == pytest.approx(four["sensitivity"]["overall"]["parameters"][name]["worst"], rel=1e-3)
    ((ours,), (theirs,)) = one["worst_case"]["rows"], four["worst_case"]["rows"]
    assert ours["score"] == theirs["score"]
    for name in ("loss", "ssim", "task_loss", "deviation"):
        assert ours[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-5), name
    for name, value in ours["parameters"].items():
        np.testing.assert_allclose(value, theirs["parameters"][name], rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--run=nowhere"], "--run=nowhere is no run's folder: not found"),
        (
            ["--run=nowhere", "--analyses=sensitivity,tolerances", "--lr=0.1"],
            "--lr changes nothing in sensitivity, tol",
        ),
        (["--run=nowhere", "--check=drone", "--steps=3"], "--steps changes nothing in --check"),
        (["--run=nowhere", "--track_n_images=2"], "--track_n_images changes nothing without --adv_track_differences"),
    ],
)
def test_mistakes_are_one_line(flags, message):
    done = call("forensics.py", *flags)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"forensics.py: error: {message}")
    assert done.stderr.count("\n") == 1

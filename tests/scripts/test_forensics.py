import dataclasses
import json
import os
import re
import signal

import numpy as np
import pytest
from programs import call, ends, program, start_together

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


# Searches and points that neither four devices nor two processes divide.
SHARED = ["--adv_parameters=all", "--adv_aux_weight=1", "--starts=3", "--steps=3", "--batch_size=8"]
ANALYSES = ("sensitivity", "tolerances", "worst_case")


@pytest.fixture(scope="module")
def one_device(trained_run, tmp_path_factory):
    """The folder of what one process finds on one device."""
    output = tmp_path_factory.mktemp("one_device")
    done = program("forensics.py", f"--run={trained_run}", f"--output={output}", *SHARED)
    assert done.returncode == 0, done.stderr
    return output


def found(output, name):
    return json.loads((output / "fold_0" / name / f"{name}.json").read_text())


def assert_same(one, other):
    """Both folders have the same findings, up to what rounding makes of gradients and of steps along them."""
    ours, theirs = ({name: found(folder, name) for name in ANALYSES} for folder in (one, other))
    for name, knob in ours["tolerances"]["knobs"].items():
        assert (knob["low"], knob["high"]) == pytest.approx(
            [theirs["tolerances"]["knobs"][name][end] for end in ("low", "high")], rel=1e-4
        ), name
    for name, change in ours["sensitivity"]["overall"]["parameters"].items():
        assert change["worst"] == pytest.approx(theirs["sensitivity"]["overall"]["parameters"][name]["worst"], rel=1e-3)
    ((our_row,), (their_row,)) = ours["worst_case"]["rows"], theirs["worst_case"]["rows"]
    assert our_row["score"] == their_row["score"]
    for name in ("loss", "ssim", "task_loss", "deviation"):
        assert our_row[name] == pytest.approx(their_row[name], rel=1e-3, abs=1e-5), name
    for name, value in our_row["parameters"].items():
        np.testing.assert_allclose(value, their_row["parameters"][name], rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_one_device_and_four_find_the_same(trained_run, one_device, tmp_path):
    done = program("forensics.py", f"--run={trained_run}", f"--output={tmp_path}", *SHARED, devices=4)
    assert done.returncode == 0, done.stderr
    assert_same(one_device, tmp_path)


@pytest.mark.slow
def test_two_processes_find_the_same_as_one(trained_run, one_device, tmp_path):
    first, second = ends(start_together("forensics.py", f"--run={trained_run}", f"--output={tmp_path}", *SHARED))
    assert (first.returncode, second.returncode) == (0, 0), (first.stderr, second.stderr)
    assert_same(one_device, tmp_path)
    for name in ANALYSES:
        assert found(tmp_path, name)["table"] in first.stdout
    # The first process alone writes, prints and shows progress.
    assert (second.stdout, second.stderr) == ("", "")
    # Both take what they find as finished.
    again = ends(start_together("forensics.py", f"--run={trained_run}", f"--output={tmp_path}", *SHARED))
    assert [done.returncode for done in again] == [0, 0]
    assert again[0].stdout == first.stdout
    assert again[0].stderr == ""


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_and_one_process_goes_on(trained_run, tmp_path):
    command = ["forensics.py", f"--run={trained_run}", "--analyses=worst_case", *SHARED, "--steps=300"]
    processes = start_together(*command, f"--output={tmp_path}")
    bar = b""
    while b"3 searches:   1%" not in bar and processes[0].poll() is None:
        bar += os.read(processes[0].stderr.fileno(), 1024)
    processes[1].send_signal(signal.SIGINT)
    first, second = ends(processes)
    assert (first.returncode, second.returncode) == (130, 130), (first.stderr, second.stderr)
    stopped = re.search(r"stopped at step (\d+) of 300; the same command goes on from there\n$", first.stderr)
    assert stopped, first.stderr
    assert second.stderr.endswith(f"forensics.py: {stopped[0]}")
    done = program(*command, f"--output={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert f" {stopped[1]}/300 " in done.stderr
    assert len(found(tmp_path, "worst_case")["rows"][0]["task_loss"]) == 300


@pytest.mark.slow
def test_an_error_of_one_process_ends_both(trained_run, tmp_path):
    output = f"--output={tmp_path}"
    own = [f"--run={trained_run}"], ["--run=nowhere"]
    for done in ends(start_together("forensics.py", output, own=own), timeout=60):
        assert done.returncode == 1
        assert done.stderr == "forensics.py: error: --run=nowhere is no run's folder: not found\n"


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

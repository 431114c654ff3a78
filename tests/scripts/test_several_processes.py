"""Programs with several processes and devices."""

import json
import re
import signal
import time

import numpy as np
import pytest
from programs import ends, program, start_together

pytestmark = pytest.mark.slow

# Searches and points that neither four devices nor two processes divide.
SHARED = ["--adv_parameters=all", "--adv_aux_weight=1", "--starts=3", "--steps=3", "--batch_size=8"]
ANALYSES = ("sensitivity", "tolerances", "worst_case")


def found(output, name):
    return json.loads((output / "fold_0" / name / f"{name}.json").read_text())


def test_one_device_and_four_find_the_same(trained_run, tmp_path):
    """Up to the effect of rounding on gradients and on steps along them."""
    for devices in (1, 4):
        output = f"--output={tmp_path}/{devices}"
        done = program("forensics.py", f"--run={trained_run}", output, *SHARED, devices=devices)
        assert done.returncode == 0, done.stderr
    ours, theirs = ({name: found(tmp_path / devices, name) for name in ANALYSES} for devices in "14")
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


def test_a_signal_to_one_process_stops_both_after_an_epoch(tmp_path):
    scenes = ["--synthetic_images=25", "--synthetic_size=32", "--train_size=0.64", "--batch_size=8", "--epochs=1000"]
    command = ["train.py", f"--logdir={tmp_path}", "--experiment_name=a", "--run_name=b", *scenes]
    processes = start_together(*command, f"--data_dir={tmp_path}/data")
    history = tmp_path / "a" / "b" / "fold_0" / "metrics.json"
    while not history.exists() or not json.loads(history.read_text())["history"]:
        assert processes[1].poll() is None, ends(processes)
        time.sleep(0.1)
    processes[1].send_signal(signal.SIGINT)
    first, second = ends(processes)
    assert (first.returncode, second.returncode) == (130, 130), (first.stderr, second.stderr)
    stopped = re.search(
        r"train.py: stopped after epoch (\d+) of 1000; the same command resumes there\n$", second.stderr
    )
    assert stopped, second.stderr
    assert first.stderr.endswith(stopped[0])
    assert len(json.loads(history.read_text())["history"]) == int(stopped[1])

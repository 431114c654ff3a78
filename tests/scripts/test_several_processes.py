"""Programs with several processes and devices."""

import json
import re
import signal
import time

import numpy as np
import pytest
from programs import ends, program, start_together

from r2l_jax.results.result import read

pytestmark = pytest.mark.slow

# Searches and points that neither four devices nor two processes divide.
SHARED = ["--adv_parameters=all", "--adv_aux_weight=1", "--starts=3", "--steps=3", "--batch_size=8"]


def test_one_device_and_four_find_the_same(trained_run, tmp_path):
    """Up to the effect of rounding on gradients and on steps along them."""
    for devices in (1, 4):
        output = f"--output={tmp_path}/{devices}"
        done = program("forensics.py", f"--run={trained_run}", output, *SHARED, devices=devices)
        assert done.returncode == 0, done.stderr
    for name in ("sensitivity", "tolerances", "worst_case"):
        ours, theirs = (read(tmp_path / devices / "fold_0" / name) for devices in "14")
        for key, table in ours.tables.items():
            for row, other in zip(table.rows, theirs.tables[key].rows, strict=True):
                numbers, others = ([cell for cell in each if isinstance(cell, float)] for each in (row, other))
                assert numbers == pytest.approx(others, rel=1e-3, abs=1e-4), row[0]
        assert ours.metadata.get("score") == theirs.metadata.get("score")
        for parameter, limits in ours.metadata.get("tolerated", {}).items():
            assert limits == pytest.approx(theirs.metadata["tolerated"][parameter], rel=1e-4), parameter
        for title, values in ours.metadata.get("parameters", {}).items():
            for parameter, value in values.items():
                other = theirs.metadata["parameters"][title][parameter]
                np.testing.assert_allclose(value, other, rtol=1e-3, atol=1e-4, err_msg=parameter)


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

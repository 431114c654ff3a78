"""The drift controls with several processes and devices: they find the same, and stop and fail together."""

import contextlib
import json
import os
import re
import signal
import subprocess
import termios

import numpy as np
import pytest
from programs import ends, program, start, start_together

pytestmark = pytest.mark.slow

# Searches and points that neither four devices nor two processes divide.
SHARED = ["--adv_parameters=all", "--adv_aux_weight=1", "--starts=3", "--steps=3", "--batch_size=8"]
ANALYSES = ("sensitivity", "tolerances", "worst_case")


def succeeded(*command, **options):
    """Runs a program to its end without an error."""
    done = program(*command, **options)
    assert done.returncode == 0, done.stderr
    return done


def succeeded_together(*command, **options):
    """Runs a program as two processes, of which the first alone writes, prints and shows progress."""
    first, second = ends(start_together(*command, **options))
    assert (first.returncode, second.returncode) == (0, 0), (first.stderr, second.stderr)
    assert (second.stdout, second.stderr) == ("", "")
    return first


@pytest.fixture(scope="module")
def one_device(trained_run, tmp_path_factory):
    """The folder of the findings of one process on one device."""
    output = tmp_path_factory.mktemp("one_device")
    succeeded("forensics.py", f"--run={trained_run}", f"--output={output}", *SHARED)
    return output


def found(output, name):
    return json.loads((output / "fold_0" / name / f"{name}.json").read_text())


def assert_same(one, other):
    """Both folders have the same findings, up to the effect of rounding on gradients and on steps along them."""
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


def test_one_device_and_four_find_the_same(trained_run, one_device, tmp_path):
    succeeded("forensics.py", f"--run={trained_run}", f"--output={tmp_path}", *SHARED, devices=4)
    assert_same(one_device, tmp_path)


def test_two_processes_find_the_same_as_one(trained_run, one_device, tmp_path):
    command = ["forensics.py", f"--run={trained_run}", f"--output={tmp_path}", *SHARED]
    first = succeeded_together(*command)
    assert_same(one_device, tmp_path)
    for name in ANALYSES:
        assert found(tmp_path, name)["table"] in first.stdout
    # Both reuse the results that they find.
    again = succeeded_together(*command)
    assert (again.stdout, again.stderr) == (first.stdout, "")


def open_terminal():
    """Opens a terminal that is wide enough for a progress bar; returns the ends for its reader and for a program."""
    terminal, end = os.openpty()
    termios.tcsetwinsize(terminal, (24, 120))
    return terminal, end


def shown(terminal, until=None):
    """Reads the text on a terminal, until some text or the end of its programs."""
    text = ""
    # Linux tells of the end by an error.
    with contextlib.suppress(OSError):
        while (until is None or until not in text) and (read := os.read(terminal, 1024)):
            text += read.decode()
    return text


def test_a_signal_to_one_process_stops_both_and_one_process_goes_on(trained_run, tmp_path):
    command = ["forensics.py", f"--run={trained_run}", "--analyses=worst_case", *SHARED, "--steps=300"]
    command.append(f"--output={tmp_path}")
    # Progress is shown on terminals alone.
    terminal, end = open_terminal()
    processes = start_together(*command, stderrs=[end, subprocess.PIPE])
    os.close(end)
    shown(terminal, until="3 searches:   1%")
    processes[1].send_signal(signal.SIGINT)
    last_words = shown(terminal)
    first, second = ends(processes)
    assert (first.returncode, second.returncode) == (130, 130), (last_words, second.stderr)
    stopped = re.search(r"stopped at step (\d+) of 300; the same command resumes there\n$", second.stderr)
    assert stopped, second.stderr
    assert last_words.replace("\r\n", "\n").endswith(f"forensics.py: {stopped[0]}")
    terminal, end = open_terminal()
    resumed = start(*command, stderr=end)
    os.close(end)
    assert f" {stopped[1]}/300 " in shown(terminal)
    assert ends([resumed])[0].returncode == 0
    assert len(found(tmp_path, "worst_case")["rows"][0]["task_loss"]) == 300


def test_an_error_of_one_process_ends_both(trained_run, tmp_path):
    output = f"--output={tmp_path}"
    own = [f"--run={trained_run}"], ["--run=nowhere"]
    for done in ends(start_together("forensics.py", output, own=own), timeout=60):
        assert done.returncode == 1
        assert done.stderr == "forensics.py: error: --run=nowhere is not a run's folder: not found\n"


def test_two_processes_adapt_and_compare_as_one(trained_run, tmp_path):
    adapt = ["--exposures=0.25", "--labeled=8", "--starts=3", "--steps=3", "--batch_size=8"]
    learn = ["--mode=learn", "--target_score=0.01"]
    results = {}
    for flags, file in ((adapt, "adaptation.json"), (learn, "learning.json")):
        command = ["adjust.py", f"--run={trained_run}", *flags]
        done = succeeded(*command, f"--output={tmp_path}/one")
        first = succeeded_together(*command, f"--output={tmp_path}/two")
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


def test_two_processes_evaluate_as_one(trained_run, tmp_path):
    cases = ["--pipelines=parametrized", "--exposures=0.5", "--corruptions=gaussian_noise", "--severities=1"]
    command = ["evaluate.py", f"--run={trained_run}", "--against=pipelines,exposures,corruptions", *cases]
    succeeded(*command, f"--output={tmp_path}/one", "--batch_size=4")
    succeeded_together(*command, f"--output={tmp_path}/two", "--batch_size=4")
    one, two = (json.loads((tmp_path / name / "evaluation.json").read_text()) for name in ("one", "two"))
    for name, numbers in one["runs"]["run"]["folds"]["0"].items():
        others = two["runs"]["run"]["folds"]["0"][name]
        assert numbers["loss"] == pytest.approx(others["loss"], rel=1e-5), name
        assert numbers["confusion"] == others["confusion"], name


def test_processes_of_any_order_of_sets_share_the_results_of_an_own_pipeline(trained_run, tmp_path):
    code = "import isp, jax, jax.numpy as jnp, numpy as np\n"
    code += "def shade(image):\n    return jax.nn.relu(jnp.asarray(np.ones(3)) * image)\n"
    code += "def make(camera):\n    return isp.static(camera).inserted(isp.Stage('shade', shade), before='clipped')\n"
    (tmp_path / "my_isp.py").write_text(code)
    pipelines = f"--pipelines={tmp_path}/my_isp.py:make"
    command = ["evaluate.py", f"--run={trained_run}", "--against=pipelines", pipelines, f"--output={tmp_path}/out"]
    seeds = [{"PYTHONHASHSEED": seed} for seed in "132"]
    succeeded_together(*command, environments=seeds[:2])
    resumed = succeeded(*command, environment=seeds[2])
    assert "anew" not in resumed.stdout + resumed.stderr

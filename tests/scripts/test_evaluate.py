import json

import pytest
from programs import call, ends, program, start_together


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
    assert rows[3:8] == ["own", "parametrized", "exposure=0.5", "contrast", "identity"]
    assert "run fold 0: 100%" in done.stderr
    content = json.loads((trained_run / "evaluation/evaluation.json").read_text())
    assert content["flags"]["severities"] == [1, 2]
    assert content["runs"]["run"]["tests"].keys() == {
        *("own", "parametrized", "exposure=0.5", "contrast.1", "contrast.2", "identity.1", "identity.2")
    }


@pytest.mark.slow
def test_two_processes_evaluate_as_one(trained_run, tmp_path):
    cases = ["--pipelines=parametrized", "--exposures=0.5", "--corruptions=gaussian_noise", "--severities=1"]
    command = ["evaluate.py", f"--run={trained_run}", "--against=pipelines,exposures,corruptions", *cases]
    done = program(*command, f"--output={tmp_path}/one", "--batch_size=4")
    assert done.returncode == 0, done.stderr
    first, second = ends(start_together(*command, f"--output={tmp_path}/two", "--batch_size=4"))
    assert (first.returncode, second.returncode) == (0, 0), (first.stderr, second.stderr)
    assert (second.stdout, second.stderr) == ("", "")
    one, two = (json.loads((tmp_path / name / "evaluation.json").read_text()) for name in ("one", "two"))
    for name, numbers in one["runs"]["run"]["folds"]["0"].items():
        others = two["runs"]["run"]["folds"]["0"][name]
        assert numbers["loss"] == pytest.approx(others["loss"], rel=1e-5), name
        assert numbers["confusion"] == others["confusion"], name


@pytest.mark.slow
def test_processes_of_any_order_of_sets_share_the_results_of_an_own_pipeline(trained_run, tmp_path):
    code = "import isp, jax, jax.numpy as jnp, numpy as np\n"
    code += "def shade(image):\n    return jax.nn.relu(jnp.asarray(np.ones(3)) * image)\n"
    code += "def make(camera):\n    return isp.static(camera).inserted(isp.Stage('shade', shade), before='clipped')\n"
    (tmp_path / "my_isp.py").write_text(code)
    pipelines = f"--pipelines={tmp_path}/my_isp.py:make"
    command = ["evaluate.py", f"--run={trained_run}", "--against=pipelines", pipelines, f"--output={tmp_path}/out"]
    seeds = [{"PYTHONHASHSEED": seed} for seed in "132"]
    together = ends(start_together(*command, environments=seeds[:2]))
    assert [done.returncode for done in together] == [0, 0], [done.stderr for done in together]
    resumed = program(*command, environment=seeds[2])
    assert (resumed.returncode, "anew" in resumed.stdout + resumed.stderr) == (0, False), resumed.stderr


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

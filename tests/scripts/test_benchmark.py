import collections
import itertools
import json
import pathlib
import subprocess
import sys

import numpy as np
import programs
import pytest
from flax import nnx

import isp
import tasks
from r2l_jax.bench import benchmark, timing
from r2l_jax.runtime.errors import InputError

SCRIPT = pathlib.Path(__file__).parents[2] / "scripts" / "benchmark.py"
# A smaller frame would be nothing beside what else a process needs.
SIZES = benchmark.Sizes(batch=(2, 32, 32), mosaic=(32, 48), frame=(512, 768), search=(4, 32, 32))
ROWS = {row.name: row for row in benchmark.rows(SIZES)}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Turns of one call, and PyTorch with one thread: several wait long for each other where the cores are in use."""
    monkeypatch.setattr(timing, "TURN_SECONDS", 0.0)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def program(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, timeout=120)


def measure(name, repeats=1):
    (row,) = benchmark.run([name], repeats, SIZES)["rows"]
    return row


def both_sides(name):
    """What both sides of a comparison return."""
    comparison = ROWS[name].measure
    inputs = comparison.inputs()
    return comparison.ours(*inputs)(), comparison.baseline(*inputs)()


# A static pipeline demosaics by the functions of the rows for demosaicing.
@pytest.mark.parametrize("name", [name for name in ROWS if name.startswith(("demosaic", "static_bilinear"))])
def test_both_sides_render_the_same_pictures(name):
    ours, baseline = both_sides(name)
    np.testing.assert_allclose(ours, baseline, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in ROWS if name.startswith("denoise")])
def test_both_sides_denoise_alike(name):
    ours, baseline = both_sides(name)
    np.testing.assert_allclose(ours, baseline, atol=1e-3)


def test_both_sides_normalise_alike():
    pytest.importorskip("torch")
    (ours, _), baseline = both_sides("parametrized_forward")
    np.testing.assert_allclose(np.moveaxis(ours, -1, 1), baseline, atol=1e-3)


def test_both_sides_have_the_same_gradients():
    pytest.importorskip("torch")
    (ours, _), baseline = both_sides("parametrized_gradient")
    assert set(ours) == set(baseline)
    for name, expected in baseline.items():
        expected = np.squeeze(expected.numpy())
        assert np.linalg.norm(ours[name][...] - expected) < 1e-3 * np.linalg.norm(expected), name


class SmallHead(nnx.Module):
    """Stands for a ResNet, which takes long to compile."""

    def __init__(self, name, *, num_classes, rngs):
        self.fc = nnx.Linear(3, num_classes, rngs=rngs)

    def __call__(self, images):
        return self.fc(images.mean((1, 2)))


def test_training_steps_are_timed(monkeypatch):
    monkeypatch.setattr(tasks, "resnet", SmallHead)
    assert len(measure("train_step", 2)["samples_ms"]["ours"]) == 2


def test_searches_find_the_same_together_and_apart(monkeypatch):
    monkeypatch.setattr(tasks, "resnet", SmallHead)
    together, apart = both_sides("search_1_at_a_step")
    assert len(together) == len(apart) == 16
    for one, (other,) in zip(together, apart, strict=True):
        np.testing.assert_allclose(one.parameters["white_balance"], other.parameters["white_balance"], rtol=1e-4)


def test_every_published_pipeline_has_a_row():
    kinds = collections.Counter(name.split("_")[0] for name in ROWS)
    assert kinds["static"] == 12
    assert kinds["demosaic"] == kinds["denoise"] == 3


def test_every_denoiser_is_compiled():
    assert len(set(benchmark.PIPELINES)) == 17
    compiled = {algorithms[2] for algorithms in benchmark.PIPELINES if algorithms}
    assert compiled == set(isp.ALGORITHMS["denoise"]) - {"none"}


def test_a_row_compares_medians_and_names_what_it_reaches():
    row = measure("demosaic_bilinear", 3)
    medians = {name: sorted(times)[1] for name, times in row["samples_ms"].items()}
    assert medians == {name: row[f"{name}_ms"] for name in ("ours", "baseline", "floor")}
    assert row["value"] == medians["baseline"] / medians["ours"]
    assert row["times_floor"] == medians["ours"] / medians["floor"]
    speed_up = benchmark.Row("", 10.0, 20.0, ROWS["memory"].measure)
    assert [speed_up.reached(value) for value in (9.9, 10.0, 20.0, None)] == ["fail", "pass", "stretch", "not compared"]
    assert [ROWS["memory"].reached(value) for value in (4.1, 4.0, 2.0)] == ["fail", "pass", "stretch"]


@pytest.mark.parametrize(
    ("missing", "name"), [("torch", "parametrized_forward"), ("colour_demosaicing", "demosaic_bilinear")]
)
def test_a_baseline_that_is_not_installed_is_named_and_ours_is_measured(monkeypatch, tmp_path, missing, name):
    # What the baseline's process finds in place of the module says what Python does of one that is not there.
    (tmp_path / f"{missing}.py").write_text(f"raise ModuleNotFoundError(name={missing!r})")
    monkeypatch.syspath_prepend(tmp_path)
    row = measure(name)
    assert (row["value"], row["reached"], row["note"]) == (None, "not compared", f"{missing} is not installed")
    assert row["samples_ms"].keys() == {"ours", "floor"}
    text = benchmark.table({"rows": [row], "machine": {"cores": 2}, "versions": {"jax": "0.10", "torch": None}})
    heading, _, line, _, machine, versions = text.splitlines()
    assert heading.split("  ")[0] == "row"
    assert line.startswith(name)
    assert line.endswith(row["note"])
    assert (machine, versions) == ("cores 2", "jax 0.10")


@pytest.mark.parametrize(
    ("what", "note"),
    [
        ("raise OSError('no such\\nlibrary')", "the baseline failed: OSError: no such library"),
        ("import os; os._exit(3)", "the baseline's process ended with 3"),
    ],
)
def test_a_baseline_that_fails_says_why_and_ours_is_measured(monkeypatch, tmp_path, what, note):
    (tmp_path / "colour_demosaicing.py").write_text(what)
    monkeypatch.syspath_prepend(tmp_path)
    row = measure("demosaic_bilinear")
    assert (row["value"], row["reached"], row["note"]) == (None, "not compared", note)
    assert row["samples_ms"].keys() == {"ours", "floor"}


def test_a_baseline_that_fails_later_leaves_all_times_of_ours(monkeypatch, tmp_path):
    module = "calls = iter([None])\ndef demosaicing_CFA_Bayer_bilinear(raw): next(calls)\n"
    names = "demosaicing_CFA_Bayer_Malvar2004 = demosaicing_CFA_Bayer_Menon2007 = demosaicing_CFA_Bayer_bilinear"
    (tmp_path / "colour_demosaicing.py").write_text(module + names)
    monkeypatch.syspath_prepend(tmp_path)
    row = measure("demosaic_bilinear", 3)
    assert (row["value"], row["note"]) == (None, "the baseline failed: StopIteration:")
    assert {name: len(times) for name, times in row["samples_ms"].items()} == {"ours": 3, "floor": 3}


def test_sides_take_turns_and_the_first_call_does_not_count():
    ticks = itertools.count(0.0)
    samples = timing.alternate({"ours": lambda: next(ticks), "baseline": lambda: next(ticks)}, 3)
    assert samples == {"ours": [2.0, 4.0, 6.0], "baseline": [3.0, 5.0, 7.0]}


@pytest.mark.parametrize(
    ("seconds", "slow", "rounds"),
    [
        (np.inf, np.inf, timing.MOST),
        (0.0, np.inf, timing.FEWEST),
        (0.0, 0.0, timing.FEWEST_SLOW),
    ],
)
def test_repeats_fit_the_time(monkeypatch, seconds, slow, rounds):
    monkeypatch.setattr(timing, "REST_SECONDS", 0.0)
    monkeypatch.setattr(timing, "SECONDS", seconds)
    monkeypatch.setattr(timing, "SLOW_SECONDS", slow)
    assert len(timing.alternate({"ours": lambda: 0.0}, None)["ours"]) == rounds


def test_compile_times_name_the_slowest(monkeypatch):
    monkeypatch.setattr(benchmark, "PIPELINES", (("none", "none", "none"),))
    row = measure("compile_gradient")
    assert row["note"] == "static_none_none_none"
    assert row["samples_ms"] == {"ours": [1e3 * row["value"]], row["note"]: [1e3 * row["value"]]}


def test_memory_is_the_larger_of_plan_and_fact():
    row = measure("memory")
    multiples = dict(multiple.split() for multiple in row["note"].split(", "))
    assert multiples.keys() == {"planned", "resident"} if sys.platform == "linux" else {"planned"}
    assert f"{row['value']:.2f}x" == max(multiples.values())
    # Input and output are in memory at once, and no more than as much again and again.
    assert 1 <= row["value"] < 4


def test_rows_are_chosen_by_how_their_names_begin(monkeypatch):
    monkeypatch.setattr(benchmark.Comparison, "__call__", lambda self, repeats: benchmark.Measured(None, {}))
    chosen = benchmark.run(["demosaic_b", "demosaic_malvar2004"], 1, SIZES)["rows"]
    assert [row["name"] for row in chosen] == ["demosaic_bilinear", "demosaic_malvar2004"]
    with pytest.raises(InputError, match="no row's name begins with 'bilinear'; there are parametrized_forward, "):
        benchmark.run(["demosaic", "bilinear"], 1, SIZES)


@pytest.mark.slow
def test_the_program_prints_json():
    done = program("--rows=demosaic_bilinear", "--json", "--repeats=1")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [row["name"] for row in result["rows"]] == ["demosaic_bilinear"]
    assert {"cpu", "cores", "device"} == result["machine"].keys()
    assert result["versions"]["jax"]


@pytest.mark.parametrize(
    ("flag", "message"),
    [("--rows=menon", "no row's name begins with 'menon'"), ("--repeats=0", "--repeats must be positive, got 0")],
)
def test_mistakes_are_one_line(flag, message):
    done = programs.call("benchmark.py", flag)
    assert done.returncode == 1
    assert done.stderr.startswith("benchmark.py: error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""

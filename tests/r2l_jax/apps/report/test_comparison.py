import numpy as np
import pytest
import report_runs
from outcomes import of_counts

from r2l_jax.apps.report.comparison import comparison_table, differences_table
from r2l_jax.apps.report.runs import read_runs
from r2l_jax.drift import measure, statistics
from r2l_jax.results import result


def rows(text):
    return {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}


def test_the_table_has_scores_and_settings_that_differ(tmp_path):
    first = report_runs.write_run(tmp_path / "first", epochs=100, auto=[])
    second = report_runs.write_run(
        tmp_path / "second", start=500, epochs=100, lr=0.5, auto=["exposure"], processing_mode="static", folds=2
    )
    runs = read_runs([str(first), str(second)])
    text = comparison_table(runs)
    assert text.splitlines()[0].split() == ["first", "second"]
    found = rows(text)
    assert found["lr"] == ["0.001", "0.5"]
    assert found["processing_mode"] == ["parametrized", "static"]
    assert found["auto"] == ["none", "exposure"]
    assert "run_name" not in found
    assert "batch_size" not in found
    (line,) = [line for line in text.splitlines() if line.startswith("best accuracy")]
    of_first, of_second = ([100 * fold.numbers.best for fold in run.folds] for run in runs)
    assert line.split()[2:] == [f"{of_first[0]:.1f}", f"{np.mean(of_second):.1f}", f"±{np.std(of_second):.1f}"]
    # Minutes are summed over all folds.
    seconds = [sum(row["seconds"] for fold in run.folds for row in fold.record.history) for run in runs]
    assert found["minutes"] == [f"{each / 60:.1f}" for each in seconds]
    assert found["minutes"][0] != found["minutes"][1]


# The shares of right outcomes of two runs and of two groups with two members each.
SHARES = {"a": 0.9, "b": 0.6, "g/seed_1": 0.9, "g/seed_2": 0.8, "h/seed_1": 0.5, "h/seed_3": 0.4}


def write_outcomes(folder, outcomes, samples, checkpoint="best"):
    """Writes outcomes on the clean images as evaluate.py does: of the only fold of each member, and their mean."""
    names = [f"{name}/fold_0".removeprefix("/") for name in outcomes]
    counted = np.stack([*outcomes.values(), np.mean([*outcomes.values()], 0)])[:, None]
    found = of_counts([*names, "ensemble/fold_0"], ["clean"], samples, counted)
    metadata = {"flags": {"checkpoint": checkpoint}}
    result.write(folder / "evaluation/clean", result.Result(metadata, outcomes=measure.packed_blocks([found])))


@pytest.fixture
def outcomes(tmp_path):
    """The outcomes of 40 samples of each training, by the name of its folder."""
    random = np.random.default_rng(0)
    found = {name: (random.random(40) < share).astype(np.float32) for name, share in SHARES.items()}
    for name in SHARES:
        report_runs.write_run(tmp_path / name, epochs=1)
    for run in "abgh":
        of = {name.partition("/")[2]: each for name, each in found.items() if name.startswith(run)}
        write_outcomes(tmp_path / run, of, np.arange(40))
    return found


def test_every_two_runs_of_the_same_samples_have_a_paired_difference(outcomes, tmp_path):
    runs = read_runs([str(tmp_path / name) for name in "abgh"])
    found = rows(comparison_table(runs))
    assert (found["members"], found["seed"]) == (["1", "1", "2", "2"], ["1", "1", "-", "-"])
    lines = differences_table(runs).splitlines()
    assert lines[0] == "Differences in accuracy on clean images, with 95% confidence intervals"
    of = {name: np.stack([each for run, each in outcomes.items() if run.startswith(name)]) for name in "abgh"}
    for line, (first, second) in zip(lines[3:], ("ab", "ag", "ah", "bg", "bh", "gh"), strict=True):
        about = "recipe" if first + second == "gh" else "model"
        found = statistics.difference(of[first], of[second], about)
        interval = "{:.1f} ({:.1f} to {:.1f})".format(*(100 * each for each in found[:3]))
        assert line.split(maxsplit=4) == [first, "-", second, f"({about})", f"{interval}{found.probability:>17.0%}"]


@pytest.mark.parametrize("other", [None, "checkpoint", "samples", "data"])
def test_runs_are_paired_only_on_the_same_samples_with_the_same_checkpoint(outcomes, tmp_path, other):
    """The data of "b" has the indices of the data of "a", and as many samples are right."""
    checkpoint, samples = "best" if other == "checkpoint" else "last", np.arange(40) + (other == "samples")
    write_outcomes(tmp_path / "a", {"": outcomes["a"]}, np.arange(40), "last")
    write_outcomes(tmp_path / "b", {"": outcomes["b"]}, samples, checkpoint)
    if other == "data":
        report_runs.change_metrics(tmp_path / "b", lambda content: content | {"fingerprint": "other"})
    text = differences_table(read_runs([str(tmp_path / name) for name in "ab"]))
    assert ("a - b (model)" in text) == (other is None)
    assert (text == "a - b: no paired difference: the samples, their groups or the checkpoints differ") == (
        other is not None
    )

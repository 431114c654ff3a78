import argparse
import dataclasses
import json

import numpy as np
import pytest
import report_runs

from r2l_jax.apps.report import comparison
from r2l_jax.apps.report.comparison import comparison_table, differences_table
from r2l_jax.apps.report.runs import read_runs
from r2l_jax.drift import statistics
from r2l_jax.runtime.errors import InputError


def rows(text):
    return {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}


def test_the_table_has_scores_and_settings_that_differ(tmp_path):
    first = report_runs.write_run(tmp_path / "first")
    second = report_runs.write_run(tmp_path / "second", start=500, lr=0.5, processing_mode="static", folds=2)
    text = comparison_table(read_runs([str(first), str(second)]))
    assert text.splitlines()[0].split() == ["first", "second"]
    found = rows(text)
    assert found["--lr"] == ["0.001", "0.5"]
    assert found["--processing_mode"] == ["parametrized", "static"]
    assert "--run_name" not in found
    assert "--epochs" not in found
    best = [
        json.loads((folder / f"fold_{fold}/metrics.json").read_text())["best_val_accuracy"]
        for folder, fold in ((first, 0), (second, 0), (second, 1))
    ]
    (line,) = [line for line in text.splitlines() if line.startswith("best accuracy")]
    best = 100 * np.array(best)
    assert line.split()[2:] == [f"{best[0]:.1f}", f"{np.mean(best[1:]):.1f}", f"±{np.std(best[1:]):.1f}"]


def test_many_runs_fit_into_a_hundred_columns(tmp_path):
    (run,) = read_runs([str(report_runs.write_run(tmp_path / "run", epochs=1))])
    folds = [dataclasses.replace(run.folds[0], history=[*run.folds[0].history] * epochs) for epochs in range(1, 10)]

    def table(name):
        return comparison_table([run._replace(name=name(number), folds=[fold]) for number, fold in enumerate(folds)])

    text = table("a_rather_long_name_of_a_run_with_number_{}".format)
    assert max(map(len, text.splitlines())) <= 100
    epochs = [word for line in text.splitlines() if line.startswith("epochs") for word in line.split()[1:]]
    assert epochs == [str(number + 1) for number in range(9)]
    # Shortened names still differ.
    assert all(f"a_rather_lo...h_number_{number}" in text for number in range(9))
    for width in range(8, 24):  # Some of these fill 99 to 101 columns, with the gaps between them.
        text = table(lambda number, width=width: f"{number}".ljust(width, "x"))
        assert max(map(len, text.splitlines())) <= 100, width


def test_a_run_without_an_epoch_is_compared(tmp_path):
    folders = [report_runs.write_run(tmp_path / name) for name in ("first", "second")]
    for folder in folders:
        file = folder / "fold_0/metrics.json"
        metrics = json.loads(file.read_text())
        report_runs.write_json(
            file, {name: metrics[name] for name in metrics if "val_" not in name} | {"complete": False, "history": []}
        )
        runs = read_runs(list(map(str, folders)))
        assert rows(comparison_table(runs))["finished"][0] == "no"


# The shares of right outcomes of two runs and of two groups with two members each.
SHARES = {"a": 0.9, "b": 0.6, "g/seed_1": 0.9, "g/seed_2": 0.8, "h/seed_1": 0.5, "h/seed_3": 0.4}


@pytest.fixture
def outcomes(tmp_path, monkeypatch):
    """The outcomes of 40 samples of each training, by the name of its folder, in place of its model."""
    random = np.random.default_rng(0)
    found = {name: (random.random(40) < share).astype(float) for name, share in SHARES.items()}
    for name in SHARES:
        report_runs.write_run(tmp_path / name, epochs=1)

    def opened(uri, *_, **__):
        dataset = argparse.Namespace(counted="scenes")
        return argparse.Namespace(folds=[argparse.Namespace(uri=uri, measured="validation", dataset=dataset)])

    monkeypatch.setattr(comparison, "load", opened)
    monkeypatch.setattr(comparison, "own_outcomes", lambda folds: found[str(folds[0].uri.relative_to(tmp_path))])
    return found


def test_every_two_runs_of_the_same_samples_have_a_paired_difference(outcomes, tmp_path):
    runs = read_runs([str(tmp_path / name) for name in "abgh"])
    found = rows(comparison_table(runs))
    assert (found["members"], found["--seed"]) == (["1", "1", "2", "2"], ["1", "1", "-", "-"])
    tables = [table.splitlines() for table in differences_table(runs).split("\n\n")]
    of = {name: np.stack([each for run, each in outcomes.items() if run.startswith(name)]) for name in "abgh"}
    wanted = {
        "about the model (40 validation scenes)": ("ab ag ah bg bh", "model"),
        "about the recipe (40 validation scenes)": ("gh", "recipe"),
    }
    for table, (stated, (pairs, about)) in zip(tables, wanted.items(), strict=True):
        assert "accuracy: first - second  first is better" in table[0]
        assert table[-1] == f"Intervals: 95%, {stated}"
        for row, (first, second) in zip(table[2:-1], pairs.split(), strict=True):
            found = statistics.difference(of[first], of[second], about)
            interval = "{:.1f} ({:.1f} to {:.1f})".format(*(100 * each for each in found[:3]))
            assert row.split(maxsplit=2) == [first, second, f"{interval}{found.probability:>17.0%}"]


def test_a_line_says_why_there_is_no_paired_difference(outcomes, tmp_path, monkeypatch):
    def changed(name, **content):
        file = tmp_path / name / "fold_0/metrics.json"
        report_runs.write_json(file, json.loads(file.read_text()) | content)

    changed("a", test_indices=[0, 1])
    changed("h/seed_3", valid_indices=[0, 2])
    text = differences_table(read_runs([str(tmp_path / name) for name in "abgh"]))
    for pair in ("a and b", "a and g", "b and h", "g and h"):
        assert f"\n{pair}: no paired difference: other samples" in text
    assert len(text.splitlines()) == 4 + 1 + 5
    changed("a", complete=False, test_indices=[])
    runs = read_runs([str(tmp_path / name) for name in "ab"])
    assert differences_table(runs) == "a and b: no paired difference: a is not trained to its end"

    def missing(*_, **__):
        raise InputError("the data is not there")

    changed("a", complete=True)
    monkeypatch.setattr(comparison, "load", missing)
    runs = read_runs([str(tmp_path / name) for name in "abh"])
    reason, line = differences_table(runs).split("\n\n", 1)
    assert reason == "no paired differences: the data is not there"
    assert line.splitlines()[0] == "a and h: no paired difference: other samples"


def test_differences_fit_into_a_hundred_columns(outcomes, tmp_path):
    (run,) = read_runs([str(tmp_path / "a")])
    text = differences_table([run._replace(name=f"{number}_of_the_runs_with_long_names") for number in range(2)])
    assert max(map(len, text.splitlines())) <= 100

import dataclasses
import json

import numpy as np
import pytest
import report_runs

from r2l_jax.apps.report.comparison import comparison_table, write_curves
from r2l_jax.apps.report.runs import read_runs
from r2l_jax.runtime.errors import InputError


def rows(text):
    return {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}


def test_the_table_has_scores_and_settings_that_differ(tmp_path):
    first = report_runs.write_run(tmp_path / "first")
    second = report_runs.write_run(tmp_path / "second", start=500, lr=0.5, processing_mode="static", folds=2)
    text = comparison_table(read_runs([str(first), str(second)]))
    assert text.splitlines()[0].split() == ["first", "second"]
    found = rows(text)
    assert found["--lr"] == ["1e-05", "0.5"]
    assert found["--processing_mode"] == ["parametrized", "static"]
    assert found["--sp_debayer"] == ["-", "bilinear"]
    assert "--run_name" not in found
    assert "--epochs" not in found
    best = [
        json.loads((folder / f"fold_{fold}/metrics.json").read_text())["best_val_accuracy"]
        for folder, fold in ((first, 0), (second, 0), (second, 1))
    ]
    (line,) = [line for line in text.splitlines() if line.startswith("best accuracy")]
    assert line.split()[2:] == [f"{best[0]:.4f}", f"{np.mean(best[1:]):.4f}", f"±{np.std(best[1:]):.4f}"]


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
        report_runs.write_json(file, {name: metrics[name] for name in metrics if "val_" not in name} | {
            "complete": False, "history": []
        })  # fmt: skip
        runs = read_runs(list(map(str, folders)))
        assert rows(comparison_table(runs))["finished"][0] == "no"
    with pytest.raises(InputError, match=r"^no run has finished an epoch: there are no curves to draw$"):
        write_curves(runs, tmp_path / "curves.png")

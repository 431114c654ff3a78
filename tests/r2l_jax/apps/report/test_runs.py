import json
import shlex
import shutil
import types

import pytest
import report_runs

from r2l_jax.apps.report.page import make_page
from r2l_jax.apps.report.runs import read_runs, read_together
from r2l_jax.cli import flags
from r2l_jax.config import TrainConfig
from r2l_jax.errors import InputError


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return report_runs.write_everything(tmp_path_factory.mktemp("written") / "run")


@pytest.fixture
def everything(written, tmp_path):
    """A copy of a run with results, for a test to change."""
    return shutil.copytree(written, tmp_path / "run")


METRICS, EVALUATION = "fold_0/metrics.json", "evaluation/result.json"


@pytest.mark.parametrize(
    ("file", "change", "reason"),
    [
        (METRICS, lambda c: c.pop("history"), "missing required field history"),
        (EVALUATION, lambda c: c["metadata"].update(verdict="all is well"), "Expected array, got str"),
        (EVALUATION, lambda c: c["figures"].update(sheet="../../secret.png"), "leads out of its folder"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(everything, file, change, reason):
    content = json.loads((everything / file).read_text())
    change(content)
    report_runs.write_json(everything / file, content)
    with pytest.raises(InputError) as error:
        make_page(read_runs([str(everything)]))
    assert str(everything / file) in str(error.value)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_other_folders_are_refused_and_runs_that_are_given_twice(everything, tmp_path):
    (tmp_path / "empty/fold_0").mkdir(parents=True)
    for name, message in (("gone", "not found"), ("empty", r"it has no fold_\* folder with a metrics\.json")):
        with pytest.raises(InputError, match=rf"^`run={tmp_path}/{name}` is not a run's folder: {message}$"):
            read_runs([str(tmp_path / name)])
    with pytest.raises(InputError, match="is given twice"):
        read_runs([str(everything), f"{everything}/../run"])


def test_the_command_trains_the_run_again(tmp_path):
    changes = {"lr": 1e-3, "log_model": False, "logdir": "my runs", "half_size": True}
    changes |= {"iso": [0.05, 1.0], "track": ["processing", "arrays"], "auto": []}
    folder = report_runs.write_run(tmp_path / "run", **changes)
    (run,) = read_runs([str(folder)])
    values = flags.flags.FlagValues()
    flags.define(TrainConfig, values)
    python, script, *arguments = shlex.split(run.command.replace("\\\n", " "))
    assert (python, script) == ("python", "scripts/train.py")
    flags.parse(TrainConfig, "", [script, *arguments], values)
    # Lists are stored, and tuples read.
    stored = {name: tuple(value) if isinstance(value, list) else value for name, value in run.flags.items()}
    assert flags.flat(flags.read(TrainConfig, values)) == stored
    assert max(map(len, run.command.splitlines())) <= 80


def test_the_call_trains_a_run_on_arrays_again(tmp_path):
    changes = {"dataset": "memory:0123456789abcdef", "lr": 1e-3, "iso": [0.05, 1.0], "logdir": "my runs"}
    (run,) = read_runs([str(report_runs.write_run(tmp_path / "run", **changes))])
    called = {}
    data, library = object(), types.SimpleNamespace(train=lambda data, **settings: called.update(settings, data=data))
    exec(run.command, {"r2l_jax": library, "data": data})
    assert called.pop("data") is data
    trained = flags.flat(flags.called(TrainConfig, called))
    assert trained["iso"] == (0.05, 1.0)
    assert json.loads(json.dumps(trained)) == json.loads(json.dumps({**run.flags, "dataset": trained["dataset"]}))


def retrain(folder, fold=0):
    """Leaves the numbers of another training in the folder of a fold."""
    report_runs.change_metrics(folder, lambda content: content | {"history": content["history"][::-1]}, fold)


def test_results_of_the_training_before_are_left_out_and_named(everything, capsys):
    # Parts of programs that were stopped are hidden, and a group of adapted runs has results of its own.
    for place in (".predictions.csv.parts/0", "adjustment/iso=0.05/evaluation"):
        shutil.copytree(everything / "evaluation", everything / place)
    (everything / "adjustment/iso=0.05/seed_1/fold_0").mkdir(parents=True)
    (run,) = read_runs([str(everything)])
    places = ["evaluation", "evaluation/pipelines", "forensics/fold_0/worst_case", "monitor", "fold_0/training"]
    assert ["/".join(found.place) for found in run.results] == places
    assert capsys.readouterr().err == ""
    retrain(everything)
    (run,) = read_runs([str(everything)])
    assert run.results == []
    lines = [f"{everything / place}/result.json is left out: it belongs to other models" for place in places]
    assert sorted(line.partition(";")[0] for line in run.left_out) == sorted(lines)
    said = capsys.readouterr().err
    assert all(f"warning: {line}" in said for line in lines)
    assert run.left_out[0] in make_page([run])


def test_results_of_adapted_runs_inside_are_theirs(tmp_path):
    folder = report_runs.write_run(tmp_path / "run")
    adapted = report_runs.write_run(folder / "adjustment/iso=0.05", start=900)
    numbers = report_runs.Numbers()
    report_runs.write_result(adapted / "evaluation", {"fold_0": report_runs.training(adapted)}, numbers, "Drift")
    # Beside the adapted model stands the result of its adaptation.
    report_runs.write_result(adapted, {"fold_0": report_runs.training(folder)}, numbers, "Adapted")
    (run,) = read_runs([str(folder)])
    assert [(found.control, found.metadata.title) for found in run.results] == [("adjustment", "Adapted")]
    assert run.left_out == []


def test_runs_evaluated_together_are_the_present_ones(tmp_path):
    folders = [report_runs.write_run(tmp_path / name, start=start) for name, start in (("first", 0), ("second", 100))]
    of = {folder.name: report_runs.training(folder) for folder in folders}
    report_runs.write_result(tmp_path / "evaluation", of, report_runs.Numbers(500), "Together")
    found, left_out = read_together(read_runs([str(folder) for folder in folders]))
    assert ([each.metadata.title for each in found], left_out) == (["Together"], [])
    assert read_together(read_runs([str(folders[0])])) == ([], [])
    retrain(folders[1])
    found, (line,) = read_together(read_runs([str(folder) for folder in folders]))
    assert found == []
    assert line.startswith(f"{tmp_path}/evaluation/result.json is left out")

import json
import pathlib
import shlex

import pytest
import report_runs

from r2l_jax.apps.report.page import make_page
from r2l_jax.apps.report.runs import joint_evaluation, read_runs
from r2l_jax.config import TrainConfig
from r2l_jax.runtime import flags
from r2l_jax.runtime.errors import InputError

EARLIER = pathlib.Path(__file__).parents[2] / "training/run_of_0_1"


@pytest.fixture
def everything(tmp_path):
    return report_runs.write_everything(tmp_path / "run")


def changed(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("file", "change", "reason"),
    [
        ("fold_0/metrics.json", lambda c: c.pop("history"), "missing required field history"),
        ("fold_0/metrics.json", lambda c: c["history"][0].pop("epoch"), "its history lacks the epochs or their score"),
        ("fold_0/metrics.json", lambda c: c.pop("val_accuracy"), "Expected float, got null"),
        ("fold_0/metrics.json", lambda c: c.update(val_f1=[]), "Expected object, got array"),
        (
            "evaluation/evaluation.json",
            lambda c: c["runs"]["run"]["tests"]["own"].pop("drop"),
            "Expected object, got null",
        ),
        ("evaluation/evaluation.json", lambda c: c.update(score="iou"), "Expected object, got null"),
        ("forensics/fold_0/sensitivity/sensitivity.json", lambda c: c.pop("overall"), "missing required field overall"),
        (
            "forensics/fold_0/tolerances/tolerances.json",
            lambda c: c["knobs"]["gamma_correct"].update(width=None),
            "a linear knob must have a positive width, got None",
        ),
        (
            "forensics/fold_0/worst_case/worst_case.json",
            lambda c: c["rows"][0].update(parameters={"a": ["b"]}),
            "could not",
        ),
        ("forensics/fold_0/shots/shots.json", lambda c: c.update(fields=[]), "Expected object, got array"),
        (
            "adjustment/adaptation.json",
            lambda c: c["folds"]["0"]["iso=0.05"].pop("starts"),
            "missing required field starts",
        ),
        (
            "adjustment/learning.json",
            lambda c: c["runs"]["learnt"]["folds"][0].update(scores=[]),
            "a curve must have as many epochs, seconds and scores, and at least one of each",
        ),
    ],
)
def test_a_damaged_file_is_named_in_one_line(everything, file, change, reason):
    changed(everything / file, change)
    with pytest.raises(InputError) as error:
        make_page(read_runs([str(everything)]))
    assert str(everything / file) in str(error.value)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_json_is_named(everything):
    (everything / "evaluation/evaluation.json").write_text("{")
    with pytest.raises(InputError, match=r"evaluation\.json cannot be read"):
        read_runs([str(everything)])


def test_results_that_are_not_finished_are_left_out(everything):
    # A program lists the files that it is about to write before it writes them.
    for file in everything.rglob("sensitivity.json"):
        file.write_text('{"files": ["sensitivity.csv"]}')
    (run,) = read_runs([str(everything)])
    assert list(run.analyses[0].found) == ["tolerances", "worst_case", "shots"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "is no run's folder: not found"),
        (lambda folder: folder.mkdir(), "is no run's folder: it has no fold_* folder with a metrics.json"),
        (lambda folder: (folder / "fold_0").mkdir(parents=True), "it has no fold_* folder with a metrics.json"),
        (lambda folder: folder.write_text(""), "is no run's folder: not found"),
    ],
)
def test_other_folders_are_refused(tmp_path, make, message):
    make(tmp_path / "run")
    with pytest.raises(InputError) as error:
        read_runs([str(tmp_path / "run")])
    assert str(error.value).startswith(f"--run={tmp_path / 'run'} ")
    assert message in str(error.value)


def test_a_run_is_named_once(everything):
    with pytest.raises(InputError, match="is given twice"):
        read_runs([str(everything), f"{everything}/../run"])


def test_a_fold_is_shown_by_itself(tmp_path):
    folder = report_runs.write_run(tmp_path / "run", folds=2)
    (run,) = read_runs([str(folder / "fold_1")])
    assert [fold.number for fold in run.folds] == [1]
    assert run.name == "run/fold_1"


def test_a_run_of_an_earlier_version_is_shown(tmp_path):
    (run,) = read_runs([str(EARLIER)])
    best = json.loads((EARLIER / "fold_0/metrics.json").read_text())["best_val_accuracy"]
    assert run.folds[0].best == best
    assert f"{best:.4f}" in make_page([run])


def test_the_command_trains_the_run_again(tmp_path):
    changes = {"lr": 1e-3, "log_model": False, "track_processing": True, "logdir": "my runs", "half_size": True}
    folder = report_runs.write_run(tmp_path / "run", **changes)
    (run,) = read_runs([str(folder)])
    values = flags.flags.FlagValues()
    flags.define(TrainConfig, values)
    python, script, *arguments = shlex.split(run.command.replace("\\\n", " "))
    assert (python, script) == ("python", "scripts/train.py")
    flags.parse(TrainConfig, "", [script, *arguments], values)
    assert flags.flat(flags.read(TrainConfig, values)) == dict(run.flags)
    assert max(map(len, run.command.splitlines())) <= 80


def test_an_evaluation_of_other_runs_is_not_theirs(tmp_path):
    runs = [report_runs.write_run(tmp_path / name) for name in ("first", "second")]
    others = report_runs.evaluation({"third": tmp_path / "third"}, report_runs.Numbers())
    report_runs.write_json(tmp_path / "evaluation/evaluation.json", others)
    assert joint_evaluation(read_runs(list(map(str, runs)))) is None

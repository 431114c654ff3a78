import json
import shlex
import shutil

import pytest
import report_runs
from report_pages import Page

from r2l_jax.apps.report.page import make_page
from r2l_jax.apps.report.runs import joint_evaluation, read_runs
from r2l_jax.apps.report.training import learning_curves
from r2l_jax.config import TrainConfig
from r2l_jax.runtime import flags
from r2l_jax.runtime.errors import InputError


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return report_runs.write_everything(tmp_path_factory.mktemp("written") / "run")


@pytest.fixture
def everything(written, tmp_path):
    """A copy of a run with all results, for a test to change."""
    return shutil.copytree(written, tmp_path / "run")


EVALUATION, ADAPTATION = "evaluation/evaluation.json", "adjustment/adaptation.json"
METRICS, FORENSICS = "fold_0/metrics.json", "forensics/fold_0/{0}/{0}.json"
SENSITIVITY, TOLERANCES, WORST_CASE, SHOTS = map(FORENSICS.format, ("sensitivity", "tolerances", "worst_case", "shots"))
DAMAGES = [
    (METRICS, lambda c: c.pop("history"), "missing required field history"),
    (METRICS, lambda c: c["history"][0].pop("epoch"), "its history lacks 'epoch'"),
    (METRICS, lambda c: c.pop("val_accuracy"), "Expected float, got null"),
    (METRICS, lambda c: c.update(val_f1=[]), "Expected object, got array"),
    (EVALUATION, lambda c: c["runs"]["run"]["tests"]["own"].pop("drop"), "Expected object, got null"),
    (EVALUATION, lambda c: c.update(score="iou"), "Expected object, got null"),
    (SENSITIVITY, lambda c: c.pop("overall"), "missing required field overall"),
    (TOLERANCES, lambda c: c["knobs"]["gamma_correct"].update(width=None), "a linear knob must have a positive width"),
    (WORST_CASE, lambda c: c["rows"][0].update(parameters={"a": ["b"]}), "could not"),
    (SHOTS, lambda c: c.update(fields=[]), "Expected object, got array"),
    (ADAPTATION, lambda c: c["folds"]["0"]["iso=0.05"].pop("starts"), "missing required field starts"),
]


@pytest.mark.parametrize(("file", "change", "reason"), DAMAGES)
def test_a_damaged_file_is_named_in_one_line(everything, file, change, reason):
    content = json.loads((everything / file).read_text())
    change(content)
    report_runs.write_json(everything / file, content)
    with pytest.raises(InputError) as error:
        make_page(read_runs([str(everything)]))
    assert str(everything / file) in str(error.value)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)
    (everything / file).write_text("{")
    with pytest.raises(InputError, match=f"{file} cannot be read"):
        make_page(read_runs([str(everything)]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "is not a run's folder: not found"),
        (lambda folder: folder.mkdir(), "is not a run's folder: it has no fold_* folder with a metrics.json"),
        (lambda folder: (folder / "fold_0").mkdir(parents=True), "it has no fold_* folder with a metrics.json"),
        (lambda folder: folder.write_text(""), "is not a run's folder: not found"),
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


def test_chance_is_a_guess_among_the_classes(tmp_path):
    runs = read_runs([str(report_runs.write_run(tmp_path / "run", classes=["a", "b", "c", "d"]))])
    assert {chart.y: chart.chance for chart in learning_curves(runs)} == {"loss": None, "accuracy": 0.25}
    for file in tmp_path.rglob("metrics.json"):
        file.write_text(file.read_text().replace("accuracy", "iou").replace("classification", "segmentation"))
    runs = read_runs([str(tmp_path / "run")])
    assert {chart.y: chart.chance for chart in learning_curves(runs)} == {"loss": None, "iou": None}


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
    lists = {"iso": (0.05, 1.0), "track": ("processing", "arrays"), "auto": (), "camera_augmentation": ()}
    assert flags.flat(flags.read(TrainConfig, values)) == dict(run.flags) | lists
    assert max(map(len, run.command.splitlines())) <= 80


def test_an_evaluation_of_other_runs_is_not_theirs(tmp_path):
    runs = [report_runs.write_run(tmp_path / name) for name in ("first", "second")]
    others = report_runs.evaluation({"third": report_runs.write_run(tmp_path / "third")}, report_runs.Numbers())
    report_runs.write_json(tmp_path / "evaluation/evaluation.json", others)
    assert joint_evaluation(read_runs(list(map(str, runs)))) is None


RESULTS = {
    EVALUATION: "Drift synthesis",
    SENSITIVITY: "Sensitivity",
    TOLERANCES: "Tolerances",
    WORST_CASE: "Worst cases",
    SHOTS: "Worst cases by shots",
    ADAPTATION: "Adaptation to drift",
}


def retrain(folder, fold=0):
    """Leaves the numbers of another training in the folder of a fold."""
    metrics = json.loads((folder / f"fold_{fold}/metrics.json").read_text())
    metrics["history"][0]["seconds"] += 1
    report_runs.write_json(folder / f"fold_{fold}/metrics.json", metrics)


def test_results_of_the_training_before_are_left_out_and_named(everything, capsys):
    assert {*RESULTS.values()} <= {*Page(make_page(read_runs([str(everything)]))).headings}
    assert capsys.readouterr().err == ""
    retrain(everything)
    read, said = Page(make_page(read_runs([str(everything)]))), capsys.readouterr().err.splitlines()
    assert not {*RESULTS.values(), "Drift forensics", "Drift adjustment"} & {*read.headings}
    assert not [text for text in read.texts if text.startswith(("Worst accuracy", "Mean drop", "Adapted to"))]
    lines = [f"{everything / file} is left out: it belongs to another training" for file in RESULTS]
    assert all(line.startswith(f"warning: {start}") for line, start in zip(said, lines, strict=True))
    assert [any(text.startswith(line) for text in read.texts) for line in lines] == [True] * len(lines)


@pytest.mark.parametrize("file", RESULTS)
def test_a_result_that_names_no_training_is_left_out(everything, file):
    text = (everything / file).read_text()
    (everything / file).write_text(text.replace('"training"', '"earlier"'))
    (run,) = read_runs([str(everything)])
    assert [line.split()[0] for line in run.left_out] == [str(everything / file)]


def test_of_two_folds_one_is_trained_anew(tmp_path):
    folder = report_runs.write_run(tmp_path / "run", folds=2)
    first, second = report_runs.training(folder), report_runs.training(folder, 1)
    numbers = report_runs.Numbers(500)
    for fold, training in enumerate((first, second)):
        shots = report_runs.shots(training, numbers)
        report_runs.write_json(folder / f"forensics/fold_{fold}/shots/shots.json", shots)
    evaluation = report_runs.evaluation({"run": folder}, numbers)
    evaluation["runs"]["run"]["training"] = {"0": first, "1": second}
    adaptation = report_runs.adaptation(first, numbers)
    adaptation["folds"]["1"] = report_runs.adaptation(second, numbers)["folds"]["0"]
    for file, content in ((EVALUATION, evaluation), (ADAPTATION, adaptation)):
        report_runs.write_json(folder / file, content)
    (run,) = read_runs([str(folder)])
    assert run.left_out == []
    retrain(folder, 1)
    (run,) = read_runs([str(folder)])
    # The analyses of the other fold still hold; means over both folds do not.
    assert [each.fold for each in run.analyses] == [0]
    assert (run.evaluation, run.adaptation) == (None, None)


def test_runs_evaluated_together_are_the_present_ones(tmp_path):
    folders = [report_runs.write_run(tmp_path / name, start=start) for name, start in (("first", 0), ("second", 100))]
    content = report_runs.evaluation({folder.name: folder for folder in folders}, report_runs.Numbers(500))
    report_runs.write_json(tmp_path / "evaluation/evaluation.json", content)
    assert joint_evaluation(read_runs(list(map(str, folders))))[1].runs.keys() == {"first", "second"}
    retrain(folders[1])
    read = Page(make_page(read_runs(list(map(str, folders)))))
    assert "Processing drift" not in read.headings
    assert any("evaluation.json is left out" in text for text in read.texts)

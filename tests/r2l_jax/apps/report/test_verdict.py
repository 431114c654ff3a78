import dataclasses
import json

import msgspec
import pytest
import report_runs
from report_runs import PIPELINES

from r2l_jax.apps.report.runs import read_runs
from r2l_jax.apps.report.verdict import judge, make, scored, stated
from r2l_jax.drift import results


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The record of a run without results."""
    return read_runs([str(report_runs.write_run(tmp_path_factory.mktemp("runs") / "run"))])[0]


def evaluated(run, about="model", **ends):
    """A run with an evaluation of the given intervals, by group of cases or case."""
    cases = ends.pop("cases", {})
    content = report_runs.evaluation({"run": run.folder}, report_runs.Numbers())
    content["drops"] = {"run": report_runs.drops(["run"], about, ends, cases)}
    return run._replace(evaluation=msgspec.convert(content, results.Evaluation))


def test_losses_are_intervals_with_the_worst_case_in_words(run):
    cases = {PIPELINES[0]: (0.05, 0.1), PIPELINES[1]: (0.25, 0.35), "iso=0.05": (0.6, 0.7), "iso=1": (0.0, 0.1)}
    found = evaluated(run, pipelines=(0.12, 0.19), intensities=(0.3, 0.4), cases=cases)
    assert judge(found) == [
        "Loses 12 to 19 points under other pipelines; the worst is menon2007 with unsharp masking and median "
        "denoising.",
        "Loses 30 to 40 points at other measured intensities; the worst is an intensity of 0.05.",
    ]
    found = evaluated(run, intensities=(0.6, 0.7), cases={"iso=0.05": (0.6, 0.7)})
    assert judge(found) == ["Loses 60 to 70 points at an intensity of 0.05."]
    found = evaluated(run, corruptions=(0.2, 0.25), noise=(0.3, 0.4), contrast=(0.5, 0.6), blur=(-0.1, 0.1))
    assert judge(found) == ["Loses 20 to 25 points under common corruptions; the worst is noise."]
    kinds = {"underexposure": (0.3, 0.4), "black_level": (0.5, 0.6), "defocus": (-0.1, 0.1)}
    found = evaluated(run, sensor=(0.2, 0.25), light=(0.3, 0.4), **{"read-out": (0.5, 0.6)}, **kinds)
    assert judge(found) == ["Loses 20 to 25 points under drift of the sensor; the worst is black level."]
    assert stated(found) == ["Intervals: 95%, about the model (480 test samples)."]


@pytest.mark.parametrize(
    ("ends", "sentence"),
    [
        ((-0.012, 0.03), "Shows no loss under other pipelines (\N{MINUS SIGN}1 to 3 points)."),
        ((-0.05, -0.02), "Gains 2 to 5 points under other pipelines."),
        ((0.004, 0.006), "Loses 0 to 1 points under other pipelines."),
        ((0.009, 0.011), "Loses 1 point under other pipelines."),
    ],
)
def test_a_loss_is_said_only_where_it_is_shown(run, ends, sentence):
    assert judge(evaluated(run, pipelines=ends)) == [sentence]


def test_the_worst_black_level_comes_before_other_worst_cases(run):
    content = report_runs.forensics({}, {"all": [0.5, 0.7, 0.9], "black_level": [0.01, 0.68, 0.25]})
    group = run._replace(forensics=msgspec.convert(content, results.Forensics))
    assert judge(group) == [
        "The worst black level that a search found costs 1 to 68 points in 3 trainings, 25 points in the median."
    ]
    del content["worst_case"]["black_level"]
    group = run._replace(forensics=msgspec.convert(content, results.Forensics))
    assert judge(group)[0].startswith("The worst processing that a search found costs 50 to 90 points in 3 trainings")


def test_a_single_run_has_one_worst_case(tmp_path):
    folder = report_runs.write_run(tmp_path / "run")
    content = report_runs.worst_case(report_runs.training(folder), report_runs.Numbers())
    drops = (0.1, 0.31)
    for row, drop in zip(content["rows"], drops, strict=True):
        row["drop"] = drop
    report_runs.write_json(folder / "forensics/fold_0/worst_case/worst_case.json", content)
    (run,) = read_runs([str(folder)])
    assert judge(run) == ["The worst processing that a search found costs 31 points."]


def test_adjustment_has_intervals(run):
    adaptation = report_runs.adapted([0.2], [0.7], (0.31, 0.49))
    adaptation["drifts"]["color_balance.4"] = adaptation["drifts"]["iso=0.05"]
    found = run._replace(adaptation=results.converted(adaptation, results.Adaptation, run.folder))
    assert judge(found) == [
        "Adjustment to an intensity of 0.05 wins back 31 to 49 points.",
        "Adjustment to color balance of severity 4 wins back 31 to 49 points.",
    ]


def test_the_score_without_drift_comes_first(run, tmp_path):
    found = evaluated(run, pipelines=(0.1, 0.2))
    assert scored(found) == ["The accuracy without drift is 90 to 96 points (a guess: 50)."]
    best = round(100 * run.folds[0].final.best)
    assert scored(run) == [f"The accuracy in the validation is {best} points (best checkpoint; a guess: 50)."]
    begun = run._replace(folds=[dataclasses.replace(run.folds[0], final=None)])
    assert scored(begun) == ["The training is not finished: 2 epochs so far."]
    two = [
        dataclasses.replace(run.folds[0], final=msgspec.structs.replace(run.folds[0].final, best=b))
        for b in (0.5, 0.75)
    ]
    words = "The accuracy in the validation of 2 trainings is 50 to 75 points (best checkpoint; a guess: 50)."
    assert scored(run._replace(folds=two)) == [words]


def test_the_verdict_on_an_unfinished_group_says_how_many_trainings_it_is_about(tmp_path):
    folder = report_runs.write_group(tmp_path / "group", seeds=(1, 2))
    (tmp_path / "group/seed_3").mkdir()
    (group,) = read_runs([str(folder)])
    assert scored(group) == ["The accuracy without drift of 2 of 3 trainings is 90 to 96 points (a guess: 50)."]
    (folder / "evaluation/evaluation.json").unlink()
    (group,) = read_runs([str(folder)])
    best = sorted(round(100 * fold.final.best) for fold in group.folds)
    ends = f"{best[0]} to {best[1]} points (best checkpoint; a guess: 50)."
    assert scored(group) == [f"The accuracy in the validation of 2 of 3 trainings is {ends}"]
    file = folder / "seed_2/fold_0/metrics.json"
    begun = {name: each for name, each in json.loads(file.read_text()).items() if "val_" not in name}
    report_runs.write_json(file, begun | {"complete": False})
    (group,) = read_runs([str(folder)])
    assert scored(group)[0].startswith("The accuracy in the validation of 1 of 3 trainings is ")


def test_a_run_that_was_not_tested_says_how(run):
    ((_, blocks),) = [("", make([run], {})[0].blocks)]
    assert blocks[-1].text == f"Not tested under drift yet: python scripts/evaluate.py --run={run.folder}"
    assert blocks[0].sentences == scored(run)

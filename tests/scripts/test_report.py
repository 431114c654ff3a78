import json

import pytest
import report_runs
from programs import call, program
from report_pages import Page


def test_a_report_is_written(tmp_path):
    run = report_runs.write_everything(tmp_path / "run")
    done = call("report.py", f"--run={run}", f"--output={tmp_path}/pages/report.html")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{tmp_path}/pages/report.html: 0.1 MB, of {run}\n"
    assert [path.name for path in (tmp_path / "pages").iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--run=nowhere"], "--run=nowhere is no run's folder: not found"),
        (["--run="], "--run= is no run's folder: it has no fold_* folder with a metrics.json"),
        (["--run=a,a"], "--run=a is given twice"),
        (["--run=a", "--output=report.pdf"], "--output must be a file that ends in .html, got 'report.pdf'"),
    ],
)
def test_mistakes_are_one_line(flags, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = call("report.py", *flags)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"report.py: error: {message}\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_results_of_all_programs_are_in_the_report(trained_run, tmp_path):
    """The numbers of the report are those of the JSON files that the programs have written."""
    commands = [
        ("evaluate.py", "--against=pipelines,corruptions", "--corruptions=contrast", "--severities=1,2"),
        ("forensics.py", "--analyses=sensitivity,worst_case", "--adv_parameters=white_balance", "--steps=2"),
        ("adjust.py", "--exposures=0.25", "--steps=2", "--starts=1", "--labeled=8"),
    ]
    for name, *flags in commands:
        done = program(name, f"--run={trained_run}", *flags)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == f"python scripts/report.py --run={trained_run} --output=report.html"
    done = program("report.py", f"--run={trained_run}", f"--output={tmp_path}/report.html")
    assert done.returncode == 0, done.stderr
    page = Page((tmp_path / "report.html").read_text())
    tests = json.loads((trained_run / "evaluation/evaluation.json").read_text())["runs"]["run"]["tests"]
    for name, test in tests.items():
        if name != "own":
            assert {test["accuracy"]["mean"], test["drop"]["mean"]} <= page.values(), name
    forensics = trained_run / "forensics/fold_0"
    for row in json.loads((forensics / "worst_case/worst_case.json").read_text())["rows"]:
        assert {row[name] for name in ("score", "drop", "loss", "ssim", "spread")} <= page.values()
    overall = json.loads((forensics / "sensitivity/sensitivity.json").read_text())["overall"]
    assert page.value("Images after stages", "demosaic", "worst, all samples") == overall["stages"]["demosaic"]["worst"]
    drift = json.loads((trained_run / "adjustment/adaptation.json").read_text())["drifts"]["exposure=0.25"]
    assert page.value("Adaptation by a few labeled images", "exposure=0.25", "after") == drift["after"]["mean"]

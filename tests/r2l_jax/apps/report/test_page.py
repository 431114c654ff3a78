"""The page of a report: its numbers are those of the files, and it needs nothing else."""

import json
import re

import numpy as np
import pytest
import report_runs
from report_pages import Page
from report_runs import PIPELINES

from r2l_jax.apps.report import page
from r2l_jax.apps.report.page import make_page, write_report
from r2l_jax.apps.report.pictures import DETAILS
from r2l_jax.apps.report.runs import read_runs
from r2l_jax.runtime.errors import InputError

HOSTILE = "<img src=x onerror=alert(1)>\"'</script><script>alert(2)</script>"


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    return report_runs.write_everything(tmp_path_factory.mktemp("runs") / "everything")


@pytest.fixture(scope="module")
def text(everything):
    return make_page(read_runs([str(everything)]))


@pytest.fixture(scope="module")
def read(text):
    return Page(text)


def numbers_of(content, *without):
    """All numbers of a JSON file except those below some keys."""
    if isinstance(content, dict):
        return {n for key, each in content.items() if key not in without for n in numbers_of(each, *without)}
    if isinstance(content, list):
        return {number for each in content for number in numbers_of(each, *without)}
    return {float(content)} if isinstance(content, int | float) and not isinstance(content, bool) else set()


@pytest.mark.parametrize(
    ("file", "without"),
    [
        # A run of one fold has no deviations; the numbers of classes under drift are those of evaluation.csv.
        ("evaluation/evaluation.json", ("std", "precision", "recall", "f1")),
        ("forensics/fold_0/sensitivity/sensitivity.json", ()),
        ("forensics/fold_0/worst_case/worst_case.json", ("task_loss", "deviation", "debayer", "default")),
        ("forensics/fold_0/shots/shots.json", ()),
        ("adjustment/adaptation.json", ("std", "start", "stops")),
    ],
)
def test_all_numbers_of_a_file_are_behind_cells(everything, read, file, without):
    content = json.loads((everything / file).read_text())
    if file.startswith("evaluation"):
        # The headline of a single run stands under the run.
        del content["headline"]
        runs = content["runs"].values()
        losses = {test["loss"]["mean"] for run in runs for name, test in run["tests"].items() if "contrast" not in name}
        own = {test["loss"]["mean"] for run in runs for test in run["tests"].values()} & losses
        assert numbers_of(content, *without) - own <= read.values()
        return
    wanted = numbers_of(content, *without)
    if file.endswith("sensitivity.json"):
        # Of classes, the tables show the worst changes; the mean loss is in the text.
        wanted = numbers_of(content["overall"], "samples", "loss", "stages", "parameters")
        for group in (content["overall"], *content["by_class"].values()):
            wanted |= {change["worst"] for kind in ("parameters", "stages") for change in group[kind].values()}
        assert f"{content['overall']['loss']:.4f}" in " ".join(read.texts)
    assert wanted <= read.values()


def test_the_history_and_the_classes_are_those_of_metrics_json(everything, read):
    metrics = json.loads((everything / "fold_0/metrics.json").read_text())
    for row in metrics["history"]:
        for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "seconds"):
            assert read.value("Numbers of each epoch", str(row["epoch"] + 1), name.replace("_", " ")) == row[name]
    for name in ("samples", "precision", "recall", "f1"):
        for each, value in metrics[f"val_{name}"].items():
            assert read.value("Validation by class, last epoch", each, name) == value
    confusion = "Confusion: targets in rows, predictions in columns"
    assert read.value(confusion, "EOS", "BAS") == metrics["val_confusion_matrix"][1][0]
    scores = "Scores and losses of the validation, and the numbers of samples"
    assert read.value(scores, "everything", "best accuracy") == metrics["best_val_accuracy"]
    assert read.value(scores, "everything", "last loss") == metrics["val_loss"]


def test_a_single_run_has_a_row_for_each_case(everything, read):
    tests = json.loads((everything / "evaluation/evaluation.json").read_text())["runs"]["everything"]["tests"]
    found = read.tables["accuracy and drop of everything"]
    assert len(found) == 3
    for case, number in {PIPELINES[1]: 0, "iso=0.05": 1, "exposure=0.5": 2}.items():
        for column, name in (("accuracy", "accuracy"), ("drop", "drop"), ("loss", "loss")):
            assert float(found[number][case, column][0]["data-value"]) == tests[case][name]["mean"]
    # The run was trained on images of this pipeline; exposures are all drift, so that own images have a row there.
    assert "framed" in found[0][PIPELINES[0], "accuracy"][0]["class"]
    assert ("own", "accuracy") not in found[0]
    assert "framed" in found[2]["own", "accuracy"][0]["class"]


def test_the_ends_of_tolerances_are_behind_cells(everything, read):
    knobs = json.loads((everything / "forensics/fold_0/tolerances/tolerances.json").read_text())["knobs"]
    for name, knob in knobs.items():
        for column in ("value", "low", "high"):
            assert read.value("Tolerated intervals", name, column) == knob[column]
    ((_, high),) = [
        each for key, each in read.tables["Tolerated intervals"][0].items() if key == ("gamma_correct", "high")
    ]
    assert high.startswith("limit ")


def test_parameters_over_epochs_are_those_of_the_events(everything, read):
    (fold,) = read_runs([str(everything)])[0].folds
    course = fold.recorded.parameters["white_balance"][0,]
    assert course.epochs == [0, 1]
    caption = "Parameters"
    table = next(table for table in read.tables[caption] if ("white_balance.red", "first epoch") in table)
    for column, value in zip(("first epoch", "last epoch"), course.values, strict=True):
        assert float(table["white_balance.red", column][0]["data-value"]) == value


def test_every_epoch_has_a_frame_of_the_slider(read):
    frames = [attributes for _, attributes in read.tags if attributes.get("class") == "frame"]
    assert [frame["data-title"] for frame in frames] == ["epoch 1", "epoch 2"]
    assert ["hidden" in frame for frame in frames] == [True, False]
    (slider,) = [attributes for tag, attributes in read.tags if tag == "input"]
    assert (slider["max"], slider["value"]) == ("1", "1")


def test_pictures_and_charts_have_alternative_texts(read):
    pictures = [attributes for tag, attributes in read.tags if tag == "img"]
    charts = [attributes for tag, attributes in read.tags if tag == "svg" and "aria-hidden" not in attributes]
    # Of each of two epochs a stage, its gradient and predictions; a worst case, and an adaptation.
    assert len(pictures) == 8
    assert len(charts) > 10
    assert all(len(picture["alt"]) > 10 for picture in pictures)
    assert all(chart["role"] == "img" and len(chart["aria-label"]) > 10 for chart in charts)


def test_nothing_is_loaded_from_elsewhere(text, read):
    assert not re.search(r"https?:|//\w|@import|url\(", re.sub(r'"data:image/webp;base64,[\w+/=]+"', "", text))
    for tag, attributes in read.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for name in ("src", "href", "srcset", "data"):
            assert attributes.get(name, "#").startswith(("#", "data:image/"))
    policy = next(attributes["content"] for tag, attributes in read.tags if attributes.get("http-equiv"))
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_the_contents_list_every_section(read):
    anchors = [attributes["id"] for tag, attributes in read.tags if tag in ("h2", "h3")]
    links = [attributes["href"] for tag, attributes in read.tags if tag == "a"]
    assert links == ["#content", *(f"#{anchor}" for anchor in anchors)]
    assert len(set(anchors)) == len(anchors)


def test_names_from_files_are_texts(tmp_path):
    folder = report_runs.write_everything(tmp_path / "run", classes=[HOSTILE, "EOS"])
    text = make_page(read_runs([str(folder)]))
    read = Page(text)
    assert "<img src=x" not in text
    assert sum(tag == "script" for tag, _ in read.tags) == 1
    assert not any(name.startswith("on") for _, attributes in read.tags for name in attributes)
    assert any(HOSTILE in each for each in read.texts)


def test_names_need_not_be_utf_8(tmp_path):
    folder = report_runs.write_run(tmp_path / "run", classes=["\udcff", "EOS"])
    assert write_report([str(folder)], tmp_path / "report.html") > 0
    assert "\\udcff" in Page((tmp_path / "report.html").read_text(encoding="utf-8")).texts


def test_equal_folders_give_equal_pages(everything, text):
    assert make_page(read_runs([str(everything)])) == text


def test_parts_that_a_run_lacks_have_no_heading(tmp_path):
    folder = report_runs.write_run(tmp_path / "run")
    headings = Page(make_page(read_runs([str(folder)]))).headings
    assert headings == ["run", "Summary", "How to reproduce", "Learning curves", "Classes", "Processing over epochs"]


def test_a_training_that_goes_on_is_shown(tmp_path):
    folder = report_runs.write_run(tmp_path / "run")
    file = folder / "fold_0/metrics.json"
    metrics = json.loads(file.read_text())
    report_runs.write_json(file, {name: metrics[name] for name in metrics if "val_" not in name} | {"complete": False})
    texts = Page(make_page(read_runs([str(folder)]))).texts
    assert "not finished" in texts
    # Before the end of the first epoch.
    report_runs.write_json(file, json.loads(file.read_text()) | {"history": []})
    assert "0 epochs so far" in Page(make_page(read_runs([str(folder)]))).texts


def test_an_adversarial_training_is_shown_with_its_metrics(tmp_path):
    folder = report_runs.write_run(tmp_path / "run", folds=2)
    for fold in range(2):
        file = folder / f"fold_{fold}/metrics.json"
        metrics = json.loads(file.read_text())
        for row in metrics["history"]:
            row |= {"train_deviation": 0.25, "val_deviation": 0.125}
        report_runs.write_json(file, metrics | {"default_val_accuracy": 0.75 + fold / 8})
    read = Page(make_page(read_runs([str(folder)])))
    scores = "Scores and losses of the validation, and the numbers of samples"
    assert read.value(scores, "run, fold 1", "accuracy by default") == 0.875
    assert read.value(scores, "run, mean", "accuracy by default") == 0.8125
    assert "deviation" in read.texts


def test_runs_stand_side_by_side(tmp_path):
    first = report_runs.write_everything(tmp_path / "first")
    second = report_runs.write_run(tmp_path / "second", start=5000, folds=2, epochs=3, lr=0.5)
    joint = report_runs.evaluation({"first": first, "second": second}, report_runs.Numbers(9000))
    report_runs.write_json(tmp_path / "evaluation/evaluation.json", joint)
    read = Page(make_page(read_runs([str(first), str(second)])))
    differences = "Settings in which the runs differ"
    assert read.value(differences, "--lr", "second") == 0.5
    assert read.value(differences, "--epochs", "first") == 2
    titles = {attributes["aria-label"] for _, attributes in read.tags if attributes.get("class") == "panel"}
    assert {"first", "second", "second, fold 0", "second, fold 1"} <= titles
    for caption, name in (("accuracy", "accuracy"), ("Drop of accuracy from the diagonal", "drop")):
        assert len(read.tables[caption]) == 3
        for case, number in {PIPELINES[1]: 0, "iso=0.05": 1, "exposure=0.5": 2}.items():
            for run in ("first", "second"):
                value = joint["runs"][run]["tests"][case][name]["mean"]
                assert float(read.tables[caption][number][run, case][0]["data-value"]) == value
    assert "Processing drift, runs together" in read.headings
    for run in ("first", "second"):
        drops = [joint["runs"][run]["tests"][f"contrast.{severity}"]["drop"]["mean"] for severity in (1, 3)]
        caption = "Drop of accuracy from the own images, mean over the severities"
        assert read.value(caption, run, "contrast") == np.mean(drops)
    scores = [json.loads((second / f"fold_{fold}/metrics.json").read_text())["best_val_accuracy"] for fold in range(2)]
    table = "Scores and losses of the validation, and the numbers of samples"
    assert read.value(table, "second, mean", "best accuracy") == pytest.approx(np.mean(scores))


def test_pictures_shrink_until_the_page_is_small_enough(tmp_path, monkeypatch):
    folder = report_runs.write_run(tmp_path / "run")
    report_runs.write_pictures(folder / "fold_0", epochs=12, size=(240, 80))
    runs = read_runs([str(folder)])
    full = Page(make_page(runs))
    assert sum(attributes.get("class") == "frame" for _, attributes in full.tags) == 12
    monkeypatch.setattr(page, "LARGEST", 300_000)
    text = make_page(runs)
    frames = [attributes["data-title"] for _, attributes in Page(text).tags if attributes.get("class") == "frame"]
    assert len(text.encode()) <= 300_000
    assert 1 <= len(frames) < 12
    assert frames[-1] == "epoch 12"
    monkeypatch.setattr(page, "LARGEST", 1000)
    with pytest.raises(InputError, match=r"^the report would have 0 MB, at most 0 are allowed: name fewer runs$"):
        make_page(runs)


def test_the_largest_detail_is_the_first():
    assert list(DETAILS) == sorted(DETAILS, reverse=True)


def test_an_earlier_report_stays_if_a_file_is_damaged(tmp_path):
    folder = report_runs.write_everything(tmp_path / "run")
    output = tmp_path / "report.html"
    size = write_report([str(folder)], output)
    assert output.stat().st_size == size
    before = output.read_bytes()
    (folder / "forensics/fold_0/worst_case/white_balance.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"white_balance\.png is no picture that can be shown"):
        write_report([str(folder)], output)
    assert output.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_runs_of_two_tasks_stand_side_by_side(tmp_path):
    first, second = (report_runs.write_everything(tmp_path / name) for name in ("first", "second"))
    before = report_runs.training(second)
    for file in sorted(second.rglob("*.json"), key=lambda file: file.name != "metrics.json"):
        file.write_text(file.read_text().replace("accuracy", "iou").replace(before, report_runs.training(second)))
    read = Page(make_page(read_runs([str(first), str(second)])))
    best = json.loads((second / "fold_0/metrics.json").read_text())["best_val_iou"]
    assert read.value("Scores and losses of the validation, and the numbers of samples", "second", "best score") == best
    assert ("second", "iso=0.05") in read.tables["score"][1]

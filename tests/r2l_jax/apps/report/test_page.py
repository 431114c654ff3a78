"""The page of a report shows the numbers of the files, and needs nothing else."""

import json
import re

import numpy as np
import pytest
import report_runs
from PIL import Image
from report_pages import Page
from report_runs import CLASSES, PIPELINES

from r2l_jax.apps.report import page
from r2l_jax.apps.report.page import make_page, write_report
from r2l_jax.apps.report.runs import read_members, read_runs
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


def shown(read, caption, title, columns):
    """The numbers behind a row of the only table of a caption that has it with these columns."""
    (table,) = [table for table in read.tables[caption] if all((title, column) in table for column in columns)]
    return {column: float(table[title, column][0]["data-value"]) for column in columns}


def assert_shown(read, caption, rows):
    """Rows are dicts of numbers by column, by their titles."""
    for title, row in rows.items():
        assert shown(read, caption, title, row) == row, (caption, title)


def test_numbers_of_the_evaluation_stand_in_their_rows_and_columns(everything, read):
    content = json.loads((everything / "evaluation/evaluation.json").read_text())
    (run,), by = content["runs"].values(), content["by"]["iso_speed"]
    kinds = ("processing", "acquisition", "sensor", "corruption")
    row = {
        "accuracy on own images": run["headline"]["own"],
        **{f"mean {kind} drop": run["headline"][f"{kind}_drop"] for kind in kinds},
    }
    assert_shown(read, "accuracy on own images, and mean drops under drift", {"everything": row})
    # The severities are rows of one title, of which the test's reader keeps the last.
    for caption, kind in {"Drift of the sensor": "defocus", "Common corruptions": "contrast"}.items():
        test = run["tests"][f"{kind}.3"]
        row = {"severity": 3, **{name: test[name]["mean"] for name in ("accuracy", "drop", "loss")}}
        assert_shown(read, caption, {"everything": row})
        assert {run["tests"][f"{kind}.1"][name]["mean"] for name in ("accuracy", "drop", "loss")} <= read.values()
    # Drifts of the sensor are drawn over their amounts.
    assert "pixels RMS" in read.texts
    rows = {
        title: dict(zip(("samples", *by["columns"]), (samples, *means), strict=True))
        for title, samples, means in zip(by["rows"], by["samples"], by["mean"], strict=True)
    }
    assert_shown(read, "accuracy by iso speed", rows)


def test_numbers_of_the_forensics_stand_in_their_rows_and_columns(everything, read):
    def content(name):
        return json.loads((everything / f"forensics/fold_0/{name}/{name}.json").read_text())

    sensitivity = content("sensitivity")
    overall, by_class = sensitivity["overall"], sensitivity["by_class"]
    for caption, kind in (("Parameters", "parameters"), ("Images after stages", "stages")):
        assert_shown(
            read,
            caption,
            {
                name: {
                    "worst, all samples": change["worst"],
                    "up, all samples": change["together"]["mean"],
                    **{f"worst, {each}": of_class[kind][name]["worst"] for each, of_class in by_class.items()},
                }
                for name, change in overall[kind].items()
            },
        )
    assert_shown(
        read,
        "Change of the loss with single values",
        {
            name: {"mean": mean["mean"], "mean of absolute values": mean["mean_absolute"]}
            for name, mean in overall["elements"].items()
        },
    )
    assert f"{overall['loss']:.3f}" in " ".join(read.texts)
    names = {"weight of the distance": "aux_weight", "accuracy": "score", "drop": "drop", "loss": "loss"}
    names |= {"SSIM": "ssim", "range of starts": "spread", "largest change": "change"}
    names |= {"CIEDE2000": "color", "CIEDE2000, 95%": "color_95"}
    rows = content("worst_case")["rows"]
    wanted = {row["group"]: {column: row[name] for column, name in names.items()} for row in rows}
    assert_shown(read, "Worst case of each search", wanted)
    values = {f"white_balance.{place}": {} for place in range(3)}
    for row in rows:
        for place, value in enumerate(row["parameters"]["white_balance"]):
            values[f"white_balance.{place}"][row["group"]] = value
    assert_shown(read, "Values in the worst case of each group", values)
    shots = content("shots")["fields"]["iso_speed"]
    wanted = {"100": dict(zip(shots["columns"], shots["scores"][0], strict=True))}
    assert_shown(read, "accuracy by iso speed", wanted)


def test_numbers_of_the_adjustment_stand_in_their_rows_and_columns(everything, read):
    (adapted,) = json.loads((everything / "adjustment/adaptation.json").read_text())["folds"]["0"].values()
    titles = {None: "no search", 0: "+0 stops", 1: "+1 stops"}
    assert_shown(
        read,
        "Ends of the searches; the framed start is chosen",
        {
            titles[start["stops"]]: {
                "loss of labeled images": start["labelled_loss"],
                "accuracy of labeled images": start["labelled_score"],
                "accuracy": start["score"],
            }
            for start in adapted["starts"]
        },
    )
    ends = {"before": adapted["default"]["white_balance"], "after": adapted["parameters"]["white_balance"]}
    wanted = {f"white_balance.{place}": {end: values[place] for end, values in ends.items()} for place in range(3)}
    assert_shown(read, "Values before and after", wanted)


@pytest.fixture(scope="module")
def two_folds(tmp_path_factory):
    """A run of two folds that differ in all numbers, with the worst cases and the adaptations of both."""
    folder = report_runs.write_run(tmp_path_factory.mktemp("runs") / "run", folds=2, epochs=3)
    numbers, folds = report_runs.Numbers(700), {}
    for fold in range(2):
        training = report_runs.training(folder, fold)
        worst = report_runs.worst_case(training, numbers)
        # The last row has the lowest score of the run, and the first row the lowest of the first fold.
        worst["rows"][fold]["score"] = 0.02 - fold / 100
        report_runs.write_json(folder / f"forensics/fold_{fold}/worst_case/worst_case.json", worst)
        folds[f"{fold}"] = report_runs.adaptation(training, numbers)["folds"]["0"]
    names = ("undrifted", "before", "after", "won_back")
    means = {name: float(np.mean([folds[fold]["iso=0.05"][name] for fold in folds])) for name in names}
    drift = {name: {"mean": mean, "std": 0.5} for name, mean in means.items()}
    content = {"score": "accuracy", "drifts": {"iso=0.05": drift}, "folds": folds}
    report_runs.write_json(folder / "adjustment/adaptation.json", content)
    return folder


@pytest.fixture(scope="module")
def two_folds_read(two_folds):
    return Page(make_page(read_runs([str(two_folds)])))


def test_numbers_of_two_folds_stand_in_their_rows_and_columns(two_folds, two_folds_read):
    read = two_folds_read
    metrics = [json.loads((two_folds / f"fold_{fold}/metrics.json").read_text()) for fold in range(2)]
    names = {
        "accuracy, best checkpoint": "best_val_accuracy",
        "accuracy, last checkpoint": "val_accuracy",
        "loss, best checkpoint": "best_val_loss",
        "loss, last checkpoint": "val_loss",
    }
    rows = {
        f"run, fold {fold}": {
            "epochs": 3,
            "best epoch": each["best_epoch"] + 1,
            "train": len(each["train_indices"]),
            "valid": len(each["valid_indices"]),
            **{column: each[name] for column, name in names.items()},
        }
        for fold, each in enumerate(metrics)
    }
    rows["run, mean"] = {column: np.mean([each[name] for each in metrics]) for column, name in names.items()}
    assert_shown(read, "Scores and losses of the validation, and the numbers of samples", rows)
    confusion = np.sum([each["val_confusion_matrix"] for each in metrics], 0)
    rows = {target: dict(zip(CLASSES, row, strict=True)) for target, row in zip(CLASSES, confusion, strict=True)}
    assert_shown(read, "Confusion, last checkpoint: targets in rows, predictions in columns", rows)
    for name in ("precision", "recall", "f1"):
        for target in CLASSES:
            samples = sum(each["val_samples"][target] for each in metrics)
            rows[target] = {"samples": samples, name: np.mean([each[f"val_{name}"][target] for each in metrics])}
        assert_shown(read, "Validation by class, last checkpoint; means over 2 folds, counts added up", rows)
    content = json.loads((two_folds / "adjustment/adaptation.json").read_text())
    names = {"accuracy, undrifted": "undrifted", "before": "before", "after": "after", "share won back": "won_back"}
    rows = {"iso=0.05": {column: content["drifts"]["iso=0.05"][name]["mean"] for column, name in names.items()}}
    for fold, drifts in content["folds"].items():
        rows[f"iso=0.05, fold {fold}"] = {column: drifts["iso=0.05"][name] for column, name in names.items()}
    assert_shown(read, "Scores before and after adaptation", rows)


def test_tiles_hold_the_worst_case_of_all_folds_and_the_mean_adaptation(two_folds, two_folds_read):
    texts = [text for text in two_folds_read.texts if text.strip()]
    worst = json.loads((two_folds / "forensics/fold_1/worst_case/worst_case.json").read_text())["rows"][1]
    place = texts.index("Worst accuracy")
    assert texts[place + 1 : place + 3] == ["1.0", f"moves white_balance, SSIM {worst['ssim']:.3f}"]
    drift = json.loads((two_folds / "adjustment/adaptation.json").read_text())["drifts"]["iso=0.05"]
    after, before = (f"{100 * drift[name]['mean']:.1f}" for name in ("after", "before"))
    place = texts.index("Adapted to iso=0.05")
    assert texts[place + 1 : place + 3] == [after, f"accuracy, {before} before"]


# A case of each kind of drift, by the number of its table.
CASES = {PIPELINES[1]: 0, "iso=0.05": 1, "exposure=0.5": 2}


def test_a_single_run_has_a_row_for_each_case(everything, read):
    tests = json.loads((everything / "evaluation/evaluation.json").read_text())["runs"]["everything"]["tests"]
    found = read.tables["accuracy and drop of everything"]
    assert len(found) == 3
    for case, number in CASES.items():
        for name in ("accuracy", "drop", "loss"):
            assert float(found[number][case, name][0]["data-value"]) == tests[case][name]["mean"]
    # The run was trained on images of this pipeline; exposures are all drift, so that own images have a row there.
    assert "framed" in found[0][PIPELINES[0], "accuracy"][0]["class"]
    assert ("own", "accuracy") not in found[0]
    assert "framed" in found[2]["own", "accuracy"][0]["class"]


def test_the_ends_of_tolerances_are_behind_cells(everything, read):
    knobs = json.loads((everything / "forensics/fold_0/tolerances/tolerances.json").read_text())["knobs"]
    for name, knob in knobs.items():
        for column in ("value", "low", "high"):
            assert read.value("Tolerated intervals", name, column) == knob[column]
        assert read.value("Tolerated intervals", name, "fails below") == knob["low_failing"]
    assert read.tables["Tolerated intervals"][0]["gamma_correct", "high"][1].startswith("limit ")
    assert "2 samples are too few to show a drop of 2 points at every end: that takes 188." in " ".join(read.texts)


def test_numbers_of_each_epoch_are_those_of_metrics_json_and_of_the_events(everything, read):
    metrics = json.loads((everything / "fold_0/metrics.json").read_text())
    names = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "seconds")
    rows = {str(row["epoch"] + 1): {name.replace("_", " "): row[name] for name in names} for row in metrics["history"]}
    assert_shown(read, "Numbers of each epoch", rows)
    (fold,) = read_runs([str(everything)])[0].folds
    course = fold.recorded.parameters["white_balance"][0,]
    assert course.epochs == [0, 1]
    wanted = dict(zip(("first epoch", "last epoch"), course.values, strict=True))
    start = metrics["camera"]["white_balance"][0]
    assert_shown(read, "Parameters", {"white_balance.red": wanted})
    assert read.tables["Parameters"][0]["white_balance.red", "start"][1] == f"{start:.3g}"
    # The chart has the changes from there.
    change = course.values[-1] - start
    labels = [attributes["aria-label"] for tag, attributes in read.tags if tag == "svg" and "aria-label" in attributes]
    assert any(f"white_balance: change, gain by epoch. red from 0 to {change:.3g};" in label for label in labels)
    assert "Changes of the parameters from their values at the start, which is epoch 0." in read.texts


def test_every_epoch_has_a_frame_of_the_slider(read):
    frames = [attributes for _, attributes in read.tags if attributes.get("class") == "frame"]
    assert [frame["data-title"] for frame in frames] == ["epoch 1", "epoch 2"]
    assert ["hidden" in frame for frame in frames] == [True, False]
    (slider,) = [attributes for tag, attributes in read.tags if tag == "input"]
    assert (slider["max"], slider["value"]) == ("1", "1")


def test_pictures_and_charts_have_alternative_texts(read):
    pictures = [attributes for tag, attributes in read.tags if tag == "img"]
    charts = [attributes for tag, attributes in read.tags if tag == "svg" and "aria-hidden" not in attributes]
    # A stage, its gradient and predictions in each of two epochs; a worst case, and an adaptation.
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


def test_names_from_files_are_texts_and_need_not_be_utf_8(tmp_path):
    folder = report_runs.write_everything(tmp_path / "run", classes=[HOSTILE, "\udcff"])
    assert write_report([str(folder)], tmp_path / "report.html") > 0
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    read = Page(text)
    assert "<img src=x" not in text
    assert sum(tag == "script" for tag, _ in read.tags) == 1
    assert not any(name.startswith("on") for _, attributes in read.tags for name in attributes)
    assert any(HOSTILE in each for each in read.texts)
    assert "\\udcff" in read.texts


def test_equal_folders_give_equal_pages(everything, text):
    assert make_page(read_runs([str(everything)])) == text


def test_parts_that_a_run_lacks_have_no_heading(tmp_path):
    folder = report_runs.write_run(tmp_path / "run")
    headings = Page(make_page(read_runs([str(folder)]))).headings
    assert headings == [
        "run",
        "Verdict",
        "Summary",
        "How to reproduce",
        "Learning curves",
        "Classes",
        "Processing over epochs",
    ]


def test_changes_begin_at_the_first_epoch_where_the_start_is_unknown(tmp_path):
    folder = report_runs.write_run(tmp_path / "run", processor_uri="runs/other")
    read = Page(make_page(read_runs([str(folder)])))
    assert "Changes of the parameters from their values at the end of the first epoch." in read.texts
    assert ("white_balance.red", "start") not in read.tables["Parameters"][0]


def test_no_number_has_more_than_three_digits(text, read):
    numbers = re.compile(r"(?<![\w.=])\d+\.\d+(?![\w.])")
    # Settings, versions and hashes are exact.
    exact = re.compile("|".join((r"--\w+", r"python ", r"jax ")))
    shown = [each for each in read.texts if not exact.search(each)]
    found = [number for each in shown for number in numbers.findall(each)]
    assert len(found) > 100
    assert [number for number in found if len(number.replace(".", "").lstrip("0")) > 3] == []


def test_the_checkpoint_is_said_with_each_score_that_depends_on_it(tmp_path):
    folder = report_runs.write_everything(tmp_path / "run")
    files = [folder / "evaluation/evaluation.json", folder / "adjustment/adaptation.json"]
    for file in files:
        report_runs.write_json(file, json.loads(file.read_text()) | {"flags": {"checkpoint": "best"}})
    for name in ("sensitivity", "tolerances", "worst_case"):
        file = folder / f"forensics/fold_0/{name}/{name}.json"
        report_runs.write_json(file, json.loads(file.read_text()) | {"checkpoint": "best"})
    read = Page(make_page(read_runs([str(folder)])))
    assert any(each.endswith("Tested, here and below: the best checkpoint.") for each in read.texts)
    assert sum(each.endswith(" Of the best checkpoint.") for each in read.texts) == 3
    assert "Scores before and after adaptation, best checkpoint" in read.tables
    assert "Validation by class, last checkpoint" in read.tables
    report_runs.write_json(files[1], json.loads(files[1].read_text()) | {"flags": {"checkpoint": "last"}})
    words = "Tested under drift: the best checkpoint. Analyzed by forensics: the best checkpoint. Adjusted: the last"
    assert any(words in each for each in Page(make_page(read_runs([str(folder)]))).texts)


def test_classes_are_of_the_checkpoint_that_was_tested(tmp_path):
    folder = report_runs.write_group(tmp_path / "group")
    tests = json.loads((folder / "evaluation/evaluation.json").read_text())["runs"]
    named = read_runs([str(folder)])
    tables = Page(make_page(named, read_members(named))).tables["Own images by class, best checkpoint"]
    for seed, table in zip((1, 2, 3), tables, strict=True):
        own = tests[f"group/seed_{seed}"]["tests"]["own"]
        for name, of_class in ((name, own[name]) for name in ("precision", "recall", "f1")):
            found = {each: float(table[each, name][0]["data-value"]) for each in CLASSES}
            assert found == {each: numbers["mean"] for each, numbers in of_class.items()}


def test_an_unfinished_training_is_shown(tmp_path):
    folder = report_runs.write_run(tmp_path / "run")
    file = folder / "fold_0/metrics.json"
    metrics = json.loads(file.read_text())
    begun = {name: metrics[name] for name in metrics if "val_" not in name} | {"complete": False}
    for content, words in ((begun, "not finished"), (begun | {"history": []}, "0 epochs so far")):
        report_runs.write_json(file, content)
        assert words in Page(make_page(read_runs([str(folder)]))).texts


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


def test_scores_are_in_points_and_losses_are_not(everything, read):
    run = json.loads((everything / "evaluation/evaluation.json").read_text())["runs"]["everything"]
    test, (found, *_) = run["tests"][PIPELINES[1]], read.tables["accuracy and drop of everything"]
    cells = [found[PIPELINES[1], column][1] for column in ("accuracy", "drop", "loss")]
    accuracy, drop, loss = (test[name]["mean"] for name in ("accuracy", "drop", "loss"))
    assert cells == [f"{100 * accuracy:.1f}", f"{100 * drop:.1f}", f"{loss:.3f}"]
    metrics = json.loads((everything / "fold_0/metrics.json").read_text())
    (scores,) = read.tables["Scores and losses of the validation, and the numbers of samples"]
    assert scores["everything", "accuracy, best checkpoint"][1] == f"{100 * metrics['best_val_accuracy']:.1f}"
    assert scores["everything", "loss, best checkpoint"][1] == f"{metrics['best_val_loss']:.3f}"
    (epochs,) = read.tables["Numbers of each epoch"]
    row = metrics["history"][0]
    assert epochs["1", "val accuracy"][1] == f"{100 * row['val_accuracy']:.1f}"
    assert epochs["1", "val loss"][1] == f"{row['val_loss']:.3f}"
    (adapted,) = json.loads((everything / "adjustment/adaptation.json").read_text())["folds"]["0"].values()
    (scores,) = read.tables["Scores before and after adaptation"]
    assert scores["iso=0.05", "before"][1] == f"{100 * adapted['before']:.1f}"
    assert scores["iso=0.05", "share won back"][1] == f"{adapted['won_back']:.0%}"


def test_drifts_of_one_severity_are_one_chart_of_bars(tmp_path):
    folder = report_runs.write_everything(tmp_path / "run")
    file = folder / "evaluation/evaluation.json"
    content = json.loads(file.read_text())
    tests = content["runs"]["run"]["tests"]
    for name in ("defocus.1", "contrast.1", "iso=1"):
        del tests[name]
    tests |= {"flicker.3": tests["defocus.3"] | {"accuracy": {"mean": 0.25, "std": 0.0}}}
    report_runs.write_json(file, content)
    read = Page(make_page(read_runs([str(folder)])))
    labels = [attributes.get("aria-label", "") for tag, attributes in read.tags if tag == "svg"]
    score = 100 * tests["defocus.3"]["accuracy"]["mean"]
    assert f"Drift of the sensor, severity 3: accuracy, points. defocus {score:.1f}; flicker 25.0." in labels
    assert [label for label in labels if label.startswith(("defocus", "flicker", "contrast"))] == []
    # A single intensity has a row in a table, and no curve; two exposures have one.
    assert [sum(by in label for label in labels) for by in ("measured intensity", "exposure by the model")] == [0, 1]


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
        for case, number in CASES.items():
            for run in ("first", "second"):
                value = joint["runs"][run]["tests"][case][name]["mean"]
                assert float(read.tables[caption][number][run, case][0]["data-value"]) == value
    assert "Processing drift, runs together" in read.headings
    of_kinds = read.tables["Drop of accuracy from own images, mean over the severities"]
    for kind, table in zip(("defocus", "contrast"), of_kinds, strict=True):
        for run in ("first", "second"):
            drops = [joint["runs"][run]["tests"][f"{kind}.{severity}"]["drop"]["mean"] for severity in (1, 3)]
            assert float(table[run, kind][0]["data-value"]) == np.mean(drops)
    scores = [json.loads((second / f"fold_{fold}/metrics.json").read_text())["best_val_accuracy"] for fold in range(2)]
    table = "Scores and losses of the validation, and the numbers of samples"
    assert read.value(table, "second, mean", "accuracy, best checkpoint") == pytest.approx(np.mean(scores))


def test_values_of_the_worst_case_are_those_of_the_lowest_score(tmp_path):
    folder = report_runs.write_run(tmp_path / "run")
    content = report_runs.worst_case(report_runs.training(folder), report_runs.Numbers(700))
    content["rows"] = [
        content["rows"][0] | {"score": score, "loss": loss, "parameters": {"gamma_correct": loss}}
        for score, loss in [(0.5, 1.0), (0.25, 2.0), (0.25, 3.0), (0.75, 9.0)]
    ]
    report_runs.write_json(folder / "forensics/fold_0/worst_case/worst_case.json", content)
    read = Page(make_page(read_runs([str(folder)])))
    # Among equal scores, the greatest loss is the worst case.
    assert read.value("Values in the worst case of each group", "gamma_correct", "all") == 3.0


def test_runs_are_compared_over_the_severities_of_both(tmp_path):
    folders = [report_runs.write_run(tmp_path / name, start=start) for name, start in (("first", 0), ("second", 50))]
    content = report_runs.evaluation({folder.name: folder for folder in folders}, report_runs.Numbers(900))
    for run, severity in (("first", "fog.2"), ("second", "fog.4")):
        content["runs"][run]["tests"][severity] = content["runs"][run]["tests"]["contrast.1"]
    first, second = (content["runs"][run]["tests"] for run in ("first", "second"))
    del second["contrast.3"]
    report_runs.write_json(tmp_path / "evaluation/evaluation.json", content)
    read = Page(make_page(read_runs(list(map(str, folders)))))
    _, table = read.tables["Drop of accuracy from own images, mean over the severities"]
    for run, tests in (("first", first), ("second", second)):
        assert float(table[run, "contrast"][0]["data-value"]) == tests["contrast.1"]["drop"]["mean"]
        # No severity is common to both.
        assert table[run, "fog"] == ({}, "\N{EN DASH}")


def test_pictures_shrink_until_the_page_is_small_enough(tmp_path, monkeypatch):
    folder = report_runs.write_run(tmp_path / "run")
    report_runs.write_pictures(folder / "fold_0", epochs=12)
    runs = read_runs([str(folder)])

    def frames(text):
        return [attributes["data-title"] for _, attributes in Page(text).tags if attributes.get("class") == "frame"]

    full = make_page(runs)
    assert frames(full) == [f"epoch {epoch}" for epoch in range(1, 13)]
    monkeypatch.setattr(page, "LARGEST", len(full.encode()) - 1)
    text = make_page(runs)
    assert len(text.encode()) < len(full.encode())
    assert len(frames(text)) == 8
    assert frames(text)[-1] == "epoch 12"
    monkeypatch.setattr(page, "LARGEST", 1000)
    monkeypatch.setattr(page, "DETAILS", page.DETAILS[-1:])
    with pytest.raises(InputError, match=r"^the report would have 0 MB, at most 0 are allowed: name fewer runs$"):
        make_page(runs)


def test_an_earlier_report_stays_if_a_file_is_damaged(tmp_path):
    folder, output = report_runs.write_run(tmp_path / "run"), tmp_path / "report.html"
    report_runs.write_pictures(folder / "fold_0")
    size = write_report([str(folder)], output)
    assert output.stat().st_size == size
    before = output.read_bytes()
    (folder / "fold_0/results/epoch_0001/predictions.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"epoch_0001/predictions\.png is not a picture that can be shown"):
        write_report([str(folder)], output)
    assert output.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_runs_of_two_tasks_stand_side_by_side(tmp_path):
    first, second = (report_runs.write_run(tmp_path / name) for name in ("first", "second"))
    for folder in (first, second):
        content = report_runs.evaluation({folder.name: folder}, report_runs.Numbers(500))
        report_runs.write_json(folder / "evaluation/evaluation.json", content)
    before = report_runs.training(second)
    for file in sorted(second.rglob("*.json"), key=lambda file: file.name != "metrics.json"):
        content = file.read_text().replace("accuracy", "iou").replace("classification", "segmentation")
        file.write_text(content.replace(before, report_runs.training(second)))
    read = Page(make_page(read_runs([str(first), str(second)])))
    best = json.loads((second / "fold_0/metrics.json").read_text())["best_val_iou"]
    caption = "Scores and losses of the validation, and the numbers of samples"
    assert read.value(caption, "second", "score, best checkpoint") == best
    assert ("second", "iso=0.05") in read.tables["score"][1]


def test_the_page_of_a_group_begins_with_its_verdict_and_shows_its_members(tmp_path):
    folder = report_runs.write_group(tmp_path / "group")
    write_report([str(folder)], tmp_path / "report.html")
    read = Page((tmp_path / "report.html").read_text())
    assert read.headings[:3] == ["group", "Verdict", "Summary"]
    place = read.texts.index("Verdict", read.texts.index("group") + 1)
    sentences = [
        "The accuracy without drift is 90 to 96 points (a guess: 50).",
        "Loses 12 to 19 points under other pipelines; the worst is menon2007 with unsharp masking and median "
        "denoising.",
        "Loses 20 to 30 points under common corruptions.",
        "The worst black level that a search found costs 1 to 68 points in 3 trainings, 25 points in the median.",
        "Adjustment to an intensity of 0.05 wins back 30 to 50 points.",
    ]
    assert [each for each in read.texts[place:] if each in sentences] == sentences
    about = "Intervals: 95%, about the recipe (3 trainings, 480 test samples). Tested under drift: the best checkpoint."
    assert about in read.texts
    (drops,) = read.tables["Drops in points of accuracy, from 93.0 (90.0 to 96.0) on own images"]
    assert drops["tone and color", "drop"][1] == "25.0 (20.0 to 30.0)"
    panels = [attributes["aria-label"] for _, attributes in read.tags if attributes.get("class") == "panel"]
    assert {f"group/seed_{seed}" for seed in (1, 2, 3)} <= {*panels}
    assert len(read.tables["Worst case of each search"]) == 3
    # The figure is drawn in the colors of the page, for wide pages and for narrow ones.
    figures = [attributes["aria-label"] for tag, attributes in read.tags if tag == "svg" and "aria-label" in attributes]
    assert figures[0] == figures[1]
    assert figures[0].startswith("Median accuracy of the trainings in points, and their range: own images ")
    with Image.open(tmp_path / "drift.png") as picture:
        assert picture.size == (1800, 760)


def test_a_group_is_shown_while_it_is_trained(tmp_path):
    folder = report_runs.write_run(tmp_path / "group/seed_1").parent
    (folder / "seed_2").mkdir()
    write_report([str(folder)], tmp_path / "report.html")
    assert Page((tmp_path / "report.html").read_text()).headings[:3] == ["group", "Verdict", "Summary"]
    assert not (tmp_path / "drift.png").exists()

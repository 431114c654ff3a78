"""The page of a report shows the numbers of the files, and needs nothing else."""

import json
import re
import shutil

import pytest
import report_runs
from report_pages import Page

from r2l_jax.apps.report import page
from r2l_jax.apps.report.page import make_page, write_report
from r2l_jax.apps.report.runs import read_runs
from r2l_jax.errors import InputError
from r2l_jax.results import result
from r2l_jax.results.result import SCORE, Column, Table

HOSTILE = "<img src=x onerror=alert(1)>\"'</script><script>alert(2)</script>"

SCORES = "Validation scores and losses"


def made(*folders):
    return make_page(read_runs([str(folder) for folder in folders]))


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    return report_runs.write_everything(tmp_path_factory.mktemp("runs") / "everything")


@pytest.fixture(scope="module")
def text(everything):
    return made(everything)


@pytest.fixture(scope="module")
def read(text):
    return Page(text)


def test_numbers_of_all_tables_are_behind_cells_in_their_rows_and_columns(everything, read):
    for file in everything.rglob(result.FILE):
        (table,) = result.read(file.parent).tables.values()
        (found,) = read.tables[table.title]
        for row in table.rows:
            for column, cell in list(zip(table.columns, row, strict=True))[1:]:
                attributes, _ = found[row[0], column.heading]
                value = cell[0] if isinstance(cell, tuple) else cell
                if isinstance(value, bool | None):
                    assert "data-value" not in attributes
                else:
                    assert float(attributes["data-value"]) == value


def test_scores_of_the_validation_are_those_of_metrics_json(tmp_path):
    folder = report_runs.write_run(tmp_path / "run", folds=2, epochs=3)
    read = Page(made(folder))
    for fold in range(2):
        content = json.loads((folder / f"fold_{fold}/metrics.json").read_text())
        wanted = {
            "best accuracy": content["best_val_accuracy"],
            "last accuracy": content["val_accuracy"],
            "best loss": content["best_val_loss"],
            "last loss": content["val_loss"],
            "best epoch": content["best_epoch"] + 1,
            "epochs": 3,
            "training samples": len(content["train_indices"]),
            "validation samples": len(content["valid_indices"]),
        }
        for column, value in wanted.items():
            assert read.value(SCORES, f"run/fold_{fold}", column) == value
        text = read.tables[SCORES][0][f"run/fold_{fold}", "best accuracy"][1]
        assert text == f"{100 * content['best_val_accuracy']:.1f}"


def test_results_are_in_the_order_of_the_controls_below_the_verdict(read):
    assert read.headings == [
        *("everything", "Verdict", "Evaluation", "Drift", "Pipelines", "Forensics", "Worst cases"),
        *("Monitor", "Monitoring", "Training", "Course", "How to reproduce"),
    ]
    sentences = ["Loses 12 points.", "Loses 13 points.", "The worst one costs 31 points."]
    assert [each for each in read.texts if each.endswith("points.")] == sentences
    assert read.texts.index(sentences[-1]) < read.texts.index("Table of Drift")
    assert {"Drift: a note.", "How to read it.", "a curve", "a sheet"} <= {*read.texts}


def test_members_of_a_group_are_folded_away_and_speak_only_for_what_the_group_lacks(tmp_path):
    read = Page(made(report_runs.write_group(tmp_path / "group")))
    assert read.headings[1:] == [
        *("Verdict", "Evaluation", "Drift", "Forensics", "Each model"),
        *("Training", "Each model", "How to reproduce"),
    ]
    folded = {f"{title}, seed_{seed}/fold_0" for title in ("Shots", "Course") for seed in (1, 2, 3)}
    assert folded <= {*read.texts}
    assert sum(tag == "details" for tag, _ in read.tags) == 1 + len(folded) + 1
    said = [each for each in read.texts if each.startswith(("Loses", "Shots of"))]
    assert said == ["Loses 12 to 19 points.", *(f"Shots of seed_{seed}." for seed in (1, 2, 3))]
    assert {f"group/seed_{seed}/fold_0" for seed in (1, 2, 3)} <= {row for row, _ in read.tables[SCORES][0]}


def test_several_runs_have_sections_of_their_own_and_their_evaluation_together(tmp_path, everything):
    second = report_runs.write_run(tmp_path / "runs/second", start=5000, folds=2, epochs=3, lr=0.5)
    first = shutil.copytree(everything, tmp_path / "runs/first")
    of = {"first": report_runs.training(first), "second": report_runs.training(second)}
    report_runs.write_result(tmp_path / "runs/evaluation", of, report_runs.Numbers(), "Together", ["Second loses."])
    read = Page(made(first, second))
    start = ["first, second", "Verdict", "first", "second", "Evaluation", "Together", "Drift, first"]
    assert read.headings[:7] == start
    assert read.headings[-3:] == ["How to reproduce", "first", "second"]
    assert read.value("Settings in which the runs differ", "lr", "second") == 0.5
    assert read.value("Settings in which the runs differ", "epochs", "first") == 2
    assert "Second loses." in read.texts


@pytest.mark.parametrize("count", [0, 2])
def test_an_unfinished_training_is_shown(tmp_path, count):
    folder = report_runs.write_run(tmp_path / "run")
    report_runs.unfinish(folder, count)
    read = Page(made(folder))
    assert f"Training is not finished: {count} epochs so far." in read.texts
    assert read.tables[SCORES][0]["run", "finished"][1] == "no"


def test_a_group_is_shown_while_it_is_trained(tmp_path):
    folder = report_runs.write_run(tmp_path / "group/seed_1").parent
    for seed in (2, 3):
        (folder / f"seed_{seed}").mkdir()
    read = Page(made(folder))
    best = 100 * read.value(SCORES, "group", "best accuracy")
    assert f"The validation accuracy of 1 of 3 models is {best:.1f} points (best checkpoint)." in read.texts
    assert f"Not tested under drift yet: python scripts/evaluate.py --run={folder}" in read.texts


def test_nothing_is_loaded_from_elsewhere(text, read):
    assert not re.search(r"https?:|//\w|@import|url\((?!#)", re.sub(r'"data:image/webp;base64,[\w+/=]+"', "", text))
    for tag, attributes in read.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for name in ("src", "href", "srcset", "data"):
            assert attributes.get(name, "#").startswith(("#", "data:image/"))
    policy = next(attributes["content"] for tag, attributes in read.tags if attributes.get("http-equiv"))
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_names_from_files_are_texts_and_need_not_be_utf_8(tmp_path):
    folder = report_runs.write_run(tmp_path / "run")
    table = Table(HOSTILE, [Column(HOSTILE), Column("a", "", SCORE)], [[HOSTILE, 0.5], ["\udcff", None]], HOSTILE)
    of = {"fold_0": report_runs.training(folder)}
    report_runs.write_result(folder / "evaluation", of, report_runs.Numbers(), HOSTILE, [HOSTILE], table=table)
    assert write_report([str(folder)], tmp_path / "report.html") > 0
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    read = Page(text)
    assert "<img src=x" not in text
    assert sum(tag == "script" for tag, _ in read.tags) == 1
    assert not any(name.startswith("on") for _, attributes in read.tags for name in attributes)
    assert read.texts.count(HOSTILE) >= 5
    assert "\\udcff" in read.texts


def test_pictures_shrink_until_the_page_is_small_enough(everything, text, monkeypatch):
    monkeypatch.setattr(page, "_WIDTHS", (60, 30, 20))
    monkeypatch.setattr(page, "LARGEST", len(text.encode()) - 1)
    widths = {attributes["width"] for tag, attributes in Page(made(everything)).tags if tag == "img"}
    assert widths == {"30"}
    monkeypatch.setattr(page, "LARGEST", 1000)
    with pytest.raises(InputError, match=r"^the report would take 0 MB, more than the limit of 0 MB: name fewer runs$"):
        made(everything)

import io
import json

import numpy as np
import pytest
import report_runs
from matplotlib.figure import Figure
from PIL import Image
from report_runs import PIPELINES

from r2l_jax.apps.report import dots
from r2l_jax.apps.report.dots import Row
from r2l_jax.apps.report.runs import read_members, read_runs
from r2l_jax.names import CORRUPTIONS, SENSOR


def read_rows(folder):
    (group,) = read_runs([str(folder)])
    return {row.title: row.scores for row in dots.make_rows(group, read_members([group])[group.name])}


@pytest.fixture
def folder(tmp_path):
    return report_runs.write_group(tmp_path / "group")


def test_each_row_has_the_score_of_each_training(folder):
    runs = json.loads((folder / "evaluation/evaluation.json").read_text())["runs"].values()

    def scores(*cases):
        return [float(np.mean([run["tests"][case]["accuracy"]["mean"] for case in cases])) for run in runs]

    files = [folder / f"seed_{seed}/forensics/fold_0/worst_case/worst_case.json" for seed in (1, 2, 3)]
    rows = [json.loads(file.read_text())["rows"] for file in files]
    # The runs were trained on the images of the first pipeline.
    assert read_rows(folder) == {
        "own images": scores("own"),
        "other pipelines (mean of 1)": scores(PIPELINES[1]),
        "sensor: lens": scores("defocus.1", "defocus.3"),
        "corruptions: tone and color": scores("contrast.1", "contrast.3"),
        "worst black level": [row["score"] for of_run in rows for row in of_run if row["group"] == "black_level"],
        "a twentieth of the light": [0.2, 0.21, 0.22],
        "a twentieth of the light, adjusted": [0.7, 0.44, 0.79],
    }


def test_every_group_of_the_sensor_and_of_corruptions_has_its_row(folder):
    file = folder / "evaluation/evaluation.json"
    content = json.loads(file.read_text())
    for run in content["runs"].values():
        run["tests"] |= {f"{name}.2": run["tests"]["contrast.1"] for name in (*SENSOR, *CORRUPTIONS)}
    report_runs.write_json(file, content)
    kinds = ("tone and color", "noise", "blur", "weather", "digital")
    rows = [f"sensor: {kind}" for kind in ("light", "lens", "read-out")] + [f"corruptions: {kind}" for kind in kinds]
    assert [*read_rows(folder)][2:10] == rows


def test_rows_without_results_are_left_out(folder):
    (folder / "adjustment/adaptation.json").unlink()
    # Without an adjustment, the lowest intensity that was tested.
    assert [*read_rows(folder)][-2:] == ["worst black level", "a twentieth of the light"]
    (folder / "evaluation/evaluation.json").unlink()
    assert [*read_rows(folder)] == ["worst black level"]
    for file in folder.rglob("worst_case.json"):
        content = json.loads(file.read_text())
        content["rows"] = [row for row in content["rows"] if row["group"] != "black_level"]
        report_runs.write_json(file, content)
        lowest = min(row["score"] for row in content["rows"])
    ((title, scores),) = read_rows(folder).items()
    assert (title, len(scores)) == ("worst processing", 3)
    assert lowest in scores


def test_the_row_of_intensities_is_about_the_lowest(folder):
    file = folder / "adjustment/adaptation.json"
    content = json.loads(file.read_text())
    low = content["drifts"].pop("iso=0.05")
    mild = {"iso=0.25": low | {"before": low["after"]}, "iso=0.5": low | {"before": low["after"]}}
    report_runs.write_json(file, content | {"drifts": mild | {"iso=0.05": low, "iso=0.1": mild["iso=0.25"]}})
    rows = read_rows(folder)
    assert [*rows][-2:] == ["a twentieth of the light", "a twentieth of the light, adjusted"]
    assert rows["a twentieth of the light"] == [0.2, 0.21, 0.22]
    # Without an adjustment, it is the lowest of those that were tested.
    file.unlink()
    file = folder / "evaluation/evaluation.json"
    content = json.loads(file.read_text())
    for run in content["runs"].values():
        run["tests"] |= {
            name: run["tests"]["exposure=0.1"] | {"group": "intensities"} for name in ("iso=0.01", "iso=0.5")
        }
    report_runs.write_json(file, content)
    scores = [run["tests"]["iso=0.01"]["accuracy"]["mean"] for run in content["runs"].values()]
    assert [*read_rows(folder).items()][-1] == ("a hundredth of the light", scores)


def test_the_figure_has_a_dot_for_each_training_a_median_and_chance():
    rows = [Row("own images", [0.9, 0.8, 1.0]), Row("worst black level", [0.2, 0.7, 0.6])]
    axes = Figure().subplots()
    dots.draw(axes, {"group": rows}, "accuracy", 0.125)
    dots_and_medians = [[90, 80, 100], [90, 90], [20, 70, 60], [60, 60]]
    found = [list(line.get_xdata()) for line in axes.lines]
    assert [pytest.approx(each) for each in found] == [*dots_and_medians, [12.5, 12.5]]
    assert axes.lines[-1].get_linestyle() == "--"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["own images", "worst black level"]
    assert axes.get_xlim() == (0, 100)
    assert [text.get_text() for text in axes.texts] == ["90.0", "60.0", "chance"]
    with Image.open(io.BytesIO(dots.make_png({"group": rows}, "accuracy", None))) as picture:
        assert picture.size == (1800, 360)
    assert "worst black level 60.0 (20.0 to 70.0)" in dots.alternative(rows, "accuracy")


def test_groups_share_rows_each_in_its_color():
    """The second group lacks the first row and has another one, which the first lacks."""
    first = [Row("own images", [0.9, 0.8]), Row("worst black level", [0.2, 0.7]), Row("other pipelines", [0.5, 0.6])]
    second = [Row("worst black level", [0.3, 0.4]), Row("a twentieth of the light", [0.1, 0.2])]
    axes = Figure().subplots()
    dots.draw(axes, {"plain": first, "augmented": second}, "accuracy", None)
    titles = ["own images", "worst black level", "other pipelines", "a twentieth of the light"]
    assert [label.get_text() for label in axes.get_yticklabels()] == titles
    places = {
        tuple(np.round(line.get_xdata() / 100, 2)): np.mean(line.get_ydata())
        for line in axes.lines
        if line.get_marker() == "o"
    }
    assert places[0.2, 0.7] == pytest.approx(0.75)
    assert places[0.3, 0.4] == pytest.approx(1.25)
    assert places[0.1, 0.2] == pytest.approx(3.25)
    colors = {line.get_color() for line in axes.lines if line.get_marker() == "o"}
    assert len(colors) == 2
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["plain", "augmented"]

"""Results are written, found again and printed in one way."""

import base64
import csv
import dataclasses
import io
import json
import re
import sys
import types
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib import pyplot
from PIL import Image

from r2l_jax.errors import InputError
from r2l_jax.results import store
from r2l_jax.results.result import DROP, FILE, Arrays, Column, Figure, Result, Table, cached, read, write

pytestmark = pytest.mark.usefixtures("rendered_figures")

TABLE = Table(
    "Drops",
    [Column("case"), Column("drop", "points", DROP), Column("samples"), Column("fits")],
    [["iso=0.05", (0.1234, -0.02, 1.0), 12, True], ["defocus.3", None, 7, False]],
    "95% confidence intervals",
)


def made(**metadata):
    figures = {"line": Figure(lambda axes: axes.plot([0, 1], [1, 0])), "picture": Image.new("RGB", (3, 2), (9, 8, 7))}
    arrays = Arrays({"counted": np.arange(6.0).reshape(2, 3)}, {"models": "[]"})
    return Result({"notes": ["One note."], **metadata}, {"drops": TABLE}, figures, arrays)


def stored(folder) -> Any:
    return read(folder)


def identity(**settings):
    return store.identity(settings)


def test_text_shows_points_intervals_missing_numbers_and_notes():
    lines = made().text().splitlines()
    assert lines[0] == "Drops"
    assert lines[1].split() == ["case", "drop,", "points", "samples", "fits"]
    assert lines[3].split() == ["iso=0.05", "12.3", "(-2.0", "to", "100)", "12", "yes"]
    assert lines[4].split() == ["defocus.3", "-", "7", "no"]
    assert lines[5] == "95% confidence intervals"
    assert lines[-1] == "One note."


def test_what_was_written_is_read_again(tmp_path):
    write(tmp_path, dataclasses.replace(made(score=0.5), captions={"picture": "a gray field"}))
    found = stored(tmp_path)
    assert found.captions["picture"] == "a gray field"
    assert found.metadata["score"] == 0.5
    assert found.text() == made().text()
    np.testing.assert_array_equal(found.outcomes.arrays["counted"], np.arange(6.0).reshape(2, 3))
    assert found.outcomes.about == {"models": "[]"}
    assert np.asarray(Image.open(found.figures["picture"].file)).tolist() == [[[9, 8, 7]] * 3] * 2
    with (tmp_path / "drops.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["drop"], first["drop low"], first["drop high"], second["drop"]) == ("0.1234", "-0.02", "1.0", "")


def test_a_result_is_made_once_for_its_inputs(tmp_path, capsys):
    calls = []

    def make():
        calls.append(1)
        return made(number=len(calls))

    numbers = [cached(tmp_path, identity(seed=seed), make).metadata["number"] for seed in (1, 1, 2)]
    assert numbers == [1, 1, 2]
    assert capsys.readouterr().err == f"{tmp_path}: recomputing (other settings)\n"


def test_a_result_without_one_of_its_files_is_made_anew(tmp_path, capsys):
    cached(tmp_path, identity(seed=1), made)
    (tmp_path / "drops.csv").unlink()
    cached(tmp_path, identity(seed=1), made)
    assert (tmp_path / "drops.csv").exists()
    assert capsys.readouterr().err == f"{tmp_path}: recomputing (files are missing)\n"


def test_a_result_of_other_inputs_goes_with_its_files_alone(tmp_path):
    cached(tmp_path, identity(seed=1), made)
    (tmp_path / "mine.txt").write_text("kept")
    cached(tmp_path, identity(seed=2), lambda: Result({}))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.txt", FILE]


def test_an_earlier_result_stays_until_another_is_made(tmp_path):
    cached(tmp_path, identity(seed=1), made)

    def stopped():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached(tmp_path, identity(seed=2), stopped)
    assert cached(tmp_path, identity(seed=1), stopped).text() == made().text()


def test_a_call_that_was_killed_while_it_wrote_leaves_nothing(tmp_path):
    training = tmp_path / "events.out.tfevents.1.host"
    for name in (training.name, "events.out.tfevents.2.host.result", ".result.json.7.part"):
        (tmp_path / name).touch()
    for _ in range(2):
        write(tmp_path, made())
        found = {path.name for path in tmp_path.iterdir()}
        (events,) = (name for name in found if "tfevents" in name and name != training.name)
        assert events != "events.out.tfevents.2.host.result"
        assert found == {training.name, FILE, *stored(tmp_path).files}


def test_files_outside_the_folder_stay(tmp_path):
    (tmp_path / "other.csv").write_text("mine")
    folder = tmp_path / "result"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    files = ["../other.csv", str(tmp_path / "other.csv"), "link/other.csv", "\0", 3, ""]
    (folder / FILE).write_text(json.dumps({"files": files}))
    write(folder, Result({}))
    assert (tmp_path / "other.csv").read_text() == "mine"


@pytest.mark.parametrize(
    "content", ["{", "[1]", '{"files": [], "tables": 3, "figures": {}, "metadata": {}}', '{"files": 1}']
)
def test_damaged_results_are_refused_in_a_line(tmp_path, content):
    (tmp_path / FILE).write_text(content)
    with pytest.raises(InputError, match=f"{FILE} cannot be read .*: delete it"):
        read(tmp_path)


def test_a_notebook_shows_verdict_tables_plots_pictures_and_folded_notes():
    shown = made(verdict=["Loses 12.3 points <at most>."])._repr_html_()
    assert "<b>Loses 12.3 points &lt;at most&gt;.</b>" in shown
    assert "<th>drop, points</th>" in shown
    assert '<td style="text-align:right">12.3 (-2.0 to 100)</td>' in shown
    assert "<td>iso=0.05</td>" in shown
    assert "<details><summary>Notes</summary><p>One note.</p></details>" in shown
    (svg,) = re.findall('src="data:image/svg\\+xml;base64,([^"]*)"', shown)
    assert ElementTree.fromstring(base64.b64decode(svg)).tag.endswith("svg")
    (png,) = re.findall('src="data:image/png;base64,([^"]*)"', shown)
    assert np.asarray(Image.open(io.BytesIO(base64.b64decode(png)))).tolist() == [[[9, 8, 7]] * 3] * 2


def test_a_stored_result_is_shown_as_the_one_that_was_made(tmp_path):
    write(tmp_path, made(verdict=["Holds."]))
    shown = stored(tmp_path)._repr_html_()
    assert (shown.count("data:image/svg+xml"), shown.count("data:image/png")) == (1, 1)
    assert "<b>Holds.</b>" in shown
    assert str(stored(tmp_path)) == str(made(verdict=["Holds."])) == f"Holds.\n\n{made().text()}"


def test_long_tables_are_folded():
    table = TABLE._replace(rows=TABLE.rows * 13)
    assert "<details><summary>Drops (26 rows)</summary><table>" in Result({}, {"drops": table})._repr_html_()


def test_a_figure_draws_on_given_axes_and_on_new_ones(tmp_path):
    _, axes = pyplot.subplots()
    assert made().figures["line"].draw(axes) is axes
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), [1, 0])
    found = Figure(lambda axes: axes.plot([2, 3]), (3, 2)).draw()
    assert found.figure.get_size_inches().tolist() == [3, 2]
    write(tmp_path, made())
    picture = stored(tmp_path).figures["picture"].draw().images[0]
    assert np.asarray(picture.get_array()).tolist() == [[[9, 8, 7]] * 3] * 2
    pyplot.close("all")


def test_a_table_becomes_a_data_frame(monkeypatch):
    frame = types.ModuleType("pandas")
    frame.DataFrame = list
    monkeypatch.setitem(sys.modules, "pandas", frame)
    first, second = TABLE.to_pandas()
    assert (first["drop"], first["drop low"], first["drop high"], first["samples"]) == (0.1234, -0.02, 1.0, 12)
    assert second["drop"] is None
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match="needs pandas: pip install pandas"):
        TABLE.to_pandas()


@pytest.mark.parametrize(
    ("number", "text"), [(-0.00039349377, "-0.000393"), (-0.0, "0.00"), (-1e-12, "0.00"), (2, "2")]
)
def test_a_number_is_rounded_once(number, text):
    assert Column("", format="#.3g").text(number) == text

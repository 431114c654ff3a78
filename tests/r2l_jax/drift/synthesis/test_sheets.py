import json

import numpy as np
import pytest
from PIL import Image

from r2l_jax.drift.synthesis import evaluation, sheets
from r2l_jax.drift.synthesis.config import EvaluationConfig, SheetConfig
from r2l_jax.drift.synthesis.sheets import worst_cell
from r2l_jax.runtime.errors import InputError

OTHER = "bilinear.unsharp_masking.median_denoising"


def sheet(base, kind, tmp_path, **settings):
    """Draws a sheet of the scenes of the small runs, and returns the picture."""
    output = tmp_path / f"{kind}.png"
    source = {} if kind == "worst" else {"synthetic_images": 40, "synthetic_size": 32}
    sheets.run(SheetConfig(sheet=kind, output=str(output), data_dir=base.data.data_dir, **source, **settings))
    return np.asarray(Image.open(output))


def test_a_sheet_of_pipelines_has_a_panel_for_each(base, tmp_path):
    picture = sheet(base, "pipelines", tmp_path, pipelines=("parametrized", OTHER), sample=3)
    # Three columns of panels of 480 pixels, with gaps of 8; the third stays white.
    assert picture.shape == (480 + 28 + 8, 3 * 488 + 8, 3)
    first, second, third = (picture[28:508, 8 + 488 * place : 488 * (place + 1)] for place in range(3))
    assert first.std() > 5
    assert 0 < abs(first.astype(int) - second).mean() < 60
    assert (third == 255).all()


def test_a_sheet_of_corruptions_has_a_row_for_each_and_a_column_for_each_severity(base, tmp_path):
    picture = sheet(base, "corruptions", tmp_path, corruptions=("contrast", "fog"), severities=(1, 5))
    assert picture.shape == (2 * 268 + 8, 2 * 248 + 8, 3)
    mild, severe = (picture[28:268, 8 + 248 * place : 248 * (place + 1)] for place in range(2))
    # Contrast falls to 0.75 and to 0.15 of what it was.
    assert severe.std((0, 1)).mean() / mild.std((0, 1)).mean() == pytest.approx(0.2, abs=0.05)


def test_a_sheet_of_the_sensor_has_a_row_for_each_kind_and_a_column_for_each_severity(base, tmp_path):
    picture = sheet(base, "sensor", tmp_path, sensor=("underexposure", "vignetting"), severities=(1, 5))
    assert picture.shape == (2 * 268 + 8, 2 * 248 + 8, 3)
    (darker, dark), (plain, vignetted) = (
        [
            picture[28 + 268 * row : 268 * (1 + row), 8 + 248 * column : 248 * (1 + column)].astype(float)
            for column in range(2)
        ]
        for row in range(2)
    )
    # Four stops less, after a gamma of 2.2.
    assert dark.mean() / darker.mean() == pytest.approx(2 ** (-4 / 2.2), rel=0.25)
    inner, corner = slice(100, 140), slice(0, 20)
    ratio = [panel[corner, corner].mean() / panel[inner, inner].mean() for panel in (plain, vignetted)]
    assert ratio[1] < 0.6 * ratio[0]


def test_the_worst_cell_is_the_greatest_loss_of_a_run():
    def run(own, **scores):
        tests = {"own": {"group": "own", "accuracy": {"mean": own}}}
        tests |= {name: {"group": "pipelines", "accuracy": {"mean": score}} for name, score in scores.items()}
        return {"own": ["a"], "tests": tests}

    content = {"score": "accuracy", "runs": {"first": run(0.9, a=0.1, b=0.6), "second": run(0.6, a=0.6, b=0.5)}}
    assert worst_cell(content, "pipelines") == ("first", "b", 0.9, 0.6)
    with pytest.raises(InputError, match=r"^--matrix=exposures: the evaluation is against pipelines$"):
        worst_cell(content, "exposures")


def test_the_worst_cell_of_an_evaluation_is_drawn_with_its_difference_by_channel(base, one_epoch, tmp_path):
    run, output = (str(one_epoch.run_dir),), str(tmp_path / "results")
    evaluation.run(EvaluationConfig(run=run, against=("pipelines",), pipelines=(OTHER,), output=output))
    picture = sheet(base, "worst", tmp_path, evaluation=str(tmp_path / "results" / "evaluation.json"))
    assert picture.shape == (2 * 508 + 8, 3 * 488 + 8, 3)

    def panel(row, column):
        return picture[28 + 508 * row : 508 * (1 + row), 8 + 488 * column : 488 * (1 + column)].astype(float)

    trained, tested, together, *channels = (panel(place // 3, place % 3) for place in range(6))
    for number, channel in enumerate(channels):
        np.testing.assert_array_equal(channel[..., 0], channel[..., 1])
        np.testing.assert_array_equal(channel[..., 0], together[..., number])
    inner = slice(60, -60)
    assert np.corrcoef((tested - trained)[inner, inner].ravel(), together[inner, inner].ravel())[0, 1] > 0.9
    # The largest difference of all channels away from the border is black or white.
    assert abs(together[30:-30, 30:-30] - 127.5).max() == pytest.approx(127.5, abs=1)


def test_the_worst_drift_of_the_sensor_is_drawn(base, one_epoch, tmp_path):
    """Only the last 30% of the rows change."""
    run, output = (str(one_epoch.run_dir),), str(tmp_path / "results")
    evaluation.run(
        EvaluationConfig(run=run, against=("sensor",), sensor=("pattern_shift",), severities=(3,), output=output)
    )
    file = str(tmp_path / "results" / "evaluation.json")
    picture = sheet(base, "worst", tmp_path, matrix="sensor", evaluation=file).astype(float)
    trained, tested = (picture[28:508, 8 + 488 * place : 488 * (place + 1)] for place in range(2))
    changed = abs(tested - trained).mean((1, 2))
    # The first of them is the 23rd of 32, and filters look at most five rows far.
    assert changed[: 17 * 15].max() == 0
    assert changed[23 * 15 :].mean() > 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sheet": "worst"}, "--sheet=worst needs --evaluation, the evaluation.json of scripts/evaluate.py"),
        ({"sheet": "pipelines", "pipelines": ()}, "--pipelines is empty"),
        ({"sheet": "sensor", "sensor": ()}, "--sensor is empty"),
        ({"sheet": "sensor", "severities": ()}, "--severities is empty"),
        ({"sheet": "pipelines", "output": "sheet.jpg"}, "--output must be a .png file, got sheet.jpg"),
        ({"sheet": "all"}, "--sheet must be one of pipelines, sensor, corruptions, worst, got 'all'"),
    ],
)
def test_settings_that_make_no_sheet_are_named(settings, message):
    with pytest.raises(InputError, match=f"^{message}$"):
        SheetConfig(**{"output": "sheet.png", **settings})


def test_what_is_not_there_is_named(base, tmp_path):
    with pytest.raises(InputError, match=r"^--sample=40: .* has the samples 0 to 39$"):
        sheet(base, "pipelines", tmp_path, sample=40)
    other = tmp_path / "evaluation.json"
    for content, message in (
        ("{", "cannot be read"),
        (json.dumps({}), "must be an evaluation.json of scripts/evaluate.py"),
    ):
        other.write_text(content)
        with pytest.raises(InputError, match=rf"^--evaluation=.*evaluation.json {message}"):
            sheet(base, "worst", tmp_path, evaluation=str(other))

import numpy as np
import pytest
from PIL import Image

from r2l_jax.drift.synthesis import sheets
from r2l_jax.drift.synthesis.config import SheetConfig
from r2l_jax.runtime.errors import InputError

OTHER = "bilinear.unsharp_masking.median_denoising"


def sheet(base, kind, tmp_path, **settings):
    """Draws a sheet of the scenes of the small runs, and returns the picture."""
    output = tmp_path / f"{kind}.png"
    source = {"synthetic_images": 40, "synthetic_size": 32}
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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sheet": "pipelines", "pipelines": ()}, "--pipelines is empty"),
        ({"sheet": "sensor", "sensor": ()}, "--sensor is empty"),
        ({"sheet": "sensor", "severities": ()}, "--severities is empty"),
        ({"sheet": "pipelines", "output": "sheet.jpg"}, "--output must be a .png file, got sheet.jpg"),
        ({"sheet": "all"}, "--sheet must be one of pipelines, sensor, corruptions, got 'all'"),
    ],
)
def test_settings_that_make_no_sheet_are_named(settings, message):
    with pytest.raises(InputError, match=f"^{message}$"):
        SheetConfig(**{"output": "sheet.png", **settings})


def test_what_is_not_there_is_named(base, tmp_path):
    with pytest.raises(InputError, match=r"^--sample=40: .* has the samples 0 to 39$"):
        sheet(base, "pipelines", tmp_path, sample=40)

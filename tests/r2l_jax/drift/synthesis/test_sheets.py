import numpy as np
import pytest
from PIL import Image
from programs import call


def sheet(run, group, tmp_path, *flags):
    """Draws a sheet of a sample of a run, and returns the picture."""
    where = f"--run={run.run_dir}", f"--output={tmp_path}", f"--sheet={group}", f"--against={group}"
    done = call("evaluate.py", *where, *flags)
    assert (done.returncode, done.stdout) == (0, f"sheet in {tmp_path}/sheet_{group}.png\n"), done.stderr
    return np.asarray(Image.open(tmp_path / f"sheet_{group}.png"))


@pytest.mark.shows("evaluate --sheet")
def test_a_sheet_of_the_sensor_has_a_row_for_each_kind_and_a_column_for_each_severity(one_epoch, tmp_path):
    picture = sheet(one_epoch, "sensor", tmp_path, "--sensor=underexposure,vignetting", "--severities=1,5")
    assert picture.shape == (2 * 268 + 8, 2 * 248 + 8, 3)
    panels = [picture[row : row + 240, column : column + 240] for row in (28, 296) for column in (8, 256)]
    darker, dark, plain, vignetted = panels
    # Four stops less, after a gamma of 2.2.
    assert dark.mean() / darker.mean() == pytest.approx(2 ** (-4 / 2.2), rel=0.25)
    ratio = [panel[:20, :20].mean() / panel[100:140, 100:140].mean() for panel in (plain, vignetted)]
    assert ratio[1] < 0.6 * ratio[0]


def test_a_sheet_is_of_a_group_that_is_tested(one_epoch):
    done = call("evaluate.py", f"--run={one_epoch.run_dir}", "--sheet=sensor")
    assert done.stderr == "evaluate.py: error: --sheet=sensor needs --against=sensor\n"

import re
from importlib import resources

import numpy as np
import pytest

from r2l_jax.apps.report import tables
from r2l_jax.results.result import DROP, SCORE, Column, Table


def test_losses_and_gains_differ_in_color_and_are_shaded_by_their_size():
    drops = {"blur": (0.3, 0.2, 0.4), "noise": -0.15, "light": 0.06, "nothing": 0.0, "missing": None}
    scores = [0.5, 0.9, 0.6, 0.7, 0.8]
    rows = [[name, drop, score] for (name, drop), score in zip(drops.items(), scores, strict=True)]
    columns = [Column("test"), Column("drop", "points", DROP), Column("accuracy", "points", SCORE)]
    _, lost, scored = zip(*tables.cells(Table("Drops", columns, rows)), strict=True)
    assert [cell.tone for cell in lost] == ["loss", "gain", "loss", "gain", ""]
    # Relative to the greatest change, 30 points.
    assert [cell.shade for cell in lost] == pytest.approx([1, 0.5, 0.2, 0, 0])
    assert {cell.tone for cell in scored} == {"level"}
    assert [cell.shade for cell in scored] == pytest.approx(np.divide(np.array(scores) - 0.5, 0.4))
    style = resources.files("r2l_jax.apps.report").joinpath("templates/report.css").read_text()
    colors = [re.findall(rf"--{tone}: ([\d ]+);", style) for tone in ("loss", "gain", "level")]
    assert re.findall(r"\.(\w+) \{\s*background: rgb\(var\(--(\w+)\)", style) == [
        (tone, tone) for tone in ("level", "loss", "gain")
    ]
    # Red and green channels, on light and on dark pages.
    for loss, gain in zip(*colors[:2], strict=True):
        (red, green, _), (other_red, other_green, _) = (map(int, color.split()) for color in (loss, gain))
        assert red - green > 50 > other_red - other_green

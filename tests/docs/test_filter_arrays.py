import filter_arrays
import pytest
from pages import PAGES


def test_the_picture_is_of_the_arrays_that_the_guide_names():
    assert filter_arrays.PICTURE.read_text() == filter_arrays.draw(), "run python docs/ext/filter_arrays.py"
    for pattern, _ in filter_arrays.ARRAYS.values():
        assert f"`{pattern}`" in PAGES["docs/sensors.md"]


@pytest.mark.parametrize(("name", "greens"), [("BGGR", 18), ("quad Bayer", 32), ("X-Trans", 80), ("monochrome", 0)])
def test_an_array_has_the_colors_of_its_sensor(name, greens):
    pattern, sites = filter_arrays.ARRAYS[name]
    drawn = "".join(filter_arrays._sites(pattern, 0, sites))
    assert drawn.count("<rect") == sites**2
    assert drawn.count(filter_arrays.svg.COLORS["G"]) == greens

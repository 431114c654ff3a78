import dataclasses
import json

import numpy as np
import pytest

import isp
from isp.sensor_drift import QUANTITIES, difference
from r2l_jax.drift import limits
from r2l_jax.drift.limits import Limit
from r2l_jax.errors import InputError

CAMERA = isp.CAMERAS["microscopy"]
MONO = isp.Camera(black_level=(0.05,), pattern="MONO")


def read(tmp_path, content, camera=CAMERA):
    file = tmp_path / "limits.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return limits.read(str(file), limits.possible(camera, {}))


def test_limits_are_read_with_their_units_and_distributions(tmp_path):
    found = read(tmp_path, {"exposure": [-4, 0.3], "photon_noise": [1, 16], "read_noise": {"low": 1, "high": 2}})
    assert found["exposure"] == Limit(-4, 0.3, "stops")
    assert [found["photon_noise"].at(share) for share in (0.0, 0.5, 1.0)] == pytest.approx([1, 4, 16])
    assert [found["photon_noise"].share_of(value) for value in (1.0, 4.0, 32.0)] == pytest.approx([0, 0.5, 1])
    assert (found["exposure"].at(0.5), found["exposure"].share_of(0.0)) == pytest.approx((-1.85, 4 / 4.3))
    assert read(tmp_path, {"limits": limits.written(found)}) == found
    assert {"lamp_color", "red_gain", "defocus"} <= limits.read("default", limits.possible(CAMERA, {})).keys()
    assert not {"lamp_color", "red_gain"} & limits.read("default", limits.possible(MONO, {})).keys()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "has no limits"),
        ("{", "truncated, corrupt or not a valid JSON"),
        ("[" * 100_000, "truncated, corrupt or not a valid JSON"),
        ({"exposure": [0.3, -4]}, "exposure must have the lower limit first, got 0.3 and -4"),
        ({"exposure": [0, "1"]}, "exposure must be [low, high]"),
        ({"exposure": [0, True]}, "exposure must be [low, high]"),
        ({"exposure": {"high": 1}}, "exposure must be [low, high]"),
        ({"exposure": {"low": 0, "high": 1, "distributed": "uniform"}}, "exposure must be [low, high]"),
        ('{"exposure": [0, 1e999]}', "exposure must have the lower limit first, got 0 and inf"),
        ({"exposures": [0, 1]}, "exposures is not one of exposure"),
        ({"defocus": [-1, 1]}, "defocus must be from 0 to inf pixels RMS, got -1 to 1"),
        ({"motion": [0, 33]}, "motion must be from 0 to 32 pixels"),
        ({"exposure": {"low": 0, "high": 1, "distribution": "gamma"}}, "distribution must be one of uniform"),
        ({"exposure": {"low": 0, "high": 1, "distribution": "log-uniform"}}, "must be positive to be log-uniform"),
    ],
)
def test_limits_that_are_not_valid_are_one_line(tmp_path, content, words):
    with pytest.raises(InputError) as error:
        read(tmp_path, content)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_sensor_without_color_filters_has_no_drift_of_colors(tmp_path):
    with pytest.raises(InputError, match="lamp_color needs a sensor with color filters"):
        read(tmp_path, {"lamp_color": [-10, 10]}, MONO)
    with pytest.raises(InputError, match=r"^`envelope=.*no.json`: No such file or directory$"):
        limits.read(str(tmp_path / "no.json"), limits.possible(CAMERA, {}))


def test_the_reach_of_a_value_is_its_share_of_the_limit_on_its_side():
    exposure, gain = Limit(-4.0, 0.5), Limit(1.0, 4.0, neutral=1.0, distribution="log-uniform")
    assert [exposure.reach(value) for value in (0.0, -2.0, 0.25, 1.0)] == [0, 0.5, 0.5, 2]
    assert gain.reach(2.0) == pytest.approx(0.5)
    assert gain.reach(16.0) == pytest.approx(2)
    dim = Limit(-4.0, -1.0)
    assert dim.reach(-2.0) < 1 < min(map(dim.reach, (0.0, 0.5, -5.0)))
    level = Limit(10.0, 100.0, distribution="log-uniform")
    assert level.reach(50.0) < 1 < level.reach(1000.0) < level.reach(0.0)
    # A proposed limit may end at the neutral value but for rounding.
    assert Limit(4e-16, 0.3).reach(0.0) == 0
    statement = {"limits": limits.written({"exposure": exposure})}
    assert limits.outside(statement, {"exposure": -3.0}) == []
    assert limits.outside(statement, {"exposure": 1.0, "gamma": 1.1}) == ["exposure", "gamma"]
    # Limits may leave out the neutral value.
    assert limits.outside(
        {"limits": limits.written({"defocus": Limit(0.0, 1.0), "exposure": dim})}, {"defocus": 0.5}
    ) == ["exposure"]


def test_fractions_are_not_rounded_up():
    assert [limits.percent(fraction) for fraction in (0.95, 0.9499999, 0.9996, 1.0)] == [
        "95%",
        "94.9%",
        "99.9%",
        "100%",
    ]


def test_the_difference_of_two_cameras_is_placed_and_rounded_values_are_no_drift():
    """The published black levels have four digits, and a file of the same camera has 256 of 4095."""
    published, given = isp.CAMERAS["drone"], {"exposure": Limit(-1.0, 0.3), "black_level": Limit(-5.0, 5.0)}
    assert np.mean(published.black_level) != 256 / 4095
    for level, reach in ((256, 0), (253, 0.6), (250, 1.2)):
        camera = dataclasses.replace(published, black_level=(level / 4095,) * 4, full_well=15003.0)
        found = limits.reaches(given, difference(camera, published).given)
        assert found["black_level"] == pytest.approx(reach)
        assert {each for name, each in found.items() if name != "black_level"} == {0}


def test_the_box_of_all_quantities_is_that_of_their_declarations():
    widest = limits.possible(CAMERA, {})
    assert widest.keys() == QUANTITIES.keys()
    assert widest["read_noise"] == Limit(1, np.inf, "times the camera's", 1, "log-uniform")
    assert widest["motion"] == Limit(0, 32, "pixels")
    assert widest["bits"].neutral == 12
    # Values that change nothing are at no distance, whether they have a limit or not.
    neutral = {name: quantity.neutral for name, quantity in QUANTITIES.items()}
    assert {*limits.reaches(limits.read("default", widest), neutral).values()} == {0}


def test_limits_in_words_have_their_units():
    given = limits.written({"exposure": Limit(-1.0, 0.3, "stops"), "pipeline.gamma_correct": Limit(1.95, 2.4567)})
    assert limits.in_words(given) == "exposure -1 to 0.3 stops, pipeline.gamma_correct 1.95 to 2.46"


@pytest.mark.parametrize(("distribution", "middle"), [("uniform", 5.0), ("log-uniform", 3.0), (None, None)])
def test_a_file_chooses_the_distribution_of_a_limit(tmp_path, distribution, middle):
    """By default, factors are log-uniform and additions uniform."""
    given = {"low": 1, "high": 9} | ({"distribution": distribution} if distribution else {})
    found = read(tmp_path, {"read_noise": given, "exposure": given})
    for name, by_default in (("read_noise", 3.0), ("exposure", 5.0)):
        expected = middle or by_default
        assert found[name].at(0.5) == pytest.approx(expected)
        assert found[name].share_of(expected) == pytest.approx(0.5)
    assert read(tmp_path, limits.written(found)) == found

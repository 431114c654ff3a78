import dataclasses
import math

import brightness
import numpy as np
import pytest
from brightness import BRIGHT, CAMERA, dark_images

import isp
from r2l_jax.drift.forensics.camera_check import check, read_camera, score_together, table
from r2l_jax.runtime.errors import InputError

MATRIX = np.eye(3)
FACTS = isp.parametrized(CAMERA).facts


def knob(parameter, value, below, above, at_limit=False):
    return {
        "parameter": parameter,
        "value": value,
        "low": value - below,
        "high": value + above,
        "low_at_limit": at_limit,
        "high_at_limit": at_limit,
    }


@pytest.fixture
def tolerances():
    """What tolerates a bit around `CAMERA`."""
    levels = ("red", "green_1", "green_2", "blue")
    knobs = {f"black_level.{name}": knob("black_level", 0.1, 0.1, 0.02) for name in levels}
    knobs |= {f"white_balance.{color}": knob("white_balance", 1.0, 0.5, 1.0) for color in ("red", "green", "blue")}
    for to, row in zip(("red", "green", "blue"), MATRIX, strict=True):
        for source, weight in zip(("red", "green", "blue"), row, strict=True):
            name = f"colour_correction.{to}_from_{source}"
            knobs[name] = knob("colour_correction", weight, 4.0, 4.0, at_limit=True)
    return {"pattern": "RGGB", "knobs": knobs}


def camera(**values):
    return dataclasses.replace(CAMERA, **values)


def only_outside(tolerances, camera):
    findings = check(tolerances, FACTS, camera)
    assert len(findings) == 1 + 4 + 3 + 9
    (outside,) = [finding for finding in findings if not finding.inside]
    for finding in findings:
        assert finding.inside == (finding.outside == finding.ranges == 0)
    assert f"1 of 17 are not tolerated: {outside.name}" in table(findings)
    return outside, table(findings)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"black_level": (0.0, 0.05, 0.11, 0.12)},
        # Models hold their values in float32.
        {"white_balance": (0.5 - 1e-8, 1.0, 2.0 + 1e-7)},
    ],
)
def test_what_is_within_all_intervals_is_inside(tolerances, values):
    findings = check(tolerances, FACTS, camera(**values))
    assert all(finding.inside for finding in findings)
    assert table(findings).endswith("\nall inside")


def with_entry(value):
    matrix = MATRIX.copy()
    matrix[1, 2] = value
    return matrix


@pytest.mark.parametrize(
    ("values", "name", "outside", "ranges", "untried", "words"),
    [
        # Natural ranges of a black level are a tenth of the white level.
        ({"black_level": (0.1, 0.1, 0.15, 0.1)}, "black_level.green_2", 0.03, 0.3, False, "no, 0.03 too high"),
        ({"white_balance": (1, 1, 0.25)}, "white_balance.blue", -0.25, math.log(2), False, "no, 0.25 too low"),
        ({"white_balance": (-1, 1, 1)}, "white_balance.red", -1.5, math.inf, False, "no, of the other sign"),
        ({"color_matrix": with_entry(5)}, "colour_correction.green_from_blue", 1, 1, True, "1 too high, where it was"),
    ],
)
def test_a_value_outside_its_interval(tolerances, values, name, outside, ranges, untried, words):
    finding, text = only_outside(tolerances, camera(**values))
    assert (finding.name, finding.untried) == (name, untried)
    assert (finding.outside, finding.ranges) == pytest.approx((outside, ranges))
    assert words in text


def test_another_pattern(tolerances):
    outside, text = only_outside(tolerances, camera(pattern="GBRG"))
    assert (outside.name, outside.value, outside.low) == ("pattern", "GBRG", "RGGB")
    assert "no, the processing expects RGGB" in text
    # What the processing does not have is not compared.
    tolerances["knobs"] = {"gamma_correct": knob("gamma_correct", 2.2, 0.1, 0.1)}
    tolerances["pattern"] = None
    assert check(tolerances, FACTS, CAMERA) == []


def test_cameras_are_known_or_read_from_their_files(tmp_path, write_dng):
    assert read_camera("microscopy") == isp.CAMERAS["microscopy"]
    file = tmp_path / "camera.json"
    file.write_text(camera(pattern="GRBG").to_json())
    assert read_camera(str(file)) == camera(pattern="GRBG")
    mosaic = np.full((32, 32), 1000, np.uint16)
    raw = read_camera(str(write_dng(mosaic, cfa=(2, 1, 1, 0), black=(64, 64, 65, 65))))
    assert raw.pattern == "BGGR"
    np.testing.assert_allclose(raw.black_level, np.array([64, 64, 65, 65]) / 4095, rtol=1e-5)
    assert raw.white_balance == pytest.approx((2.0, 1.0, 1 / 0.7), rel=1e-3)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("phone", None, "--check must be a raw file, a camera's JSON file or one of drone, microscopy, got 'phone'"),
        ("none.json", None, "--check must be a raw file, .* got '.*none.json'"),
        ("text.json", "no JSON", "--check=.*text.json: .*Expecting value"),
        ("part.json", '{"pattern": "RGGB"}', "--check=.*part.json: the camera lacks "),
        ("other.json", "[1]", "--check=.*other.json: a camera must be a JSON object, got list"),
        ("folder.json", "", r"--check=.*folder\.json: Is a directory"),
        ("picture.tif", "no picture", "--check: .*picture.tif: truncated, corrupt or not a valid TIF"),
        ("raw.dng", "no picture", "--check: .*raw.dng: truncated, corrupt or not a valid DNG"),
    ],
)
def test_a_camera_that_cannot_be_read_is_named_in_one_line(tmp_path, name, content, message):
    if content == "":
        (tmp_path / name).mkdir()
    elif content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message) as raised:
        read_camera(name if content is None and "." not in name else str(tmp_path / name))
    assert "\n" not in str(raised.value)


def test_values_that_are_tolerated_alone_may_not_be_together(small_heads):
    dataset = dark_images([0.1, 0.2, 0.3, 0.4])

    def scores(camera):
        return score_together(brightness.frozen(dataset), dataset, np.arange(len(dataset)), 4, camera)

    # The mean of three channels is bright from `BRIGHT` on if all are, however not by one of them.
    gain = 1.05 * BRIGHT / 0.4
    assert scores(CAMERA) == (1, 1)
    assert scores(camera(white_balance=(gain, 1.0, 1.0))) == (1, 1)
    assert scores(camera(white_balance=(gain, gain, gain))) == (1, 0.75)
    # Where it is darker, a gain does not lift it as far.
    assert scores(camera(white_balance=(gain, gain, gain), black_level=(0.2,) * 4)) == (1, 1)


@pytest.mark.parametrize("tried", ["low", "high"])
@pytest.mark.parametrize(("level", "end"), [(0.05, "low"), (0.2, "high")])
def test_only_beyond_its_own_limit_a_value_is_untried(tolerances, tried, level, end):
    limits = {"low_at_limit": tried != "low", "high_at_limit": tried != "high"}
    tolerances["knobs"]["black_level.green_1"] = knob("black_level", 0.1, 0.02, 0.02) | limits
    outside, _ = only_outside(tolerances, camera(black_level=(0.1, level, 0.1, 0.1)))
    assert outside.name == "black_level.green_1"
    assert outside.untried == (end != tried)

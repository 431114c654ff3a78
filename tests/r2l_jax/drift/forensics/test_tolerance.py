import functools
import json
import math

import brightness
import numpy as np
import pytest
from brightness import BRIGHT, GAMMA, dark_images, half_images

from r2l_jax.drift.forensics import tolerance
from r2l_jax.drift.forensics.config import ToleranceSettings
from r2l_jax.drift.forensics.tolerance import ToleranceAnalysis
from r2l_jax.drift.search import scored_points
from r2l_jax.drift.search.measure import Measurer

# A sweep's steps double, and each is halved five times: a knob's end is known up to 1/32 of its position.
PRECISION = 1 / 32

INTENSITIES = np.linspace(0.15, 0.4, 20)


@pytest.fixture(scope="module", autouse=True)
def compiled_once(small_heads):
    """All analyses of a model share what is compiled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scored_points, "Measurer", functools.cache(Measurer))
        patch.setattr(tolerance, "Frozen", functools.cache(tolerance.Frozen))
        yield


def analyze(dataset, allowed=2, batch_size=16, camera=brightness.CAMERA, pair=(), seed=0):
    fold = brightness.fold(dataset, [], np.arange(len(dataset)), camera)
    analysis = ToleranceAnalysis(ToleranceSettings(tolerance=float(allowed), map=pair), batch_size, seed)
    analysis.check_fold(fold)
    return analysis.analyze(fold, {})


PAIRS = ("white_balance", "gamma_correct", "white_balance.red", "gamma_correct")


@pytest.fixture(scope="module")
def analysis(compiled_once):
    # Each sample is five points: two of them may be lost.
    return analyze(dark_images(INTENSITIES), 12, pair=PAIRS)


@pytest.fixture(scope="module")
def knobs(analysis):
    return analysis.content["knobs"]


def test_intervals_end_where_the_third_sample_is_lost(knobs):
    third = np.sort(INTENSITIES)[-3]
    gain = math.log(BRIGHT / third)
    gamma = math.log(math.log(third) / math.log(BRIGHT))
    for name, value, expected in (("white_balance", 1.0, gain), ("gamma_correct", GAMMA, gamma)):
        knob = knobs[name]
        assert knob["value"] == pytest.approx(value)
        assert math.log(knob["high"] / value) == pytest.approx(expected, rel=PRECISION)
        assert not knob["high_at_limit"]


def test_ends_at_the_limit_say_so(knobs):
    # Darker, nothing is lost.
    for name, end, limit in (
        ("white_balance", "low", 1 / 100),
        ("gamma_correct", "low", GAMMA / 100),
        ("black_level", "high", 0.85),
        ("black_level", "low", -0.1),
    ):
        assert knobs[name][f"{end}_at_limit"], name
        assert knobs[name][end] == pytest.approx(limit, rel=1e-5)
        assert knobs[name][f"{end}_interval"] == pytest.approx([limit] * 2, rel=1e-5)


def test_every_point_in_an_interval_that_was_measured_passes(analysis, knobs):
    floor = analysis.content["default"] - 0.12 - 1e-6
    for name, knob in knobs.items():
        values, scores = np.transpose(knob["points"])
        assert (np.diff(values) > 0).all(), name
        inside = (values > knob["low"]) & (values < knob["high"])
        assert knob["value"] in values
        assert (scores[inside] >= floor).all(), name
        for end, beyond in (("low", values < knob["low"]), ("high", values > knob["high"])):
            assert knob[f"{end}_at_limit"] == (not beyond.any()), name


def measure(monkeypatch, lost):
    """Lets a rule tell which samples are lost: it takes their intensities and the gain of green."""

    class Measurer:
        def __init__(self, frozen):
            pass

        def confusions(self, rows, tick):
            tick(len(rows))
            each = [lost(batch["raw"].mean((1, 2)) - 0.1, values["white_balance"][1]) for values, batch in rows]
            return [np.eye(2, dtype=np.float32)[of_row.astype(int)][:, None] * [[1], [0]] for of_row in each]

    monkeypatch.setattr(scored_points, "Measurer", Measurer)


def test_ends_and_points_are_measured_on_all_samples(monkeypatch):
    """While the gain grows, half of the samples are lost for a while, half for good."""

    def lost(intensities, gain):
        gain = math.log(gain)
        return np.where(intensities > 0.25, gain >= 0.45, 0.35 <= gain < 0.53)

    measure(monkeypatch, lost)
    content = analyze(dark_images([0.2] * 10 + [0.3] * 10)).content
    gain = content["knobs"]["white_balance"]
    # The sweep sees no sample of the darker half lost, of which the first end that is found takes no notice.
    assert math.log(gain["high"]) == pytest.approx(0.35, rel=PRECISION)
    for value, score in gain["points"]:
        assert score == pytest.approx(1 - lost(np.array([0.2, 0.3]), value).mean()), value


def test_the_higher_end_of_a_negative_gain_is_nearer_to_zero(monkeypatch):
    measure(monkeypatch, lambda intensities, gain: np.full(len(intensities), gain < -1.5))
    knob = analyze(dark_images([0.3] * 3), camera=brightness.NEGATIVE).content["knobs"]["white_balance.green"]
    assert math.log(-knob["low"]) == pytest.approx(math.log(1.5), rel=PRECISION)
    assert (knob["value"], knob["high"]) == pytest.approx((-1, -0.01))
    assert (knob["low_at_limit"], knob["high_at_limit"]) == (False, True)
    assert knob["low_interval"] == pytest.approx([knob["low"]] * 2)
    assert knob["high_interval"] == pytest.approx([-0.01] * 2)


def test_an_end_is_certain_where_a_paired_test_finds_the_drop(monkeypatch):
    """A loss of 3 of 50 samples may be 1 of 50 in other samples, which is the tolerance; a loss of all may not."""
    measure(monkeypatch, lambda intensities, gain: np.log(gain) >= np.where(intensities > 0.25, 0.5, 0.2))
    analysis = analyze(dark_images([0.2] * 3 + [0.3] * 47))
    knob = analysis.content["knobs"]["white_balance"]
    assert math.log(knob["high"]) == pytest.approx(0.2, rel=PRECISION)
    assert 0.5 <= math.log(knob["high_failing"]) <= 0.5 * (1 + PRECISION)
    # Darker, nothing is lost.
    assert knob["low_failing"] is None
    line = analysis.table.splitlines()[-1]
    assert line.startswith("50 samples are too few to show a drop of 2 points at every end: that takes ")


@pytest.mark.parametrize(("samples", "lost"), [(120, 3), (480, 10)])
def test_too_few_samples_for_the_tolerance_are_stated(monkeypatch, samples, lost):
    """Samples are lost one by one, so that the end is where `lost` of them exceed 2 points."""
    intensities = np.linspace(0.1, 0.4, samples)
    measure(monkeypatch, lambda raw, gain: np.log(gain) >= 0.5 - raw)
    analysis = analyze(dark_images(intensities), batch_size=samples)
    share = lost / samples
    variance = share * (1 - share) * samples / (samples - 1)
    needed = math.ceil((1.959964 / 0.02) ** 2 * variance)
    assert analysis.content["samples_needed"] == needed
    line = f"{samples} samples are too few to show a drop of 2 points at every end: that takes {needed}"
    assert (line in analysis.table) == (samples < needed) == (samples == 120)


def test_resamples_of_equal_samples_are_equal():
    for knob in analyze(dark_images([0.3] * 5)).content["knobs"].values():
        assert knob["low_interval"] == pytest.approx([knob["low"]] * 2)
        assert knob["high_interval"] == pytest.approx([knob["high"]] * 2)


def test_the_seed_moves_no_ends(analysis, knobs):
    others = analyze(dark_images(INTENSITIES), 12, seed=1).content
    assert others["default"] == analysis.content["default"] == 1
    for name, knob in others["knobs"].items():
        for key in ("value", "low", "high", "points"):
            assert knob[key] == knobs[name][key]
    assert others["knobs"]["gamma_correct"]["high_interval"] != knobs["gamma_correct"]["high_interval"]


def test_a_model_that_tolerates_all():
    content = analyze(dark_images([0.0] * 3), pair=("white_balance.red", "black_level.red")).content
    assert all(knob["low_at_limit"] and knob["high_at_limit"] for knob in content["knobs"].values())
    assert np.all(content["maps"][0]["tolerated"])


@pytest.mark.slow
def test_iou_of_segmentation_and_negative_gains():
    dark, bright = 0.25, 0.8
    # Next to the edge, pixels are interpolated: their loss is tolerated.
    content = analyze(half_images(dark, bright, 3), 30, camera=brightness.NEGATIVE).content
    assert content["score"] == "iou"
    factor = content["knobs"]["white_balance"]
    assert math.log(factor["low"]) == pytest.approx(math.log(BRIGHT / bright), rel=PRECISION)
    assert math.log(factor["high"]) == pytest.approx(math.log(BRIGHT / dark), rel=PRECISION)


def test_each_pair_has_a_map(analysis):
    first, second = analysis.content["maps"]
    assert second["knobs"] == ["white_balance.red", "gamma_correct"]
    assert second["values"][1] == first["values"][1]
    assert second["scores"] != first["scores"]


def test_the_map_is_that_of_both_knobs(analysis):
    content, both = analysis.content, analysis.content["maps"][0]
    assert both["knobs"] == ["white_balance", "gamma_correct"]
    gains, gammas = both["values"]
    assert (len(gains), len(gammas)) == (9, 9)
    # Twice the interval, in natural ranges.
    assert gains[-1] == pytest.approx(content["knobs"]["white_balance"]["high"] ** 2)
    bright = BRIGHT ** (1 / GAMMA)
    linear = np.multiply.outer(gains, INTENSITIES)
    rendered = np.minimum(linear[:, None], 1) ** (1 / np.reshape(gammas, (-1, 1)))
    np.testing.assert_allclose(both["scores"], (rendered < bright).mean(-1), atol=1e-6)
    assert both["scores"][4][4] == content["default"]
    np.testing.assert_array_equal(both["tolerated"], np.greater_equal(both["scores"], content["default"] - 0.12 - 1e-6))


def test_content_is_json_and_has_a_row_and_figures(analysis, knobs):
    assert json.loads(json.dumps(analysis.content, allow_nan=False)) == analysis.content
    assert analysis.content["pattern"] == "RGGB"
    assert analysis.content["samples"] == len(INTENSITIES)
    rows = analysis.tables["tolerances"]
    assert [row["knob"] for row in rows] == list(knobs)
    gamma = knobs["gamma_correct"]
    assert rows[list(knobs).index("gamma_correct")] == {
        "knob": "gamma_correct",
        "parameter": "gamma_correct",
        "quantity": "gamma",
        "value": gamma["value"],
        "low": gamma["low"],
        "low 5%": gamma["low_interval"][0],
        "low 95%": gamma["low_interval"][1],
        "low at limit": True,
        "low failing": None,
        "high": gamma["high"],
        "high 5%": gamma["high_interval"][0],
        "high 95%": gamma["high_interval"][1],
        "high at limit": False,
        "high failing": gamma["high_failing"],
    }
    assert all(name in analysis.table for name in knobs)
    assert set(analysis.figures) == {"tolerances", "map", "map_2"}


def test_the_figure_has_a_bar_from_end_to_end(analysis, knobs):
    (axes,) = analysis.figures["tolerances"].axes
    bars = [bar for bar in axes.patches if bar.get_height()]
    assert len(bars) == len(knobs)
    gamma = bars[list(knobs).index("gamma_correct")]
    assert gamma.get_x() == pytest.approx(-math.log(100), rel=1e-5)
    high = knobs["gamma_correct"]["high"]
    assert gamma.get_x() + gamma.get_width() == pytest.approx(math.log(high / GAMMA), rel=1e-5)


def test_the_outline_separates_what_is_tolerated(analysis):
    tolerated = np.array(analysis.content["maps"][0]["tolerated"])
    (lines,) = analysis.figures["map"].axes[0].collections
    changes = [np.diff(np.pad(tolerated, 1).astype(int), axis=axis) for axis in (0, 1)]
    assert len(lines.get_segments()) == sum(np.count_nonzero(change) for change in changes)


def test_each_resample_is_compared_with_its_own_default():
    """A sample of a half is lost by default, so that resamples have other defaults; the others are lost together."""
    content = analyze(dark_images([0.3] * 10 + [0.9] * 10)).content
    assert content["default"] == 0.5
    gain = content["knobs"]["white_balance"]
    for end in (gain["high"], *gain["high_interval"]):
        assert math.log(end) == pytest.approx(math.log(BRIGHT / 0.3), rel=PRECISION)
    # Darker, nothing is lost, in any resample.
    assert gain["low_interval"] == pytest.approx([1 / 100] * 2, rel=1e-5)

"""Simulated sensors, whose values the calibration must find again."""

import numpy as np
import pytest
from flawed_sensor import FlawedSensor

from r2l_jax.calibration.figure import photon_transfer_curve
from r2l_jax.calibration.frames import Frames
from r2l_jax.calibration.measure import measure
from r2l_jax.calibration.reading import group_exposures
from r2l_jax.errors import InputError

BAYER = ((0, 1), (1, 2))
GBRG = ((1, 2), (0, 1))
X_TRANS = (
    *((1, 2, 1, 1, 0, 1), (0, 1, 0, 2, 1, 2), (1, 2, 1, 1, 0, 1)),
    *((1, 0, 1, 1, 2, 1), (2, 1, 2, 0, 1, 0), (1, 0, 1, 1, 2, 1)),
)


def frames(arrays, name):
    return Frames([f"{name}_{index}" for index in range(len(arrays))], list(arrays).__getitem__)


def calibrated(sensor, darks=16, exposures=(0.1, 0.3, 0.5, 0.7, 0.85), flats=8, lamp=0.0):
    rng = np.random.default_rng([sensor.seed, 9])
    dark = sensor.frames(0.0, darks)
    flat = [sensor.frame(level * (1 + lamp * rng.normal()), rng) for level in exposures for _ in range(flats)]
    return measure(frames(dark, "dark"), frames(flat, "flat"), np.array(sensor.tile))


def check_flatness(sensor, found, planted):
    good = np.ones(sensor.shape, bool)
    good[tuple(np.transpose(list(planted)))] = False
    corrected = (sensor.expected(0.6) - found.dark) * found.flat
    height, width = np.shape(sensor.tile)
    channels = np.tile(sensor.tile, (sensor.shape[0] // height + 1, sensor.shape[1] // width + 1))
    for channel in np.unique(sensor.tile):
        of_color = good & (channels[: sensor.shape[0], : sensor.shape[1]] == channel)
        assert corrected[of_color].std() / corrected[of_color].mean() < 0.005
        assert found.flat[of_color].mean() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    "sensor",
    [
        FlawedSensor(seed=0),
        FlawedSensor(seed=3, black=(0.03, 0.06, 0.07, 0.1), full_well=8000, read_noise=2.5, bits=14, tile=GBRG),
        FlawedSensor(seed=8, black=tuple(np.linspace(0.05, 0.08, 36)), tile=X_TRANS, shape=(402, 404), bits=None),
    ],
    ids=["ordinary", "GBRG", "X-Trans"],
)
def test_the_values_of_each_place_are_found(sensor):
    found = calibrated(sensor)
    white = 65535 if sensor.bits is None else 2**sensor.bits - 1
    assert (found.numbers, found.bits, found.is_bound, found.remarks) == (white, sensor.bits, False, [])
    assert found.mean("dsnu") == pytest.approx(sensor.dsnu, rel=0.05)
    assert found.mean("prnu") == pytest.approx(sensor.prnu, rel=0.05)
    assert found.mean("read_noise") == pytest.approx(sensor.read_noise, rel=0.05)
    assert abs(found.mean("full_well") / sensor.full_well - 1) < min(4 * found.error, 0.05)
    assert [site.channel for site in found.sites] == np.ravel(sensor.tile).tolist()
    *channels, line = photon_transfer_curve(found).axes[0].lines
    gain = sensor.full_well / (1 - np.mean(sensor.black)) / white
    assert np.diff(line.get_xdata()) == pytest.approx(gain * np.diff(line.get_ydata()), rel=0.05)
    assert float(line.get_label().split()[0]) == pytest.approx(gain, rel=0.05)
    drawn = sorted(tuple(point) for channel in channels for point in channel.get_xydata())
    shown = sorted((point.mean * white, point.variance * white**2) for point in found.points)
    np.testing.assert_allclose(drawn, shown)
    for site, black in zip(found.sites, sensor.black, strict=True):
        assert site.black_level == pytest.approx(black, abs=2e-5)
        assert site.gain == pytest.approx(sensor.full_well / (1 - black), rel=0.02)
    assert len(found.points) == 5 * 3
    planted = {tuple(site): kind for kind, sites in sensor.defects.items() for site in sites.tolist()}
    listed = dict(zip(map(tuple, found.defects.sites.tolist()), found.defects.kinds, strict=True))
    assert {site: listed.get(site) for site in planted} == planted
    assert len(listed.keys() - planted.keys()) < 1e-4 * found.dark.size
    check_flatness(sensor, found, set(planted))


def test_a_lamp_that_flickers_gives_the_gain():
    sensor = FlawedSensor(seed=13)
    found = calibrated(sensor, lamp=0.004)
    assert found.mean("full_well") == pytest.approx(sensor.full_well, rel=0.02)
    assert found.mean("read_noise") == pytest.approx(sensor.read_noise, rel=0.05)


@pytest.mark.parametrize("full_well", [15000.0, 5000.0])
def test_steps_coarser_than_the_dark_noise_leave_the_gain_right(full_well):
    found = calibrated(FlawedSensor(seed=15, shape=(128, 128), bits=8, full_well=full_well))
    assert (found.numbers, found.bits, found.is_bound) == (255, 8, True)
    assert found.mean("read_noise") > 4
    assert found.mean("full_well") == pytest.approx(full_well, rel=0.015)
    assert abs(found.mean("full_well") / full_well - 1) < 2 * found.error < 0.015
    for point in found.points:
        assert point.variance == pytest.approx(point.mean / found.mean("gain"), abs=0.1 / 255**2)


def test_the_error_of_the_mean_gain_falls_with_the_square_root_of_the_sites():
    small, large = (
        calibrated(FlawedSensor(seed=20, shape=(side, side), hot=0, dead=0, flickering=0), exposures=(0.5,))
        for side in (64, 128)
    )
    assert small.error / large.error == pytest.approx(2, rel=0.05)
    # The gain of each of four places, from flats and darks of many degrees of freedom.
    assert large.error == pytest.approx(np.sqrt(2 / (4 * 64**2 * 7)), rel=0.1)


def test_prnu_is_free_of_the_noise_of_darks_and_flats():
    # Of two darks with this noise, 1.6 % of the light remain, twice the PRNU.
    sensor = FlawedSensor(seed=21, read_noise=100.0, prnu=0.008, hot=0, dead=0, flickering=0)
    found = calibrated(sensor, darks=2, exposures=(0.5,), flats=16)
    assert found.mean("prnu") == pytest.approx(sensor.prnu, rel=0.1)


def test_exposures_are_grouped_by_the_first_of_each_group():
    light = [1.04, 1.0, 1.05, 1.02, 1.065]  # Each is within 3 % of the next one, but not all of the first one.
    assert group_exposures(frames(light, "flat"), light) == [[1, 3], [0, 2, 4]]


@pytest.mark.parametrize("bits", [8, 12])
def test_a_black_level_that_drifts_is_remarked_and_is_no_read_noise(bits):
    sensor = FlawedSensor(seed=18, shape=(128, 128), bits=bits, read_noise=4.0 * 2 ** (12 - bits))
    drift = np.round(2 * np.random.default_rng(0).normal(size=16)) / (2**bits - 1)
    darks, flats = sensor.frames(0.0, 16), [*sensor.frames(0.3, 4), *sensor.frames(0.5, 4)]

    def found(darks):
        return measure(frames(darks, "dark"), frames(flats, "flat"), np.array(BAYER))

    steady, drifting = found(darks), found([dark + np.float32(each) for dark, each in zip(darks, drift, strict=True)])
    assert steady.remarks == []
    assert [remark.split(" of white")[0] for remark in drifting.remarks] == [
        f"the black level drifts by {np.ptp(drift):.2g}"
    ]
    assert drifting.mean("read_noise") == pytest.approx(sensor.read_noise, rel=0.05)
    assert drifting.mean("black_level") == pytest.approx(0.0625 + drift.mean(), abs=2e-5 * 2 ** (12 - bits))


SMALL = FlawedSensor(shape=(64, 64), hot=0, dead=0, flickering=0)
DARK, FLAT = SMALL.frames(0.0, 3), [*SMALL.frames(0.3, 2), *SMALL.frames(0.6, 2)]
# Saturation below the white level, and one that is read out with noise: no two sites read the same.
LOW = [np.minimum(flat, np.float32(0.65)) for flat in (*FLAT, *SMALL.frames(0.9, 2))]
NOISY = [*FLAT, *np.random.default_rng(0).normal(0.8, 0.001, (2, *SMALL.shape)).astype(np.float32)]


@pytest.mark.parametrize(
    ("dark", "flat", "message"),
    [
        (DARK[:1], FLAT, r"at least two dark frames are needed \(more are better\), got 1"),
        ([dark[:6] for dark in DARK], FLAT, "frames must be at least 8x8, got 6x64"),
        (DARK, FLAT[:3], r"each exposure needs at least two flats .*, got only flat_2 with a mean of 0\.\d+ of white"),
        (FLAT[:2], DARK, "the darks are as bright as the flat flat_0: are `dark` and `flat` swapped"),
        (DARK, [*FLAT, *SMALL.frames(1.6, 2)], r"saturated flats: \d+\.\d% of the sites in flat_4: use less light"),
        (DARK, LOW, r"saturated flats: \d+\.\d% of the sites in flat_4"),
        (DARK, NOISY, r"saturated flats: the noise falls in the brightest \(flat_[45], flat_[45], \.\.\.\)"),
        (DARK, [DARK[0] + np.float32(0.25)] * 4, "the gain cannot be measured, because the flats are hardly noisier"),
    ],
)
def test_frames_that_show_no_sensor_are_refused(dark, flat, message):
    with pytest.raises(InputError, match=message):
        measure(frames(dark, "dark"), frames(flat, "flat"), np.array(BAYER))


def test_noise_that_is_cut_off_at_zero_is_remarked():
    sensor = FlawedSensor(shape=(64, 64), black=(0.0,) * 4, hot=0, dead=0, flickering=0)
    (remark,) = calibrated(sensor).remarks
    assert "of the values in the dark are 0" in remark

"""Each severity of sensor drift measured back in its unit."""

import dataclasses
import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import isp
from isp import sensor_drift
from isp.sensor import expose_sites, site_light
from r2l_jax.drift import cases, renderer
from r2l_jax.names import SENSOR, SEVERITIES

BLACK, FULL_WELL, READ_NOISE, BITS = 0.2, 20000.0, 5.0, 12
CAMERA = isp.Camera(
    black_level=(BLACK, BLACK + 1e-3, BLACK + 2e-3, BLACK),
    white_balance=(2.1, 1.0, 1.6),
    color_matrix=((1.5, -0.3, -0.2), (-0.2, 1.7, -0.5), (0.0, -0.3, 1.3)),
    pattern="GRBG",
    full_well=FULL_WELL,
    read_noise=READ_NOISE,
    bits=BITS,
)
# Blurs are measured without the noise that they leave.
QUIET = dataclasses.replace(CAMERA, full_well=1e12, read_noise=0.0)
KEY = jax.random.key(3)


def mosaic(light):
    """Returns the noise-free mosaic of the light of each site."""
    black = isp.cfa.black_levels(jnp.array(CAMERA.black_level), CAMERA.pattern, *light.shape[-2:])
    return black + (1 - black) * jnp.asarray(light, jnp.float32)


def drifted(name, severity, raw, camera=CAMERA):
    """Returns one mosaic after a drift, as the renderer computes it."""
    return of_samples(name, severity, raw[None], jnp.array([7]), camera)[0]


def of_samples(name, severity, raw, index, camera=CAMERA):
    (case,) = cases.sensor([name], [severity])
    return jax.jit(renderer.drifted, static_argnames="camera")(raw, index, KEY, case.state, camera=camera)


def light_after(name, severity, light, camera=CAMERA):
    return np.asarray(site_light(drifted(name, severity, mosaic(light), camera), CAMERA), np.float64)


def of_colors(light):
    """Returns the mean light of red, green and blue sites."""
    channels = np.asarray(isp.cfa.tiled(isp.cfa.tile(CAMERA.pattern), *light.shape))
    return np.array([light[channels == channel].mean() for channel in range(3)])


def stops(severity, name, start):
    after = light_after(name, severity, np.full((128, 128), start))
    return abs(np.log2(after.mean() / start))


def mired(severity):
    """Measures the lamp's color on a gray card, through the camera's own white balance and matrix (McCamy, 1992)."""

    def temperature(raw):
        balanced = of_colors(np.asarray(site_light(raw, CAMERA))) * CAMERA.white_balance
        xyz = np.linalg.inv(sensor_drift._XYZ_TO_SRGB) @ np.array(CAMERA.color_matrix) @ balanced
        x, y = xyz[:2] / xyz.sum()
        n = (x - 0.3320) / (0.1858 - y)
        return 449 * n**3 + 3525 * n**2 + 6823.3 * n + 5520.33

    card = isp.unprocess(jnp.full((256, 256, 3), 0.15), CAMERA, gamma=1.0)
    return 1e6 / temperature(drifted("lamp_color", severity, card)) - 1e6 / temperature(card)


def balance(severity):
    after = of_colors(light_after("color_balance", severity, np.full((128, 128), 0.3)))
    red, blue = np.log2(after[[0, 2]] / 0.3)
    assert after[1] == pytest.approx(0.3, rel=0.01)
    assert red == pytest.approx(-blue, rel=0.1)
    return red


def bands(severity):
    rows = light_after("flicker", severity, np.full((128, 512), 0.4)).mean(1)
    return 100 * 2 * abs(np.fft.rfft(rows)[4]) / len(rows) / rows.mean()


def corner(severity):
    side = 257 - 1
    after = light_after("vignetting", severity, np.full((side, side), 0.6))
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    return -np.polyfit((y**2 + x**2).ravel() / (2 * (side / 2 - 0.5) ** 2), np.log2(after / 0.6).ravel(), 1)[0]


def edge(severity):
    """Measures the standard deviation of the line spread, the derivative of an edge, of each of the four planes."""
    light = np.where(np.arange(128) < 64, 0.2, 0.7) * np.ones((64, 1))
    after, found = light_after("defocus", severity, light, QUIET), []
    for row, column in np.ndindex(2, 2):
        spread = np.diff(after[row::2, column::2].mean(0))
        at = 2 * np.arange(len(spread))
        mean = (spread * at).sum() / spread.sum()
        found.append(np.sqrt((spread * (at - mean) ** 2).sum() / spread.sum()))
    assert np.ptp(found) < 0.01
    return found[0]


def streak(severity):
    """Measures the length of the streak of a point from its variance along both axes."""
    point = np.zeros((128, 128))
    point[64, 64] = 0.9
    after = light_after("motion", severity, point, QUIET)
    y, x = np.mgrid[:128, :128] - 64
    assert after.sum() == pytest.approx(0.9, rel=1e-3)
    return np.sqrt(12 * (after * (y**2 + x**2)).sum() / after.sum())


def lateral(severity):
    """Measures how far red is displaced outward and blue inward, on a ramp of light."""
    size, slope = 128, 0.004
    x = (np.arange(size) - (size - 1) / 2) * np.ones((size, 1))
    displaced = x - (light_after("chromatic_aberration", severity, 0.5 + slope * x) - 0.5) / slope
    channels = np.asarray(isp.cfa.tiled(isp.cfa.tile(CAMERA.pattern), size, size))
    x, displaced, channels = (each[8:-8, 8:-8] for each in (x, displaced, channels))
    found = [np.polyfit(x[channels == each], displaced[channels == each], 1)[0] for each in range(3)]
    radius = (size - 1) / np.sqrt(2)
    assert abs(found[1]) < 1e-6
    assert found[0] == pytest.approx(-found[2], rel=0.1)
    return found[0] * radius


def read_noise(severity):
    dark = expose_sites(jnp.zeros((128, 128)), jax.random.key(5), camera=CAMERA)
    # The converter's steps are a quarter of the noise, and part of the dark frame alone.
    spread = np.asarray(site_light(drifted("read_noise", severity, dark), CAMERA)).std() * FULL_WELL
    return spread / READ_NOISE


def gain(severity):
    """Measures how fast the variance grows with the light."""
    flats = [expose_sites(jnp.full((256, 256), light), jax.random.key(6), camera=CAMERA) for light in (0.1, 0.5)]
    low, high = (np.asarray(site_light(drifted("photon_noise", severity, flat), CAMERA)).var() for flat in flats)
    return (high - low) / 0.4 * FULL_WELL


def lines(severity, name, axis):
    after = light_after(name, severity, np.full((1024, 64) if axis else (64, 1024), 0.5))
    return after.mean(axis).std() * FULL_WELL


def share(severity, name, value):
    after = light_after(name, severity, np.full((2048, 2048), 0.5))
    return 1e6 * (abs(after - value) < 1e-6).mean()


def levels(severity):
    raw = jnp.linspace(0, 1, 4096).reshape(64, 64)
    return np.log2(len(np.unique(drifted("bits", severity, raw))))


def level(severity):
    raw = mosaic(np.full((16, 16), 0.3))
    return float((drifted("black_level", severity, raw) - raw).mean()) * (2**BITS - 1)


def shifted(severity):
    raw = jax.random.uniform(KEY, (200, 32))
    after = drifted("pattern_shift", severity, raw)
    moved = np.asarray(after[:, :-1] == raw[:, 1:]).all(1)
    np.testing.assert_array_equal(after[~moved], raw[~moved])
    assert not np.diff(moved.astype(int)).min() < 0, "only the last rows move"
    return 100 * moved.mean()


INVERSES = {
    "underexposure": functools.partial(stops, name="underexposure", start=0.8),
    "overexposure": functools.partial(stops, name="overexposure", start=0.1),
    "lamp_color": mired,
    "color_balance": balance,
    "flicker": bands,
    "vignetting": corner,
    "defocus": edge,
    "motion": streak,
    "chromatic_aberration": lateral,
    "read_noise": read_noise,
    "row_noise": functools.partial(lines, name="row_noise", axis=1),
    "column_noise": functools.partial(lines, name="column_noise", axis=0),
    "photon_noise": gain,
    "hot_sites": functools.partial(share, name="hot_sites", value=1.0),
    "dead_sites": functools.partial(share, name="dead_sites", value=0.0),
    "bits": levels,
    "black_level": level,
    "pattern_shift": shifted,
}


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", SENSOR)
def test_each_amount_is_measured_back(name, severity):
    assert INVERSES[name](severity) == pytest.approx(SENSOR[name][severity - 1], rel=0.1)


def test_the_table_of_the_documentation_states_the_amounts():
    text = (pathlib.Path(__file__).parents[3] / "docs/drift_controls.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| `")]
    stated = {name: amounts for names, _, amounts in rows for name in re.findall("`(\\w+)`", names)}
    for name, amounts in SENSOR.items():
        assert stated[name] == ", ".join(f"{amount:g}" for amount in amounts), name


def test_defects_and_columns_are_the_same_in_all_frames_and_other_noise_is_not():
    rows, columns = np.mgrid[:64, :64]
    raw = mosaic(np.broadcast_to(0.2 + 0.001 * rows + 0.003 * columns, (3, 64, 64)))
    drawn = {"underexposure", "lamp_color", "color_balance", "flicker", "vignetting", "defocus", "motion"}
    drawn |= {"read_noise", "row_noise", "photon_noise"}
    for name in SENSOR:
        first, second, again = of_samples(name, 3, raw, jnp.array([4, 9, 4]))
        np.testing.assert_array_equal(first, again)
        assert bool((first != second).any()) == (name in drawn), name


@pytest.mark.parametrize("name", ["defocus", "motion"])
@pytest.mark.parametrize("severity", [1, 3])
def test_blurs_take_no_noise_from_the_sensor(name, severity):
    """A blur of the mosaic alone would leave 91% to 4% of its variance."""
    noisy = expose_sites(jnp.full((256, 256), 0.3), jax.random.key(8), camera=CAMERA)
    noise = [np.asarray(site_light(raw, CAMERA)).var() for raw in (noisy, drifted(name, severity, noisy))]
    assert noise[1] == pytest.approx(noise[0], rel=0.03)


def test_a_sensor_without_colors_has_the_other_drifts():
    """All together, in one function to compile; two of them change the exposure."""
    gray = isp.Camera(black_level=(0.1,), pattern="MONO")
    names = {*SENSOR} - {"lamp_color", "color_balance", "chromatic_aberration", "pattern_shift", "overexposure"}
    state = isp.CameraState.named({name: SENSOR[name][2] for name in names})
    raw = renderer.drifted(jnp.full((2, 16, 16), 0.4), jnp.arange(2), KEY, state, camera=gray)
    assert raw.shape == (2, 16, 16)
    assert bool(jnp.isfinite(raw).all())

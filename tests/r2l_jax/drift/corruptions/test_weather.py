"""Against the published code's answers in published.npz for given random numbers, and the photographs' statistics."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from r2l_jax.drift.corruptions import weather
from r2l_jax.drift.corruptions.filters import streak_taps
from r2l_jax.drift.corruptions.weather import (
    diamond_square,
    fog,
    frost,
    frost_pattern,
    highest_crystals,
    plasma_fractal,
    snow,
    snow_falls,
)

PUBLISHED = np.load(pathlib.Path(__file__).with_name("published.npz"))
IMAGE, KEY = jnp.asarray(PUBLISHED["image"]), jax.random.key(0)


@pytest.mark.parametrize("decay", ["3", "1.75"])
def test_plasma_fractals_are_those_of_the_published_code(decay):
    sizes = [2 ** (level // 3) for level in range(12)]
    drawn = np.split(PUBLISHED[f"plasma.{decay}.drawn"], np.cumsum(np.square(sizes))[:-1])
    draws = [jnp.asarray(numbers.reshape(size, size)) for numbers, size in zip(drawn, sizes, strict=True)]
    np.testing.assert_allclose(diamond_square(draws, float(decay)), PUBLISHED[f"plasma.{decay}"], atol=1e-6)


@pytest.mark.parametrize("side", [4, 32])
def test_a_plasma_fractal_is_the_corner_of_a_square_of_the_next_power_of_two(side):
    """A whole square spans [0, 1]."""
    square = np.asarray(plasma_fractal(KEY, side, side, 2.5))
    assert (square.min(), square.max()) == (0, 1)
    for height, width in ((side // 2 + 1, side), (side, side // 2 + 1), (side // 2 + 1, 1)):
        np.testing.assert_array_equal(plasma_fractal(KEY, height, width, 2.5), square[:height, :width])
    assert (np.asarray(plasma_fractal(KEY, side + 1, side, 2.5))[:side] != square).any()


def test_fog_lightens_the_dark_and_keeps_white():
    image = jnp.linspace(0, 1, 32)[:, None, None] * jnp.ones((32, 32, 3))
    foggy = np.asarray(fog(image, KEY, 5))
    # The fractal is in [0, 1], and times 1.5 on an image whose white is 1.
    assert foggy[0].min() >= 0
    assert (foggy <= (np.asarray(image) + 1.5) / 2.5 + 1e-6).all()
    assert (foggy >= np.asarray(image) / 2.5 - 1e-6).all()


def test_snow_falls_as_in_the_published_code():
    taps = jnp.asarray(streak_taps([12], [6.0])[0], jnp.float32)
    noise = jnp.asarray(PUBLISHED["snow.noise"])[..., None]
    snowy = snow_falls(IMAGE, noise, jnp.float32(0.6), jnp.float32(0.85), jnp.deg2rad(-70.0), taps)
    np.testing.assert_allclose(np.clip(snowy, 0, 1), PUBLISHED["snow"], atol=1e-6)


@pytest.mark.parametrize(
    ("severity", "mean", "std", "zoom", "threshold", "share"),
    [
        (1, 0.1, 0.2, 1, 0.6, 0.95),
        (2, 0.1, 0.2, 1, 0.5, 0.9),
        (3, 0.15, 0.3, 1.75, 0.55, 0.9),
        (4, 0.25, 0.3, 2.25, 0.6, 0.85),
        (5, 0.3, 0.3, 1.25, 0.65, 0.8),
    ],
)
def test_snow_has_the_published_strengths(monkeypatch, severity, mean, std, zoom, threshold, share):
    def shown(image, noise, *strengths):
        return jnp.concatenate([(noise + 2) / 4, *(strength * jnp.ones_like(noise) for strength in strengths[:2])], -1)

    monkeypatch.setattr(weather, "snow_falls", shown)
    found = np.asarray(snow.__wrapped__(jnp.zeros((128, 128, 3)), KEY, jnp.int32(severity)), np.float64)
    np.testing.assert_allclose(found[0, 0, 1:], [threshold, share], rtol=1e-6)
    drawn = np.random.default_rng(0).normal(mean, std, (128, 128))
    expected = scipy.ndimage.zoom(drawn, zoom, order=1)[:128, :128]
    statistics = [[each.mean(), each.std(), np.diff(each).std()] for each in (4 * found[..., 0] - 2, expected)]
    np.testing.assert_allclose(*statistics, rtol=0.08, atol=0.01)


def test_crystals_are_spines_with_side_branches_that_get_shorter_toward_their_tips():
    drawn = np.random.default_rng(0).random((5, 7, 6))
    y, x = np.mgrid[: 7 * 8, : 6 * 8]
    highest = np.zeros(y.shape)
    for row, column in np.ndindex(7, 6):
        down, right, turn, length, height = drawn[:, row, column]
        dy, dx, length = y - 8 * (row + down), x - 8 * (column + right), 8 * (0.5 + 1.5 * length)
        along = abs(dx * np.cos(np.pi * turn) + dy * np.sin(np.pi * turn))
        across = abs(dy * np.cos(np.pi * turn) - dx * np.sin(np.pi * turn))
        taper = np.clip(1 - along / length, 0, 1)
        lines = np.exp(-((((along - across) % 3 - 1.5) / 0.7) ** 2))
        branches = lines * np.clip(1 - across / (0.35 * length * taper + 0.5), 0, 1)
        highest = np.maximum(highest, height * taper * np.maximum(np.exp(-((across / 0.7) ** 2)), branches))
    squares = np.asarray(highest_crystals(jnp.asarray(drawn, jnp.float32))).transpose(2, 0, 3, 1)
    # Crystals in the two outermost squares on each side reach inward; those farther away do not.
    np.testing.assert_allclose(squares.reshape(3 * 8, 2 * 8), highest[16:-16, 16:-16], atol=2e-5)


@pytest.mark.slow
def test_frost_has_the_mean_color_of_the_photographs_and_their_contrast():
    patterns = jax.vmap(lambda key: frost_pattern(key, 60, 80))(jax.random.split(KEY, 200))
    np.testing.assert_allclose(patterns.mean((0, 1, 2)), [0.572, 0.656, 0.702], atol=4 * 0.12 * 0.7 / np.sqrt(200))
    assert float(patterns.std((1, 2)).mean()) == pytest.approx(0.09, rel=1e-3)


@pytest.mark.parametrize(("severity", "share", "amount"), [(1, 1, 0.2), (5, 0.75, 0.45)])
def test_frost_adds_its_pattern_to_the_image(severity, share, amount):
    dark, light = (np.asarray(frost(jnp.full((32, 32, 3), level), KEY, severity)) for level in (0.1, 0.3))
    np.testing.assert_allclose(light - dark, 0.2 * share, atol=1e-5)
    assert (dark - 0.1 * share).mean() == pytest.approx(amount * 0.64, rel=0.4)

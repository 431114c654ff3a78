import numpy as np
import pytest

from r2l_jax.calibration.frames import digital_numbers


def rounded(values, numbers):
    return (np.round(values * numbers) / numbers).astype(np.float32)


# A dark and a flat.
VALUES = np.random.default_rng(0).normal([[0.06], [0.7]], [[0.002], [0.05]], (2, 4096)).clip(0, 1)


@pytest.mark.parametrize("numbers", [255, 1023, 4095, 15892, 16383, 65535])
def test_steps_show_the_digital_numbers(numbers):
    assert digital_numbers(rounded(VALUES, numbers)) == pytest.approx(numbers, abs=0.01)


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_numbers_in_16_bits(bits):
    numbers = np.round(VALUES * (2**bits - 1))
    shifted = (numbers * 2 ** (16 - bits)).astype(np.uint16) / np.float32(65535)
    assert digital_numbers(shifted) == pytest.approx(65535 / 2 ** (16 - bits), rel=1e-6)
    scaled = np.round(numbers / (2**bits - 1) * 65535) / np.float32(65535)
    assert digital_numbers(scaled.astype(np.float32)) == 2**bits - 1


@pytest.mark.parametrize("values", [VALUES.astype(np.float32), np.full(9, 0.25, np.float32)])
def test_continuous_and_constant_values_show_none(values):
    assert digital_numbers(values) is None

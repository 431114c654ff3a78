"""Against Pillow."""

import io

import jax
import numpy as np
import pytest
from PIL import Image

from r2l_jax.drift.corruptions.digital import jpeg_compression, pixelate
from r2l_jax.names import SEVERITIES

QUALITIES, SHARES, KEY = (80, 65, 58, 50, 40), (0.95, 0.9, 0.85, 0.75, 0.65), jax.random.key(0)


def scene(height, width):
    """Makes a picture of 8 bits with waves, an edge, squares and noise."""
    y, x = np.mgrid[:height, :width]
    planes = [
        0.5 + 0.4 * np.sin(x / 9) * np.cos(y / 13),
        0.5 + 0.3 * (x + y > 80),
        0.3 + 0.5 * ((x // 17 + y // 11) % 2),
    ]
    noise = 0.03 * np.random.default_rng(0).normal(size=(height, width, 3))
    return np.round(255 * np.clip(np.stack(planes, -1) + noise, 0, 1)).astype(np.uint8)


def written(picture, quality):
    """Returns a picture after Pillow has written it as a JPEG file and read it again."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file), np.float64)


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("size", [(96, 112), (45, 67)])
def test_jpeg_compression_is_that_of_pillow(severity, size):
    picture = scene(*size)
    expected = written(picture, QUALITIES[severity - 1])
    result = 255 * np.asarray(jpeg_compression(picture.astype(np.float32) / 255, KEY, severity), np.float64)
    np.testing.assert_allclose(result, np.round(result), atol=1e-3)
    difference = abs(result - expected)
    # Compression itself changes values by about 7 on average.
    assert difference.mean() < 0.4
    assert (difference < 0.5).mean() > 0.8


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("size", [(96, 112), (101, 67), (3, 2)])
def test_pixelate_is_that_of_pillow(severity, size):
    (height, width), share = size, SHARES[severity - 1]
    small = Image.fromarray(scene(*size)).resize((int(width * share), int(height * share)), Image.Resampling.BOX)
    expected = np.asarray(small.resize((width, height), Image.Resampling.BOX), np.float64)
    result = 255 * np.asarray(pixelate(scene(*size).astype(np.float32) / 255, KEY, severity), np.float64)
    # Pillow rounds to 8 bits after each axis.
    np.testing.assert_allclose(result, expected, atol=1.01)

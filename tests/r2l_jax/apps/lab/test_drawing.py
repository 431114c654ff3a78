import io
import re

import numpy as np
from PIL import Image

from r2l_jax.apps.lab import drawing

IMAGE = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)


def decoded(content):
    return np.asarray(Image.open(io.BytesIO(content)))


def test_png_is_without_loss():
    np.testing.assert_array_equal(decoded(drawing.png(IMAGE)), IMAGE)


def test_a_mask_is_drawn_by_its_outline():
    probabilities = np.zeros((8, 8), np.float32)
    probabilities[2:6, 2:6] = 0.9
    drawn = decoded(drawing.outline(probabilities))[..., 3] > 0
    expected = np.zeros((8, 8), bool)
    expected[2:6, 2:6] = True
    expected[3:5, 3:5] = False
    np.testing.assert_array_equal(drawn, expected)


def test_a_strip_has_a_cell_for_each_stage_whatever_its_shape():
    content = drawing.strip([IMAGE[..., 0], IMAGE, IMAGE[:6, :8]])
    assert decoded(content).shape == (132, 3 * 184, 3)


def test_a_histogram_is_as_high_as_its_counts():
    image = np.zeros((4, 4, 3), np.uint8)
    image[:2, :, 0] = 100
    image[2:3, :, 0] = 200
    (red, *_) = re.findall(r'd="M0 60 (.*?)"', drawing.histogram(image))
    heights = {int(x): 60 - float(y) for x, y in re.findall(r"L(\d+) ([\d.]+)", red)}
    assert heights[100 // 4] == 60
    assert heights[200 // 4] == 30

import io
import re

import numpy as np
from PIL import Image

from r2l_jax.apps.lab import drawing
from r2l_jax.apps.lab.engine import Picture

IMAGE = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)


def decoded(content):
    return np.asarray(Image.open(io.BytesIO(content)))


def test_png_is_without_loss_and_jpeg_is_close():
    np.testing.assert_array_equal(decoded(drawing.png(IMAGE)), IMAGE)
    smooth = np.broadcast_to(np.linspace(0, 255, 16).astype(np.uint8)[None, :, None], IMAGE.shape)
    np.testing.assert_allclose(decoded(drawing.jpeg(smooth)).astype(int), smooth, atol=12)


def test_clipped_pixels_are_colored_and_the_others_transparent():
    below, above = (np.zeros(IMAGE.shape[:2], bool) for _ in range(2))
    below[0, 0], above[1, 1] = True, True
    drawn = decoded(drawing.clipping(Picture(IMAGE, {}, below, above)))
    assert drawn[0, 0, 2] > drawn[0, 0, 0]
    assert drawn[1, 1, 0] > drawn[1, 1, 2]
    assert np.count_nonzero(drawn[..., 3]) == 2


def test_a_mask_is_drawn_by_its_outline():
    probabilities = np.zeros((8, 8), np.float32)
    probabilities[2:6, 2:6] = 0.9
    drawn = decoded(drawing.mask(probabilities))[..., 3] > 0
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

import re

import numpy as np

from r2l_jax.apps.lab import drawing


def test_the_histogram_shows_clipped_pixels_and_is_scaled_by_the_others():
    """A path for each channel has 64 points, of 4 display values each; the height falls from 60 to 0."""
    red = np.repeat([0, 3, 100, 103, 255], [50, 10, 20, 10, 10])
    green = np.repeat([128, 255], [40, 60])
    blue = np.full(100, 255)
    drawn = drawing.histogram(np.stack([red, green, blue], 1).astype(np.uint8).reshape(4, 25, 3))
    # The fullest bin between the outer ones has the 40 green pixels of the value 128.
    wanted = np.full((3, 64), 60.0)
    wanted[0, [0, 25, 63]] = 0, 60 * (1 - 30 / 40), 60 * (1 - 10 / 40)
    wanted[1, [32, 63]] = 0
    wanted[2, 63] = 0
    paths = [re.findall(r"L(\d+) ([-\d.]+)(?= )", path) for path in re.findall(r'd="(M[^"]*)"', drawn)]
    np.testing.assert_allclose(np.array(paths, float), [[*enumerate(each)] for each in wanted], atol=0.05)
    # Each ends at the lower right corner.
    assert drawn.count(" L63 60Z") == 3

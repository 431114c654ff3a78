import dataclasses

import numpy as np
import pytest

import isp
from r2l_jax.data.files import sites

CAMERA = dataclasses.replace(isp.CAMERAS["drone"], black_level=(0.1, 0.2, 0.3, 0.4))


@pytest.mark.parametrize("pattern", isp.bayer.PATTERNS)
def test_the_tile_has_the_channel_of_each_letter(pattern):
    assert sites.color_tile(pattern).tolist() == [
        ["RGB".index(letter) for letter in pattern[row : row + 2]] for row in (0, 2)
    ]


def test_black_levels_repeat_over_the_mosaic():
    levels = sites.black_levels(CAMERA, 3, 5)
    np.testing.assert_allclose(levels[:2, :4], [[0.1, 0.2, 0.1, 0.2], [0.3, 0.4, 0.3, 0.4]], rtol=1e-6)
    np.testing.assert_allclose(levels[2], [0.1, 0.2, 0.1, 0.2, 0.1], rtol=1e-6)

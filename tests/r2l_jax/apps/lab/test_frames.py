import numpy as np
import pytest

import isp
from r2l_jax.apps.lab.frames import reduced

XTRANS = "GBGGRG/RGRBGB/GBGGRG/GRGGBG/BGBRGR/GRGGBG"


def colors(pattern, height, width):
    """A mosaic in which every site has the number of its place in the tile."""
    shape = isp.cfa.tile(pattern).shape
    places = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    return np.tile(places, (height // places.shape[0], width // places.shape[1]))


@pytest.mark.parametrize(("pattern", "sides"), [("RGGB", (32, 48)), (XTRANS, (36, 72))])
def test_a_reduced_mosaic_has_the_same_colors(pattern, sides):
    small = reduced(colors(pattern, *sides), pattern, 2)
    np.testing.assert_array_equal(small, colors(pattern, sides[0] // 2, sides[1] // 2))

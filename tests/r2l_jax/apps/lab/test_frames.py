import numpy as np
import pytest

import isp
from r2l_jax.apps.lab.frames import Frame, overview, reduced, window
from r2l_jax.data.sets.folder import center_crop

XTRANS = "GBGGRG/RGRBGB/GBGGRG/GRGGBG/BGBRGR/GRGGBG"


def colors(pattern, height, width):
    """A mosaic in which every site has the number of its place in the tile."""
    places = np.arange(isp.cfa.tile(pattern).size, dtype=np.float32).reshape(isp.cfa.tile(pattern).shape)
    return np.tile(places, (height // places.shape[0], width // places.shape[1]))


@pytest.mark.parametrize(("pattern", "sides"), [("RGGB", (32, 48)), (XTRANS, (36, 72)), ("MONO", (16, 24))])
def test_a_reduced_mosaic_has_the_same_colors(pattern, sides):
    small = reduced(colors(pattern, *sides), pattern, 2)
    np.testing.assert_array_equal(small, colors(pattern, sides[0] // 2, sides[1] // 2))


def test_a_site_of_a_reduced_mosaic_is_the_mean_of_the_sites_that_it_replaces():
    raw = np.random.default_rng(0).random((8, 8), np.float32)
    small = reduced(raw, "RGGB", 2)
    assert small.shape == (4, 4)
    assert small[1, 2] == pytest.approx(raw[[1, 1, 3, 3], [4, 6, 4, 6]].mean())


def test_an_overview_fits_and_sites_that_are_left_over_are_cut():
    frame = Frame("frame", np.zeros((70, 102), np.float32), isp.CAMERAS["drone"])
    assert overview(frame, 40).shape == (22, 34)
    assert overview(frame, 102) is frame.raw


@pytest.mark.parametrize("center", [(0.0, 0.0), (1.0, 1.0), (0.3, 0.7)])
@pytest.mark.parametrize("pattern", ["RGGB", XTRANS])
def test_a_window_lies_within_the_frame_and_begins_with_a_whole_tile(pattern, center):
    raw = colors(pattern, 72, 108)[:70, :106]
    camera = isp.Camera(np.zeros(isp.cfa.black_level_shape(pattern)), (2, 1, 2), np.eye(3), pattern)
    cut, (top, left) = window(Frame("frame", raw, camera), 24, 48, center)
    np.testing.assert_array_equal(cut, colors(pattern, 24, 48))
    np.testing.assert_array_equal(cut, raw[top : top + 24, left : left + 48])


def test_a_window_in_the_middle_is_that_of_the_training():
    raw = np.random.default_rng(0).random((50, 74), np.float32)
    cut, _ = window(Frame("frame", raw, isp.CAMERAS["drone"]), 16, 32)
    np.testing.assert_array_equal(cut, center_crop(raw, 16, 32, "RGGB"))

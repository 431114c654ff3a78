import dataclasses

import numpy as np
import pytest
import tifffile

import isp
from r2l_jax.data.files import corrections
from r2l_jax.data.files.corrections import Corrections
from r2l_jax.errors import InputError

CAMERA = dataclasses.replace(isp.CAMERAS["drone"], black_level=(0.05, 0.06, 0.07, 0.08))
QUAD = "RRGG/RRGG/GGBB/GGBB"
X_TRANS = "GBGGRG/RGRBGB/GBGGRG/GRGGBG/BGBRGR/GRGGBG"


def camera_with(pattern):
    """A camera of this color filter array, with other black levels at each color."""
    levels = (0.05, 0.06, 0.07, 0.08)[: isp.cfa.black_level_shape(pattern)[0]]
    return isp.Camera(levels, (2, 1, 1.5), np.eye(3), pattern)


def black_levels(camera, *shape):
    return np.asarray(isp.cfa.black_levels(np.float32(camera.black_level), camera.pattern, *shape))


def random(shape=(12, 16), low=0.2, high=0.8, seed=0):
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


def at(*sites):
    return np.array(sites, int).reshape(-1, 2)


def test_dark_and_flat_follow_their_formula_and_results_are_clipped():
    mosaic, dark, flat = random(), random(low=0.04, high=0.1, seed=1), random(low=0.8, high=1.2, seed=2)
    before, black = mosaic.copy(), black_levels(CAMERA, 12, 16)
    corrected = Corrections(dark, flat).apply(mosaic, CAMERA)
    assert corrected.dtype == np.float32
    np.testing.assert_allclose(corrected, black + (mosaic - dark) * flat, atol=1e-6)
    np.testing.assert_array_equal(mosaic, before)
    np.testing.assert_allclose(Corrections(dark).apply(mosaic, CAMERA), mosaic - (dark - black), atol=1e-6)
    np.testing.assert_allclose(Corrections(flat=flat).apply(mosaic, CAMERA), black + (mosaic - black) * flat, atol=1e-6)
    np.testing.assert_array_equal(Corrections(dark, 20 * flat).apply(mosaic, CAMERA), 1)
    np.testing.assert_array_equal(Corrections(mosaic + np.float32(0.1), 5 * flat).apply(mosaic, CAMERA), 0)


@pytest.mark.parametrize("pattern", [*isp.cfa.BAYER, QUAD, X_TRANS, isp.cfa.MONO])
@pytest.mark.parametrize("share", [0.02, 0.4])
def test_defects_take_the_light_of_their_color_anywhere_in_the_frame(pattern, share):
    shape, camera = (42, 48), camera_with(pattern)
    channels = np.asarray(isp.cfa.tiled(isp.cfa.tile(pattern), *shape))
    lit = black_levels(camera, *shape) + np.float32([0.2, 0.5, 0.9])[channels]
    is_bad = np.random.default_rng(3).random(shape) < share
    # A corner, a border and a cluster, which is filled from its rim.
    is_bad[:3, :3] = is_bad[-1] = is_bad[8:33, 12:37] = True
    broken = np.where(is_bad, 1.0, lit).astype(np.float32)
    corrected = Corrections(defects=np.argwhere(is_bad)).apply(broken, camera)
    np.testing.assert_allclose(corrected, lit, atol=1e-6)


def test_a_single_defect_is_the_median_of_its_nearest_neighbors():
    mosaic, black = random((8, 8)), black_levels(CAMERA, 8, 8)
    light = mosaic - black
    red = [light[row, col] for row in (0, 2, 4) for col in (0, 2, 4) if (row, col) != (2, 2)]
    # The nearest greens are in other rows, whose black level differs.
    green = [light[4, 5], light[4, 3], light[6, 5], light[6, 3]]
    corrected = Corrections(defects=at((2, 2), (5, 4))).apply(mosaic, CAMERA)
    assert corrected[2, 2] == pytest.approx(np.median(red) + black[2, 2], abs=1e-7)
    assert corrected[5, 4] == pytest.approx(np.median(green) + black[5, 4], abs=1e-7)
    corrected[2, 2], corrected[5, 4] = mosaic[2, 2], mosaic[5, 4]
    np.testing.assert_allclose(corrected, mosaic, atol=1e-7)


def test_a_defect_anywhere_is_the_median_of_the_neighbors_within_the_frame():
    """Each site of a frame of random light in turn, also in its corners and at its border."""
    light = random((6, 8))
    camera = dataclasses.replace(CAMERA, black_level=(0.0,) * 4)
    rows, cols = np.indices(light.shape)
    colors = np.array([[0, 1], [1, 2]])[rows % 2, cols % 2]
    for site in np.ndindex(light.shape):
        corrected = Corrections(defects=at(site)).apply(light, camera)
        # Greens have four neighbors at a distance of 1 along diagonals.
        near = np.maximum(abs(rows - site[0]), abs(cols - site[1])) <= (1 if colors[site] == 1 else 2)
        near &= colors == colors[site]
        near[site] = False
        assert corrected[site] == pytest.approx(np.median(light[near])), site


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"dark": random((12, 18))}, r"the frame must have the shape \(12, 18\) of dark, got \(12, 16\)"),
        ({"defects": at((3, 3), (12, 5))}, "defect at row 12, column 5 is outside of the frame of 12x16"),
        ({"defects": at((3, -1))}, "defect at row 3, column -1 is outside of the frame of 12x16"),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts, message):
    with pytest.raises(InputError, match=f"{message}$"):
        Corrections(**parts).apply(random(), CAMERA)


def test_the_identity_is_that_of_the_contents():
    parts = {"dark": random(seed=1), "flat": random(seed=2), "defects": at((1, 2))}
    same = {name: value.copy() for name, value in parts.items()}
    first = Corrections(**parts).identity
    assert first == Corrections(**same).identity
    others = [
        *(Corrections(**{**parts, name: None}).identity for name in ("dark", "flat")),
        Corrections(parts["flat"], parts["dark"], parts["defects"]).identity,
        Corrections(**{**parts, "defects": at((2, 1))}).identity,
        Corrections(parts["dark"].T, parts["flat"].T, parts["defects"]).identity,
        Corrections().identity,
    ]
    assert len({first, *others}) == 7


def write(folder, dark, flat, defects):
    for name, values in (("dark", dark), ("flat", flat)):
        tifffile.imwrite(folder / f"{name}.tiff", values, photometric="minisblack")
    (folder / "defects.csv").write_text(defects)


def test_reads_the_files_that_a_camera_names(tmp_path):
    dark, flat = random(seed=1), random(seed=2)
    write(tmp_path, dark, flat, "row,column,kind,figure\r\n1,2,hot,12.5\r\n11,15,dead,-80\r\n")
    read = corrections.read(tmp_path, "dark.tiff", "flat.tiff", "defects.csv")
    np.testing.assert_array_equal(read.dark, dark)
    np.testing.assert_array_equal(read.flat, flat)
    assert read.defects.tolist() == [[1, 2], [11, 15]]
    only = corrections.read(tmp_path, None, "flat.tiff", None)
    assert only.dark is None
    assert only.defects.shape == (0, 2)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"dark": random().astype(np.uint16)}, "dark.tiff: must be one channel in floating point, got uint16"),
        ({"dark": random() + np.float32("nan")}, r"dark.tiff: must contain only finite values"),
        ({"flat": random() - np.float32(0.5)}, r"flat.tiff: gains must be greater than 0, got -0.29"),
        ({"defects": "row,col\n1,2\n"}, "defects.csv: truncated, corrupt or not a valid CSV .'column'"),
    ],
)
def test_damaged_files_are_named_in_one_line(tmp_path, parts, message):
    write(tmp_path, **{"dark": random(), "flat": random(), "defects": "row,column\n", **parts})
    with pytest.raises(InputError, match=message):
        corrections.read(tmp_path, "dark.tiff", "flat.tiff", "defects.csv")

import re
import types

import numpy as np
import pytest
import rawpy
import tifffile
from dng import rendered_by_libraw
from PIL import Image

import isp
from isp.cfa import BAYER
from r2l_jax.data.files import dng
from r2l_jax.data.files.libraw import _sensor, camera_to_srgb
from r2l_jax.data.files.rawfile import read_raw
from r2l_jax.errors import InputError

CAMERA = isp.CAMERAS["drone"]
TILE = np.array([[1000, 2000], [3000, 4000]], np.uint16)
BLACK = (100, 200, 300, 400)
FROM_PICTURES = r"color picture.*; python scripts/unprocess\.py converts JPEG and PNG pictures to raw files$"
PATTERNS = {"RGGB": (0, 1, 1, 2), "BGGR": (2, 1, 1, 0), "GRBG": (1, 0, 2, 1), "GBRG": (1, 2, 0, 1)}
# XYZ to camera RGB: the matrix of the DNG fixture, and that of the Sony ILCE-7M3 in LibRaw's table.
MATRIX = np.array([[0.9, -0.3, -0.1], [-0.45, 1.3, 0.15], [-0.1, 0.25, 0.6]])


def tiled(tile, height=48, width=64):
    return np.tile(np.reshape(tile, (2, 2)), (height // 2, width // 2))


def scene(pattern, neutral, black, white, height=64, width=80):
    """Returns a camera's mosaic of a scene within its gamut, with detail as fine as a few pixels."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 2) + np.cos(y / 3), np.cos(x / 3 + y / 2), np.sin(y / 2 - x / 3)]
    camera_rgb = (0.35 + 0.1 * np.stack(waves, -1)) @ np.linalg.inv(camera_to_srgb(MATRIX)).T * neutral
    black = tiled(black, height, width)
    return np.round(black + isp.cfa.mosaic(camera_rgb, pattern) * (white - black)).astype(np.uint16)


@pytest.mark.parametrize(
    ("active_area", "black"),
    [(None, (512,) * 4), (None, (500, 600, 700, 800)), ((1, 1, 64, 80), (512,) * 4), ((2, 5, 63, 80), (512,) * 4)],
)
@pytest.mark.parametrize("pattern", BAYER)
def test_renders_like_libraw(write_dng, pattern, active_area, black):
    neutral, white = (0.5, 1.0, 0.7), 16383
    raw = scene(pattern, neutral, black, white)
    if active_area is not None:
        top, left, *_ = active_area
        raw = np.pad(raw, ((top, 0), (left, 0)))[:64, :80]
    path = write_dng(raw, cfa=PATTERNS[pattern], black=black, white=white, neutral=neutral, active_area=active_area)
    mosaic, camera = read_raw(path)
    rgb = isp.demosaic.bilinear(isp.cfa.subtract_black_level(mosaic, np.float32(camera.black_level)), camera.pattern)
    rgb = isp.color.white_balance(rgb, np.float32(camera.white_balance))
    # LibRaw stretches the range above the black level to [0, 1]; `isp` does not.
    rgb = isp.color.color_correct(rgb, np.float32(camera.color_matrix)) * white / (white - min(black))
    expected = rendered_by_libraw(path)
    # LibRaw truncates to integers after the gains, after the interpolation, and after the matrix, which amplifies the
    # first two errors.
    inside = tuple(slice(2, size - 2) for size in mosaic.shape)
    np.testing.assert_allclose(expected[inside] / 65535, np.asarray(rgb)[inside], rtol=0, atol=4 / 65535)


@pytest.mark.parametrize("pattern", BAYER)
def test_dng_mosaic_and_calibration_values(write_dng, pattern):
    mosaic, camera = read_raw(write_dng(tiled(TILE), cfa=PATTERNS[pattern], black=BLACK))
    assert mosaic.dtype == np.float32
    np.testing.assert_allclose(mosaic, tiled(TILE) / 4095, rtol=1e-6)
    assert camera.pattern == pattern
    np.testing.assert_allclose(camera.black_level, np.array(BLACK) / 4095)
    np.testing.assert_allclose(camera.white_balance, (2, 1, 1 / 0.7), rtol=1e-6)
    np.testing.assert_allclose(camera.color_matrix, camera_to_srgb(MATRIX), atol=1e-6)
    np.testing.assert_allclose(np.sum(camera.color_matrix, axis=1), 1, atol=1e-6)


def test_black_level_measured_in_masked_areas(write_dng):
    raw = tiled(TILE)
    raw[:6] = tiled(BLACK)[:6]
    masked_area = (50830, "I", 4, (0, 0, 6, 64))
    _, camera = read_raw(write_dng(raw, active_area=(7, 0, 48, 64), tags=[masked_area]))
    assert camera.pattern == "GBRG"  # LibRaw starts the visible area at row 8, which is even like the first masked row.
    np.testing.assert_allclose(camera.black_level, np.array(BLACK) / 4095)


def test_white_level_of_each_channel(write_dng):
    # LibRaw derives the levels from DNG's LinearResponseLimit: black + 0.9 * (white - black), for the mean black level
    raw = tiled(TILE)
    mosaic, camera = read_raw(write_dng(raw, black=(400,) * 4, tags=[(50734, "2I", 1, (9, 10))]))
    white = 400 + int(0.9 * (4095 - 400))
    np.testing.assert_allclose(mosaic, np.minimum(raw / white, 1), rtol=1e-6)
    assert mosaic.max() == 1
    np.testing.assert_allclose(camera.black_level, np.full(4, 400 / white))


def test_daylight_without_white_balance_as_shot(write_dng):
    path = write_dng(tiled(TILE), neutral=None)
    _, camera = read_raw(path)
    # The white of D65 in camera RGB according to the color matrix.
    neutral = MATRIX @ (0.95047, 1.0, 1.08883)
    np.testing.assert_allclose(camera.white_balance, neutral[1] / neutral, rtol=1e-4)


def test_without_a_matrix_in_the_file_libraws_table_is_used(write_dng):
    path = write_dng(tiled(TILE), matrix=None, camera=("SONY", "ILCE-7M3"))
    sony = np.array([[0.7374, -0.2389, -0.0551], [-0.5435, 1.3162, 0.2519], [-0.1006, 0.1795, 0.6552]])
    np.testing.assert_allclose(read_raw(path)[1].color_matrix, camera_to_srgb(sony), atol=1e-6)


@pytest.mark.shows("r2l_jax.data.read_raw(path, camera)")
def test_a_given_camera_replaces_the_calibration_values_of_the_file(write_dng):
    path = write_dng(tiled(TILE), matrix=None)
    assert read_raw(path, CAMERA)[1] == CAMERA
    refuse(path, "neither the file nor LibRaw has a color matrix for this camera: give one in a JSON file", None)


def refuse(path, message, camera=CAMERA):
    with pytest.raises(InputError, match=rf"{path.name}: .*{message}"):
        read_raw(path, camera)


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("suffix", ["dng", "tiff", "png"])
def test_truncated(write_dng, tmp_path, suffix, kept):
    raw = np.random.default_rng(0).integers(0, 4096, (48, 64), np.uint16)
    path = tmp_path / f"short.{suffix}"
    write_dng(raw, path.name) if suffix == "dng" else write(path, raw)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    refuse(path, "truncated, corrupt or not a valid ")


def write(path, samples):
    if path.suffix == ".png":
        Image.fromarray(samples).save(path)
    else:
        tifffile.imwrite(path, samples)
    return path


def lit(value, dtype=np.float32):
    """A mosaic of 0.5 with one other value."""
    samples = np.full((48, 64), 0.5, dtype)
    samples[3, 4] = value
    return samples


@pytest.mark.parametrize(
    ("name", "samples", "message"),
    [
        *(("raw.tiff", lit(value), rf"only finite values, got {value} at \(3, 4\)$") for value in (np.nan, np.inf)),
        *(("raw.tiff", lit(value), r"samples must be in \[0, 1\], got ") for value in (-0.01, 1.01)),
        ("raw.tiff", np.zeros((4, 4), np.int16), "samples must have 8 bits, 16 bits or"),
        ("raw.tiff", np.zeros((4, 4, 3), np.uint8), rf"expected one raw image .*\(4, 4, 3\), like a {FROM_PICTURES}"),
        ("raw.tiff", np.zeros((9, 6, 6), np.uint16), r"expected one raw image .*\(9, 6, 6\)$"),
        ("raw.tiff", np.zeros((5, 4), np.uint8), "a raw image must have an even height and width .*, got 5x4"),
        ("raw.png", np.zeros((4, 4, 3), np.uint8), "got a PNG of RGB; .* converts JPEG and PNG pictures to raw files$"),
    ],
)
def test_samples_that_are_no_mosaic_are_refused(tmp_path, name, samples, message):
    refuse(write(tmp_path / name, samples), message)


def test_other_files_are_refused(write_dng, tmp_path):
    refuse(tmp_path / "gone.dng", "no such file")
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "raw.nef", "JPEG")
    refuse(tmp_path / "raw.nef", r"expected a raw file, got a JPEG; python scripts/unprocess\.py converts JPEG")
    refuse(write_dng(tiled(TILE), cfa=PATTERNS["BGGR"]), "the camera must have the sensor's pattern BGGR, got RGGB")
    refuse(write_dng(lit(np.nan), white=1), r"contain only finite values, got nan at \(3, 4\)$")
    magenta = write_dng(tiled(TILE), cfa=(3, 4, 1, 5), tags=[(50710, "B", 4, (3, 4, 1, 5))])
    refuse(magenta, "the sensor's colors must be red, green and blue, got ")
    for name in ("raw.tiff", "raw.png"):
        refuse(write(tmp_path / name, np.zeros((4, 4), np.uint8)), "give a camera", camera=None)


@pytest.mark.parametrize(
    ("name", "dtype", "largest"),
    [
        *((f"raw.{suffix}", np.uint8, 255) for suffix in ("tif", "TIFF", "png")),
        *((f"raw.{suffix}", np.uint16, 65535) for suffix in ("tif", "png")),
        *(("raw.tiff", dtype, 1) for dtype in (np.float16, np.float32, np.float64)),
    ],
)
def test_samples_are_divided_by_the_largest_value_of_their_type(tmp_path, name, dtype, largest):
    samples = (tiled([0, 0.25, 0.5, 1]) * largest).astype(dtype)
    mosaic, camera = read_raw(write(tmp_path / name, samples), CAMERA)
    assert (mosaic.dtype, camera) == (np.float32, CAMERA)
    np.testing.assert_allclose(mosaic, samples / largest, rtol=1e-6)


@pytest.mark.parametrize(
    ("tile", "margins", "indices"),
    [
        ([[0, 1], [1, 2]], (0, 0), [0, 1, 3, 2]),
        ([[0, 3], [1, 2]], (0, 0), [0, 3, 1, 2]),
        ([[0, 1], [1, 2]], (2, 1), [1, 0, 2, 3]),
    ],
)
def test_the_second_green_has_an_index_of_its_own(unchecked, tile, margins, indices):
    """Where LibRaw gives both greens index 1, the later one in the tile gets 3, which has levels of its own."""
    sizes = types.SimpleNamespace(top_margin=margins[0], left_margin=margins[1])
    kind = {"raw_type": rawpy.RawType.Flat, "num_colors": 3, "color_desc": b"RGBG"}
    raw = types.SimpleNamespace(**kind, raw_pattern=np.array(tile, np.uint8), sizes=sizes)
    assert _sensor(raw, dng.Metadata()).colors.ravel().tolist() == indices


@pytest.mark.parametrize(
    ("tile", "letters", "found"),
    [
        (None, b"RGBG", "RGBG, no tile"),
        ([[0, 1], [2, 3]], b"CMYG", "CMYG, indices [0, 1, 2, 3] in its tile"),
        ([[0, 1], [2, 4]], b"RGBG", "RGBG, indices [0, 1, 2, 4] in its tile"),
        ([[0, 1, 2, 1]], b"RGBG", "RGBG, indices [0, 1, 2, 1] in its tile"),
    ],
)
def test_sensors_of_other_colors_are_refused(unchecked, tile, letters, found):
    kind = {"raw_type": rawpy.RawType.Flat, "num_colors": 3, "color_desc": letters}
    sizes = types.SimpleNamespace(top_margin=0, left_margin=0)
    raw = types.SimpleNamespace(**kind, raw_pattern=None if tile is None else np.array(tile, np.uint8), sizes=sizes)
    with pytest.raises(InputError, match=re.escape(f"must be red, green and blue, got the colors {found}")):
        _sensor(raw, dng.Metadata())


# The numbers of bytes by which LibRaw takes a file without a header for one of AVT's cameras.
@pytest.mark.parametrize("size", [786432, 1447680])
@pytest.mark.parametrize("camera", [CAMERA, None])
def test_what_libraw_would_guess_from_the_number_of_bytes_is_refused(tmp_path, size, camera):
    (tmp_path / "frame.RAW").write_bytes(np.random.default_rng(0).bytes(size))
    with rawpy.imread(str(tmp_path / "frame.RAW")) as guessed:
        assert guessed.raw_image.size == size
    refuse(tmp_path / "frame.RAW", "does not name its camera: LibRaw would guess", camera)


def test_a_dng_that_declares_more_than_it_holds_is_refused_before_memory_is_taken(write_dng):
    path = write_dng(tiled(TILE))
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        # Lossless JPEG: its size is unknown until it is unpacked.
        tiff.pages[0].tags["Compression"].overwrite(7)
        for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            tiff.pages[0].tags[name].overwrite(30000, dtype="I")
    refuse(path, "the 1800000000 bytes of samples that it declares")

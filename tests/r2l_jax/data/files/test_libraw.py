"""Sensors other than Bayer, and figures that a user states, in files that name their own camera."""

import struct

import numpy as np
import pytest
import tifffile

import isp
from r2l_jax.data.files import dng
from r2l_jax.data.files.rawfile import read_raw
from r2l_jax.errors import InputError, collected_warnings

XTRANS = "GGRGGB/GGBGGR/BRGRBG/GGBGGR/GGRGGB/RBGBRG"
QUAD = "RRGG/RRGG/GGBB/GGBB"
MATRIX = [[1.5, -0.3, -0.2], [-0.2, 1.7, -0.5], [0.0, -0.3, 1.3]]


def indices(pattern):
    return tuple(isp.cfa.tile(pattern).ravel().tolist())


def ramp(height=48, width=72):
    y, x = np.mgrid[:height, :width]
    return (400 + 20 * x + 30 * y).astype(np.uint16)


def mono(path):
    """Makes a DNG of one sample for each pixel of a DNG of a mosaic."""
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[0].tags["PhotometricInterpretation"].overwrite(34892)
    return path


@pytest.mark.parametrize("active_area", [None, (2, 4, 44, 70), (1, 0, 48, 72), (0, 1, 48, 72), (3, 5, 47, 69)])
@pytest.mark.parametrize("pattern", ["RGGB", XTRANS, QUAD])
def test_the_array_of_the_visible_area(write_dng, pattern, active_area):
    """The tile starts at the active area; LibRaw's visible area, except for X-Trans, at an even row and column."""
    samples, black = ramp(), (100, 200, 300, 400) if pattern == "RGGB" else None
    mosaic, camera = read_raw(write_dng(samples, cfa=indices(pattern), black=black, active_area=active_area))
    top, left, bottom, right = active_area or (0, 0, *samples.shape)
    down, aside = (0, 0) if pattern == XTRANS else (top % 2, left % 2)
    tile = np.roll(isp.cfa.tile(pattern), (-down, -aside), (0, 1))
    np.testing.assert_array_equal(isp.cfa.tile(camera.pattern), tile)
    visible = samples[top + down : bottom, left + aside : right]
    height, width = (size // 2 * 2 for size in visible.shape)
    np.testing.assert_allclose(mosaic, visible[:height, :width] / 4095, rtol=1e-6)
    levels = np.zeros(3) if black is None else np.roll(np.reshape(black, (2, 2)), (-down, -aside), (0, 1)).ravel()
    np.testing.assert_allclose(camera.black_level, levels / 4095)


def test_a_monochrome_dng_needs_no_colors(write_dng):
    mosaic, camera = read_raw(mono(write_dng(ramp(), cfa=None, matrix=None, neutral=None)))
    assert camera == isp.Camera([0.0], pattern="MONO")
    np.testing.assert_allclose(mosaic, ramp() / 4095, rtol=1e-6)


def test_a_demosaiced_dng_is_sampled_by_the_pattern(write_dng, stated):
    planes = np.stack([ramp(), ramp() + 100, ramp() + 200], -1)
    path = write_dng(planes, cfa=None)
    for pattern, camera in (("RGGB", None), ("GBRG", stated(pattern="GBRG"))):
        mosaic, own = read_raw(path, camera)
        assert own.pattern == pattern
        np.testing.assert_allclose(mosaic, isp.cfa.mosaic(planes / np.float32(4095), pattern), rtol=1e-6)
    with pytest.raises(InputError, match=r"for a demosaiced file, the camera's pattern must be Bayer, got R"):
        read_raw(path, stated(pattern=QUAD))


def test_each_stated_figure_replaces_that_of_the_file(write_dng, stated):
    path = write_dng(ramp(), black=(100, 200, 300, 400))
    _, own = read_raw(path)
    for name, value in {"white_balance": (3.0, 1.0, 2.0), "black_level": (0.1, 0.1, 0.2, 0.1)}.items():
        _, camera = read_raw(path, stated(**{name: value}))
        fields = {**vars(own), name: value}
        assert camera == isp.Camera(**fields)
    mosaic, camera = read_raw(path, stated(white_level=8190))
    np.testing.assert_allclose(mosaic, ramp() / 8190, rtol=1e-6)
    np.testing.assert_allclose(camera.black_level, np.array([100, 200, 300, 400]) / 8190)
    with pytest.raises(InputError, match=r"with the pattern RGGB, black_level must have shape \(4,\), got \(3,\)"):
        read_raw(path, stated(black_level=[0.1, 0.1, 0.1]))
    # A stated matrix is enough for a file without one.
    path = write_dng(ramp(), matrix=None)
    assert read_raw(path, stated(color_matrix=MATRIX))[1].color_matrix == tuple(map(tuple, MATRIX))


def test_a_stated_pattern_counts_for_sensors_that_declare_another(write_dng, stated):
    """Phones declare 2x2 sites for their quad Bayer sensors."""
    with collected_warnings() as lines:
        mosaic, camera = read_raw(path := write_dng(ramp()), stated(pattern=QUAD))
    assert (mosaic.shape, camera.pattern, len(camera.black_level)) == ((48, 72), QUAD, 3)
    assert lines == [f"{path}: read with the pattern {QUAD} of the camera's JSON file; the file states RGGB"]


@pytest.mark.parametrize("level", [1200, 3000])
@pytest.mark.parametrize("active_area", [None, (4, 6, 48, 70)])
def test_gain_maps_multiply_the_light_above_black(write_dng, active_area, level):
    black, white, samples = 200, 4095, np.full((48, 72), level, np.uint16)
    top, left, bottom, right = active_area or (0, 0, 48, 72)
    height, width = bottom - top, right - left
    gains = np.array([[1.0, 1.5], [1.25, 2.0]])
    header = struct.pack(">10I4dI", 0, 0, height, width, 0, 1, 1, 1, 2, 2, 1.0, 1.0, 0.0, 0.0, 1)
    opcode = header + gains.astype(">f4").tobytes()
    unknown = struct.pack(">4I", 77, 0, 1, 3) + b"abc"
    opcodes = struct.pack(">I", 2) + unknown + struct.pack(">4I", 9, 0, 1, len(opcode)) + opcode
    path = write_dng(samples, black=(black,) * 4, active_area=active_area, tags=[(51009, "B", len(opcodes), opcodes)])
    mosaic, _ = read_raw(path)
    v, h = ((np.arange(side) + 0.5) / side for side in (height, width))
    gain = np.einsum("vi,ij,hj->vh", np.stack([1 - v, v], -1), gains, np.stack([1 - h, h], -1))
    np.testing.assert_allclose(mosaic, np.minimum((black + gain * (level - black)) / white, 1), rtol=1e-5)


def test_a_gain_map_has_an_area_and_steps_between_its_sites():
    light = np.ones((8, 10), np.float32)
    gain_map = dng.GainMap((1, 2, 7, 99), (2, 3), (0.0, 0.0), (0.0, 0.0), np.full((1, 1), 1.5, np.float32))
    gain_map.apply(light)
    expected = np.ones((8, 10))
    expected[1:7:2, 2::3] = 1.5
    np.testing.assert_array_equal(light, expected)


def test_a_preview_is_not_the_main_image(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.dng") as file:
        layout = {"photometric": "cfa", "metadata": None}
        for kind, cfa in ((1, QUAD), (0, "RGB/GBR/BRG")):
            tags = [(33421, "H", 2, isp.cfa.tile(cfa).shape), (33422, "B", isp.cfa.tile(cfa).size, indices(cfa))]
            file.write(ramp(), **layout, subfiletype=kind, extratags=tags)
    assert dng.read_metadata(tmp_path / "a.dng").pattern == "RGB/GBR/BRG"


@pytest.mark.parametrize("opcodes", [b"\0\0", struct.pack(">5I", 1, 9, 0, 1, 400), struct.pack(">5I", 1, 9, 0, 1, 0)])
def test_damaged_opcodes(write_dng, opcodes):
    path = write_dng(ramp(), tags=[(51009, "B", len(opcodes), opcodes)])
    with pytest.raises(InputError, match=r"test\.dng: its OpcodeList2 is damaged"):
        read_raw(path)

import struct
import zlib

import numpy as np
import pytest
import tifffile

from r2l_jax.data.files.tiff import read_stored, read_tiff
from r2l_jax.errors import InputError

SAMPLES = np.random.default_rng(0).integers(0, 65536, (96, 64)).astype(np.uint16)
DEFLATE = tifffile.COMPRESSION.ADOBE_DEFLATE
LAYOUTS = [{}, {"rowsperstrip": 16}, {"rowsperstrip": 36}, {"tile": (32, 32)}, {"tile": (64, 48)}]


def write(path, samples=SAMPLES, **options):
    tifffile.imwrite(path, samples, metadata=None, **options)
    return path


def replace_deflate(monkeypatch, decode):
    """Replaces the function by which tifffile inflates: zlib's, or imagecodecs' where it is installed."""
    monkeypatch.setattr(tifffile.TIFF, "DECOMPRESSORS", {DEFLATE: decode})


def overwrite(path, tag, index, value):
    """Replaces one value of a tag of the first page."""
    with tifffile.TiffFile(path) as tiff:
        entry = tiff.pages[0].tags[tag]
        kind = tiff.byteorder + tifffile.TIFF.DATA_FORMATS[entry.dtype][-1]
        place = entry.valueoffset + index * struct.calcsize(kind)
    content = bytearray(path.read_bytes())
    struct.pack_into(kind, content, place, value)
    path.write_bytes(content)


@pytest.mark.parametrize("compression", [None, "zlib", "lzma"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("byteorder", "<>")
def test_whole_files_are_read_as_tifffile_does(tmp_path, compression, layout, byteorder):
    path = write(tmp_path / "a.tif", compression=compression, byteorder=byteorder, **layout)
    np.testing.assert_array_equal(read_tiff(path), SAMPLES)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((4, 6, 3), {"photometric": "rgb"}),
        ((3, 4, 6), {"photometric": "rgb", "planarconfig": "separate"}),
        ((3, 4, 6), {"photometric": "minisblack"}),
    ],
)
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float32])
def test_channels_and_pages_are_read_as_tifffile_does(tmp_path, shape, options, dtype):
    samples = np.random.default_rng(1).integers(0, 2, shape).astype(dtype)
    path = write(tmp_path / "a.tif", samples, **options)
    np.testing.assert_array_equal(read_tiff(path), tifffile.imread(path))
    assert read_tiff(path).shape == shape


def test_a_thumbnail_after_the_picture_is_left_out(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(SAMPLES)
        writer.write(SAMPLES[::4, ::4])
    np.testing.assert_array_equal(read_tiff(tmp_path / "a.tif"), SAMPLES)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("layout", LAYOUTS[1:])
@pytest.mark.parametrize("what", ["ByteCounts", "Offsets"])
def test_a_missing_strip_or_tile_is_named_rather_than_read_as_black(tmp_path, compression, layout, what):
    path = write(tmp_path / "a.tif", compression=compression, **layout)
    kind = "Tile" if "tile" in layout else "Strip"
    overwrite(path, kind + what, 1, 0)
    with pytest.raises(ValueError, match=rf"{kind.lower()} 1 of \d+ lies outside of the file"):
        read_tiff(path)


@pytest.mark.parametrize(
    ("options", "tags", "message"),
    [
        ({"rowsperstrip": 16}, {"ImageLength": 192}, "it declares 12 strips and holds 6"),
        ({}, {"StripByteCounts": 12287}, "its strips hold 12287 of the 12288 bytes declared"),
        ({}, {"StripByteCounts": 2**20}, "strip 0 of 1 lies outside of the file"),
        ({}, {"ImageWidth": 0}, r"empty picture of shape \(96, 0\)"),
        (
            {"compression": "zlib"},
            dict.fromkeys(("ImageWidth", "ImageLength", "RowsPerStrip"), 60_000),
            r"the 7200000000 bytes of samples that it declares cannot be compressed to \d+ bytes",
        ),
    ],
)
def test_a_file_that_declares_what_it_cannot_hold_is_refused(tmp_path, options, tags, message):
    path = write(tmp_path / "a.tif", **options)
    for tag, value in tags.items():
        overwrite(path, tag, 0, value)
    with pytest.raises(ValueError, match=message):
        read_tiff(path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_strip_or_tile_that_unpacks_to_too_few_samples_is_refused(tmp_path, layout):
    kind = "Tile" if "tile" in layout else "Strip"
    path = write(tmp_path / "a.tif", compression="zlib", **layout)
    # Whole rows are missing, which could be read as black.
    short = zlib.compress(bytes(128))
    place = path.stat().st_size
    path.write_bytes(path.read_bytes() + short)
    overwrite(path, f"{kind}Offsets", 0, place)
    overwrite(path, f"{kind}ByteCounts", 0, len(short))
    with pytest.raises(ValueError, match=rf"corrupted {kind.lower()}"):
        read_tiff(path)


def test_a_compressed_strip_that_exceeds_its_picture_is_not_unpacked(tmp_path, monkeypatch):
    path = write(tmp_path / "a.tif", SAMPLES[:2], compression="zlib")
    bomb, place = zlib.compress(bytes(2**24)) + bytes(2**20), path.stat().st_size
    path.write_bytes(path.read_bytes() + bomb)
    overwrite(path, "StripOffsets", 0, place)
    overwrite(path, "StripByteCounts", 0, len(bomb))
    replace_deflate(monkeypatch, lambda *_, **__: pytest.fail("unpacked"))
    with pytest.raises(ValueError, match=rf"its strips hold {len(bomb)} bytes, compressed, of 256 bytes declared"):
        read_tiff(path)


def test_a_compressed_file_is_inflated_once(tmp_path, monkeypatch):
    path = write(tmp_path / "a.tif", compression="zlib", rowsperstrip=16)
    inflated, inflate = [], tifffile.TIFF.DECOMPRESSORS[DEFLATE]
    replace_deflate(monkeypatch, lambda data, **options: inflated.append(len(data)) or inflate(data, **options))
    np.testing.assert_array_equal(read_tiff(path), SAMPLES)
    assert len(inflated) == 6


def test_stored_samples_have_16_bits_and_the_known_shape(tmp_path):
    np.testing.assert_array_equal(read_stored(write(tmp_path / "a.tif"), (96, 64)), SAMPLES / np.float32(65535))
    for other in (SAMPLES[:1, :1], SAMPLES[:1], SAMPLES.astype(np.float32), SAMPLES.astype(np.uint8)):
        with pytest.raises(InputError, match=r"a\.tif: must be 96x64 with one channel of 16 bits, got"):
            read_stored(write(tmp_path / "a.tif", other), (96, 64))

import json
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from r2l_jax.data.files import pictures
from r2l_jax.data.files.decoding import opened
from r2l_jax.data.files.pictures import mask_values, open_png, read_mask, read_picture
from r2l_jax.errors import InputError


def read_png(path):
    with opened(path, open_png) as stored:
        samples = stored.read()
        assert samples.shape == stored.shape
        return samples


def write_chunks(path, width, height, bits, is_interlaced, samples):
    """Writes a gray PNG, well-formed but for the number of its samples."""
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, is_interlaced)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(samples)), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    path.write_bytes(content)
    return path


def write(path, width, height, rows, bits=8):
    return write_chunks(path, width, height, bits, False, (b"\0" + b"\x7f" * -(-width * bits // 8)) * rows)


@pytest.mark.parametrize("rows", [0, 48, 95])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("read", [read_mask, read_picture])
def test_rows_that_are_missing_are_refused_rather_than_read_as_black(tmp_path, rows, bits, read):
    path = write(tmp_path / "a.png", 64, 96, rows, bits)
    missing = f".*it declares 96 rows of 64 pixels and holds {rows}" if rows else ""
    with pytest.raises(InputError, match=rf"a\.png: truncated, {missing}"):
        read(path)
    read(write(path, 64, 96, 96, bits))


def test_a_size_that_the_file_cannot_hold_is_refused_before_memory_is_taken(tmp_path):
    path = write_chunks(tmp_path / "a.png", 2_097_200, 64, 8, False, b"\0")
    with pytest.raises(ValueError, match=r"the 134220800 bytes of samples that it declares cannot be compressed"):
        read_png(path)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (400, 801)])
def test_whole_files_pass(tmp_path, mode, size):
    samples = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    image = Image.fromarray(samples).convert("L" if mode == "I;16" else mode)
    image = image.convert("I;16") if mode == "I;16" else image
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_png(tmp_path / "a.png"), np.asarray(image))


@pytest.mark.parametrize("read", [read_mask, read_picture, mask_values])
def test_a_png_is_inflated_once(tmp_path, monkeypatch, read):
    """Pillow gets the rows as they are, also where some are black."""
    Image.fromarray(np.eye(200, dtype=np.uint8)).save(tmp_path / "a.png")
    inflated, blocks, decompress, load = [], [], zlib.decompressobj, Image.open

    def opening(file, **options):
        data = file.getvalue()
        blocks.append(data[data.index(b"IDAT") + 6] & 0b110)
        return load(file, **options)

    monkeypatch.setattr(pictures.zlib, "decompressobj", lambda: inflated.append(1) or decompress())
    monkeypatch.setattr(pictures.Image, "open", opening)
    read(tmp_path / "a.png")
    # The type of the first block of Deflate: 0 is stored without compression.
    assert (len(inflated), blocks) == (1, [0])


def test_further_frames_of_an_animation_are_left_out(tmp_path):
    frames = [Image.fromarray(np.full((4, 6), value, np.uint8)) for value in (7, 9)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(read_png(tmp_path / "a.png"), np.full((4, 6), 7))


# The bytes of the rows of all seven passes by the PNG specification, each row with its filter.
@pytest.mark.parametrize(("width", "height", "needed"), [(1, 1, 2), (3, 2, 10), (9, 11, 121), (64, 64, 4216)])
def test_the_passes_of_an_interlaced_png_are_counted(tmp_path, width, height, needed):
    path = write_chunks(tmp_path / "a.png", width, height, 8, True, bytes(needed))
    assert read_png(path).shape == (height, width)
    write_chunks(path, width, height, 8, True, bytes(needed - 1))
    with pytest.raises((ValueError, OSError), match=r"it declares|truncated"):
        read_png(path)


def transparent():
    image = Image.new("RGB", (4, 2), (50, 90, 130)).quantize(4)
    image.info["transparency"] = bytes([9, 0])
    return image


@pytest.mark.parametrize(
    ("image", "rgb"),
    [
        (Image.new("LA", (4, 2), (90, 0)), [90, 90, 90]),
        (Image.new("1", (4, 2), 1), [255, 255, 255]),
        (Image.new("RGBA", (4, 2), (50, 90, 130, 7)), [50, 90, 130]),
        (transparent(), [50, 90, 130]),
    ],
    ids=["gray with alpha", "two levels", "alpha", "transparent palette"],
)
def test_kinds_of_pictures_become_rgb(tmp_path, image, rgb):
    image.save(tmp_path / "a.png")
    picture, turned = read_picture(tmp_path / "a.png")
    np.testing.assert_array_equal(picture, np.broadcast_to(rgb, (2, 4, 3)))
    assert not turned


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_picture_is_turned_as_its_orientation_says(tmp_path, dtype):
    image, exif = np.arange(16 * 24, dtype=np.uint16).reshape(16, 24).astype(dtype), Image.Exif()
    exif[0x0112] = 6  # orientation: the first row is at the right
    Image.fromarray(image).save(tmp_path / "a.png", exif=exif)
    picture, turned = read_picture(tmp_path / "a.png")
    np.testing.assert_array_equal(picture, np.repeat(np.rot90(image, -1)[..., None], 3, -1))
    assert turned


def test_16_bits_of_color_are_refused(tmp_path):
    # As pillow cannot write it: 8 bits, whose header takes pairs of columns for one.
    Image.new("RGB", (8, 4)).save(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[19], content[24] = 4, 16
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match="a 16-bit PNG must be gray: pillow truncates 16-bit colors"):
        read_picture(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("mode", "value"),
    [("L", 1), ("1", 1), ("LA", (9, 255)), ("RGB", (0, 3, 0)), ("RGBA", (0, 0, 1, 255)), ("I;16", 256)],
)
def test_a_mask_is_one_where_any_color_channel_is_above_zero(tmp_path, mode, value):
    picture = Image.new("1", (4, 2)).convert("L").convert(mode)
    picture.putpixel((3, 1), value)
    picture.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), [[0, 0, 0, 0], [0, 0, 0, 1]])


def test_a_file_that_is_not_a_mask_is_named(tmp_path):
    tifffile.imwrite(tmp_path / "mask.tif", np.zeros((2, 3, 4, 5), np.uint8), photometric="minisblack")
    with pytest.raises(InputError, match=r"mask.tif: .* at most four channels, got shape \(6, 4, 5\)"):
        read_mask(tmp_path / "mask.tif")


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("mode", ["L", "P", "LA", "I;16"])
def test_a_mask_of_classes_keeps_its_values(tmp_path, suffix, mode):
    indices = np.array([[0, 1, 2, 3], [255, 254, 9, 0]], np.uint8)
    if suffix == "png":
        picture = Image.fromarray(indices)
        if mode == "P":
            picture.putpalette(np.random.default_rng(0).permutation(768).astype(np.uint8).tobytes())
        elif mode == "I;16":
            picture = Image.fromarray(indices.astype(np.uint16))
        else:
            picture = picture.convert(mode)
        assert picture.mode == mode
        picture.save(tmp_path / "mask.png")
    else:
        tifffile.imwrite(tmp_path / "mask.tif", indices.astype(np.uint16 if mode == "I;16" else np.uint8))
    mask = read_mask(tmp_path / f"mask.{suffix}", indices=True)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, indices)
    assert mask_values(tmp_path / f"mask.{suffix}") == [(0, 2), *((value, 1) for value in (1, 2, 3, 9, 254, 255))]


@pytest.mark.parametrize(("bits", "row", "indices"), [(2, b"\x1b", [0, 1, 2, 3]), (4, b"\x01\xef", [0, 1, 14, 15])])
def test_gray_of_few_bits_holds_indices_as_stored(tmp_path, bits, row, indices):
    """Pillow would return 85 and 17 times as much."""
    path = write_chunks(tmp_path / "a.png", 4, 1, bits, False, b"\0" + row)
    np.testing.assert_array_equal(read_mask(path, indices=True), [indices])


@pytest.mark.parametrize(
    ("samples", "found"),
    [(np.zeros((2, 3, 3), np.uint8), "got 3 of uint8"), (np.full((2, 3), 256, np.uint16), "got 1 of uint16")],
)
def test_a_mask_of_classes_has_one_channel_of_8_bits(tmp_path, samples, found):
    Image.fromarray(samples).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=rf"a.png: .* one channel with values from 0 to 255, {found}"):
        read_mask(tmp_path / "a.png", indices=True)


def test_the_pixels_of_each_value_are_counted(tmp_path):
    samples = np.random.default_rng(0).integers(0, 2, (30, 40, 3)).astype(np.uint8)
    Image.fromarray(samples).save(tmp_path / "a.png")
    expected = [(list(bits), (samples == bits).all(-1).sum()) for bits in np.ndindex(2, 2, 2)]
    assert mask_values(tmp_path / "a.png") == expected
    # A mask of one bit has the values of one of 8 bits.
    Image.fromarray(samples[..., 0] > 0).save(tmp_path / "b.png")
    ones = int(samples[..., 0].sum())
    assert json.dumps(mask_values(tmp_path / "b.png")) == f"[[0, {1200 - ones}], [1, {ones}]]"

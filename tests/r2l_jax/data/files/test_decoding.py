"""What headers say: the shape of a raw image, and sizes that no file holds."""

import contextlib
import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

import isp
from r2l_jax.data.files.decoding import Stored, opened
from r2l_jax.data.files.known_camera import KnownCamera
from r2l_jax.data.files.pictures import read_mask, read_picture
from r2l_jax.data.files.rawfile import describe, read_raw
from r2l_jax.errors import InputError

CAMERA = isp.CAMERAS["drone"]
SAMPLES = np.random.default_rng(0).integers(0, 65536, (6, 8)).astype(np.uint16)
SIDE = 100_000


def content(write, *arguments, **options):
    file = io.BytesIO()
    write(file, *arguments, **options)
    return bytearray(file.getvalue())


def huge_tiff(**options):
    """A TIFF of one short strip that declares SIDE x SIDE samples."""
    data = content(tifffile.imwrite, SAMPLES, metadata=None, compression="zlib", **options)
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            tag = tiff.pages.first.tags[name]
            struct.pack_into({3: "<H", 4: "<I"}[tag.dtype], data, tag.valueoffset, min(SIDE, 2 ** (8 * tag.dtype // 2)))
    return data


def huge_png():
    data = content(Image.fromarray(SAMPLES).save, "png")
    struct.pack_into(">II", data, 16, SIDE, SIDE)
    struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
    return data


def huge_jpeg():
    data = content(Image.fromarray(SAMPLES.astype(np.uint8)).save, "jpeg")
    struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, 65500, 65500)
    return data


def huge_npy():
    return content(np.lib.format.write_array_header_1_0, {"shape": (SIDE,) * 2, "fortran_order": False, "descr": "<u2"})


def raw(path):
    return read_raw(path, CAMERA)


@pytest.mark.parametrize(
    ("name", "data", "read"),
    [
        ("a.tif", huge_tiff(), raw),
        ("a.tif", huge_tiff(), read_mask),
        ("a.png", huge_png(), raw),
        ("a.png", huge_png(), read_mask),
        ("a.png", huge_png(), read_picture),
        ("a.jpg", huge_jpeg(), read_picture),
        ("a.npy", huge_npy() + bytes(96), raw),
        ("a.pgm", b"P5 %d %d 65535\n" % (SIDE, SIDE) + bytes(96), raw),
    ],
)
def test_samples_that_a_file_cannot_hold_are_refused_before_memory_is_taken(tmp_path, name, data, read):
    (tmp_path / name).write_bytes(data)
    tracemalloc.start()
    with pytest.raises(InputError, match=rf"^[^\n]*{name}: truncated, corrupt or not a valid [^\n]*$"):
        read(tmp_path / name)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**22


@pytest.mark.parametrize("shape", [(4,), (2, 3), (2, 2, 1)])
def test_samples_of_another_shape_than_the_header_declares_are_refused(tmp_path, shape):
    """As tifffile returns for some damaged pages."""
    (tmp_path / "a.tiff").touch()
    header = contextlib.nullcontext(Stored((2, 2), 8, lambda: np.zeros(shape, np.uint16)))
    expected = r"a.tiff: .*it declares samples of shape \(2, 2\) and holds \("
    with pytest.raises(InputError, match=expected), opened(tmp_path / "a.tiff", lambda _: header) as stored:
        stored.read()


@pytest.mark.parametrize("name", ["a.tiff", "a.png", "a.npy", "a.pgm", "a.dng", "odd.dng", "area.dng", "pixels.dng"])
@pytest.mark.parametrize("camera", [CAMERA, None])
def test_a_header_tells_the_shape_and_the_camera_of_what_is_read(tmp_path, write_dng, name, camera):
    path = tmp_path / name
    samples = np.random.default_rng(0).integers(0, 4096, (64, 48)).astype(np.uint16)
    if name == "a.tiff":
        tifffile.imwrite(path, samples, metadata=None)
    elif name == "a.png":
        Image.fromarray(samples).save(path)
    elif name == "a.npy":
        np.save(path, np.asfortranarray(samples))
    elif name == "a.pgm":
        path.write_bytes(b"P5 48 64 4095\n" + samples.astype(">u2").tobytes())
    elif name == "pixels.dng":
        path = write_dng(np.stack([samples] * 3, -1), cfa=None)
    else:
        shape, area = {"odd.dng": ((63, 47), None), "area.dng": ((64, 48), (2, 4, 61, 47))}.get(name, ((64, 48), None))
        path = write_dng(samples[: shape[0], : shape[1]], active_area=area)
    if camera is None and path.suffix != ".dng":
        with pytest.raises(InputError, match="hold no calibration values: give a camera"):
            describe(path, KnownCamera())
        return
    mosaic, found = read_raw(path, camera)
    assert describe(path, KnownCamera.of(camera)) == (mosaic.shape, found)

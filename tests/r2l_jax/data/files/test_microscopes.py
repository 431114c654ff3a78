import struct

import numpy as np
import pytest
import tifffile
from PIL import Image

import isp
from r2l_jax.data.files import microscopes
from r2l_jax.data.files.rawfile import read_raw
from r2l_jax.errors import InputError

CAMERA = isp.CAMERAS["drone"]
SAMPLES = np.random.default_rng(0).integers(0, 65536, (40, 60)).astype(np.uint16)
PICTURE = np.stack([SAMPLES] * 3, -1)


def read(file):
    """Reads a file as the programs do, and checks that it is a mosaic of SAMPLES."""
    mosaic, _ = read_raw(file, CAMERA)
    np.testing.assert_allclose(mosaic, SAMPLES / 65535, rtol=1e-6)


def write_czi(file, samples=SAMPLES, places=((0, 0),), scenes=False, axis="C"):
    """Writes planes along an axis, or scenes or tiles at places."""
    czi = pytest.importorskip("pylibCZIrw.czi")
    with czi.create_czi(str(file)) as document:
        for index, place in enumerate(places):
            plane = {axis: 0 if any(place) else index}
            document.write(samples, plane=plane, location=place, scene=index if scenes else 0)
    return file


def write_nd2(file, samples=SAMPLES, frames=1):
    """Writes the least that an ND2 of version 2.0 has: attributes, metadata, frames, and the map of these chunks."""
    pytest.importorskip("nd2")
    height, width, components = (*samples.shape, 1)[:3]
    attributes = {"uiWidth": width, "uiHeight": height, "uiWidthBytes": 2 * width * components, "uiComp": components}
    attributes |= {"uiBpcInMemory": 16, "uiBpcSignificant": 16, "uiSequenceCount": frames}
    values = "".join(f'<{name} runtype="lx_uint32" value="{value}"/>' for name, value in attributes.items())
    listed = '<variant version="1.0"><no_name runtype="CLxListVariant">{}</no_name></variant>'
    chunks = {"ImageAttributes!": listed.format(values).encode(), "ImageMetadataSeq|0!": listed.format("").encode()}
    if frames:
        chunks["ImageDataSeq|0!"] = bytes(8) + samples.tobytes()
    content, places = bytearray(), bytearray()

    def add(name, data, room):
        content.extend(struct.pack("<IIQ", 0x0ABECEDA, room, len(data)) + name.ljust(room, b"\0") + data)

    add(b"ND2 FILE SIGNATURE CHUNK NAME01!", b"Ver2.0".ljust(64, b"\0"), 32)
    for name, data in chunks.items():
        places += name.encode() + struct.pack("<QQ", len(content), len(data))
        add(name.encode(), data, 4072)
    start = len(content)
    add(b"ND2 FILEMAP SIGNATURE NAME 0001!", bytes(places) + b"ND2 CHUNK MAP SIGNATURE 0000001!", 32)
    file.write_bytes(bytes(content) + struct.pack("<Q", start))
    return file


@pytest.mark.parametrize("write", [write_czi, write_nd2])
def test_a_plane_is_a_mosaic_and_a_damaged_file_is_named(tmp_path, write):
    file = write(tmp_path / f"a.{write.__name__[-3:]}")
    read(file)
    content = file.read_bytes()
    for length in (0, 20, len(content) // 2, len(content) - 100):
        file.write_bytes(content[:length])
        with pytest.raises(InputError, match=rf"^{file}: truncated, corrupt or not a valid (CZI|ND2) \(.*\)$"):
            read_raw(file, CAMERA)


@pytest.mark.parametrize(
    ("write", "options", "message"),
    [
        (write_czi, {"places": ((0, 0),) * 2}, "expected a single plane, one raw image, got 2 channels"),
        (write_czi, {"places": ((0, 0),) * 3, "axis": "Z"}, "got 3 planes in Z"),
        (write_czi, {"places": ((0, 0), (70, 0)), "scenes": True}, "got 2 scenes"),
        (write_czi, {"places": ((0, 0), (50, 0))}, "got 2 tiles that overlap or leave gaps"),
        (write_czi, {"samples": PICTURE}, r"got samples of shape \(40, 60, 3\), like a color picture"),
        (write_nd2, {"samples": PICTURE[..., :2]}, "got 2 channels"),
        (write_nd2, {"samples": PICTURE}, r"got samples of shape \(40, 60, 3\), like a color picture"),
        (write_nd2, {"frames": 0}, "its frame is missing"),
    ],
)
def test_other_files_than_of_one_plane_are_refused(tmp_path, write, options, message):
    with pytest.raises(InputError, match=message):
        read_raw(write(tmp_path / f"a.{write.__name__[-3:]}", **options), CAMERA)


@pytest.mark.parametrize("kind", ["czi", "nd2"])
def test_without_the_extra_its_name_is_said(tmp_path, monkeypatch, kind):
    def absent(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(microscopes.importlib, "import_module", absent)
    (tmp_path / f"a.{kind}").touch()
    with pytest.raises(InputError, match=rf'a.{kind}: No module .*: pip install "r2l_jax\[microscopy\]"$'):
        read_raw(tmp_path / f"a.{kind}", CAMERA)


def test_the_only_plane_of_an_ome_tiff_is_read(tmp_path):
    tifffile.imwrite(tmp_path / "a.ome.tif", SAMPLES, compression="zlib")
    read(tmp_path / "a.ome.tif")
    # One file of a recording in time, whose description is that of all files.
    description = tifffile.tiffcomment(tmp_path / "a.ome.tif").replace('SizeT="1"', 'SizeT="9"')
    tifffile.tiffcomment(tmp_path / "a.ome.tif", description)
    read(tmp_path / "a.ome.tif")
    with tifffile.TiffWriter(tmp_path / "pyramid.ome.tif") as pyramid:
        pyramid.write(SAMPLES, subifds=1)
        pyramid.write(SAMPLES[::2, ::2], subfiletype=1)
    read(tmp_path / "pyramid.ome.tif")


@pytest.mark.parametrize(("axis", "message"), [("C", "2 channels"), ("T", "2 points in time")])
def test_an_ome_tiff_of_several_planes_is_refused(tmp_path, axis, message):
    planes = np.stack([SAMPLES] * 2)
    tifffile.imwrite(tmp_path / "a.ome.tif", planes, metadata={"axes": f"{axis}YX"}, photometric="minisblack")
    with pytest.raises(InputError, match=f"expected a single plane, one raw image, got {message}$"):
        read_raw(tmp_path / "a.ome.tif", CAMERA)


def test_compression_by_imagecodecs_is_read_or_the_extra_named(tmp_path):
    samples = SAMPLES.astype(np.uint8)
    Image.fromarray(samples).save(tmp_path / "a.tif", compression="tiff_lzw")
    try:
        import imagecodecs  # noqa: F401
    except ImportError:
        with pytest.raises(InputError, match=r'a.tif: .*LZW.*imagecodecs.*: pip install "r2l_jax\[microscopy\]"$'):
            read_raw(tmp_path / "a.tif", CAMERA)
    else:
        np.testing.assert_allclose(read_raw(tmp_path / "a.tif", CAMERA)[0], samples / 255, rtol=1e-6)

"""Every reader of files, with small whole files to damage and checks of its results for damaged ones."""

import io
import json
import shutil
import struct
import tarfile
import zipfile
import zlib

import dng
import numpy as np
import tifffile
from PIL import Image

import isp
from r2l_jax.data.fetch import archives
from r2l_jax.data.files import corrections, headerless
from r2l_jax.data.files.decoding import reading
from r2l_jax.data.files.known_camera import find_known_camera
from r2l_jax.data.files.pictures import read_picture
from r2l_jax.data.files.rawfile import read_raw
from r2l_jax.data.files.shot import read_shot
from r2l_jax.errors import InputError

CAMERA = isp.CAMERAS["drone"]


def _samples(shape=(48, 64), dtype=np.uint16, seed=0):
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.random(shape).astype(dtype)
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype)


def _content(write, *arguments, **options):
    file = io.BytesIO()
    write(file, *arguments, **options)
    return file.getvalue()


def _tiff(samples, **options):
    return _content(tifffile.imwrite, samples, **{"metadata": None, **options})


def _picture(samples, form="png", **options):
    return _content(Image.fromarray(samples).save, form, **options)


def _dng(samples, **options):
    return _content(dng.write, samples, black=(99,) * 4, white=65535, active_area=(2, 4, 46, 60), **options)


def _npy(samples, **options):
    return _content(np.lib.format.write_array, samples, **options)


# By name: a function that reads a damaged file of a folder and checks that the result is clean; whole files by name.
READERS = {}


def _reader(name, originals):
    def register(read):
        READERS[name] = (read, originals)
        return read

    return register


# EXIF that says that the picture is turned by 90 degrees.
_TURNED = b"Exif\0\0II*\0" + struct.pack("<IHHHIHHI", 8, 1, 274, 3, 1, 6, 0, 0)


def _check_mosaic(mosaic):
    assert mosaic.dtype == np.float32
    height, width = mosaic.shape
    assert min(height, width) >= 2
    assert height % 2 == width % 2 == 0
    assert 0 <= mosaic.min() <= mosaic.max() <= 1  # Which is false for NaN.


@_reader(
    "TIFF",
    {
        "plain.tif": _tiff(_samples()),
        "strips.tif": _tiff(_samples(), rowsperstrip=16),
        "zlib.tif": _tiff(_samples(), rowsperstrip=20, compression="zlib"),
        "lzma.tif": _tiff(_samples(), compression="lzma"),
        "tiles.tif": _tiff(_samples(), tile=(16, 32)),
        "tiles_zlib.tif": _tiff(_samples(), tile=(32, 32), compression="zlib"),
        "float.tif": _tiff(_samples(dtype=np.float32)),
        "bytes.tif": _tiff(_samples(dtype=np.uint8), byteorder=">"),
        "described.tif": _tiff(_samples(), metadata={}, software="x"),
        "imagej.tif": _tiff(_samples(), imagej=True),
        "ome.tif": _tiff(_samples(), ome=True),
        "big.tif": _tiff(_samples(), bigtiff=True),
    },
)
@_reader(
    "PNG",
    {
        "gray8.png": _picture(_samples(dtype=np.uint8)),
        "gray16.png": _picture(_samples()),
        "even.png": _picture(np.full((480, 640), 500, np.uint16)),
    },
)
@_reader(
    "arrays",
    {
        "bytes.pgm": b"P5\n# a comment\n64 48\n255\n" + _samples(dtype=np.uint8).tobytes(),
        "words.pgm": b"P5 64 48 65535\n" + _samples().tobytes(),
        "words.npy": _npy(_samples()),
        "float.npy": _npy(_samples(dtype=np.float32), version=(2, 0)),
        "columns.npy": _npy(np.asfortranarray(_samples()).astype(">u2")),
    },
)
def _read_tiff(folder, path):
    _check_mosaic(read_raw(path, CAMERA)[0])


_GAIN_MAP = struct.pack(">10I4dI4f", 0, 0, 44, 56, 0, 1, 1, 1, 2, 2, 1.0, 1.0, 0.0, 0.0, 1, 1.0, 1.5, 1.2, 2.0)
_OPCODES = struct.pack(">5I", 1, 9, 0, 1, len(_GAIN_MAP)) + _GAIN_MAP
_XTRANS = bytes(isp.cfa.tile("GBGGRG/RGRBGB/GBGGRG/GRGGBG/BGBRGR/GRGGBG").astype(np.uint8).ravel())
_QUAD = bytes(isp.cfa.tile("RRGG/RRGG/GGBB/GGBB").astype(np.uint8).ravel())


@_reader(
    "DNG",
    {
        "plain.dng": _dng(_samples()),
        "strips.dng": _dng(_samples(), rowsperstrip=16),
        "tiles.dng": _dng(_samples((64, 64)), tile=(32, 32)),
        "float.dng": _dng(_samples(dtype=np.float32)),
        "zlib.dng": _dng(_samples(dtype=np.float32), compression="zlib", rowsperstrip=48),
        "tiles_zlib.dng": _dng(_samples((256, 256), np.float32), compression="zlib", tile=(256, 128)),
        "xtrans.dng": _dng(_samples(), cfa=_XTRANS),
        "quad.dng": _dng(_samples(), cfa=_QUAD),
        "gains.dng": _dng(_samples(), tags=[(51009, "B", len(_OPCODES), _OPCODES)]),
        "linear.dng": _dng(_samples((48, 64, 3)), cfa=None),
        # tifffile does not write LinearRaw of one channel.
        "mono.dng": _dng(_samples(), cfa=None).replace(
            struct.pack("<HHIHH", 262, 3, 1, 32803, 0), struct.pack("<HHIHH", 262, 3, 1, 34892, 0)
        ),
    },
)
def _read_dng(folder, path):
    mosaic, camera = read_raw(path, CAMERA if zlib.crc32(path.read_bytes()) % 2 else None)
    _check_mosaic(mosaic)
    assert np.isfinite([*camera.black_level, *camera.white_balance]).all()
    read_shot(path)


_LAYOUTS = {
    "unpacked": {"bits": 10, "byte_order": "big", "align": "high"},
    "mipi": {"bits": 10, "packing": "mipi", "stride": 96},
    "pfnc": {"bits": 12, "packing": "pfnc", "offset": 7},
    "gige": {"bits": 12, "packing": "gige"},
}
_HEADERLESS = {}
for _name, _fields in _LAYOUTS.items():
    _layout = headerless.Layout(width=64, height=48, **_fields)
    _HEADERLESS[f"{_name}.bin"] = _samples((_layout.file_bytes[1],), np.uint8).tobytes()
    _HEADERLESS[f"{_name}.json"] = json.dumps(
        {**json.loads(CAMERA.to_json()), "raw": {"width": 64, "height": 48, **_fields}}
    ).encode()


@_reader("headerless", _HEADERLESS)
def _read_headerless(folder, path):
    """Reads a frame by the camera of its name, one of which is damaged."""
    camera = find_known_camera(str(folder / f"{path.stem}.json"))
    mosaic, _ = read_raw(folder / f"{path.stem}.bin", camera)
    _check_mosaic(mosaic)


@_reader(
    "pictures",
    {
        "a.jpg": _picture(_samples((48, 64, 3), np.uint8), "jpeg"),
        "progressive.jpg": _picture(_samples((48, 64, 3), np.uint8), "jpeg", progressive=True),
        "turned.jpg": _picture(_samples((48, 64), np.uint8), "jpeg", exif=_TURNED),
        "a.png": _picture(_samples((48, 64, 4), np.uint8)),
        "gray16.png": _picture(_samples()),
    },
)
def _read_pictures(folder, path):
    picture, _ = read_picture(path)
    assert picture.ndim == 3
    assert picture.shape[2] == 3
    assert picture.dtype in (np.uint8, np.uint16)


@_reader(
    "corrections",
    {
        "dark.tiff": _tiff(0.1 * _samples(dtype=np.float32), photometric="minisblack"),
        "flat.tiff": _tiff(0.5 + _samples(dtype=np.float32, seed=1), photometric="minisblack", compression="zlib"),
        "defects.csv": b"row,column,kind,figure\r\n1,2,hot,12.5\r\n40,63,dead,-80.0\r\n40,62,flickering,9.9\r\n",
    },
)
def _read_corrections(folder, path):
    known = corrections.read(folder, "dark.tiff", "flat.tiff", "defects.csv")
    with reading(path):  # As the corrected file is read.
        corrected = known.apply(_samples(dtype=np.float32, seed=2), CAMERA)
    assert (corrected.shape, corrected.dtype) == ((48, 64), np.float32)
    assert 0 <= corrected.min() <= corrected.max() <= 1


_MEMBERS = {"data/a.tiff": _tiff(_samples()), "data/b/labels.dat": b"a LYT\n" * 50, "data/" + "n" * 150: b"1"}


def _zip(file, method):
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.mkdir("data")
        for name, content in _MEMBERS.items():
            archive.writestr(name, content)


def _tar(file, mode):
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, content in _MEMBERS.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@_reader(
    "archives",
    {
        "a.zip": _content(_zip, zipfile.ZIP_DEFLATED),
        "stored.zip": _content(_zip, zipfile.ZIP_STORED),
        "bzip2.zip": _content(_zip, zipfile.ZIP_BZIP2),
        "a.tar": _content(_tar, "w:"),
        **{f"a.tar.{kind}": _content(_tar, f"w:{kind}") for kind in ("gz", "bz2", "xz")},
    },
)
def _read_archives(folder, path):
    before = set(folder.rglob("*"))
    target = folder / "target"
    try:
        archives.unpack(path, target)
        for each in target.rglob("*"):
            assert not each.is_symlink()
            assert each.is_file() or each.is_dir()
    except InputError:
        assert not target.exists()
        raise
    finally:
        shutil.rmtree(target, ignore_errors=True)
        assert set(folder.rglob("*")) == before

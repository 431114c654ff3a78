import dataclasses

import numpy as np
import pytest

import isp
from r2l_jax.data.files.rawfile import RAW_SUFFIXES, read_raw
from r2l_jax.runtime.errors import InputError

CAMERA = isp.CAMERAS["drone"]
SAMPLES = np.random.default_rng(0).integers(200, 1024, (6, 8)).astype(np.uint16)


def pgm(folder, samples, white, header="P5\n{w} {h}\n{white}\n"):
    height, width = samples.shape
    text = header.format(w=width, h=height, white=white).encode()
    (folder / "a.pgm").write_bytes(text + samples.astype(">u2" if white > 255 else np.uint8).tobytes())
    return folder / "a.pgm"


@pytest.mark.parametrize("header", ["P5\n{w} {h}\n{white}\n", "P5 # by\n#more\n {w}\t{h} # size\n{white}\r"])
def test_the_maximum_of_a_pgm_is_white_unless_the_camera_has_a_white_level(tmp_path, header):
    file = pgm(tmp_path, SAMPLES, 1023, header)
    np.testing.assert_allclose(read_raw(file, CAMERA)[0], SAMPLES / 1023, rtol=1e-6)
    mosaic, _ = read_raw(file, dataclasses.replace(CAMERA, white_level=2046))
    np.testing.assert_allclose(mosaic, SAMPLES / 2046, rtol=1e-6)
    assert file.suffix in RAW_SUFFIXES


def test_bytes_are_read(tmp_path):
    samples = (SAMPLES // 4).astype(np.uint8)
    np.save(tmp_path / "b.npy", samples)
    for file in (pgm(tmp_path, samples, 255), tmp_path / "b.npy"):
        np.testing.assert_allclose(read_raw(file, CAMERA)[0], samples / 255, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "<f4", ">f8", "<f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_any_order_are_read(tmp_path, dtype, order):
    samples = SAMPLES if dtype.endswith("u2") else SAMPLES / 1024
    np.save(tmp_path / "a.npy", np.array(samples, dtype, order=order))
    mosaic, _ = read_raw(tmp_path / "a.npy", CAMERA, lambda _: None)
    np.testing.assert_allclose(mosaic, SAMPLES / (65535 if dtype.endswith("u2") else 1024), rtol=1e-3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"P2 2 2 255\n1 2 3 4", "truncated, corrupt or not a valid PGM"),
        (b"P5 2 2 0\n1234", "the largest value must be from 1 to 65535, got 0"),
        (b"P5 2 2 255\n123", r"cannot reshape array of size 3 into shape \(2,2\)"),
        (b"P5 2 2 256\n123456789", "its size must be a divisor of the total size"),
        (b"P5 999999999 999999999 255\n12345", "cannot reshape"),
        (b"P5 2 2 9\n1234", r"samples must be in \[0, 9\], got 0 to 52"),
        (b"P5 3 2 255\n123456", "a mosaic must have an even height and width of at least 2, got 2x3"),
        (b"P5 0 2 255\n", "a mosaic must have an even height and width of at least 2, got 2x0"),
    ],
)
def test_a_wrong_pgm_is_one_line(tmp_path, content, message):
    (tmp_path / "a.pgm").write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.pgm: .*{message}"):
        read_raw(tmp_path / "a.pgm", CAMERA, lambda _: None)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_bytes_after_the_samples_of_an_npy_are_refused(tmp_path, dtype):
    np.save(tmp_path / "a.npy", np.zeros((2, 2), dtype))
    with (tmp_path / "a.npy").open("ab") as file:
        file.write(b"1")
    with pytest.raises(InputError, match=r"a\.npy: .*bytes follow the samples"):
        read_raw(tmp_path / "a.npy", CAMERA, lambda _: None)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([[{}]]), "truncated, corrupt or not a valid NPY"),
        (np.zeros((2, 2), np.int16), "expected samples of 8 or 16 bits or floating point, got int16"),
        (np.zeros((2, 2, 3), np.uint8), r"expected one mosaic \(H, W\), got samples of shape \(2, 2, 3\)"),
        (np.zeros((9999, 2), np.uint16), "truncated, corrupt or not a valid NPY"),
    ],
)
def test_a_wrong_npy_is_one_line(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array)
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:1000])
    with pytest.raises(InputError, match=rf"a\.npy: .*{message}"):
        read_raw(tmp_path / "a.npy", CAMERA, lambda _: None)

import dataclasses
import io

import numpy as np
import pytest

import isp
from r2l_jax.data.files.rawfile import read_raw
from r2l_jax.errors import InputError

CAMERA = isp.CAMERAS["drone"]
SAMPLES = np.random.default_rng(0).integers(200, 1024, (6, 8)).astype(np.uint16)


def test_the_maximum_of_a_pgm_is_white_unless_the_camera_has_a_white_level(tmp_path):
    file = tmp_path / "a.pgm"
    file.write_bytes(b"P5 # by\n#more\n 8\t6 # size\n1023\r" + SAMPLES.astype(">u2").tobytes())
    np.testing.assert_allclose(read_raw(file, CAMERA)[0], SAMPLES / 1023, rtol=1e-6)
    mosaic, _ = read_raw(file, dataclasses.replace(CAMERA, white_level=2046))
    np.testing.assert_allclose(mosaic, SAMPLES / 2046, rtol=1e-6)
    file.write_bytes(b"P5\n8 6\n255\n" + (SAMPLES // 4).astype(np.uint8).tobytes())
    np.testing.assert_allclose(read_raw(file, CAMERA)[0], SAMPLES // 4 / 255, rtol=1e-6)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(("dtype", "white"), [("u1", 255), (">u2", 65535), ("<f4", 1), (">f8", 1)])
def test_arrays_of_any_order_are_read(tmp_path, dtype, white, order):
    samples = np.array(SAMPLES / 1024 * white, dtype, order=order)
    np.save(tmp_path / "a.npy", samples)
    np.testing.assert_allclose(read_raw(tmp_path / "a.npy", CAMERA)[0], samples / white, rtol=1e-6)


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pgm", b"P2 2 2 255\n1 2 3 4", "truncated, corrupt or not a valid PGM"),
        ("a.pgm", b"P5 2 2 0\n1234", "the largest value must be from 1 to 65535, got 0"),
        ("a.pgm", b"P5 2 2 256\n123456789", "its size must be a divisor of the total size"),
        ("a.pgm", b"P5 2 2 9\n1234", r"samples must be in \[0, 9\], got 0 to 52"),
        ("a.pgm", b"P5 0 2 255\n", "a raw image must have an even height and width of at least 2, got 2x0"),
        ("a.npy", npy(np.array([[{}]])), "truncated, corrupt or not a valid NPY"),
        ("a.npy", npy(np.zeros((2, 2))) + b"1", "extra bytes follow the samples"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}: .*{message}"):
        read_raw(tmp_path / name, CAMERA)

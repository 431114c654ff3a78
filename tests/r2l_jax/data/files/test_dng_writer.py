import dataclasses
import shutil
import subprocess

import numpy as np
import pytest
import rawpy
import tifffile
from dng import rendered_by_libraw

import isp
from r2l_jax.data.files import dng_writer
from r2l_jax.data.files.known_camera import KnownCamera
from r2l_jax.data.files.rawfile import describe, read_raw
from r2l_jax.data.files.shot import read_shot
from r2l_jax.errors import InputError

XTRANS = "GBGGRG/RGRBGB/GBGGRG/GRGGBG/BGBRGR/GRGGBG"
# Another phase, which starts with a red site.
SHIFTED = "RGRBGB/GBGGRG/GRGGBG/BGBRGR/GRGGBG/GBGGRG"
DRONE, MICROSCOPE = isp.CAMERAS["drone"], isp.CAMERAS["microscopy"]
COLORS = (DRONE.white_balance, DRONE.color_matrix)
FULL = isp.Camera((0.061, 0.0625, 0.07, 1 / 3), *COLORS, "GBRG", 1000, 15000.5, 3.7, 12)
CAMERAS = {
    **{pattern: isp.Camera((0.061, 0.0625, 0.07, 0.08), *COLORS, pattern) for pattern in isp.cfa.BAYER},
    "every field": FULL,
    "X-Trans": isp.Camera((0.061, 0.0625, 0.07), *COLORS, XTRANS, full_well=9000, bits=14),
    "shifted X-Trans": isp.Camera((0.061, 0.0625, 0.07), *COLORS, SHIFTED, 16383),
    "mono": isp.Camera([0.061], pattern="MONO", full_well=1e4, read_noise=0.3),
    "negative gain": MICROSCOPE,
}


def written(path, camera=DRONE, white=65535, samples=None, shape=(24, 26)):
    white = int(camera.white_level or white)
    if samples is None:
        samples = np.random.default_rng(0).integers(0, white + 1, shape).astype(np.uint16)
        samples[0, :2] = 0, min(white, 65535)
    dng_writer.write(path, samples, camera, white)
    return samples / np.float32(white)


def private(path, content):
    """Replaces the camera in a file, by as many bytes."""
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tag = tiff.pages.first.tags["DNGPrivateData"]
        tag.overwrite(content.ljust(tag.count))


@pytest.mark.parametrize("white", [4095, 65535])
@pytest.mark.parametrize("name", CAMERAS)
def test_every_bit_of_the_camera_and_the_samples_is_read_again(tmp_path, name, white):
    expected = written(tmp_path / "a.dng", CAMERAS[name], white)
    mosaic, camera = read_raw(tmp_path / "a.dng")
    assert (mosaic.dtype, mosaic.tobytes()) == (np.float32, expected.tobytes())
    # Python prints each float so that no other is printed the same.
    assert repr(camera) == repr(CAMERAS[name])
    assert describe(tmp_path / "a.dng", KnownCamera()) == (mosaic.shape, camera)
    assert [*tmp_path.iterdir()] == [tmp_path / "a.dng"]


@pytest.mark.parametrize("bits", range(1, 17))
def test_samples_of_all_bits_keep_their_values_in_at_least_twelve(bits):
    white, values = dng_writer.white_of_bits(bits), np.arange(2**bits)
    assert white == 2**bits - 1 or (2**11 <= white < 2**12 and bits < 12)
    stored = np.round(values / (2**bits - 1) * white).astype(np.uint16)
    np.testing.assert_array_equal(stored / np.float32(white), (values / (2**bits - 1)).astype(np.float32))


def test_libraw_sees_levels_pattern_and_neutral(tmp_path):
    black = (250 / 4095, 256 / 4095, 287 / 4095, 1365 / 4095)
    written(tmp_path / "a.dng", dataclasses.replace(FULL, white_level=4095, black_level=black))
    with rawpy.imread(str(tmp_path / "a.dng")) as raw:
        assert raw.white_level == 4095
        seen = np.array(raw.black_level_per_channel)[raw.raw_pattern].ravel().tolist()
        assert seen == [250, 256, 287, 1365]
        assert "".join("RGBG"[color] for color in raw.raw_pattern.ravel()) == "GBRG"
        # The rows of the matrix sum to 1, so that gray has the camera RGB of the inverse gains.
        np.testing.assert_allclose(raw.camera_whitebalance[:3], COLORS[0], rtol=1e-4)
        assert (raw.sizes.height, raw.sizes.width) == (24, 26)
    written(tmp_path / "x.dng", CAMERAS["X-Trans"])
    with rawpy.imread(str(tmp_path / "x.dng")) as raw:
        tile = "/".join("".join("RGB"[color] for color in row) for row in raw.raw_pattern)
        assert tile == XTRANS
    written(tmp_path / "m.dng", CAMERAS["mono"])
    with rawpy.imread(str(tmp_path / "m.dng")) as raw:
        assert (raw.num_colors, raw.black_level_per_channel[0]) == (1, round(0.061 * 65535))


@pytest.mark.parametrize("name", ["GRBG", "every field", "X-Trans", "negative gain", "unbalanced"])
def test_libraw_renders_the_colors_of_the_camera_within_one_percent(tmp_path, name):
    unbalanced = isp.Camera((0.05,) * 4, (2.0, 1.0, 1.5), ((1.2, 0.1, -0.2), (-0.1, 0.9, 0.3), (0.1, -0.2, 1.5)))
    camera = {**CAMERAS, "unbalanced": unbalanced}[name]
    to_srgb = np.array(camera.color_matrix) * camera.white_balance
    # Patches of 12x12 sites. LibRaw renders gray as white if it saturates one color of the camera.
    white, scale = int(camera.white_level or 65535), np.linalg.solve(to_srgb, np.ones(3)).max()
    mixed = np.random.default_rng(0).uniform(0.3, 0.6, (4, 5, 3))
    light = np.kron(mixed / scale @ np.linalg.inv(to_srgb).T, np.ones((12, 12, 1)))
    assert (light.min() > 0.01, light.max() < 1) == (True, True)
    black = np.asarray(isp.cfa.black_levels(np.float32(camera.black_level), camera.pattern, 48, 60), float)
    of_site = (light * np.asarray(isp.cfa.site_masks(camera.pattern, 48, 60))).sum(-1)
    # LibRaw stretches all colors by the lowest black level; `isp` stretches none.
    stretch = 1 - min(camera.black_level)
    samples = np.minimum(np.round(white * (black + stretch * of_site)), white).astype(np.uint16)
    mosaic = written(tmp_path / "a.dng", camera, white, samples)
    rendered = rendered_by_libraw(tmp_path / "a.dng")
    ours = isp.cfa.subtract_black_level(mosaic, np.float32(camera.black_level), pattern=camera.pattern)
    ours = isp.demosaic.normalized(ours, pattern=camera.pattern)
    ours = isp.color.white_balance(ours, np.float32(camera.white_balance))
    ours = np.asarray(isp.color.color_correct(ours, np.float32(camera.color_matrix))) * scale / stretch
    inside = np.s_[5:48:12, 5:60:12]
    np.testing.assert_allclose(ours[inside], mixed, rtol=0.01)
    np.testing.assert_allclose(rendered[inside] / 65535, ours[inside], rtol=0.01)


def test_one_directory_of_sorted_tags_with_the_noise_of_the_camera(tmp_path):
    samples = written(tmp_path / "a.dng", FULL)
    with tifffile.TiffFile(tmp_path / "a.dng") as tiff:
        (page,) = tiff.pages
        assert page.pages is None
        codes = [tag.code for tag in page.tags]
        assert codes == sorted(codes)
        assert not page.is_tiled
        np.testing.assert_array_equal(page.asarray() / np.float32(1000), samples)
        scale, offset = page.tags["NoiseProfile"].value
        assert page.tags["UniqueCameraModel"].value == read_shot(tmp_path / "a.dng").title
        assert (page.tags["CalibrationIlluminant1"].value, page.tags["BitsPerSample"].value) == (21, 16)
    # Half the light of a full well: photon noise of its root, and read noise.
    assert scale * 0.5 + offset == pytest.approx((7500.25 + 3.7**2) / 15000.5**2)
    written(tmp_path / "b.dng", dataclasses.replace(FULL, full_well=None))
    with tifffile.TiffFile(tmp_path / "b.dng") as tiff:
        assert "NoiseProfile" not in tiff.pages.first.tags
    assert read_shot(tmp_path / "a.dng").title != read_shot(tmp_path / "b.dng").title


@pytest.mark.parametrize("name", ["GBRG", "X-Trans", "mono"])
def test_exiftool_finds_nothing_wrong(tmp_path, name):
    if shutil.which("exiftool") is None:
        pytest.skip("exiftool is not installed")
    written(tmp_path / "a.dng", CAMERAS[name])
    found = subprocess.run(
        ["exiftool", "-s3", "-a", "-validate", "-warning", tmp_path / "a.dng"], capture_output=True, text=True
    )
    assert found.stdout.strip() == "OK"


def test_stated_values_replace_those_in_the_file(tmp_path, stated):
    path = tmp_path / "a.dng"
    expected = written(path, FULL)
    mosaic, camera = read_raw(path, stated(white_balance=[2, 1, 3]))
    assert camera == dataclasses.replace(FULL, white_balance=(2, 1, 3))
    np.testing.assert_array_equal(mosaic, expected)
    # The black level is in digital numbers, which stay, unlike its fraction of white; the matrix has 16 bits.
    mosaic, camera = read_raw(path, stated(white_level=2000))
    np.testing.assert_array_equal(mosaic, (expected * 1000).round() / np.float32(2000))
    np.testing.assert_allclose(camera.black_level, np.array(FULL.black_level) / 2, atol=0.5 / 2000)
    np.testing.assert_allclose(camera.color_matrix, FULL.color_matrix, atol=1e-3)
    np.testing.assert_allclose(camera.white_balance, FULL.white_balance, rtol=1e-4)
    other = dataclasses.replace(DRONE, pattern="GBRG")
    assert read_raw(path, other)[1] == other


def test_private_data_of_others_are_no_camera(tmp_path):
    written(tmp_path / "a.dng", FULL)
    private(tmp_path / "a.dng", b"Adobe\0MakN")
    _, camera = read_raw(tmp_path / "a.dng")
    assert camera.full_well is None
    np.testing.assert_allclose(camera.color_matrix, FULL.color_matrix, atol=1e-3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "property name"),
        (b"[]", "mapping"),
        (b"\xff\xff", "decode"),
        (b"[" * 320, "Expecting value"),
        (b'{"black_level": [0, 0, 0, 0], "pattern": "RGGB"}', "white_balance is missing"),
        (b'{"black_level": [NaN, 0, 0, 0], "white_balance": [1, 1, 1]}', "black_level must be finite"),
        (b'{"black_level": [0], "pattern": "MONO", "bits": ' + b"9" * 200 + b"}", "bits must be a whole number"),
        (b'{"black_level": 0, "a\\nb": 1}', "unexpected keyword argument"),
    ],
)
def test_a_damaged_camera_is_one_line(tmp_path, content, message):
    written(tmp_path / "a.dng", FULL)
    private(tmp_path / "a.dng", b"r2l_jax\0" + content)
    with pytest.raises(InputError, match=rf"a\.dng: the camera in its DNGPrivateData is damaged .*{message}") as error:
        read_raw(tmp_path / "a.dng")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < len(str(tmp_path)) + 300


def test_deeply_nested_cameras_and_other_patterns_are_one_line(tmp_path):
    path, camera = tmp_path / "a.dng", dataclasses.replace(DRONE, pattern="BGGR")
    written(path, camera)
    text = path.read_bytes()
    assert text.count(b'"pattern": "BGGR"') == 1
    path.write_bytes(text.replace(b'"pattern": "BGGR"', b'"pattern": "RGGB"'))
    with pytest.raises(InputError, match=r"a\.dng: the camera must have the sensor's pattern BGGR, got RGGB"):
        read_raw(path)
    content = b"r2l_jax\0" + b"[" * 100_000
    samples = tifffile.imread(path)
    tifffile.imwrite(path, samples, photometric="cfa", extratags=[(50740, "B", len(content), content)])
    with pytest.raises(InputError, match=r"a\.dng: the camera in its DNGPrivateData is damaged"):
        read_raw(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pattern": "RRGG/RRGG/GGBB/GGBB", "black_level": (0, 0, 0)}, r"Bayer, X-Trans and mono.* the pattern RRGG/"),
        ({"pattern": "RRRGGG/RRRGGG/RRRGGG/GGGBBB/GGGBBB/GGGBBB", "black_level": (0, 0, 0)}, r"misread others, got"),
        ({"black_level": (0, 0, -0.1, 0)}, r"black level of a DNG must not be negative, got \[0.0, 0.0, -0.1, 0.0\]"),
        ({"white_level": 1000.5}, r"white level of a DNG must be a whole number up to 65535, got 1000\.5"),
        ({"white_level": 65536}, r"white level of a DNG must be a whole number up to 65535, got 65536"),
        ({"color_matrix": np.ones((3, 3))}, r"must turn positive red, green and blue into gray, got gray of \[0.0"),
        ({"white_balance": (1, -1, 1)}, r"must turn positive red, green and blue into gray, got gray of \[0.9.*, -1"),
        ({"white_balance": (1e-9, 1, 1)}, r"must turn positive red, green and blue into gray, got gray of"),
    ],
)
def test_cameras_that_no_dng_holds(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        written(tmp_path / "a.dng", dataclasses.replace(DRONE, **change))
    assert not [*tmp_path.iterdir()]


def test_samples_that_no_dng_holds(tmp_path):
    samples = np.full((24, 24), 4096, np.uint16)
    with pytest.raises(InputError, match=r"a\.dng: samples must be at most the white level, 4095, got 4096"):
        dng_writer.write(tmp_path / "a.dng", samples, DRONE, 4095)
    for shape in ((20, 24), (24, 25)):
        with pytest.raises(InputError, match=rf"even height and width of at least 22, got {shape[0]}x{shape[1]}"):
            dng_writer.write(tmp_path / "a.dng", np.zeros(shape, np.uint16), DRONE)
    assert not [*tmp_path.iterdir()]

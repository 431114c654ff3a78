import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
import programs
import pytest
import tifffile
from PIL import Image

import isp
from r2l_jax.apps import unprocess
from r2l_jax.apps.unprocess import Summary, unprocess_folder
from r2l_jax.data.files.known_camera import read_camera_file
from r2l_jax.data.files.rawfile import read_raw
from r2l_jax.data.sets import datasets
from r2l_jax.errors import InputError
from r2l_jax.programs import unprocess as program

CAMERA = isp.CAMERAS["drone"]
# The files of a data set besides its samples.
NAMED = ("camera.json", "croissant.json", "croissant.csv", "README.md")
# Almost no noise, and only the quantization of the file.
QUIET = {"full_well": 1e12, "read_noise": 0.0, "bits": 16, "exposure": 0.9}


def samples(seed=0, shape=(16, 24, 3)):
    return np.random.default_rng(seed).integers(30, 256, shape, np.uint8)


def save(path, values, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **options)
    return path


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def expected(picture, exposure=0.9, camera=CAMERA):
    """Returns the mosaic of 8-bit samples without noise, scaled to the 16 bits of a file."""
    black = np.asarray(isp.cfa.black_levels(np.float32(camera.black_level), camera.pattern, *picture.shape[:2]))
    mosaic = np.asarray(isp.unprocess(picture / np.float32(255), camera))
    return 65535 * np.clip(black + exposure * (mosaic - black), 0, 1)


@pytest.fixture
def source(tmp_path):
    """Writes pictures of two classes and several sizes."""
    source = tmp_path / "pictures"
    save(source / "cats" / "1.png", samples(0))
    save(source / "cats" / "2.PNG", samples(1, (8, 10, 3)))
    save(source / "dogs" / "1.jpg", samples(2, (20, 18, 3)), quality=95)
    save(source / "dogs" / "3.jpeg", samples(3))
    (source / "dogs" / "notes.txt").write_text("no picture")
    return source


@pytest.fixture
def scenes(tmp_path):
    """Writes images and masks of objects, one of odd size."""
    source = tmp_path / "scenes"
    for stem, shape in (("1", (13, 17)), ("10", (12, 16))):
        save(source / "images" / f"{stem}.png", samples(int(stem), (*shape, 3)))
        mask = np.zeros(shape, np.uint8)
        mask[int(stem) : 11, 5:] = 1
        save(source / "masks" / f"{stem}_mask.png", mask)
    return source


def test_classes_become_a_folder_that_the_loader_reads(source, tmp_path):
    left = tmp_path / "raw/cats/.1.tiff.7.part"  # by a killed call
    left.parent.mkdir(parents=True)
    left.touch()
    summary = unprocess_folder(source, tmp_path / "raw", CAMERA, **QUIET)
    assert summary == Summary(written=4, failed=0, too_bright=0.0, too_dark=0.0)
    assert {*files(tmp_path / "raw")} == {"cats/1.tiff", "cats/2.tiff", "dogs/1.tiff", "dogs/3.tiff", *NAMED}
    for name in ("cats/1.png", "cats/2.PNG", "dogs/1.jpg", "dogs/3.jpeg"):
        raw = tifffile.imread((tmp_path / "raw" / name).with_suffix(".tiff"))
        assert raw.dtype == np.uint16
        with Image.open(source / name) as picture:
            np.testing.assert_allclose(raw, expected(np.asarray(picture)), atol=1.5)
    dataset = datasets.load("Folder", data_dir=tmp_path / "raw", camera=str(tmp_path / "raw" / "camera.json"))
    assert dataset.classes == ("cats", "dogs")
    assert dataset.camera == dataclasses.replace(CAMERA, full_well=1e12, read_noise=0.0, bits=16)
    np.testing.assert_allclose(dataset[0][0] * 65535, expected(samples(0))[4:12, 8:16], atol=1.5)


def test_a_picture_that_cannot_be_read_is_left_out_and_sets_the_exit_status(source, tmp_path, capsys):
    arguments = [f"--input={source}", "--camera=drone", f"--output={tmp_path}/raw"]
    assert programs.call("unprocess.py", *arguments).returncode == 0
    (source / "dogs" / "3.jpeg").write_bytes(b"no picture")
    done = programs.call("unprocess.py", *arguments)
    assert done.returncode == 1
    assert "3 written, 1 failed" in done.stdout


def test_masks_are_cropped_with_their_images(scenes, tmp_path):
    camera = isp.Camera((0.02, 0.04, 0.06, 0.08), CAMERA.white_balance, CAMERA.color_matrix, "GBRG")
    unprocess_folder(scenes, tmp_path / "raw", camera, **QUIET)
    names = {f"{kind}/{stem}{end}" for stem in (1, 10) for kind, end in (("images", ".tiff"), ("masks", "_mask.png"))}
    assert {*files(tmp_path / "raw")} == {*names, *NAMED}
    raw = tifffile.imread(tmp_path / "raw" / "images" / "1.tiff")
    np.testing.assert_allclose(raw, expected(samples(1, (13, 17, 3))[:12, :16], camera=camera), atol=1.5)
    for stem in (1, 10):
        mask = np.zeros((12, 16), np.uint8)
        mask[stem:11, 5:] = 255
        np.testing.assert_array_equal(Image.open(tmp_path / f"raw/masks/{stem}_mask.png"), mask)


def test_masks_of_several_classes_keep_their_indices(scenes, tmp_path):
    mask = np.array([0, 1, 2, 255], np.uint8)[np.arange(13 * 17).reshape(13, 17) % 4]
    save(scenes / "masks" / "1_mask.png", mask)
    with pytest.raises(InputError, match=r"1_mask.png holds the values 1, 2, 255: .* classes.json beside masks/"):
        unprocess_folder(scenes, tmp_path / "raw", CAMERA, **QUIET)
    (scenes / "classes.json").write_text('["road", "car", "tree"]')
    unprocess_folder(scenes, tmp_path / "raw", CAMERA, **QUIET)
    assert (tmp_path / "raw/classes.json").read_text() == '["road", "car", "tree"]'
    np.testing.assert_array_equal(Image.open(tmp_path / "raw/masks/1_mask.png"), mask[:12, :16])


@pytest.mark.shows("unprocess --input --output --camera --full_well --read_noise --bits --exposure --seed")
def test_noise_is_the_cameras_unless_a_flag_says_otherwise(source, tmp_path):
    noise = {"full_well": 200.0, "read_noise": 0.0, "bits": 4}
    noisy = dataclasses.replace(CAMERA, **noise)
    unprocess_folder(source, tmp_path / "cameras", dataclasses.replace(noisy, white_level=4095), exposure=0.5, seed=7)
    flags = [f"--{name}={value}" for name, value in {**noise, "exposure": 0.5, "seed": 7}.items()]
    done = programs.call("unprocess.py", f"--input={source}", f"--output={tmp_path}/flags", "--camera=drone", *flags)
    assert re.match(r"4 written, 0 failed; [0-9.]+% of the sites are saturated, and ", done.stdout), done.stderr
    said = "added the noise of a full well of 200 electrons, read noise of 0 electrons and 4 bits; "
    assert done.stdout.endswith(f"{said}without noise: --full_well=1e9 --read_noise=0 --bits=16\n")
    quiet = ["--full_well=1e9", "--read_noise=0", "--bits=16", "--exposure=0.9"]
    done = programs.call("unprocess.py", f"--input={source}", f"--output={tmp_path}/quiet", "--camera=drone", *quiet)
    raw = tifffile.imread(tmp_path / "quiet/cats/1.tiff")
    np.testing.assert_allclose(raw, expected(samples(0)), atol=20)
    assert abs(raw - expected(samples(0))).std() < 2
    assert "added the noise" not in done.stdout
    found = [files(tmp_path / folder) for folder in ("cameras", "flags")]
    for each in found:  # These state the name of the folder.
        del each["README.md"], each["croissant.json"]
    assert found[0] == found[1]
    assert isp.Camera.from_json((tmp_path / "cameras" / "camera.json").read_text()) == noisy
    steps = tifffile.imread(tmp_path / "flags" / "cats" / "1.tiff") / (65535 / 15)
    np.testing.assert_array_equal(steps, np.round(steps))


@pytest.mark.shows("unprocess --format")
@pytest.mark.parametrize("bits", [4, 12])
def test_dng_has_the_same_noise_in_the_bits_of_the_camera_which_it_holds(tmp_path, capsys, bits):
    for seed, kind in enumerate(("cats", "dogs")):
        save(tmp_path / f"pictures/{kind}/1.png", samples(seed, (24, 30, 3)))
    flags = {"input": str(tmp_path / "pictures"), "camera": "drone", "exposure": 0.9, "bits": bits}
    for kind in ("tiff", "dng"):
        program.main(program.UnprocessConfig(output=str(tmp_path / kind), format=kind, **flags))
    assert capsys.readouterr().out.count("2 written, 0 failed") == 2
    assert {*files(tmp_path / "dng")} == {"cats/1.dng", "dogs/1.dng", *NAMED}
    mosaic, camera = read_raw(tmp_path / "dng/cats/1.dng")
    assert repr(camera) == repr(dataclasses.replace(CAMERA, bits=bits))
    assert camera == read_camera_file(tmp_path / "dng/camera.json")
    steps = np.round(tifffile.imread(tmp_path / "tiff/cats/1.tiff") / 65535 * (2**bits - 1)).astype(np.uint16)
    np.testing.assert_array_equal(mosaic, steps / np.float32(2**bits - 1))
    dataset = datasets.load("Folder", data_dir=tmp_path / "dng")
    assert (dataset.camera, dataset.classes) == (camera, ("cats", "dogs"))


def test_a_camera_that_no_dng_holds_is_named_before_anything_is_written(source, tmp_path):
    camera = isp.Camera((0.1,) * 3, CAMERA.white_balance, CAMERA.color_matrix, "RRGG/RRGG/GGBB/GGBB")
    with pytest.raises(InputError, match="DNG files are written for Bayer, X-Trans and monochrome sensors"):
        unprocess_folder(source, tmp_path / "raw", camera, format="dng")
    assert not (tmp_path / "raw").exists()


def test_the_seed_and_the_path_decide_every_byte(source, tmp_path):
    def written(folder, seed=0):
        unprocess_folder(folder, tmp_path / "out", CAMERA, seed=seed)
        return files(tmp_path / "out")

    first, other = written(source), written(source, seed=1)
    assert {name for name in first if first[name] == other[name]} == {*NAMED}
    # A picture under another name, or of another class, has other noise.
    for name in ("cats/3.png", "birds/1.png"):
        save(source / name, samples(0))
    # In another folder, with other pictures.
    again = written(source.rename(tmp_path / "moved"))
    assert all(again[name] == first[name] for name in {*first} - {*NAMED})
    one, *others = (tifffile.imread(tmp_path / "out" / f"{name}.tiff") for name in ("cats/1", "cats/3", "birds/1"))
    assert all((one != other).mean() > 0.5 for other in others)


def test_noise_does_not_repeat_along_rows_or_columns(tmp_path):
    """The picture is larger than three of the bands that are exposed one by one."""
    save(tmp_path / "gray/all/1.png", np.full((800, 512, 3), 120, np.uint8))
    unprocess_folder(tmp_path / "gray", tmp_path / "raw", CAMERA)
    noise = tifffile.imread(tmp_path / "raw/all/1.tiff").astype(float)
    for row, col in np.ndindex(2, 2):
        noise[row::2, col::2] -= noise[row::2, col::2].mean()
        noise[row::2, col::2] /= noise[row::2, col::2].std()
    for axis, sites in ((0, noise), (1, noise.T)):
        for shift in range(2, len(sites) - 50, 2):
            pairs = sites[shift:] * sites[:-shift]
            assert abs(pairs.mean()) < 6 / np.sqrt(pairs.size), (axis, shift)


@pytest.mark.parametrize("pattern", ["RGGB", "GBGGRG/RGRBGB/GBGGRG/GRGGBG/BGBRGR/GRGGBG", "RGB/GBR", isp.cfa.MONO])
def test_mosaics_have_the_color_filter_array_of_the_camera(tmp_path, monkeypatch, pattern):
    monkeypatch.setattr(unprocess, "_BAND", 8)
    black = np.linspace(0.02, 0.08, *isp.cfa.black_level_shape(pattern))
    color = (None, None) if pattern == isp.cfa.MONO else (CAMERA.white_balance, CAMERA.color_matrix)
    camera = isp.Camera(black, *color, pattern)
    # The last band and the last columns are filled up; and 16 bits of gray.
    gray = np.linspace(20000, 65535, 8 * 12).astype(np.uint16).reshape(8, 12)
    pictures = {"tall": samples(0, (32, 22, 3)), "wide": samples(0, (14, 26, 3)), "gray": gray}
    for name, picture in pictures.items():
        save(tmp_path / "in" / "class" / f"{name}.png", picture)
    unprocess_folder(tmp_path / "in", tmp_path / "out", camera, **QUIET)
    pictures["gray"] = np.repeat(gray[..., None], 3, -1) / np.float32(257)
    for name, picture in pictures.items():
        raw = tifffile.imread(tmp_path / "out" / "class" / f"{name}.tiff")
        np.testing.assert_allclose(raw, expected(picture, camera=camera), atol=1.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "pictures/cats"}, r"pictures/cats must contain a sub-folder of pictures \(.jpg, .jpeg, .png\) "),
        ({"target": "pictures/raw"}, "the output pictures/raw must not be inside the input pictures"),
        ({"source": "twice"}, r"1\.jpg and .*1\.png would both be written to raw/cats/1\.tiff"),
    ],
)
def test_wrong_settings_are_named_before_anything_is_written(source, tmp_path, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    save(Path(shutil.copytree(source, "twice")) / "cats" / "1.jpg", samples())
    before = files(tmp_path)
    arguments = {"source": "pictures", "target": "raw", "camera": CAMERA} | change
    with pytest.raises(InputError, match=message):
        unprocess_folder(**arguments)
    assert files(tmp_path) == before

import errno
import functools

import numpy as np
import pickled_jobs
import programs
import pytest
import tifffile
from PIL import Image

import isp
from r2l_jax import jobs
from r2l_jax.apps import files as loop
from r2l_jax.apps import render
from r2l_jax.apps.files import Cameras, find_raw_files
from r2l_jax.apps.render import Pictures, Processing
from r2l_jax.data.files.known_camera import KnownCamera
from r2l_jax.data.files.rawfile import read_raw
from r2l_jax.errors import InputError, collected_warnings
from r2l_jax.pipelines import find_pipeline
from r2l_jax.programs import process
from r2l_jax.results import result, store
from r2l_jax.results.contact_sheet import contact_sheet
from r2l_jax.results.files import read_csv

CAMERA, PARAMETRIZED = isp.CAMERAS["drone"], find_pipeline("parametrized")


def raw_file(path, seed=0):
    tifffile.imwrite(path, np.random.default_rng(seed).integers(5000, 30000, (16, 24), np.uint16))
    return path


def raw_files(folder, count):
    return [raw_file(folder / f"{seed:02}.tiff", seed) for seed in range(count)]


def render_files(files, out, camera=None, file_format="tiff", stages=False, pipeline=PARAMETRIZED, **workers):
    known = KnownCamera.of(camera)
    return render.render_files(
        files, Pictures(out, file_format, stages), Processing(pipeline, Cameras(known, known)), **workers
    )


def written(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def contents(folder):
    """The files but for those of chunks, whose names are those of other inputs in another folder."""
    files = [file for file in folder.rglob("*") if file.is_file() and ".parts" not in file.parts]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def rendering(path, camera):
    return np.asarray(isp.parametrized(camera)(read_raw(path, camera)[0]))


@pytest.mark.parametrize(("file_format", "levels", "stages"), [("tiff", 65535, False), ("png", 255, True)])
def test_pictures_hold_the_rendering_and_sheets_its_stages(tmp_path, file_format, levels, stages):
    files, out = raw_files(tmp_path, 3), tmp_path / "out" / "pictures"
    assert render_files(files, out, CAMERA, file_format, stages) == (3, 0)
    sheets = [f"{file.stem}_stages.png" for file in files] if stages else []
    pictures = [f"{file.stem}.{file_format}" for file in files]
    assert written(out) == sorted([*pictures, *sheets, "manifest.csv", "result.json"])
    for sheet in sheets:
        # The pipeline has six stages, in two rows of three.
        with Image.open(out / sheet) as drawn:
            assert drawn.size == contact_sheet(dict.fromkeys("abcdef", np.zeros((16, 24, 3)))).size
    for file in files:
        path = out / f"{file.stem}.{file_format}"
        picture = tifffile.imread(path) if file_format == "tiff" else np.asarray(Image.open(path))
        assert picture.dtype == (np.uint16 if file_format == "tiff" else np.uint8)
        np.testing.assert_allclose(picture / levels, rendering(file, CAMERA), atol=0.51 / levels)


@pytest.mark.shows(
    "process --input --output --camera --auto --format --stages",
    "process ProcessingChoice",
    "train --sp_debayer --sp_sharpening --sp_denoising",
)
@pytest.mark.parametrize(
    ("flags", "make"),
    [
        (
            "--processing_mode=static --sp_debayer=malvar2004 --sp_sharpening=none --sp_denoising=none",
            lambda: isp.static(CAMERA, demosaic="malvar2004", sharpen="none", denoise="none"),
        ),
        ("--auto=exposure", lambda: isp.metered(isp.parametrized(CAMERA), CAMERA, white_balance=False)),
    ],
)
def test_the_program_renders_as_its_flags_say(tmp_path, flags, make):
    file, out = raw_file(tmp_path / "a.tiff"), tmp_path / "out"
    flags = (f"--input={file}", f"--output={out}", "--camera=drone", "--format=png", "--stages", *flags.split())
    done = programs.call("process.py", *flags)
    assert (done.returncode, done.stdout) == (0, "1 rendered, 0 failed\n"), done.stderr
    assert written(out) == ["a.png", "a_stages.png", "manifest.csv", "result.json"]
    picture = np.asarray(Image.open(out / "a.png"))
    wanted = np.asarray(make()(read_raw(file, CAMERA)[0]))
    np.testing.assert_allclose(picture / 255, wanted, atol=0.51 / 255)
    assert np.abs(isp.parametrized(CAMERA)(read_raw(file, CAMERA)[0]) - wanted).mean() > 2 / 255


def test_each_file_is_rendered_with_its_own_calibration_values(write_dng, tmp_path):
    raw = np.random.default_rng(0).integers(500, 3000, (24, 32), np.uint16)
    files = [write_dng(raw, "a.dng"), write_dng(raw, "b.dng", cfa=(2, 1, 1, 0), neutral=(0.4, 1.0, 0.8))]
    assert render_files(files, tmp_path / "out") == (2, 0)
    for file in files:
        picture = tifffile.imread(tmp_path / "out" / f"{file.stem}.tiff")
        np.testing.assert_allclose(picture / 65535, rendering(file, read_raw(file)[1]), atol=0.51 / 65535)


def test_bad_files_are_reported_and_the_others_rendered(tmp_path, capsys, monkeypatch):
    files = [tmp_path / name for name in ("a.tiff", "gone.dng", "bad.dng", "large.tiff", "z.tiff")]
    for number in (0, 3, 4):
        raw_file(files[number])
    files[2].write_bytes(b"no raw file")

    def read(path, camera):
        if path == files[3]:
            raise MemoryError
        return read_raw(path, camera)

    monkeypatch.setattr(loop, "read_raw", read)
    assert render_files(files, tmp_path / "out", CAMERA) == (2, 3)
    assert written(tmp_path / "out") == ["a.tiff", "manifest.csv", "result.json", "z.tiff"]
    said = ["no such file", "truncated", "MemoryError"]
    for file, message, line in zip(files[1:4], said, capsys.readouterr().err.splitlines(), strict=True):
        assert line.startswith(f"error: {file}: {message}")


@pytest.fixture
def read(monkeypatch):
    """The files that are read, in chunks of two."""
    files = []
    monkeypatch.setattr(loop, "read_raw", lambda path, camera: files.append(path) or read_raw(path, camera))
    monkeypatch.setattr(loop, "BATCH", 2)
    return files


@pytest.mark.shows("apps.render manifest.csv: picture, file")
def test_only_parts_of_pictures_that_are_missing_or_stale_are_rendered_again(tmp_path, monkeypatch, read):
    files, out = raw_files(tmp_path, 6), tmp_path / "out"
    assert render_files(files[:4], out, CAMERA) == (4, 0)
    assert render_files(files, out, CAMERA) == (2, 0)
    (out / "00.tiff").unlink()
    raw_file(files[4], seed=9)
    read.clear()
    assert render_files(files, out, CAMERA) == (4, 0)
    assert sorted(read) == [*files[:2], *files[4:]]
    picture = tifffile.imread(out / "04.tiff")
    np.testing.assert_allclose(picture / 65535, rendering(files[4], CAMERA), atol=0.51 / 65535)
    assert render_files(files, out, CAMERA) == (0, 0)
    assert [(row["picture"], row["file"]) for row in read_csv(out / "manifest.csv")] == [
        (file.name, str(file)) for file in files
    ]
    assert render_files(files[:2], out, CAMERA, stages=True) == (2, 0)
    assert len(read_csv(out / "manifest.csv")) == 8
    monkeypatch.setattr(store, "source_hash", lambda: "other")
    assert render_files(files, out, CAMERA) == (6, 0)


def test_a_killed_call_repeats_its_last_part_alone(tmp_path, monkeypatch, read):
    files, out = raw_files(tmp_path, 6), tmp_path / "out"
    cached, calls = result.cached, []

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return cached(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(result, "cached", killed)
        with pytest.raises(KeyboardInterrupt):
            render_files(files, out, CAMERA)
    with pytest.raises(InputError, match="lists pictures with another camera"):
        render_files(files, out, isp.CAMERAS["microscopy"])
    read.clear()
    assert render_files(files, out, CAMERA) == (2, 0)
    assert sorted(read) == files[4:]
    assert len(read_csv(out / "manifest.csv")) == 6


def test_a_picture_whose_sheet_cannot_be_written_is_rendered_again(tmp_path, monkeypatch):
    files, out = raw_files(tmp_path, 2), tmp_path / "out"

    class Unwritable:
        def save(self, part, format):
            raise OSError(errno.ENOSPC, "No space left on device", str(part))

    with monkeypatch.context() as patch:
        patch.setattr(render, "contact_sheet", lambda images: Unwritable())
        assert render_files(files, out, CAMERA, stages=True) == (0, 2)
    assert written(out) == ["00.tiff", "01.tiff", "result.json"]
    with pytest.raises(InputError, match="lists pictures with another pipeline"):
        render_files(files, out, CAMERA, stages=True, pipeline=find_pipeline("full"))
    assert render_files(files, out, CAMERA, stages=True) == (2, 0)
    assert {row["picture"] for row in read_csv(out / "manifest.csv")} == set(written(out)[:4])


@pytest.mark.shows("process --scheduler")
def test_workers_render_what_one_process_renders(tmp_path, monkeypatch, capsys):
    files = raw_files(tmp_path, 20)
    files[3].write_bytes(b"no file")
    config = process.RenderConfig(input=("unused",), output="unused", camera="drone", pipeline="full")
    workers = {"scheduler": "local:2", "load": functools.partial(process._load, config)}
    pipeline, (camera, _) = process._load(config)
    one = render_files(files, tmp_path / "one", camera, pipeline=pipeline)
    one_said = capsys.readouterr().err
    monkeypatch.setattr(jobs, "run_elsewhere", pickled_jobs.run_elsewhere)
    monkeypatch.setattr(loop, "BATCH", 4)
    many = render_files(files, tmp_path / "many", camera, pipeline=pipeline, **workers)
    assert many == one == (19, 1)
    assert contents(tmp_path / "many") == contents(tmp_path / "one")
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert line.strip() in one_said
    asked, elsewhere = [], pickled_jobs.run_elsewhere
    monkeypatch.setattr(jobs, "prepare", lambda scheduler: None)
    monkeypatch.setattr(jobs, "run_elsewhere", lambda given, *how: asked.append(how[0]) or elsewhere(given, *how))
    flags = [f"--input={tmp_path}", f"--output={tmp_path}/program", "--camera=drone", "--pipeline=full"]
    done = programs.call("process.py", *flags, "--scheduler=local:2")
    assert (done.returncode, done.stdout, {*asked}) == (1, "19 rendered, 1 failed\n", {"local:2"})
    assert contents(tmp_path / "program") == contents(tmp_path / "one")


@pytest.mark.parametrize(
    ("files", "out", "message"),
    [
        (["a.tiff"], "out", r"out/a\.tiff would be overwritten, but no result\.json says how it was"),
        (["link/a.tiff", "link/b.tiff"], ".", r"link/a\.tiff is a raw file"),
        (["b.tiff", "b.tif"], "new", r"b\.tiff and .*b\.tif would both be written to .*new/b\.tiff"),
    ],
)
def test_no_picture_takes_the_place_of_another_file(tmp_path, files, out, message):
    for name in ("a.tiff", "b.tiff", "b.tif"):
        raw_file(tmp_path / name)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.tiff").write_bytes(b"earlier")
    (tmp_path / "link").symlink_to(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(InputError, match=message):
        render_files([tmp_path / name for name in files], tmp_path / out, CAMERA)
    assert contents(tmp_path) == before


def test_finds_raw_files_in_folders_once(tmp_path):
    names = ("b.DNG", "a.tiff", "c.jpg", "._f.jpg", "p.csv")
    for name in (*names, "folder.dng/deep.dng", "photos/cats/a.JPG", "x/near/red/0.dng"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with collected_warnings() as warnings:
        found = find_raw_files([tmp_path / "p.csv", tmp_path, tmp_path / "a.tiff"], warns=True)
        find_raw_files([tmp_path / "a.tiff"], warns=True)
    assert [file.name for file in found] == ["p.csv", "a.tiff", "b.DNG"]
    assert warnings == [f"skipped 1 file without the suffix of a raw file, such as {tmp_path}/c.jpg"]
    # Without raw files of its own, a folder stands for its sub-folders.
    for name in names[:2]:
        (tmp_path / name).unlink()
    assert find_raw_files([tmp_path]) == [tmp_path / "folder.dng" / "deep.dng"]
    for given, message in (
        (tmp_path / "photos", r"no raw files in this folder, but JPEG; python scripts/unprocess\.py converts JPEG "),
        (tmp_path / "x", r"no raw files in this folder, only further down, such as in near/red$"),
        ("", "empty"),
        (tmp_path / "gone.dng", r"gone\.dng: no such file$"),
    ):
        with pytest.raises(InputError, match=message):
            find_raw_files([given])


@pytest.mark.shows("process --run", "apps.render keys: camera, pipeline, stored_camera")
def test_a_run_renders_as_it_has_learned(one_epoch, model, tmp_path):
    file, other = tmp_path / "noise.tiff", isp.CAMERAS["microscopy"]
    tifffile.imwrite(file, np.random.default_rng(0).integers(4096, 65536, (48, 40)).astype(np.uint16))

    def rendered(name, *flags):
        flags = (f"--input={file}", f"--output={tmp_path / name}", f"--run={one_epoch.run_dir}", *flags)
        done = programs.call("process.py", *flags)
        assert done.stdout == f"{one_epoch.run_dir}: the best checkpoint\n1 rendered, 0 failed\n", done.stderr
        return tifffile.imread(tmp_path / name / "noise.tiff") / 65535, result.read(tmp_path / name).metadata

    image, metadata = rendered("out")
    assert metadata["pipeline"].startswith("learned by one_epoch, fold 0, best checkpoint (")
    assert metadata["stored_camera"]["white_balance"] == list(model.calibration.white_balance)
    raw = tifffile.imread(file).astype(np.float32) / 65535
    np.testing.assert_allclose(image, np.clip(model.render(raw), 0, 1), atol=1e-4)
    assert np.abs(image - isp.parametrized(model.camera)(raw)).mean() > 1e-4
    # The camera that is named is that of TIFF as well, and its black level is brought to the run's.
    named, metadata = rendered("named", "--camera=microscopy")
    assert metadata["camera"]["white_balance"] == list(other.white_balance)
    assert "stored_camera" not in metadata
    np.testing.assert_allclose(named, np.clip(model.render(read_raw(file, model.reading(other))[0]), 0, 1), atol=1e-4)
    assert np.abs(named - image).mean() > 1e-3

import dataclasses
import pathlib
import shlex
import shutil
from types import SimpleNamespace
from unittest.mock import Mock

import jax
import numpy as np
import pytest
import tifffile
from absl import flags as absl_flags
from programs import call

from isp import sensor_drift
from r2l_jax.apps import monitor
from r2l_jax.cli import stop
from r2l_jax.cli.flags import build, define, read, replace
from r2l_jax.drift import limits
from r2l_jax.drift.monitoring import monitor as judging
from r2l_jax.drift.monitoring import reference
from r2l_jax.drift.monitoring.config import MonitorConfig
from r2l_jax.drift.monitoring.diagnosis import DriftEstimate
from r2l_jax.drift.monitoring.statistics import see
from r2l_jax.errors import InputError
from r2l_jax.programs.predict import PredictionConfig
from r2l_jax.results import result
from r2l_jax.results.files import write_json
from r2l_jax.training import train
from r2l_jax.training.run import load


@pytest.fixture(scope="module")
def trained(base):
    """A run with 48 test samples of 120."""
    config = replace(base, run_name="monitored", synthetic_images=120, test_size=48, epochs=1, save_locally=True)
    train.run(config)
    return config


@pytest.fixture(scope="module")
def scenes(trained):
    """The mosaics of the scenes that the run was not tested on, and the camera."""
    fold = load(trained.run_dir).folds[0]
    rest = np.setdiff1d(np.arange(len(fold.dataset)), fold.split.test)
    return fold.dataset.samples(rest)[0], fold.dataset.camera


@pytest.fixture
def run_dir(trained, tmp_path):
    """A copy of the run, to write to."""
    return shutil.copytree(trained.run_dir, tmp_path / "run")


@pytest.fixture
def told(monkeypatch):
    """Finds the drift types that a function tells of new mosaics of any size."""

    def tell(name_of, unit="", value=1.0):
        def diagnose(reference, labels, new, camera, groups, new_groups):
            assert len(reference) == len(labels) == len(groups) == 48
            assert new_groups is None  # The images of both are independent.
            return (DriftEstimate(name_of(new), value, value - 0.1, value + 0.1, unit, len(new)),)

        for name, number in {"diagnose": diagnose, "LEAST_SIDE": 32, "LEAST_IMAGES": (16, 48)}.items():
            monkeypatch.setattr(judging, name, number)

    return tell


def write(folder, raws):
    folder.mkdir(parents=True, exist_ok=True)
    before = len(list(folder.iterdir()))
    for number, raw in enumerate(raws, before):
        tifffile.imwrite(folder / f"{number:03d}.tiff", np.round(raw * 65535).astype(np.uint16))


def monitored(run_dir, folder, *flags, status=2):
    """Runs the program on a folder; returns its output, the result and its metadata."""
    done = call("monitor.py", f"--run={run_dir}", f"--input={folder}", *flags)
    assert done.returncode == status, done.stderr
    written = result.read(run_dir / "monitor")
    return done.stdout, written, written.metadata


def brighter(raws, camera):
    return np.asarray(sensor_drift.overexposure(raws, jax.random.key(0), 1.0, camera=camera))


def test_the_reference_is_taken_along_and_the_data_is_not_needed_anymore(run_dir, monkeypatch):
    done = call("monitor.py", f"--run={run_dir}")
    assert done.returncode == 0, done.stderr
    file = run_dir / "monitor" / reference.FILE
    assert f"{file}: written, 48 test samples, " in done.stdout
    run = load(run_dir)
    made = reference.make(run)
    monkeypatch.setattr(reference, "make", lambda run: pytest.fail("the reference was made again"))
    found = reference.read(run, file)
    np.testing.assert_array_equal(found.mosaics, made.mosaics)
    np.testing.assert_array_equal(found.targets, run.dataset.samples(run.folds[0].split.test)[1])
    for name, values in made.seen._asdict().items():
        np.testing.assert_allclose(getattr(found.seen, name), values, atol=1e-6)
    # Another function: logits are sums of hundreds of terms, which round by 20 * 2**-24 of sizes of 10 or so.
    np.testing.assert_allclose(found.seen.probabilities[0], run.predict(found.raws), atol=1e-5)
    assert f"{file}: 48 test samples, " in call("monitor.py", f"--run={run_dir}").stdout


def test_a_reference_of_another_model_or_a_damaged_one_is_not_used(run_dir, monkeypatch):
    call("monitor.py", f"--run={run_dir}")
    file = run_dir / "monitor" / reference.FILE
    run = load(run_dir)
    run.model.head.fc.kernel[...] *= 2
    assert reference.read(run, file) is None
    monkeypatch.setattr(reference, "make", Mock(side_effect=InputError("the data is gone")))
    with pytest.raises(InputError, match="belongs to another model, and it cannot be made: the data is gone"):
        reference.of_run(run, file)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"reference\.safetensors is damaged: remove it"):
        reference.of_run(run, file)


def test_statistics_do_not_depend_on_the_rounding_of_a_reader(run_dir):
    run = load(run_dir)
    exact = np.random.default_rng(0).integers(120, 140, (4, 32, 32)) / 4095  # around the black level of 128
    found = [see(run, each.astype(np.float32)) for each in (exact, exact * (1 + 2e-7), np.round(exact * 65535) / 65535)]
    for other in found[1:]:
        np.testing.assert_array_equal(other.mosaic, found[0].mosaic)


@pytest.mark.shows("monitor --run --input --output --by --window")
def test_drift_is_an_alarm_by_exit_status_and_its_window_is_named(run_dir, scenes, tmp_path):
    raws, camera = scenes
    monday, tuesday = (f"{tmp_path}/{day}/raw" for day in ("monday", "tuesday"))
    write(pathlib.Path(monday), raws[:24])
    write(pathlib.Path(tuesday), brighter(raws[24:48], camera))
    flags = ["--by=folder", "--window=24"]
    done = call("monitor.py", f"--run={run_dir}", f"--input={monday}", *flags, f"--output={tmp_path}/out")
    assert (done.returncode, result.read(tmp_path / "out").metadata["alarm"]) == (0, False), done.stderr
    said, written, metadata = monitored(run_dir, f"{tmp_path}/monday,{tmp_path}/tuesday", *flags)
    first, second = metadata["windows"]
    assert [first["name"], second["name"]] == [f"{monday} 1", f"{tuesday} 1"]
    assert [first["alarm"], second["alarm"], metadata["alarm"]] == [False, True, True]
    # Two windows share the level.
    assert metadata["p_value"] == min(1, 2 * min(first["p_value"], second["p_value"]))
    assert metadata["verdict"][0].startswith("drift in 1 of 2 windows, p = ")
    assert metadata["verdict"][0] in said
    assert "drift is diagnosed in images of at least 64x64 sites, got 32x32" in said
    assert "the camera does not explain" not in said
    assert metadata["explained"]["diagnosis"] == []
    expected = [[f"{monday} 1", 24, False], [f"{tuesday} 1", 24, True]]
    assert [row[:2] + row[3:4] for row in written.tables["windows"].rows] == expected
    assert written.tables["statistics"].rows[0][4] < 0.01
    # Each window of 24 images has a level of 2.5%, and the reference 48.
    rates = "at most 5% of calls on average; for 95% of references of 48 images, 1.2% to 17.4%"
    assert f"false alarms: {rates}" in said
    assert "the tests count images" not in said


def test_all_windows_of_a_call_share_its_level(run_dir, scenes, tmp_path, monkeypatch):
    """An alarm takes a fourth of 5% in four windows, however many folders they are of."""
    folders = tuple(f"{tmp_path}/{name}" for name in "ab")
    for folder in folders:
        write(pathlib.Path(folder), scenes[0][:16])
    settings = {"run": str(run_dir), "input": folders, "window": 8}
    for p_value, expected in ((0.0124, True), (0.0126, False)):
        fixed = judging.alarm.Verdict(p_value, {"images": p_value}, 1999)
        monkeypatch.setattr(judging.alarm, "compare", lambda *_, fixed=fixed, **__: fixed)
        for by in (None, "folder"):
            assert monitor.run(build(MonitorConfig, by=by, **settings)) == expected, by
            metadata = result.read(run_dir / "monitor").metadata
            assert [window["alarm"] for window in metadata["windows"]] == [expected] * 4
            assert metadata["p_value"] == pytest.approx(4 * p_value)


def test_a_line_of_each_window_is_written_as_it_goes(run_dir, scenes, tmp_path):
    write(tmp_path / "new", scenes[0][:32])
    done = call("monitor.py", f"--run={run_dir}", f"--input={tmp_path}/new", "--window=16", "--level=0.001")
    lines = [line for line in done.stderr.splitlines() if ": no alarm, p = " in line]
    assert [line[:8] for line in lines] == ["window 1", "window 2"], done.stderr


def test_windows_have_a_size_and_a_short_last_one_counts_from_eight_on():
    files = [pathlib.Path(f"{number}.dng") for number in range(30)]
    found = monitor.windows_of({"a": files, "b": files[:7], "": files[:20]}, 12)
    assert {name: len(part) for name, part in found.items()} == {"a 1": 12, "a 2": 12, "1": 12, "2": 8}
    assert found["a 2"] == files[12:24]


@pytest.mark.parametrize(("by", "key"), [(None, ""), ("folder", "lab"), ("day", "2024-02-29"), ("model", "Acme X1")])
def test_files_have_a_key(tmp_path, by, key):
    file = tmp_path / "lab" / "a.tiff"
    file.parent.mkdir()
    tags = [(271, 2, 0, "Acme", True), (272, 2, 0, "X1", True), (306, 2, 0, "2024:02:29 10:00:00", True)]
    tifffile.imwrite(file, np.zeros((4, 4), np.uint16), extratags=tags, metadata=None)
    assert monitor.key_of(file, by) == (str(tmp_path / key) if by == "folder" else key)


@pytest.fixture
def follow(run_dir, tmp_path, monkeypatch):
    """Follows `tmp_path/new` in windows of 16; after each look, the next of some functions is called."""

    def judged(*arrivals, **flags):
        left = iter(arrivals)
        monkeypatch.setattr(monitor, "_wait", lambda: next(left, lambda: None)())
        # A file is read at the second look that finds it.
        ends = iter([False] * (len(arrivals) + 2))
        stops = SimpleNamespace(after_step=stop.after_step, requested=lambda: next(ends, True))
        monkeypatch.setattr(monitor, "stop", stops)
        given = {"run": str(run_dir), "input": (str(tmp_path / "new"),), "window": 16, "false_alarm_every": 100}
        alarm = monitor.run(build(MonitorConfig, follow=True, **given | flags))
        return alarm, result.read(run_dir / "monitor").metadata

    return judged


@pytest.mark.shows("monitor --follow")
def test_following_judges_files_as_they_come_and_resumes(scenes, tmp_path, follow, told):
    raws, camera = scenes
    write(tmp_path / "new", raws[:10])
    alarm, content = follow(lambda: write(tmp_path / "new", raws[10:20]))
    assert not alarm
    # Four files wait for the next window.
    assert [(window["name"], len(window["files"])) for window in content["windows"]] == [("1", 16)]
    assert content["false_alarms"] == "one in 100 windows"
    assert content["p_value"] == content["windows"][0]["p_value"]
    told(lambda new: "scene")
    arriving = [brighter(raws[start : start + 16], camera) for start in (20, 36)]
    alarm, content = follow(*[lambda: write(tmp_path / "new", arriving.pop(0)), lambda: None] * 2)
    assert alarm
    assert [window["alarm"] for window in content["windows"]] == [False, True, True]
    assert content["p_value"] == 3 * min(window["p_value"] for window in content["windows"])
    # Each alarm is explained again, together with the one before.
    assert [each[-1] for each in content["explained"]["diagnosis"]] == [32]
    # Without another alarm, the explanation stays.
    assert follow()[1]["explained"] == content["explained"]
    with pytest.raises(InputError, match="has other settings: choose another `output`"):
        follow(window=8)


def test_a_window_without_a_result_is_judged_again(run_dir, scenes, tmp_path, follow, monkeypatch):
    raws, camera = scenes
    write(tmp_path / "new", raws[:16])
    assert not follow()[0]
    write(tmp_path / "new", brighter(raws[16:32], camera))
    with monkeypatch.context() as patch:
        patch.setattr(judging.Monitor, "explain", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            follow()
    alarm, content = follow()
    assert alarm
    assert [(window["name"], window["alarm"]) for window in content["windows"]] == [("1", False), ("2", True)]


def test_a_file_that_is_being_written_is_not_read(run_dir, scenes, tmp_path, follow, capsys):
    write(tmp_path / "new", scenes[0][:16])
    file = tmp_path / "new" / "015.tiff"
    whole = file.read_bytes()
    file.write_bytes(whole[:900])
    # It grows at every look but the last two.
    _, content = follow(lambda: file.write_bytes(whole[:1500]), lambda: file.write_bytes(whole))
    assert [len(window["files"]) for window in content["windows"]] == [16]
    assert "error" not in capsys.readouterr().err


def test_what_cannot_be_monitored_is_one_line(run_dir, scenes, tmp_path):
    write(tmp_path / "few", scenes[0][:7])

    def refused(*flags):
        done = call("monitor.py", f"--run={run_dir}", f"--output={tmp_path}/out", *flags)
        assert done.returncode == 1
        return done.stderr

    assert "a window takes at least 8 files, got 7" in refused(f"--input={tmp_path}/few").splitlines()[-1]
    assert "--follow monitors folders on this machine" in refused(f"--input={tmp_path}/few/000.tiff", "--follow")


@pytest.mark.shows("monitor --accept")
def test_an_accepted_camera_is_the_reference_and_the_old_one_is_kept(run_dir, scenes, tmp_path):
    raws, camera = scenes
    write(tmp_path / "new", brighter(raws[:36], camera))
    write(tmp_path / "later", brighter(raws[36:60], camera))
    call("monitor.py", f"--run={run_dir}")
    file = run_dir / "monitor" / reference.FILE
    old = file.read_bytes()
    done = call("monitor.py", f"--run={run_dir}", f"--input={tmp_path}/new", "--accept")
    kept = file.with_stem("reference_1")
    assert (done.returncode, kept.read_bytes()) == (0, old), done.stderr
    assert f"{file}: 36 images accepted as the reference, the old one is {kept}" in done.stdout
    known = reference.read(load(run_dir), file)
    np.testing.assert_allclose(known.raws, brighter(raws[:36], camera), atol=2e-5)
    assert known.targets is known.labels is None
    flags = [f"--run={run_dir}", f"--input={tmp_path}/later", f"--output={tmp_path}/out", "--window=24"]
    assert call("monitor.py", *flags, "--level=0.01").returncode == 0
    done = call("monitor.py", *flags, "--alarm=loss")
    assert "--alarm=loss needs labels" in done.stderr.splitlines()[-1]


def test_what_cannot_be_accepted_or_lost_is_one_line(run_dir, scenes, tmp_path):
    write(tmp_path / "few", scenes[0][:9])
    flags = [f"--run={run_dir}", f"--input={tmp_path}/few"]
    done = call("monitor.py", *flags, "--accept")
    assert "a reference needs 32 images, got 9" in done.stderr.splitlines()[-1]
    done = call("monitor.py", *flags, "--alarm=loss")
    least = "drift is diagnosed in images of at least 64x64 sites, got 32x32"
    assert f"--alarm=loss needs a diagnosis: {least}" in done.stderr.splitlines()[-1]


@pytest.mark.shows("monitoring.monitor diagnosis.csv: cause, size, size high, size low, unit, evidence")
@pytest.mark.parametrize("name", ["exposure", pytest.param("scene", marks=pytest.mark.slow)])
def test_an_alarm_is_explained(run_dir, scenes, tmp_path, told, name):
    raws, camera = scenes
    write(tmp_path / "new", brighter(raws[:24], camera))
    means = []
    told(lambda new: means.append(new.mean((1, 2))) or name, "stops")
    within = limits.written({"exposure": limits.Limit(-1.0, 1.5)})
    statement = {"models": [load(run_dir).identity], "limits": within, "tolerance": 0.02, "fraction": 0.9504}
    write_json(run_dir / "envelope/envelope.json", {**statement, "holds": True})
    said, found, metadata = monitored(run_dir, tmp_path / "new", "--window=24")
    np.testing.assert_allclose(means, [brighter(raws[:24], camera).mean((1, 2))], atol=1e-5)
    assert found.tables["diagnosis"].rows == [[name, (1.0, 0.9, 1.1), "stops", 24]]
    assert metadata["windows"][0]["diagnosis"] == metadata["explained"]["diagnosis"]
    scores = [row[0] for row in found.tables["expected"].rows]
    if name == "exposure":
        model = load(run_dir)
        known, targets = model.dataset.samples(model.folds[0].split.test)
        true = (model.predict(brighter(known, camera)).argmax(1) == targets).mean()
        assert scores == ["under the diagnosis", "without drift"]
        assert found.tables["expected"].rows[0][1][0] == pytest.approx(true, abs=0.05)
        assert metadata["notes"][0].startswith("adapting by statistics would ")
    else:
        assert scores == ["without drift"]
        assert "the camera does not explain this drift" in said
        assert metadata["explained"]["remedy"] is None
    where = "inside the operating envelope" if name == "exposure" else "outside the operating envelope (scene)"
    states = "inside which at least 95% of cameras lose at most 2 points"
    assert metadata["notes"][-1] == f"the diagnosis is {where}, {states}"
    estimate = f"; expected accuracy {found.tables['expected'].rows[0][1][0]:.3f}"
    assert (estimate in metadata["verdict"][0]) == (name == "exposure")


def test_no_score_is_stated_where_the_diagnosis_leaves_a_difference(run_dir, scenes, tmp_path, told):
    raws, camera = scenes
    write(tmp_path / "new", brighter(raws[:24], camera))
    told(lambda new: "exposure", "stops", value=0.5)
    said, found, metadata = monitored(run_dir, tmp_path / "new", "--window=24")
    assert "under the diagnosis, the reference still differs from the new images (p = " in said
    assert [row[0] for row in found.tables["diagnosis"].rows] == ["exposure"]
    assert [row[0] for row in found.tables["expected"].rows] == ["without drift"]
    assert "expected accuracy" not in metadata["verdict"][0]
    assert metadata["explained"]["remedy"] is None


def test_the_command_of_a_remedy_can_be_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = {"run": "my run", "checkpoint": "last", "camera": "camera.json", "input": ("field",)}
    config = build(MonitorConfig, **flags)
    # Files of earlier calls hold other predictions.
    for name in ("predictions.csv", "predictions_2.csv"):
        (tmp_path / name).touch()
    (tmp_path / "masks").mkdir()
    parsed = absl_flags.FlagValues()
    define(PredictionConfig, parsed)
    parsed(shlex.split(monitor.remedy_command(config, ["field/a", "field/b"], True))[1:])
    prediction = read(PredictionConfig, parsed)
    assert (prediction.input, prediction.output) == (("field/a", "field/b"), "predictions_3.csv")
    assert (prediction.run, prediction.checkpoint, prediction.camera) == ("my run", "last", "camera.json")
    assert (prediction.adapt, prediction.masks) == ("statistics", "masks_2")


@pytest.mark.shows("monitor --alarm --tolerance --level --false_alarm_every")
@pytest.mark.parametrize("is_followed", [False, True])
@pytest.mark.parametrize(("alarm", "tolerance"), [("loss", 0.035), ("drift", None)])
def test_the_monitor_gets_the_tolerance_as_a_fraction_and_its_part_of_the_level(
    run_dir, scenes, tmp_path, monkeypatch, is_followed, alarm, tolerance
):
    """Flags give points; drift alone is not tolerated. Two windows share the level."""
    given = []

    def made(run, known, level, *_, tolerance):
        given.extend([level, tolerance])
        raise InputError("enough")

    monkeypatch.setattr(monitor, "Monitor", made)
    for name, number in {"LEAST_SIDE": 32, "LEAST_IMAGES": (16, 48)}.items():
        monkeypatch.setattr(judging, name, number)
    write(tmp_path / "new", scenes[0][:32])
    flags = {"alarm": alarm, "follow": is_followed} | ({"tolerance": 3.5} if alarm == "loss" else {})
    flags |= {"false_alarm_every": 40} if is_followed else {"level": 0.3}
    with pytest.raises(InputError, match="enough"):
        monitor.run(build(MonitorConfig, run=str(run_dir), input=(str(tmp_path / "new"),), window=16, **flags))
    assert given == [pytest.approx(1 / 40 if is_followed else 0.15), tolerance and pytest.approx(tolerance)]


@pytest.mark.shows("monitor --camera")
def test_files_are_brought_from_the_camera_that_is_named_to_that_of_the_run(run_dir, scenes, tmp_path, monkeypatch):
    """The camera of the files has a black level that is higher by 0.02 of the rest."""
    raws, camera = scenes
    seen = []
    monkeypatch.setattr(judging.Monitor, "judge", lambda *given: seen.append(given[3]) or pytest.fail("enough"))
    write(tmp_path / "new", 0.02 + 0.98 * raws[:16])
    other = dataclasses.replace(camera, black_level=[0.02 + 0.98 * level for level in camera.black_level])
    (tmp_path / "other.json").write_text(other.to_json())
    with pytest.raises(pytest.fail.Exception, match="enough"):
        call("monitor.py", f"--run={run_dir}", f"--input={tmp_path}/new", f"--camera={tmp_path}/other.json")
    np.testing.assert_allclose(seen[0], raws[:16], atol=2e-5)

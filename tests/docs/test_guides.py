"""Guides as a user follows them from the first command to the last, in a minute."""

import contextlib
import glob
import io
import json
import os
import shlex
import subprocess
import sys

import cells_and_masks
import dim_field
import fields_of_cells
import frames_of_cells
import pytest
import small_runs
from pages import PAGES, ROOT, code_blocks
from programs import program

import tasks
from r2l_jax.results import result

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def lines(text):
    """The programs and arguments of the commands."""
    for line in "".join(code_blocks("sh", text)).replace("\\\n", " ").splitlines():
        program_of_line, script, *arguments = shlex.split(line)
        if program_of_line == "python":
            yield script.removeprefix("scripts/"), arguments


def changed(text, changes):
    for each, other in changes.items():
        assert each in text
        text = text.replace(each, other)
    return text


def test_monitoring_leads_from_a_training_to_adapted_predictions(home):
    page = PAGES["docs/monitoring.md"]
    guide = page[page.index("## From training to an alarm") : page.index("## How drift is detected")]
    (home / "flags").write_text("--epochs=3\n--overwrite\n")
    shorter = {"--synthetic_images=1080": "--synthetic_images=260", "--test_size=480": "--test_size=130"}
    statuses = []
    for name, arguments in lines(guide):
        if name == "tests/fixtures/dim_field.py":
            dim_field.write(home, first=260)
            continue
        flags = [shorter.get(each, each).replace("configs/", f"{ROOT}/configs/") for each in arguments]
        more = ["--flagfile=flags"] if name == "train.py" and "--epochs=0" not in arguments else []
        more += ["--force"] * (name == "predict.py")  # After three epochs, adapting may be refused.
        ended = program(name, *flags, *more)
        assert ended.returncode in (0, 2), ended.stderr
        statuses.append((name, ended.returncode))
    assert statuses.pop(2) == ("monitor.py", 2)
    assert {status for _, status in statuses} == {0}
    found = result.read(home / "runs/quickstart/monitored/monitor")
    assert [row[0].split()[0] for row in found.tables["windows"].rows if row[3]] == ["field/tuesday"] * 2
    assert "exposure" in {row[0] for row in found.tables["diagnosis"].rows}
    assert len((home / "predictions.csv").read_text().splitlines()) == 129


def test_a_microscope_leads_from_files_to_an_alarm_and_predictions(home):
    page = PAGES["docs/tutorial_microscope.md"]
    (write,) = code_blocks("python", page)
    exec(write, {})
    changes = {"--seeds=6": "--seeds=2", "--epochs=12": "--epochs=1", "--warmup_epochs=2": "--warmup_epochs=0"}
    (home / "lamp.json").write_text(code_blocks("json", page)[-1])
    statuses = []
    for name, arguments in lines(page):
        more = ["--sensor=defocus"] if "--against=sensor" in arguments else []
        more += ["--proposals=0"] if "--envelope=lamp.json" in arguments else []
        more += ["--force"] * ("--adapt=statistics" in arguments)  # After one epoch, adapting may be refused.
        ended = program(name, *(changes.get(each, each) for each in arguments), *more)
        assert ended.returncode in ((0, 2) if name == "monitor.py" else (0,)), ended.stderr
        statuses.append((name, ended.returncode))
    assert [status for name, status in statuses if name == "monitor.py"] == [0, 2]
    found = result.read(home / "runs/microscope/cells/monitor")
    assert [row[0].split()[0] for row in found.tables["windows"].rows if row[3]] == ["new/tuesday"]
    assert found.tables["diagnosis"].rows[0][0] == "defocus"
    assert len((home / "tuesday.csv").read_text().splitlines()) == 65
    assert (home / "runs/microscope/cells/report.html").exists()
    statement = json.loads((home / "runs/microscope/cells/envelope/envelope.json").read_text())
    assert statement["limits"]["exposure"]["low"] == -1
    assert statement["draws"] == 90
    assert len(list((home / "runs/microscope/refocused").iterdir())) == 2


def test_a_pytorch_model_leads_from_files_to_a_comparison_of_two_networks(home):
    pytest.importorskip("torch")
    page = PAGES["docs/tutorial_pytorch.md"]
    networks, training = code_blocks("python", page)
    (home / "my_networks.py").write_text(networks)
    (home / "train_network.py").write_text(changed(training, {"range(15)": "range(2)"}))
    changes, scripts = {"--tile_size=64": "--tile_size=32"}, []
    for name, arguments in lines(page):
        if name == "tests/fixtures/cells_and_masks.py":
            cells_and_masks.write(home, count=120, test=40, side=32)
            continue
        if name == "train_network.py":
            folders = [found for each in arguments for found in (sorted(glob.glob(each)) or [each])]
            subprocess.run([sys.executable, name, *folders], check=True)
            scripts.append(name)
            continue
        more = ["--sensor=defocus"] if name == "evaluate.py" else []
        ended = program(name, *(changes.get(each, each) for each in arguments), *more)
        assert ended.returncode == 0, ended.stderr
    assert scripts == ["train_network.py"] * 3
    weights = {
        name: json.loads((home / f"runs/mine/{name}/fold_0/metrics.json").read_text())["weights"]
        for name in ("classes", "retrained", "masks")
    }
    assert len({str(each) for each in weights.values()}) == 3
    assert (home / "runs/mine/masks/adjustment").is_dir()
    assert (home / "mine.html").stat().st_size > 10_000


def test_a_detector_leads_from_frames_to_drifts_and_boxes(home):
    pytest.importorskip("torch")
    import small_detector

    page = PAGES["docs/tutorial_detector.md"]
    for name, arguments in lines(page):
        if name == "tests/fixtures/frames_of_cells.py":
            frames_of_cells.write(home, scenes=60, train=8, test=6)
            continue
        if name == "tests/fixtures/small_detector.py":
            small_detector.train(home, epochs=1)
            continue
        ended = program(name, *arguments, *(["--sensor=defocus"] if name == "evaluate.py" else []))
        assert ended.returncode == 0, ended.stderr
    found = json.loads((home / "runs/mine/detector/fold_0/metrics.json").read_text())
    assert found["val_samples"].keys() == {"granulocyte", "lymphocyte", "monocyte"}
    assert 0 < found["val_loss"] < 100
    assert len(json.loads((home / "boxes.json").read_text())["images"]) == 6
    assert len(list((home / "drawn").iterdir())) == 6
    assert (home / "detector.html").stat().st_size > 10_000


def test_a_task_of_ones_own_leads_from_fields_to_counts(home):
    counting, laws, score = code_blocks("python", PAGES["docs/tutorial_own_task.md"])
    (home / "counting.py").write_text(counting)
    (home / "my_score.py").write_text(score)
    exec(laws, {})
    for name, arguments in lines(PAGES["docs/tutorial_own_task.md"]):
        if name == "tests/fixtures/fields_of_cells.py":
            fields_of_cells.write(home, count=40)
            continue
        shorter = {
            "--epochs=20": "--epochs=1",
            "--warmup_epochs=2": "--warmup_epochs=0",
            "--test_size=100": "--test_size=8",
        }
        flags = [shorter.get(each, each) for each in arguments] + ["--batch_size=8"] * (name == "train.py")
        ended = program(name, *flags, *(["--sensor=defocus"] if name == "evaluate.py" else []))
        assert ended.returncode == 0, ended.stderr
    assert len((home / "counts.csv").read_text().splitlines()) == 41
    found = result.read(home / "runs/cells/counting/evaluation")
    assert found.metadata["score"] == "rightly_counted"


def test_a_custom_stage_is_tuned_and_becomes_onnx(home):
    pytest.importorskip("jax2onnx")
    stage, _, tune = code_blocks("python", PAGES["docs/tutorial_onnx.md"])
    (home / "my_isp.py").write_text(stage)
    found = {}
    exec(tune, found)
    assert float(found["values"]["strength"]) == pytest.approx(0.8, abs=0.01)
    assert (home / "isp.onnx").exists()


def test_a_jax_loop_computes_one_gradient_on_four_devices():
    (sharded,) = (each for each in code_blocks("python", PAGES["docs/tutorial_jax.md"]) if "shard_map" in each)
    flags = {"JAX_NUM_CPU_DEVICES": "4", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", sharded + "assert mesh.size == 4"], check=True, env=os.environ | flags)


def test_the_readme_shows_drift(home, monkeypatch):
    monkeypatch.setattr(tasks, "resnet", small_runs.resnet)
    (snippet,) = code_blocks("python", PAGES["README.md"])
    flags = ("--run_name=parametrized", "--epochs=2", "--warmup_epochs=0", "--synthetic_images=100")
    flags += ("--synthetic_size=32", "--batch_size=16")
    ended = program("train.py", f"--flagfile={ROOT}/configs/quickstart.flags", *flags)
    assert ended.returncode == 0, ended.stderr
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(snippet, {})
    assert len([float(line) for line in printed.getvalue().split()]) == 2

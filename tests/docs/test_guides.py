"""Guides as a user follows them from the first command to the last, in a minute."""

import json
import runpy
import shlex

import numpy as np
import pytest
from pages import PAGES, ROOT, code_blocks
from PIL import Image
from programs import program

import isp
from r2l_jax.data.sets import datasets
from r2l_jax.runtime import result

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def lines(text):
    """The programs and arguments of the commands."""
    for line in "".join(code_blocks("sh", text)).replace("\\\n", " ").splitlines():
        _, script, *arguments = shlex.split(line)
        yield script.removeprefix("scripts/"), arguments


def changed(text, changes):
    for each, other in changes.items():
        assert each in text
        text = text.replace(each, other)
    return text


def test_monitoring_leads_from_a_training_to_adapted_predictions(home):
    page = PAGES["docs/monitoring.md"]
    guide = page[page.index("## From training to an alarm") : page.index("## How drift is detected")]
    plant, plant_more = code_blocks("python", guide)
    (home / "flags").write_text("--epochs=3\n--overwrite\n")
    shorter = {"--synthetic_images=1080": "--synthetic_images=260", "--test_size=480": "--test_size=130"}
    statuses = []
    for name, arguments in lines(guide):
        if name == "monitor.py" and "--input=field" in arguments:
            exec(changed(plant, {"1080": "260", "1336": "516"}), {})
        if "--data_dir=labeled_tuesday" in arguments:
            exec(changed(plant_more, {"1336": "516", "1592": "772"}), {})
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


def test_your_model_leads_to_a_report(home):
    pytest.importorskip("torch")
    page = PAGES["docs/your_model.md"]
    network, training = code_blocks("python", page)
    fewer = {
        "synthetic_size=64, synthetic_images=1680": "synthetic_size=32, synthetic_images=184",
        "arange(1080, 1680)": "arange(120, 184)",
        "10 * 19": "1 * 2",
        "range(10)": "range(1)",
        "randperm(600)": "randperm(64)",
    }
    (home / "my_network.py").write_text(network)
    (home / "train_in_torch.py").write_text(changed(training, fewer))
    runpy.run_path("train_in_torch.py")
    dataset = datasets.load("Synthetic", synthetic_size=32, synthetic_images=120)
    for index in range(40):
        raw, label = dataset[index]
        picture = np.round(255 * np.asarray(isp.parametrized(dataset.camera)(raw))).astype(np.uint8)
        (home / "photos" / dataset.classes[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(home / "photos" / dataset.classes[label] / f"{index}.jpg")
    # One start and a few steps of each search.
    more = {
        "train.py": ["--overwrite"],
        "forensics.py": ["--starts=1", "--steps=3"],
        "evaluate.py": ["--corruptions=contrast", "--pipelines=bilinear.none.none"],
    }
    shorter = {"--synthetic_size=64": "--synthetic_size=32", "--synthetic_images=1080": "--synthetic_images=120"}
    shorter |= {"--test_size=480": "--test_size=40", "--epochs=20": "--epochs=1"}
    for name, arguments in lines(page):
        ended = program(name, *(shorter.get(each, each) for each in arguments), *more.get(name, ()))
        assert ended.returncode == 0, ended.stderr
    taken, learned, metered = (
        json.loads((home / "runs/mine" / name / "fold_0/metrics.json").read_text())
        for name in ("as_it_is", "learned", "metering")
    )
    assert taken["weights"] == learned["weights"]
    assert (taken["flags"]["auto"], metered["flags"]["auto"]) == ([], ["exposure", "white_balance"])
    assert np.isfinite(learned["val_loss"])
    assert (home / "mine.html").stat().st_size > 10_000

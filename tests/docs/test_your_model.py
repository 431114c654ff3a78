"""docs/your_model.md, as a user follows it."""

import json
import runpy
import shlex

import numpy as np
import pytest
from pages import PAGES, code_blocks
from PIL import Image
from programs import program

import isp
from r2l_jax.data.sets import datasets

pytest.importorskip("torch")

PAGE = PAGES["docs/your_model.md"]

# So that it takes a minute: one start and a few steps of each search.
FEWER = {
    "train.py": ["--overwrite"],
    "forensics.py": ["--starts=1", "--steps=3"],
    "adjust.py": [],
    "evaluate.py": ["--corruptions=contrast", "--pipelines=bilinear.none.none"],
}
SHORTER = {"--synthetic_size=64": "--synthetic_size=32", "--synthetic_images=1080": "--synthetic_images=120"}
SHORTER |= {"--test_size=480": "--test_size=40", "--epochs=20": "--epochs=1"}


@pytest.mark.slow
def test_the_guide_leads_to_a_report(tmp_path, monkeypatch):
    network, training = code_blocks("python", PAGE)
    fewer = {
        "synthetic_size=64, synthetic_images=1680": "synthetic_size=32, synthetic_images=184",
        "arange(1080, 1680)": "arange(120, 184)",
        "10 * 19": "1 * 2",
        "range(10)": "range(1)",
        "randperm(600)": "randperm(64)",
    }
    for each, changed in fewer.items():
        assert each in training
        training = training.replace(each, changed)
    (tmp_path / "my_network.py").write_text(network)
    (tmp_path / "train_in_torch.py").write_text(training)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    runpy.run_path("train_in_torch.py")
    dataset = datasets.load("Synthetic", synthetic_size=32, synthetic_images=120)
    for index in range(40):
        raw, label = dataset[index]
        picture = np.round(255 * np.asarray(isp.parametrized(dataset.camera)(raw))).astype(np.uint8)
        (tmp_path / "photos" / dataset.classes[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(tmp_path / "photos" / dataset.classes[label] / f"{index}.jpg")
    lines = "".join(code_blocks("sh", PAGE)).replace("\\\n", " ").splitlines()
    assert len(lines) == 8
    for line in lines:
        _, script, *arguments = shlex.split(line)
        name = script.removeprefix("scripts/")
        ended = program(name, *(SHORTER.get(each, each) for each in arguments), *FEWER.get(name, ()))
        assert ended.returncode == 0, ended.stderr
    taken, learned = (
        json.loads((tmp_path / "runs/mine" / name / "fold_0/metrics.json").read_text())
        for name in ("as_it_is", "learned")
    )
    assert taken["weights"] == learned["weights"]
    metered = json.loads((tmp_path / "runs/mine/metering/fold_0/metrics.json").read_text())
    assert (taken["flags"]["auto"], metered["flags"]["auto"]) == ([], ["exposure", "white_balance"])
    assert len(taken["history"]) == 1
    assert np.isfinite(learned["val_loss"])
    assert (tmp_path / "mine.html").stat().st_size > 10_000

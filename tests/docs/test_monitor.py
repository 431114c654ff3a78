"""docs/monitor.md: the guide, as a user follows it."""

import json
import shlex

import pytest
from pages import PAGES, ROOT, code_blocks
from programs import program

PAGE = PAGES["docs/monitor.md"]
GUIDE = PAGE[PAGE.index("## From a training to an alarm") : PAGE.index("## When there is an alarm")]

# So that it takes a minute.
SHORTER = {"--synthetic_images=1080": "--synthetic_images=260", "--test_size=480": "--test_size=130"}


@pytest.mark.slow
def test_the_guide_leads_from_a_training_to_mended_predictions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plant, plant_more = code_blocks("python", GUIDE)
    assert (plant_more.count("1336"), plant_more.count("1592")) == (1, 2)
    assert plant.count("1080") == 2
    assert plant.count("1336") == 2
    (tmp_path / "flags").write_text("--epochs=3\n--overwrite\n")
    lines = "".join(code_blocks("sh", GUIDE)).replace("\\\n", " ").splitlines()
    statuses = []
    for line in lines:
        _, script, *arguments = shlex.split(line)
        name = script.removeprefix("scripts/")
        if name == "monitor.py" and "--input=field" in arguments:
            exec(compile(plant.replace("1080", "260").replace("1336", "516"), "docs/monitor.md", "exec"), {})
        if "--data_dir=labeled_tuesday" in arguments:
            exec(compile(plant_more.replace("1336", "516").replace("1592", "772"), "docs/monitor.md", "exec"), {})
        flags = [SHORTER.get(each, each) for each in arguments]
        flags = [each.replace("configs/", f"{ROOT}/configs/") for each in flags]
        more = ["--flagfile=flags"] if name == "train.py" and "--epochs=0" not in arguments else []
        ended = program(name, *flags, *more)
        assert ended.returncode in (0, 2), ended.stderr
        statuses.append((name, ended.returncode))
    assert statuses.pop(2) == ("monitor.py", 2)
    assert {status for _, status in statuses} == {0}
    content = json.loads((tmp_path / "runs/quickstart/watched/monitor/monitor.json").read_text())
    assert [window["name"].split()[0] for window in content["windows"] if window["alarm"]] == ["field/tuesday"] * 2
    assert "exposure" in {cause["name"] for cause in content["causes"]}
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 129

"""Which pictures of synthesised sets are made anew when something has changed."""

import csv
import json
import os
import shutil
import signal

import pytest
from changes import change_camera, change_mask, change_pixel

from r2l_jax.data.sets import datasets
from r2l_jax.drift.synthesis import synthesis
from r2l_jax.drift.synthesis.config import SynthesisConfig
from r2l_jax.drift.synthesis.picture_sets import SetFolder
from r2l_jax.runtime import store
from r2l_jax.runtime.stop import Interrupted

IMAGES, CHANGED = 10, 3
SETS = ("parametrized/iso=1/uncorrupted", "parametrized/iso=0.05/uncorrupted", "parametrized/exposure=0.5/uncorrupted")
FULL = (SETS[0], SETS[2])


@pytest.fixture(scope="module", params=["Synthetic", "SyntheticSegmentation"])
def finished(request, tmp_path_factory):
    """A data set, and the folder of it and of its sets."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthesis, "_PIXELS", 5 * 32 * 32)
        synthesis.run(config(request.param, folder))
        yield request.param, folder


def config(dataset, folder):
    return SynthesisConfig(
        output=str(folder / "sets"), dataset=dataset, data_dir=str(folder / "data"), synthetic_images=IMAGES,
        synthetic_size=32, intensities=(1.0, 0.05), exposures=(0.5,),
    )  # fmt: skip


@pytest.fixture
def place(finished, tmp_path):
    """The data set's name, and a copy of its folder, to change."""
    dataset, folder = finished
    shutil.copytree(folder, tmp_path / "place")
    return dataset, tmp_path / "place"


@pytest.fixture
def written(monkeypatch):
    """The sets and the samples' indices of the pictures that are written."""
    pictures, write = [], SetFolder.write

    def spy(self, index, contents):
        pictures.append((self.pictures.name, index))
        return write(self, index, contents)

    monkeypatch.setattr(SetFolder, "write", spy)
    return pictures


def file(place, folder):
    (root,) = (place[1] / "data").glob("synthetic*")
    return sorted((root / folder).iterdir())[CHANGED]


CHANGES = {
    "nothing": lambda place, patch: None,
    "a pixel": lambda place, patch: change_pixel(file(place, "images/raw_scale100")),
    "a pixel at an intensity": lambda place, patch: change_pixel(file(place, "images/raw_scale005")),
    "a mask": lambda place, patch: change_mask(file(place, "masks")),
    "the camera": lambda place, patch: change_camera(next((place[1] / "data").rglob("camera.json"))),
    "the source": lambda place, patch: patch.setattr(store, "source_hash", lambda: "other"),
    "jaxlib": lambda place, patch: patch.setattr(store, "_versions", lambda: {"jax": "1", "jaxlib": "2"}),
}
EVERY = [(name, index) for name in SETS for index in range(IMAGES)]


def expected(dataset, change):
    return {
        "nothing": [],
        "a pixel": [(name, CHANGED) for name in FULL],
        "a pixel at an intensity": [(SETS[1], CHANGED)],
        "a mask": [(name, CHANGED) for name in SETS] if dataset == "SyntheticSegmentation" else [],
    }.get(change, EVERY)


@pytest.mark.parametrize("change", CHANGES)
def test_what_has_changed_is_made_anew_and_nothing_else(place, written, monkeypatch, change):
    CHANGES[change](place, monkeypatch)
    synthesis.run(config(*place))
    assert sorted(written) == sorted(expected(place[0], change))
    written.clear()
    synthesis.run(config(*place))
    assert written == []


def test_what_is_made_anew_is_said(place, monkeypatch, capsys):
    CHANGES["a pixel at an intensity"](place, monkeypatch)
    synthesis.run(config(*place))
    assert f"1 of the pictures of {SETS[1]}: made anew (their samples have changed)\n" in capsys.readouterr().err
    CHANGES["the source"](place, monkeypatch)
    synthesis.run(config(*place))
    assert f"{', '.join(SETS)}: made anew (the source code has changed)\n" in capsys.readouterr().err


def test_an_interruption_leaves_no_old_picture(place, written, monkeypatch):
    CHANGES["the source"](place, monkeypatch)
    sets = place[1] / "sets"
    (sets / SETS[0] / "mine.tiff").touch()
    add, signals = SetFolder.add, iter([signal.SIGINT])

    def interrupting(self, digests):
        for one in signals:
            os.kill(os.getpid(), one)
        add(self, digests)

    with monkeypatch.context() as patch:
        patch.setattr(SetFolder, "add", interrupting)
        with pytest.raises(Interrupted):
            synthesis.run(config(*place))
    assert 0 < len(written) < len(EVERY)
    assert len(list(sets.rglob("*.tiff"))) == len(written) + 1
    synthesis.run(config(*place))
    assert sorted(written) == sorted(EVERY)
    assert (sets / SETS[0] / "mine.tiff").exists()


def test_each_set_has_its_identity_and_each_picture_its_samples(place):
    dataset = datasets.load(place[0], data_dir=place[1] / "data", iso=0.05, synthetic_images=IMAGES, synthetic_size=32)
    identity = json.loads((place[1] / "sets/manifest.json").read_text())["identities"][SETS[1]]
    assert identity["data"] == dataset.content
    assert identity["source"] == store.source_hash()
    with (place[1] / "sets" / SETS[1] / "manifest.csv").open(newline="") as manifest:
        rows = list(csv.DictReader(manifest))
    assert [row["sample_hash"] for row in rows] == dataset.sample_hashes(range(IMAGES))

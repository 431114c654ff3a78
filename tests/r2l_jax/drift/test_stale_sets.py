"""Which pictures of synthesised sets are made anew when something has changed."""

import csv
import json
import os
import shutil
import signal

import pytest
from changes import change_camera, change_mask, change_pixel

from r2l_jax.drift.synthesis import synthesis
from r2l_jax.drift.synthesis.config import SynthesisConfig
from r2l_jax.drift.synthesis.picture_sets import SetFolder
from r2l_jax.runtime import store
from r2l_jax.runtime.stop import Interrupted

IMAGES, CHANGED = 10, 3
SETS = ("parametrized/iso=1/uncorrupted", "parametrized/iso=0.05/uncorrupted", "parametrized/exposure=0.5/uncorrupted")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a data set and of its sets."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthesis, "_PIXELS", 5 * 32 * 32)
        synthesis.run(config(folder))
        yield folder


def config(folder):
    return SynthesisConfig(
        output=str(folder / "sets"),
        dataset="SyntheticSegmentation",
        data_dir=str(folder / "data"),
        synthetic_images=IMAGES,
        synthetic_size=32,
        intensities=(1.0, 0.05),
        exposures=(0.5,),
    )


@pytest.fixture
def place(finished, tmp_path):
    """A copy of it, to change."""
    return shutil.copytree(finished, tmp_path / "place")


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
    (root,) = (place / "data").glob("synthetic*")
    return sorted((root / folder).iterdir())[CHANGED]


EVERY = [(name, index) for name in SETS for index in range(IMAGES)]
CHANGES = {
    "nothing": lambda place, patch: None,
    "a pixel": lambda place, patch: change_pixel(file(place, "images/raw_scale100")),
    "a pixel at an intensity": lambda place, patch: change_pixel(file(place, "images/raw_scale005")),
    "a mask": lambda place, patch: change_mask(file(place, "masks")),
    "the camera": lambda place, patch: change_camera(next((place / "data").rglob("camera.json"))),
    "the source": lambda place, patch: patch.setattr(store, "source_hash", lambda: "other"),
    "jaxlib": lambda place, patch: patch.setattr(store.jaxlib.version, "__version__", "2"),
}


@pytest.mark.parametrize(
    ("change", "anew"),
    [
        ("nothing", []),
        ("a pixel", [(SETS[0], CHANGED), (SETS[2], CHANGED)]),
        ("a pixel at an intensity", [(SETS[1], CHANGED)]),
        ("a mask", [(name, CHANGED) for name in SETS]),
        ("the camera", EVERY),
        ("the source", EVERY),
        ("jaxlib", EVERY),
    ],
)
def test_what_has_changed_is_made_anew_and_nothing_else(place, written, monkeypatch, change, anew):
    CHANGES[change](place, monkeypatch)
    synthesis.run(config(place))
    assert sorted(written) == sorted(anew)
    written.clear()
    synthesis.run(config(place))
    assert written == []


def test_what_is_made_anew_is_said(place, monkeypatch, capsys):
    CHANGES["a pixel at an intensity"](place, monkeypatch)
    synthesis.run(config(place))
    assert f"1 of the pictures of {SETS[1]}: made anew (their samples have changed)\n" in capsys.readouterr().err
    CHANGES["the source"](place, monkeypatch)
    synthesis.run(config(place))
    assert f"{', '.join(SETS)}: made anew (other source)\n" in capsys.readouterr().err


def test_an_interruption_leaves_no_old_picture(place, written, monkeypatch):
    CHANGES["the source"](place, monkeypatch)
    sets = place / "sets"
    (sets / SETS[0] / "mine.tiff").touch()
    add, signals = SetFolder.add, iter([signal.SIGINT])

    def interrupting(self, digests):
        for one in signals:
            os.kill(os.getpid(), one)
        add(self, digests)

    with monkeypatch.context() as patch:
        patch.setattr(SetFolder, "add", interrupting)
        with pytest.raises(Interrupted):
            synthesis.run(config(place))
    assert 0 < len(written) < len(EVERY)
    assert len(list(sets.rglob("*.tiff"))) == len(written) + 1
    synthesis.run(config(place))
    assert sorted(written) == sorted(EVERY)
    assert (sets / SETS[0] / "mine.tiff").exists()


def test_each_set_has_its_identity_and_each_picture_its_samples(place):
    dataset = synthesis.load(config(place))[0.05]
    identity = json.loads((place / "sets/manifest.json").read_text())["identities"][SETS[1]]
    assert identity["data"] == store.hash_json(dataset.content)
    assert identity["source"] == store.source_hash()
    with (place / "sets" / SETS[1] / "manifest.csv").open(newline="") as manifest:
        rows = list(csv.DictReader(manifest))
    assert [row["sample_hash"] for row in rows] == dataset.sample_hashes(range(IMAGES))

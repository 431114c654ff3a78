import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from r2l_jax.data.sets import datasets
from r2l_jax.drift.adjustment import adaptation, drifts
from r2l_jax.drift.adjustment.config import AdaptationConfig
from r2l_jax.drift.search.measure import Measured
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.flags import replace
from r2l_jax.runtime.stop import Interrupted
from r2l_jax.training.run import open_runs


@pytest.fixture(scope="module")
def config(one_epoch, tmp_path_factory):
    return AdaptationConfig(
        run=str(one_epoch.run_dir),
        output=str(tmp_path_factory.mktemp("adjustment")),
        exposures=(0.25,),
        pipelines=("malvar2004.unsharp_masking.median_denoising",),
        labeled=8,
        starts=2,
        steps=4,
        batch_size=8,
        track_n_images=2,
    )


DRIFTS = ("exposure=0.25", "malvar2004.unsharp_masking.median_denoising")


@pytest.fixture(scope="module")
def result(config):
    return adaptation.run(config)


@pytest.mark.parametrize("drift", DRIFTS)
def test_the_start_of_the_lowest_labeled_loss_is_taken(result, drift):
    one = result["folds"][0][drift]
    best = min(one["starts"], key=lambda start: start["labelled_loss"])
    assert [start["stops"] for start in one["starts"]] == [None, 0, 1]
    assert one["start"] == best["stops"]
    assert one["after"] == best["score"]
    assert one["before"] == one["starts"][0]["score"]
    lost = one["undrifted"] - one["before"]
    assert one["won_back"] == (pytest.approx((one["after"] - one["before"]) / lost) if lost > 0 else None)


def test_labeled_images_choose_and_others_tell_how_much_is_won_back(config, tmp_path, monkeypatch):
    """Labelled images favor another end than the measured ones, whose loss and score disagree as well."""
    seen = []

    class Stub:
        def __init__(self, frozen):
            pass

        def measure(self, parameters, batches, tick=None):
            seen.append({int(index) for batch in batches for index in batch["index"][batch["weight"] > 0]})
            table = {
                1: [(0.5, 0.2), (0.3, 0.1), (0.4, 0.9)],
                2: [(0.4, 0.4), (0.6, 0.7), (0.2, 0.8)],
                3: [(0.1, 0.9)],
            }[len(seen)]
            return [Measured(loss, score, 1.0, np.zeros((1, 2, 2))) for loss, score in table]

    monkeypatch.setattr(adaptation, "Measurer", Stub)
    one = adaptation.run(replace(config, output=str(tmp_path), pipelines=(), labeled=7))["folds"][0]["exposure=0.25"]
    assert (one["undrifted"], one["before"], one["after"], one["start"]) == (0.9, 0.4, 0.7, 0)
    assert one["won_back"] == pytest.approx((0.7 - 0.4) / (0.9 - 0.4))
    labeled, measured, own = seen
    assert (len(labeled), len(measured)) == (7, 8)
    assert not labeled & measured
    assert measured == own


def test_only_the_parameters_asked_for_move(config, result):
    one = result["folds"][0]["exposure=0.25"]
    assert set(one["parameters"]) == set(one["default"])
    for name, value in one["parameters"].items():
        if one["start"] is None or name == "debayer":
            assert value == one["default"][name], name
        else:
            assert value != one["default"][name], name


def test_what_is_undrifted_does_not_depend_on_the_drift(result):
    assert len({one["undrifted"] for one in result["folds"][0].values()}) == 1


def test_files_hold_what_was_returned(config, result):
    written = json.loads((config.output_dir / "adaptation.json").read_text())
    assert written["drifts"] == result["drifts"]
    assert list(written["drifts"]) == list(DRIFTS)
    for drift in DRIFTS:
        folder = config.output_dir / "fold_0" / drift
        assert json.loads((folder / "adaptation.json").read_text()) == result["folds"][0][drift]
        assert sorted(path.name for path in folder.glob("*.png")) == ["curves.png", "pictures.png"]
        assert list(folder.glob("events.*"))
        assert not (folder / "unfinished.npz").exists()
        with Image.open(folder / "pictures.png") as picture:
            assert np.asarray(picture).std() > 0


def test_a_finished_drift_is_not_adapted_to_again(config, result, monkeypatch):
    def adapt(*arguments):
        raise AssertionError

    monkeypatch.setattr(adaptation, "_adapt", adapt)
    assert adaptation.run(config)["folds"] == result["folds"]
    with pytest.raises(AssertionError):
        adaptation.run(replace(config, steps=5))
    # Others are added.
    with pytest.raises(AssertionError):
        adaptation.run(replace(config, exposures=(0.25, 0.5)))


def test_other_data_is_split_into_labeled_and_measured(base, config, monkeypatch):
    data = datasets.load(base.data.dataset, **base.data.source)
    others = dataclasses.replace(data, names=tuple(f"other {name}" for name in data.names))
    ((fold,),) = open_runs([config.run])
    monkeypatch.setattr(drifts.datasets, "load", lambda name, **settings: others)
    drift = replace(config, exposures=(), pipelines=(), drifted_data_dir=base.data.data_dir)
    under = drifts.drifted(drift, fold, *drift.drifts())
    assert len(under.labeled) == 8
    assert sorted([*under.labeled, *under.measured]) == list(range(40))
    message = "--labeled=40 is too many for data: it has 40 images to adapt by and 0 others to measure on"
    with pytest.raises(InputError, match=message):
        drifts.drifted(dataclasses.replace(drift, labeled=40), fold, *drift.drifts())


def test_the_same_scenes_taken_anew_are_split_as_in_training(base, config, tmp_path):
    drift = replace(
        config, output=str(tmp_path), exposures=(), pipelines=(), drifted_data_dir=base.data.data_dir, steps=1
    )
    one = adaptation.run(drift)["folds"][0]["data"]
    assert one["before"] == one["undrifted"]
    assert one["won_back"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"exposures": (), "pipelines": ()}, "no drift to adapt to: give --intensities"),
        ({"parameters": ("hue",)}, "--parameters must be of all, black_level, .* got 'hue'"),
        ({"run": "nowhere"}, "--run=nowhere is no run's folder: not found"),
        ({"labeled": 33}, "--labeled=33 is too many for exposure=0.25: it has 32 images to adapt by and 8 others"),
        ({"labeled": 0}, "--labeled must be positive, got 0"),
        ({"starts": 10}, "--starts must be at most 9, got 10"),
        ({"lr": float("nan")}, "--lr must be positive, got nan"),
        ({"pipelines": ("sobel",)}, "--pipelines: no pipeline is called 'sobel'"),
        ({"intensities": (0.3,)}, "--intensities must be of the measured ones, .* got 0.3"),
        ({"cameras": ("nikon",)}, "--cameras must be drone, microscopy, auto or a JSON file, got 'nikon'"),
        ({"cameras": ("auto",)}, "--cameras=auto: mosaics are taken of the data set's scenes"),
        ({"cameras": ("drone", "my/drone.json")}, "--cameras: two of drone, my/drone.json have one name"),
        ({"drifted_data_dir": "nowhere"}, "--drifted_data_dir=nowhere is no folder"),
        (
            {"drifted_camera": "drone"},
            "--drifted_camera is the camera of --drifted_data_dir: give --drifted_data_dir as well",
        ),
    ],
)
def test_refuses(config, change, message):
    with pytest.raises(InputError, match=message):
        adaptation.run(replace(config, **change))


def test_a_stop_is_a_factor_of_two(config, tmp_path, monkeypatch):
    started = []

    def start(self, searches, *arguments):
        started.extend(searches)
        raise Interrupted("seen")

    monkeypatch.setattr(adaptation.Searcher, "run", start)
    with pytest.raises(Interrupted, match="seen"):
        adaptation.run(replace(config, output=str(tmp_path), pipelines=(), starts=9))
    assert [search.exposure for search in started] == [1, 2, 4, 8, 16, 32, 64, 1 / 2, 1 / 4]

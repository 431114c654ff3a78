import dataclasses
import json

import brightness
import numpy as np
import pytest

from r2l_jax.drift.adjustment import adaptation, drifts
from r2l_jax.drift.adjustment.config import AdaptationConfig
from r2l_jax.drift.search.measure import Measured
from r2l_jax.drift.search.searcher import Found
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.flags import build, replace
from r2l_jax.runtime.stop import Interrupted
from r2l_jax.training.run import Run

# At a quarter of the light, all images are dark; two stops more, a gain of four, bring the bright ones back.
INTENSITIES = [0.2, 0.25, 0.7, 0.8] * 10
DATASET = brightness.images(INTENSITIES, np.array(INTENSITIES) > brightness.BRIGHT)


@pytest.fixture(scope="module")
def fold():
    return brightness.fold(DATASET, np.arange(8, 40), np.arange(8))


@pytest.fixture(scope="module", autouse=True)
def loaded(fold):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adaptation, "open_runs", lambda *arguments: [Run([fold])])
        yield


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return build(
        AdaptationConfig, run="run", output=str(tmp_path_factory.mktemp("adjustment")), exposures=(0.25,), labeled=8,
        starts=3, steps=2, batch_size=8, parameters=("white_balance", "gamma_correct"), track_n_images=2,
    )  # fmt: skip


@pytest.fixture(scope="module")
def result(config):
    return adaptation.run(config)


def test_the_start_of_the_lowest_labeled_loss_wins_the_score_back(result):
    one = result["folds"][0]["exposure=0.25"]
    assert [start["stops"] for start in one["starts"]] == [None, 0, 1, 2]
    assert [start["score"] for start in one["starts"]] == [0.5, 0.5, 0.5, 1]
    assert one["start"] == min(one["starts"], key=lambda start: start["labelled_loss"])["stops"] == 2
    assert (one["undrifted"], one["before"], one["after"], one["won_back"]) == (1, 0.5, 1, 1)
    assert result["drifts"]["exposure=0.25"]["won_back"] == {"mean": 1, "std": 0, "folds": [1]}
    # The parameters that were not asked for stay.
    for name, value in one["parameters"].items():
        assert (value != one["default"][name]) == (name in ("white_balance", "gamma_correct")), name
    # The search goes on from a gain of four, downhill.
    assert np.array(one["parameters"]["white_balance"]) == pytest.approx(4, rel=0.05)


def test_labeled_images_choose_and_others_tell_how_much_is_won_back(config, tmp_path, monkeypatch):
    """Labeled images favor another end than the measured ones, whose loss and score disagree as well.

    The second drift costs nothing that could be won back.
    """
    seen = []
    favored = ([(0.5, 0.2), (0.3, 0.1), (0.4, 0.9)], [(0.4, 0.4), (0.6, 0.7), (0.2, 0.8)], [(0.1, 0.9)])
    harmless = ([(0.5, 0.2)] * 3, [(0.4, 0.9)] * 3, [(0.1, 0.9)])
    tables = iter((*favored, *harmless))

    class Stub:
        def __init__(self, frozen):
            pass

        def measure_samples(self, parameters, dataset, indices, *options):
            seen.append(set(indices.tolist()))
            return [Measured(loss, score, 1.0, np.zeros((1, 2, 2))) for loss, score in next(tables)]

    def search(self, searches, *options):
        return [Found(brightness.frozen(DATASET).default, np.ones(1), np.zeros(1)) for _ in searches]

    monkeypatch.setattr(adaptation, "Measurer", Stub)
    monkeypatch.setattr(adaptation.Searcher, "run", search)
    config = replace(config, output=str(tmp_path), pipelines=("bilinear.none.none",), labeled=7, starts=2)
    result = adaptation.run(config)
    one, other = result["folds"][0].values()
    assert list(result["folds"][0]) == list(result["drifts"]) == ["exposure=0.25", "bilinear.none.none"]
    assert (other["undrifted"], other["before"], other["won_back"]) == (0.9, 0.9, None)
    assert result["drifts"]["bilinear.none.none"]["won_back"] == {"mean": None, "std": None, "folds": [None]}
    assert (one["undrifted"], one["before"], one["after"], one["start"]) == (0.9, 0.4, 0.7, 0)
    assert one["won_back"] == pytest.approx((0.7 - 0.4) / (0.9 - 0.4))
    labeled, measured, own = seen[:3]
    assert len(labeled) == 7
    assert labeled < set(range(8, 40))
    assert measured == own == set(range(8))


def test_files_hold_the_content(config, result, capsys):
    written = json.loads((config.output_dir / "adaptation.json").read_text())
    assert written["drifts"] == result["drifts"]
    folder = config.output_dir / "fold_0" / "exposure=0.25"
    assert json.loads((folder / "adaptation.json").read_text()) == result["folds"][0]["exposure=0.25"]
    assert sorted(path.name for path in folder.glob("*.png")) == ["curves.png", "pictures.png"]
    assert list(folder.glob("events.*"))
    assert not (folder / "unfinished.npz").exists()
    adaptation.run(config)
    printed = capsys.readouterr().out
    assert "fold 0: exposure=0.25\n" in printed
    assert next(line.split()[2] for line in printed.splitlines() if line.startswith("+2 stops")) == "*"
    rows = [line.split() for line in printed.splitlines()]
    assert ["exposure=0.25", "1.0000", "0.5000", "1.0000", "100%"] in rows


def test_other_data_is_split_into_labeled_and_measured(config, fold, tmp_path, monkeypatch):
    others = dataclasses.replace(DATASET, names=tuple(f"other {name}" for name in DATASET.names))
    monkeypatch.setattr(drifts.datasets, "load", lambda name, **settings: others)
    config = replace(config, exposures=(), pipelines=(), drifted_data_dir=str(tmp_path))
    under = drifts.drifted(config, fold, *config.drifts)
    assert len(under.labeled) == 8
    assert sorted([*under.labeled, *under.measured]) == list(range(40))
    message = "--labeled=40 is too many for data: it has 40 images to adapt by and 0 others to measure on"
    with pytest.raises(InputError, match=message):
        drifts.drifted(replace(config, labeled=40), fold, *config.drifts)
    for change, message in (
        ({"classes": ("a", "b")}, "must have the classes dark, bright, got a, b"),
        ({"camera": dataclasses.replace(brightness.CAMERA, pattern="BGGR")}, "must have the pattern RGGB, got BGGR"),
    ):
        others = dataclasses.replace(DATASET, **change)
        with pytest.raises(InputError, match=message):
            drifts.drifted(config, fold, *config.drifts)
    # The same scenes taken anew are split as in training.
    others = DATASET
    under = drifts.drifted(config, fold, *config.drifts)
    assert set(under.labeled) < set(range(8, 40))
    assert list(under.measured) == list(range(8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"exposures": (), "pipelines": ()}, "no drift to adapt to: give --intensities"),
        ({"parameters": ("hue",)}, "--parameters must be of all, black_level, .* got 'hue'"),
        ({"labeled": 33}, "--labeled=33 is too many for exposure=0.25: it has 32 images to adapt by and 8 others"),
        ({"labeled": 0}, "--labeled must be positive, got 0"),
        ({"starts": 10}, "--starts must be at most 9, got 10"),
        ({"lr": float("nan")}, "--lr must be positive, got nan"),
        ({"pipelines": ("sobel",)}, "--pipelines: no pipeline is called 'sobel'"),
        ({"cameras": ("nikon",)}, "--cameras must be drone, microscopy, auto or a JSON file, got 'nikon'"),
        ({"cameras": ("auto",)}, "--cameras=auto: mosaics are taken of the data set's scenes"),
        ({"cameras": ("drone", "my/drone.json")}, "--cameras: two of drone, my/drone.json have one name"),
        ({"drifted_data_dir": "nowhere"}, "--drifted_data_dir=nowhere is not a folder"),
        ({"drifted_camera": "drone"}, "of --drifted_data_dir: give --drifted_data_dir as well"),
    ],
)
def test_refuses(config, change, message):
    with pytest.raises(InputError, match=message):
        adaptation.run(replace(config, **change))


def test_a_stop_is_a_factor_of_two(config, tmp_path, monkeypatch):
    started = []

    def start(self, searches, *arguments):
        started.append(searches)
        raise Interrupted("seen")

    monkeypatch.setattr(adaptation.Searcher, "run", start)
    # Without gains there is nothing to start from but the default.
    for parameters in ((), ("gamma_correct",)):
        with pytest.raises(Interrupted, match="seen"):
            adaptation.run(replace(config, output=str(tmp_path), pipelines=(), starts=9, parameters=parameters))
    exposures = [[search.exposure for search in searches] for searches in started]
    assert exposures == [[1, 2, 4, 8, 16, 32, 64, 1 / 2, 1 / 4], [1]]
    assert {search.group for search in started[1]} == {("gamma_correct",)}

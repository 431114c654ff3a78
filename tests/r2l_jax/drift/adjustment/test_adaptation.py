import dataclasses
import json
import re

import brightness
import numpy as np
import pytest
import tifffile
from PIL import Image

import isp
from r2l_jax.config import TrainConfig
from r2l_jax.data.sets import datasets
from r2l_jax.drift import outcomes, statistics
from r2l_jax.drift.adjustment import adaptation, drifts, methods
from r2l_jax.drift.adjustment.config import AdaptationConfig
from r2l_jax.drift.results import Estimate, plain
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
        patch.setattr(adaptation, "load", lambda *_, **__: Run([fold]))
        yield


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return build(
        AdaptationConfig,
        run="run",
        output=str(tmp_path_factory.mktemp("adjustment")),
        exposures=(0.25,),
        unlabeled=0,
        labeled=8,
        starts=3,
        steps=2,
        batch_size=8,
        parameters=("white_balance", "gamma_correct"),
        track_n_images=2,
    )


@pytest.fixture(scope="module")
def result(config):
    return adaptation.run(config)


def test_the_start_of_the_lowest_labeled_loss_wins_the_score_back(result):
    one = result["folds"][0]["exposure=0.25"]
    assert [start["stops"] for start in one["starts"]] == [None, 0, 1, 2]
    assert [start["score"] for start in one["starts"]] == [0.5, 0.5, 0.5, 1]
    assert one["start"] == min(one["starts"], key=lambda start: start["labelled_loss"])["stops"] == 2
    assert (one["undrifted"], one["before"], one["after"], one["won_back"]) == (1, 0.5, 1, 1)
    drift = result["drifts"]["exposure=0.25"]
    assert drift["won_back"] == {"mean": 1, "std": 0, "folds": [1]}
    assert [drift["intervals"][name]["estimate"] for name in ("undrifted", "before", "after", "won_back")] == [
        1,
        0.5,
        1,
        0.5,
    ]
    assert one["measured"] == drift["measured"] == "validation samples"
    assert (drift["samples"], result["about"]) == (8, "model")
    # The parameters that were not asked for stay.
    for name, value in one["parameters"].items():
        assert (value != one["default"][name]) == (name in ("white_balance", "gamma_correct")), name
    # The search goes on from a gain of four, downhill.
    assert np.array(one["parameters"]["white_balance"]) == pytest.approx(4, rel=0.05)


def confusions(right):
    """The confusion matrices of samples of the first class that are right or not."""
    right = np.asarray(right, float)
    return np.stack([right, 1 - right], -1)[:, None] * [[1], [0]]


def search(self, frozen, searches, *options):
    return [Found(brightness.frozen(DATASET).default, np.ones(1), np.zeros(1)) for _ in searches]


def test_labeled_images_choose_and_others_tell_how_much_is_won_back(config, tmp_path, monkeypatch):
    """Labeled images favor another end than the measured ones, whose loss and score disagree as well.

    The second drift costs nothing that could be won back.
    """
    seen = []
    favored = ([(0.5, 0.2), (0.3, 0.1), (0.4, 0.9)], [(0.4, 0.4), (0.6, 0.7), (0.2, 0.8)])
    harmless = ([(0.5, 0.2)] * 3, [(0.4, 0.9)] * 3)
    tables = iter((*favored, *harmless))
    # Undrifted, before and after.
    correct = iter((7, 3, 5, 7, 7, 7))

    class Stub:
        def __init__(self, frozen):
            pass

        def measure_samples(self, parameters, dataset, indices, *options):
            seen.append(set(indices.tolist()))
            return [Measured(loss, score, 1.0, np.zeros((8, 2, 2))) for loss, score in next(tables)]

    def confusions_of(model, task, batches):
        seen.append({index for batch in batches for index in batch["index"].tolist()})
        return confusions(np.arange(8) < next(correct))

    monkeypatch.setattr(methods, "Measurer", Stub)
    monkeypatch.setattr(methods.Searcher, "run", search)
    monkeypatch.setattr(adaptation, "confusions_of", confusions_of)
    config = replace(config, output=str(tmp_path), pipelines=("bilinear.none.none",), labeled=7, starts=2)
    result = adaptation.run(config)
    one, other = result["folds"][0].values()
    assert list(result["folds"][0]) == list(result["drifts"]) == ["exposure=0.25", "bilinear.none.none"]
    assert (other["undrifted"], other["before"], other["won_back"]) == (0.875, 0.875, None)
    assert result["drifts"]["bilinear.none.none"]["won_back"] == {"mean": None, "std": None, "folds": [None]}
    assert (one["undrifted"], one["before"], one["after"], one["start"]) == (0.875, 0.375, 0.625, 0)
    assert one["won_back"] == pytest.approx((0.625 - 0.375) / (0.875 - 0.375))
    assert [start["score"] for start in one["starts"]] == [0.4, 0.7, 0.8]
    labeled, measured, own, before, after = seen[:5]
    assert len(labeled) == 7
    assert labeled < set(range(8, 40))
    assert measured == own == before == after == set(range(8))


def test_files_hold_the_content(config, result, capsys):
    written = json.loads((config.output_dir / "adaptation.json").read_text())
    assert written["drifts"] == result["drifts"]
    folder = config.output_dir / "fold_0" / "exposure=0.25"
    assert json.loads((folder / "adaptation.json").read_text()) == result["folds"][0]["exposure=0.25"]
    assert sorted(path.name for path in folder.glob("*.png")) == ["curves.png", "pictures.png"]
    assert list(folder.glob("events.*"))
    kept = outcomes.read(folder / "outcomes.safetensors")
    bright = np.array(INTENSITIES[:8]) > brightness.BRIGHT
    for name, right in (("undrifted", np.ones(8)), ("before", ~bright), ("after", np.ones(8))):
        np.testing.assert_array_equal(kept[name][0].samples, np.arange(8), name)
        np.testing.assert_array_equal(kept[name][0].cases[name], [right, np.ones(8)], name)
    adaptation.run(config)
    printed = capsys.readouterr().out
    assert "fold 0: exposure=0.25\n" in printed
    assert next(line.split()[2] for line in printed.splitlines() if line.startswith("+2 stops")) == "*"
    found = result["drifts"]["exposure=0.25"]["intervals"]["won_back"]
    row = next(line for line in printed.splitlines() if line.startswith("exposure=0.25 "))
    assert re.fullmatch(r"exposure=0.25 +100 \(.* to 100\) +50.0 \(.*\) +100 \(.* to 100\) +50.0 \(.*\)", row)
    assert row.endswith(f" ({100 * found['low']:.1f} to {100 * found['high']:.1f})")
    assert "\nIntervals: 95%, about the model (8 validation samples)\n" in printed


def outcomes_of(monkeypatch, fold, *members):
    """Lets each member of a group have these outcomes before and after adaptation, and 8 of 8 without the drift."""
    outcomes = iter([each for before, after in members for each in (np.ones(8), before, after)])

    class Stub:
        def __init__(self, frozen):
            pass

        def measure_samples(self, parameters, *options):
            # The last processing has the lowest loss.
            return [Measured(-number, 0.5, 1.0, np.zeros((8, 2, 2))) for number in range(len(parameters))]

    monkeypatch.setattr(adaptation, "load", lambda *_, **__: Run([fold]))
    monkeypatch.setattr(methods, "Measurer", Stub)
    monkeypatch.setattr(methods.Searcher, "run", search)
    monkeypatch.setattr(adaptation, "confusions_of", lambda *options: confusions(next(outcomes)))


def test_members_of_a_group_are_adapted_one_by_one_and_compared_in_pairs(config, fold, tmp_path, monkeypatch, capsys):
    members = [
        ([1, 1, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0, 0]),
        ([1, 0, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 0, 0]),
        ([0, 0, 1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0, 1, 0]),
    ]
    outcomes_of(monkeypatch, fold, *members)
    for seed in (1, 2, 10):
        (tmp_path / f"six/seed_{seed}").mkdir(parents=True)
    config = replace(config, run=str(tmp_path / "six"), output=None, starts=1)
    result = adaptation.run(config)
    before, after = np.moveaxis(np.array(members, float), 1, 0)
    drift = result["drifts"]["exposure=0.25"]
    assert drift["before"]["folds"] == [2 / 8, 1 / 8, 1 / 8]
    for name, paired, least in (("after", after, 0.0), ("won_back", after - before, -1.0)):
        wanted = Estimate.of(statistics.interval(paired, "recipe"), least)
        assert drift["intervals"][name] == pytest.approx(plain(wanted)), name
    assert (result["about"], result["members"]) == ("recipe", ["seed_1", "seed_2", "seed_10"])
    assert list(result["training"]) == ["seed_1/0", "seed_2/0", "seed_10/0"]
    assert json.loads((tmp_path / "six/adjustment/adaptation.json").read_text())["drifts"] == result["drifts"]
    own = json.loads((tmp_path / "six/seed_10/adjustment/adaptation.json").read_text())
    assert own["drifts"]["exposure=0.25"]["intervals"]["won_back"] == pytest.approx(
        plain(Estimate.of(statistics.interval((after - before)[2:], "model"), -1.0))
    )
    printed = capsys.readouterr().out
    assert "about the recipe (3 trainings, 8 validation samples)" in printed
    assert " 25.0 to 62.5\n" in printed
    # Nothing is computed again, and --output holds a folder for each member.
    assert adaptation.run(config)["drifts"] == result["drifts"]
    outcomes_of(monkeypatch, fold, *members)
    adaptation.run(replace(config, output=str(tmp_path / "output")))
    assert (tmp_path / "output/seed_2/fold_0/exposure=0.25/outcomes.safetensors").exists()
    # Another drift leaves the result of the first one in the files.
    outcomes_of(monkeypatch, fold, *members)
    adaptation.run(replace(config, exposures=(0.5,)))
    for place in ("six", "six/seed_10"):
        written = json.loads((tmp_path / place / "adjustment/adaptation.json").read_text())
        assert list(written["drifts"]) == ["exposure=0.25", "exposure=0.5"], place
        assert {*written["folds"].get("0", written["drifts"])} == {*written["drifts"]}, place


def test_pictures_name_classes_and_probabilities(config, tmp_path, monkeypatch):
    titles = []

    def contact_sheet(pictures, columns, panel):
        titles.extend(pictures)
        return Image.new("RGB", (8, 8))

    monkeypatch.setattr(adaptation, "contact_sheet", contact_sheet)
    adaptation.run(replace(config, output=str(tmp_path), track_n_images=3))
    words = [re.fullmatch(r"(\d (?:undrifted|before|after)): target (\w+), (\w+) (\d+)%", title) for title in titles]
    found = {each[1]: (each[2], each[3], int(each[4])) for each in words}
    assert [found[f"{number} undrifted"][:2] for number in (0, 2)] == [("dark", "dark"), ("bright", "bright")]
    # At a quarter of the light, the bright sample is dark until the model is adapted.
    assert [found[f"2 {name}"][:2] for name in ("before", "after")] == [("bright", "dark"), ("bright", "bright")]
    assert all(50 < each[2] <= 100 for each in found.values())


def test_labeled_images_are_of_different_scenes_that_are_not_measured(config, tmp_path, monkeypatch):
    """A run of two intensities has each scene twice."""
    pool = datasets.pooled({0.5: DATASET, 1.0: DATASET})
    fold = brightness.fold(pool, range(16, 80), range(16), config=build(TrainConfig, iso=(0.5, 1.0)))
    config = replace(config, exposures=(), pipelines=(), intensities=(0.05,), labeled=20)
    monkeypatch.setattr(drifts.datasets, "load", lambda name, **settings: DATASET)
    under = drifts.drifted(config, fold, *config.drifts)
    assert len(set(under.labeled // 2)) == 20
    assert list(under.samples) == list(range(16))
    others = dataclasses.replace(pool, names=tuple(f"other {name}" for name in pool.names))
    monkeypatch.setattr(drifts.folder, "load", lambda *given: others)
    config = replace(config, intensities=(), drifted_data_dir=str(tmp_path))
    under = drifts.drifted(config, fold, *config.drifts)
    assert len(set(under.labeled // 2)) == 20
    assert set(under.samples // 2) == set(range(40)) - set(under.labeled // 2)
    assert len(under.samples) == 40


def test_other_data_is_split_into_labeled_and_measured(config, fold, tmp_path, monkeypatch):
    others = dataclasses.replace(DATASET, names=tuple(f"other {name}" for name in DATASET.names))
    monkeypatch.setattr(drifts.folder, "load", lambda *given: others)
    config = replace(config, exposures=(), pipelines=(), drifted_data_dir=str(tmp_path))
    under = drifts.drifted(config, fold, *config.drifts)
    assert len(under.labeled) == 8
    assert sorted([*under.labeled, *under.samples]) == list(range(40))
    # Without labels, as many are left to measure on.
    under = drifts.drifted(replace(config, unlabeled=64, labeled=0), fold, *config.drifts)
    assert len(under.unlabeled) == 20
    assert sorted([*under.unlabeled, *under.samples]) == list(range(40))
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
    assert list(under.samples) == list(range(8))


def test_a_published_set_has_a_camera_of_its_own(config, tmp_path):
    fold = brightness.fold(DATASET, np.arange(8, 40), np.arange(8), config=build(TrainConfig, dataset="Drone"))
    given = {"drifted_data_dir": str(tmp_path), "drifted_camera": "drone"}
    config = replace(config, exposures=(), **given)
    with pytest.raises(InputError, match="--drifted_camera: Drone has a camera of its own; leave it out"):
        drifts.drifted(config, fold, *config.drifts)


def listed(folder):
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_folder_of_classes_is_other_data_of_an_embedded_set(config, tmp_path):
    """Files of 12x12 are cropped to their middle, 8x8 as in training, and read by the camera of the training."""
    levels = np.linspace(0.1, 0.85, 12)
    for number, level in enumerate(levels):
        (tmp_path / "mine" / DATASET.classes[int(level > 0.5)]).mkdir(parents=True, exist_ok=True)
        raw = np.zeros((12, 12), np.uint16)
        raw[2:10, 2:10] = round(65535 * (0.1 + level))
        tifffile.imwrite(tmp_path / "mine" / DATASET.classes[int(level > 0.5)] / f"scene_{number:02d}.tif", raw)
    # The classes of a folder are in alphabetical order.
    scenes = dataclasses.replace(DATASET, classes=("bright", "dark"))
    before, fold = listed(tmp_path), brightness.fold(scenes, np.arange(8, 40), np.arange(8))
    fold.about.shape[:] = 8, 8
    config = replace(config, exposures=(), drifted_data_dir=str(tmp_path / "mine"), labeled=4)
    under = drifts.drifted(config, fold, *config.drifts)
    assert listed(tmp_path) == before
    assert (under.measured, len(under.labeled), len(under.samples)) == ("other", 4, 8)
    raws, targets = under.dataset.samples(np.arange(12))
    bright_first = np.roll(levels, 6)[:, None, None]
    np.testing.assert_allclose(raws, np.broadcast_to(0.1 + bright_first, (12, 8, 8)), atol=1e-4)
    np.testing.assert_array_equal(targets, [0] * 6 + [1] * 6)
    assert under.dataset.camera == brightness.CAMERA
    # The black level of another camera is brought to that of the run's; its gains are not.
    other = dataclasses.replace(brightness.CAMERA, black_level=(0.2,) * 4, white_balance=(2, 2, 2))
    (tmp_path / "other.json").write_text(other.to_json())
    under = drifts.drifted(replace(config, drifted_camera=str(tmp_path / "other.json")), fold, *config.drifts)
    np.testing.assert_allclose(
        isp.sensor.site_light(under.dataset.samples(np.arange(12))[0], brightness.CAMERA),
        isp.sensor.site_light(raws, other),
        atol=1e-6,
    )
    assert under.dataset.camera == brightness.CAMERA
    # Results of one camera's calibration are not found again for another's.
    (tmp_path / "other.json").write_text(dataclasses.replace(other, black_level=(0.3,) * 4).to_json())
    again = drifts.drifted(replace(config, drifted_camera=str(tmp_path / "other.json")), fold, *config.drifts)
    assert again.dataset.recipe != under.dataset.recipe
    fold.about.shape[:] = 64, 64
    with pytest.raises(InputError, match=r"bright/scene_\d+.tif is 12x12, smaller than the mosaics of the training$"):
        drifts.drifted(config, fold, *config.drifts)
    fold.about.shape[:] = 8, 8
    (tmp_path / "mine/bright").rename(tmp_path / "mine/brilliant")
    with pytest.raises(InputError, match="must have the classes bright, dark, got brilliant, dark"):
        drifts.drifted(config, fold, *config.drifts)


def test_frames_and_masks_are_other_data_of_an_embedded_set(config, tmp_path):
    scenes = dataclasses.replace(brightness.half_images(0.2, 0.7, 12), classes=("white cell",))
    fold = brightness.fold(scenes, range(6), range(6, 12))
    frames = brightness.half_images(0.1, 0.4, 6, side=64)
    for number in range(6):
        raw, mask = frames[number]
        for kind, values in (("images", np.round(65535 * raw).astype(np.uint16)), ("masks", mask * np.uint8(255))):
            (tmp_path / "mine" / kind).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(tmp_path / "mine" / kind / f"frame_{number}.tif", values)
    before = listed(tmp_path)
    config = replace(config, exposures=(), drifted_data_dir=str(tmp_path / "mine"), labeled=2)
    # Four tiles of 32x32 from each frame.
    under = drifts.drifted(config, fold, *config.drifts)
    assert listed(tmp_path) == before
    raws, masks = under.dataset.samples(np.arange(24))
    np.testing.assert_array_equal(masks, np.asarray(raws) > 0.3)
    assert (masks.mean(), under.dataset.classes, under.measured) == (0.5, ("white cell",), "other")
    classes = replace(config, drifted_data_dir=str(tmp_path / "mine"))
    with pytest.raises(InputError, match=r"is for segmentation, and the run for classification: it must have a sub-"):
        drifts.drifted(classes, brightness.fold(DATASET, np.arange(8, 40), np.arange(8)), *config.drifts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"exposures": (), "pipelines": ()}, "no drift to adapt to: give --intensities"),
        ({"parameters": ("hue",)}, "--parameters must be one of all, black_level, .* got 'hue'"),
        ({"labeled": 33}, "--labeled=33 is too many for exposure=0.25: it has 32 images to adapt by and 8 others"),
        ({"labeled": -1}, "--labeled must not be negative, got -1"),
        ({"labeled": 0}, "nothing to adapt by: give --unlabeled or --labeled"),
        ({"unlabeled": 1}, "--unlabeled must be 0 or at least 2, got 1"),
        ({"unlabeled": 8, "labeled": 0, "method": "labels"}, "--method=labels needs labeled images: give --labeled"),
        ({"method": "processing"}, "--method=processing needs images without labels, got --unlabeled=0"),
        ({"sensor": ("blur",)}, "--sensor must be one of underexposure, .* got 'blur'"),
        ({"starts": 10}, "--starts must be at most 9, got 10"),
        ({"step_size": float("nan")}, "--step_size must be positive, got nan"),
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

    def start(self, frozen, searches, *arguments):
        started.append(searches)
        raise Interrupted("seen")

    monkeypatch.setattr(methods.Searcher, "run", start)
    # Without gains there is nothing to start from but the default.
    for parameters in ((), ("gamma_correct",)):
        with pytest.raises(Interrupted, match="seen"):
            adaptation.run(replace(config, output=str(tmp_path), pipelines=(), starts=9, parameters=parameters))
    exposures = [[search.exposure for search in searches] for searches in started]
    assert exposures == [[1, 2, 4, 8, 16, 32, 64, 1 / 2, 1 / 4], [1]]
    assert {search.group for search in started[1]} == {("gamma_correct",)}

import csv
import dataclasses
import json
import os
import pathlib
import signal

import brightness
import folds_by_hand
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from r2l_jax.config import TrainConfig
from r2l_jax.drift import acquisition
from r2l_jax.drift.synthesis import evaluation
from r2l_jax.drift.synthesis.config import EvaluationConfig
from r2l_jax.drift.synthesis.evaluator import Evaluator
from r2l_jax.model.processors import Unprocessed
from r2l_jax.model.raw_to_logit import RawToLogit
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.flags import build
from r2l_jax.runtime.stop import Interrupted
from r2l_jax.training.run import Run

OWN = "bilinear.none.none"
OTHER = "bilinear.unsharp_masking.median_denoising"
INTENSITIES = np.linspace(0.3, 0.7, 16)
DATASET = brightness.images(INTENSITIES, INTENSITIES > brightness.BRIGHT)
STATIC = build(TrainConfig, processing_mode="static", sp_debayer="bilinear", sp_sharpening="none", sp_denoising="none")
# Two folds of a run whose processing was fixed, and a fold of one that has learned its processing.
FOLDS = [
    brightness.fold(DATASET, range(8, 16), range(8), config=STATIC),
    brightness.fold(DATASET, range(8), range(8, 16), config=STATIC, number=1),
]
LEARNED = brightness.fold(DATASET, range(8), range(8, 16))


@pytest.fixture(autouse=True)
def runs(monkeypatch):
    """The folds of runs by their names."""
    known = {"static": FOLDS, "learned": [LEARNED]}
    monkeypatch.setattr(evaluation, "open_runs", lambda uris, *_: [Run(known[pathlib.Path(uri).name]) for uri in uris])
    return known


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """An evaluation against two pipelines, of which one is the run's own, and two strengths of a corruption."""
    return EvaluationConfig(
        run=("runs/static",),
        pipelines=(OTHER, OWN),
        corruptions=("gaussian_noise",),
        severities=(1, 5),
        output=str(tmp_path_factory.mktemp("evaluation")),
    )


@pytest.fixture
def result(settings):
    return evaluation.run(settings)


def test_everything_is_left_to_read(settings, result):
    output = settings.output_dir
    written = json.loads((output / "evaluation.json").read_text())
    assert {"evaluation.csv", "corruptions.png", "pipelines.png"} < set(written.pop("files"))
    assert written.pop("identity")["model"].keys() == {"static fold 0", "static fold 1"}
    assert written == json.loads(json.dumps(result))
    assert {"git_commit", "versions", "devices", "flags", "headline", "matrices", "classes"} <= result.keys()
    run = result["runs"]["static"]
    assert (run["own"], run["tests"][OWN]["drop"]) == ([OWN], {"mean": 0, "std": 0})
    for tests in run["folds"].values():
        assert tests[OWN] == tests["own"]
        assert tests["own"]["accuracy"] == 1
    assert np.shape(result["matrices"]["pipelines"]["mean"]) == (1, 2)
    assert np.shape(result["matrices"]["corruptions"]["mean"]) == (1, 2)
    with (output / "evaluation.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2 * 5
    events = EventAccumulator(str(output))
    events.Reload()
    assert sorted(events.Tags()["images"]) == ["corruptions", "pipelines"]
    assert all((output / f"{name}.png").exists() for name in ("corruptions", "pipelines"))


def test_intensities_are_the_same_scenes_as_measured(monkeypatch, tmp_path):
    """At half the light, all images are dark."""
    darker = brightness.images(INTENSITIES / 2, INTENSITIES > brightness.BRIGHT)
    monkeypatch.setattr(acquisition.datasets, "load", lambda name, iso, **source: darker if iso == 0.5 else DATASET)
    settings = EvaluationConfig(run=("static",), against=("intensities",), intensities=(0.5, 1.0), output=str(tmp_path))
    result = evaluation.run(settings)["runs"]["static"]
    bright = [(INTENSITIES[fold.valid_indices] > brightness.BRIGHT).sum() for fold in FOLDS]
    for number, count in enumerate(bright):
        assert result["folds"][str(number)]["iso=0.5"]["confusion"] == [[8 - count, 0], [count, 0]]
    assert result["own"] == ["iso=1"]
    others = dataclasses.replace(DATASET, names=DATASET.names[::-1])
    monkeypatch.setattr(acquisition.datasets, "load", lambda name, **source: others)
    with pytest.raises(InputError, match=r"--intensities=0\.5 has other samples than --iso=1"):
        evaluation.run(dataclasses.replace(settings, seed=1, output=str(tmp_path / "other")))


@pytest.fixture
def evaluated(monkeypatch):
    """The names of the test cases that are evaluated from here on."""
    names, evaluate = [], Evaluator.evaluate

    def spy(self, fold, dataset, cases, tick):
        names.append([case.name for case in cases])
        return evaluate(self, fold, dataset, cases, tick)

    monkeypatch.setattr(Evaluator, "evaluate", spy)
    return names


def test_a_damaged_file_is_evaluated_anew(settings, evaluated, tmp_path):
    settings = dataclasses.replace(settings, against=("corruptions",), severities=(1,), output=str(tmp_path))
    evaluation.run(settings)
    (tmp_path / "parts/static_fold_1.json").write_text("[]")
    evaluation.run(settings)
    assert evaluated == [["own", "gaussian_noise.1"]] * 3


def test_interrupted_it_stops_within_a_batch_and_goes_on_from_the_last_fold(settings, result, monkeypatch, tmp_path):
    settings = dataclasses.replace(settings, output=str(tmp_path))
    evaluate = Evaluator.evaluate

    def interrupted(self, fold, dataset, cases, tick):
        if fold.number == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return evaluate(self, fold, dataset, cases, tick)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "evaluate", interrupted)
        with pytest.raises(Interrupted, match="stopped in fold 1 of static; the same command resumes with that fold"):
            evaluation.run(settings)
    assert [file.name for file in (tmp_path / "parts").iterdir()] == ["static_fold_0.json"]
    assert not (tmp_path / "evaluation.json").exists()
    assert evaluation.run(settings)["runs"] == result["runs"]


def test_several_runs_are_rows_of_the_matrix(settings, tmp_path, capsys):
    uris = (str(tmp_path / "runs/learned"), str(tmp_path / "runs/static"))
    both = dataclasses.replace(settings, run=uris, against=("pipelines",), output=None)
    assert both.output_dir == tmp_path / "runs/evaluation"
    result = evaluation.run(both)
    matrix = result["matrices"]["pipelines"]
    assert (matrix["rows"], matrix["columns"]) == (["learned", "static"], ["own", OTHER, OWN])
    assert capsys.readouterr().out.splitlines()[2].startswith("learned")


def test_segmentation_is_scored_by_the_intersection_over_union(runs, tmp_path):
    """Brightened, all pixels are taken for the object, which covers half of them."""
    runs["masks"] = [brightness.fold(brightness.half_images(0.3, 0.8, 4), [0], [1, 2, 3])]
    settings = EvaluationConfig(
        run=("masks",), against=("corruptions",), corruptions=("brightness",), severities=(5,), output=str(tmp_path)
    )
    result = evaluation.run(settings)
    tests = result["runs"]["masks"]["tests"]
    assert result["score"] == "iou"
    assert tests["own"]["iou"]["mean"] > 0.8
    for metric in ("iou", "tile_iou"):
        assert tests["brightness.5"][metric]["mean"] == pytest.approx(0.5)
    recall = tests["brightness.5"]["recall"]
    # All but a pixel in a corner, whose neighbors beyond the border are interpolated.
    assert (recall["background"]["mean"], recall["object"]["mean"]) == pytest.approx((0, 1), abs=0.02)


def test_a_run_of_processed_images_against_corruptions(runs, tmp_path):
    """Two of the eight bright images are too dark for the model's threshold."""
    values = INTENSITIES + 0.18
    processed = dataclasses.replace(
        DATASET, camera=None, read=lambda index: (np.full((8, 8, 3), values[index], np.float32), DATASET[index][1])
    )
    config = build(TrainConfig, processing_mode="none")
    model = RawToLogit(Unprocessed(), LEARNED.model.normalizer, LEARNED.model.head)
    runs["none"] = [folds_by_hand.fold_of(processed, range(8), range(8, 16), config, model)]
    settings = EvaluationConfig(
        run=("none",), against=("corruptions",), corruptions=("contrast",), severities=(5,), output=str(tmp_path)
    )
    assert evaluation.run(settings)["headline"]["own"] == pytest.approx(0.75)
    with pytest.raises(InputError, match=r"--against=pipelines: --run=none was trained on brightness, which is proc"):
        evaluation.run(dataclasses.replace(settings, against=("pipelines",)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"against": ("weather",)}, "--against must be of pipelines, intensities, exposures, corruptions, got 'weath"),
        ({"against": ()}, r"--against is empty"),
        ({"run": ()}, r"--run is empty"),
        ({"pipelines": ()}, r"--pipelines is empty"),
        ({"severities": ()}, r"--severities is empty"),
        ({"batch_size": 0}, r"--batch_size must be positive, got 0"),
        ({"seed": -1}, r"--seed must not be negative, got -1"),
    ],
)
def test_settings_that_are_wrong_are_named(change, message):
    with pytest.raises(InputError, match=message):
        EvaluationConfig(**({"run": ("somewhere",)} | change))


def test_runs_that_do_not_go_together_are_named(settings, runs, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/evaluation: not a folder to write to"):
        evaluation.run(dataclasses.replace(settings, output=str(tmp_path / "file/evaluation")))
    with pytest.raises(InputError, match=r"--run=first/ is given twice"):
        evaluation.run(dataclasses.replace(settings, run=("first", "first/")))
    for change, message in (
        ({"name": "Drone"}, r"--run=second was trained on Drone, --run=static on brightness: evaluate them one by one"),
        ({"names": DATASET.names[::-1]}, r"--run=second was trained on brightness, --run=static on another brightness"),
    ):
        runs["second"] = [brightness.fold(dataclasses.replace(DATASET, **change), range(8), range(8, 16))]
        with pytest.raises(InputError, match=message):
            evaluation.run(dataclasses.replace(settings, run=("static", "second")))

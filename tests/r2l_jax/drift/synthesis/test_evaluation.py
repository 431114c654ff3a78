import csv
import dataclasses
import json
import os
import pathlib
import signal

import by_hand
import numpy as np
import pytest
from PIL import Image
from small_runs import metrics
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from r2l_jax.data.sets import datasets
from r2l_jax.drift.synthesis import evaluation
from r2l_jax.drift.synthesis.config import EvaluationConfig
from r2l_jax.drift.synthesis.evaluator import Evaluator
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.flags import replace
from r2l_jax.runtime.stop import Interrupted
from r2l_jax.training import train
from r2l_jax.training.run import Run, open_runs

OWN = "menon2007.sharpening_filter.gaussian_denoising"
OTHER = "bilinear.unsharp_masking.median_denoising"


@pytest.fixture(scope="module")
def two_folds(base):
    config = replace(base, run_name="static", processing_mode="static", sp_debayer="menon2007", n_splits=2, epochs=1)
    train.run(config)
    return config


@pytest.fixture(scope="module")
def settings(two_folds, tmp_path_factory):
    """An evaluation against two pipelines, of which one is the run's own, and two strengths of a corruption."""
    return EvaluationConfig(
        run=(str(two_folds.run_dir),),
        pipelines=(OTHER, OWN),
        corruptions=("gaussian_noise",),
        severities=(1, 5),
        output=str(tmp_path_factory.mktemp("evaluation")),
    )


@pytest.fixture(scope="module")
def result(settings):
    return evaluation.run(settings)


@pytest.fixture(scope="module")
def fold(one_epoch):
    ((fold,),) = open_runs([str(one_epoch.run_dir)])
    return fold


def test_own_images_score_as_the_best_epoch_did(two_folds, result):
    run = result["runs"]["static"]
    for number in range(2):
        trained_to = metrics(two_folds, number)
        own = run["folds"][str(number)]["own"]
        assert own["accuracy"] == pytest.approx(trained_to["best_val_accuracy"])
        assert own["loss"] == pytest.approx(trained_to["best_val_loss"], rel=1e-4)
        assert run["folds"][str(number)][OWN] == own
    assert run["own"] == [OWN]
    assert run["tests"][OWN]["drop"] == {"mean": 0, "std": 0}


def test_everything_is_left_to_read(settings, result, two_folds):
    output = settings.output_dir
    written = json.loads((output / "evaluation.json").read_text())
    assert {"evaluation.csv", "corruptions.png", "pipelines.png"} < set(written.pop("files"))
    assert written.pop("identity")["model"].keys() == {"static fold 0", "static fold 1"}
    assert written == json.loads(json.dumps(result))
    assert {"git_commit", "versions", "devices", "flags", "headline", "matrices", "classes"} <= result.keys()
    assert np.shape(result["matrices"]["pipelines"]["mean"]) == (1, 2)
    assert np.shape(result["matrices"]["corruptions"]["mean"]) == (1, 2)
    with (output / "evaluation.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2 * 5
    events = EventAccumulator(str(output))
    events.Reload()
    assert sorted(events.Tags()["images"]) == ["corruptions", "pipelines"]
    for name in ("corruptions", "pipelines"):
        with Image.open(output / f"{name}.png") as picture:
            assert min(picture.size) > 100


def test_intensities_are_the_same_scenes_as_measured(fold, one_epoch, tmp_path):
    settings = EvaluationConfig(
        run=(str(one_epoch.run_dir),), against=("intensities",), intensities=(0.5, 1.0), output=str(tmp_path)
    )
    result = evaluation.run(settings)["runs"]["one_epoch"]
    darker = datasets.load("Synthetic", **(fold.config.data.source | {"iso": 0.5}))
    loss, confusion = by_hand.evaluate(fold, fold.model.processor, darker)
    assert result["folds"]["0"]["iso=0.5"]["loss"] == pytest.approx(loss, rel=1e-4)
    np.testing.assert_array_equal(result["folds"]["0"]["iso=0.5"]["confusion"], confusion)
    assert result["own"] == ["iso=1"]


@pytest.fixture
def evaluated(monkeypatch):
    """The names of the test cases that are evaluated from here on."""
    names = []
    evaluate = Evaluator.evaluate

    def spy(self, fold, dataset, cases, tick):
        names.append([case.name for case in cases])
        return evaluate(self, fold, dataset, cases, tick)

    monkeypatch.setattr(Evaluator, "evaluate", spy)
    return names


def test_the_same_again_takes_what_is_there_and_other_settings_only_what_is_missing(settings, result, evaluated):
    assert evaluation.run(settings) == result
    assert evaluated == []
    more = evaluation.run(dataclasses.replace(settings, severities=(1, 3, 5)))
    assert evaluated == [["gaussian_noise.3"]] * 2
    assert more["runs"]["static"]["folds"]["0"]["own"] == result["runs"]["static"]["folds"]["0"]["own"]


def test_another_seed_or_a_spoilt_file_is_evaluated_anew(settings, result, evaluated, tmp_path):
    settings = dataclasses.replace(settings, against=("corruptions",), severities=(1,), output=str(tmp_path))
    evaluation.run(settings)
    (tmp_path / "parts/static_fold_1.json").write_text("[]")
    evaluation.run(settings)
    assert evaluated == [["own", "gaussian_noise.1"]] * 3
    evaluation.run(dataclasses.replace(settings, seed=1))
    assert evaluated[3:] == [["gaussian_noise.1"]] * 2


def test_interrupted_it_stops_within_a_batch_and_goes_on_from_the_last_fold(settings, result, monkeypatch, tmp_path):
    settings = dataclasses.replace(settings, output=str(tmp_path))
    evaluate = Evaluator.evaluate

    def interrupted(self, fold, dataset, cases, tick):
        if fold.number == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return evaluate(self, fold, dataset, cases, tick)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "evaluate", interrupted)
        with pytest.raises(Interrupted, match="stopped in fold 1 of static; the same command goes on with that fold"):
            evaluation.run(settings)
    assert [file.name for file in (tmp_path / "parts").iterdir()] == ["static_fold_0.json"]
    assert not (tmp_path / "evaluation.json").exists()
    resumed = evaluation.run(settings)
    assert resumed["runs"] == result["runs"]


def test_several_runs_are_rows_of_the_matrix(settings, two_folds, one_epoch, capsys):
    both = dataclasses.replace(
        settings, run=(str(one_epoch.run_dir), str(two_folds.run_dir)), against=("pipelines",), output=None
    )
    deepest = os.path.commonpath([one_epoch.run_dir.resolve(), two_folds.run_dir.resolve()])
    assert both.output_dir == pathlib.Path(deepest) / "evaluation"
    result = evaluation.run(both)
    matrix = result["matrices"]["pipelines"]
    assert (matrix["rows"], matrix["columns"]) == (["one_epoch", "static"], ["own", OTHER, OWN])
    assert matrix["mean"][1][0] == matrix["mean"][1][2]
    *told, _, _, first_row = capsys.readouterr().out.splitlines()[:6]
    assert all(line.endswith(": the best checkpoint") for line in told)
    assert first_row.startswith("one_epoch")
    assert (both.output_dir / "parts/one_epoch_fold_0.json").exists()


@pytest.mark.slow
def test_segmentation_is_scored_by_the_intersection_over_union(base, tmp_path):
    config = replace(
        base, run_name="masks", dataset="SyntheticSegmentation", smp_encoder="resnet18", epochs=1, augmentation="none"
    )
    train.run(config)
    settings = EvaluationConfig(
        run=(str(config.run_dir),), pipelines=(OTHER,), corruptions=("contrast",), severities=(5,)
    )
    result = evaluation.run(settings)
    assert settings.output_dir == config.run_dir / "evaluation"
    assert result["score"] == "iou"
    assert result["runs"]["masks"]["headline"]["own"] == pytest.approx(metrics(config)["best_val_iou"], rel=1e-4)
    tile_iou = result["runs"]["masks"]["tests"]["own"]["tile_iou"]["mean"]
    assert tile_iou == pytest.approx(metrics(config)["best_val_tile_iou"], rel=1e-4)
    assert result["runs"]["masks"]["tests"]["contrast.5"]["recall"].keys() == {"background", "white cell"}


def test_a_run_without_processing_against_corruptions(base, tmp_path):
    config = replace(base, run_name="none", processing_mode="none", epochs=1)
    train.run(config)
    settings = EvaluationConfig(
        run=(str(config.run_dir),), against=("corruptions",), corruptions=("contrast",), severities=(5,)
    )
    result = evaluation.run(settings)
    assert result["headline"]["own"] == pytest.approx(metrics(config)["best_val_accuracy"])
    with pytest.raises(InputError, match=r"--against=pipelines: --run=.*none was trained with --processing_mode=none"):
        evaluation.run(dataclasses.replace(settings, against=("pipelines",)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"against": ("weather",)},
            r"--against must be of pipelines, intensities, exposures, corruptions, got 'weather'",
        ),
        ({"against": ()}, r"--against is empty"),
        ({"run": ()}, r"--run is empty"),
        ({"pipelines": ()}, r"--pipelines is empty"),
        ({"severities": ()}, r"--severities is empty"),
        ({"batch_size": 0}, r"--batch_size must be positive, got 0"),
        ({"seed": -1}, r"--seed must not be negative, got -1"),
        ({"pipelines": ("bilinear",)}, r"no pipeline is called 'bilinear'"),
    ],
)
def test_settings_that_are_wrong_are_named(change, message):
    with pytest.raises(InputError, match=message):
        EvaluationConfig(**({"run": ("somewhere",)} | change))


def test_runs_that_do_not_go_together_are_named(settings, fold, monkeypatch, tmp_path):
    with pytest.raises(InputError, match=r"--run=nowhere is no run's folder: not found"):
        evaluation.run(dataclasses.replace(settings, run=("nowhere",)))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/evaluation: not a folder to write to"):
        evaluation.run(dataclasses.replace(settings, output=str(tmp_path / "file/evaluation")))
    with pytest.raises(InputError, match=r"--run=first/ is given twice"):
        evaluation.run(dataclasses.replace(settings, run=("first", "first/")))
    both = dataclasses.replace(settings, run=("first", "second"))
    for change, message in (
        ({"name": "Drone"}, r"--run=second was trained on Drone, --run=first on Synthetic: evaluate them one by one"),
        (
            {"names": fold.dataset.names[::-1]},
            r"--run=second was trained on Synthetic, --run=first on another Synthetic",
        ),
    ):
        data = dataclasses.replace(fold.dataset, **change)
        runs = [Run([fold]), Run([dataclasses.replace(fold, load_data=lambda data=data: data)])]
        monkeypatch.setattr(evaluation, "open_runs", lambda *arguments, runs=runs: runs)
        with pytest.raises(InputError, match=message):
            evaluation.run(both)

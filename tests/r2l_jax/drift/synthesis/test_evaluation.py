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

import isp
from r2l_jax.config import TrainConfig
from r2l_jax.data.sets import datasets
from r2l_jax.drift import acquisition, outcomes
from r2l_jax.drift.synthesis import evaluation
from r2l_jax.drift.synthesis.config import EvaluationConfig
from r2l_jax.drift.synthesis.evaluator import Evaluator
from r2l_jax.model.processors import Unprocessed
from r2l_jax.model.raw_to_logit import RawToLogit
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.flags import build, replace
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
    monkeypatch.setattr(evaluation, "load", lambda uri, *_, **__: Run(known[pathlib.Path(uri).name]))
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
    files = {"evaluation.csv", "outcomes.safetensors", "corruptions.png", "pipelines.png"}
    assert files < set(written.pop("files"))
    assert len(written.pop("identity")["model"]) == 64
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


def test_a_run_of_several_intensities_is_told_apart_by_them(monkeypatch, tmp_path, runs, capsys):
    """At half the light, all images are dark, and bright ones are mistaken."""
    labels = INTENSITIES > brightness.BRIGHT
    at = {iso: brightness.images(INTENSITIES * iso, labels) for iso in (0.5, 1.0)}
    monkeypatch.setattr(acquisition.datasets, "load", lambda name, iso, **source: at[iso])
    pool, config = datasets.pooled(at), replace(STATIC, iso=(0.5, 1.0))
    runs["several"] = [brightness.fold(pool, range(8), range(8, 24), config=config)]
    settings = EvaluationConfig(
        run=("several",),
        against=("intensities", "exposures"),
        intensities=(0.5, 1.0),
        exposures=(0.01,),
        by=("iso",),
        output=str(tmp_path),
    )
    result = evaluation.run(settings)
    run = result["runs"]["several"]
    assert run["own"] == ["iso=0.5", "iso=1"]
    dark = 1 - labels[4:12].mean()
    assert dark == 0.5
    scores = {name: test["accuracy"]["mean"] for name, test in run["tests"].items()}
    assert scores == pytest.approx({"own": (1 + dark) / 2, "iso=0.5": dark, "iso=1": 1, "exposure=0.01": dark})
    # Each case shows the same scenes, whatever the intensity of the samples.
    by = result["by"]["iso"]
    assert (by["rows"], by["samples"], by["columns"]) == (["0.5", "1"], [8, 8], [*scores])
    np.testing.assert_allclose(by["mean"], [[dark, dark, 1, dark], [1, dark, 1, dark]])
    matrix = result["matrices"]["intensities"]
    assert (matrix["columns"], matrix["own"]) == (["own", "iso=0.5", "iso=1"], ["own"])
    # Only another intensity would be a drift. Each of eight scenes counts once in intervals, with its two samples.
    drops = result["drops"]["several"]
    assert (drops["samples"], [*drops["cases"]]) == (8, ["exposure=0.01"])
    out, err = capsys.readouterr()
    assert "Intervals: 95%, about the model (8 validation scenes)" in out
    # The groups of samples are tested with the same model.
    assert "to test: 4 cases for 1 model, each on 16 samples" in err
    assert outcomes.read(tmp_path / "outcomes.safetensors")["several"][0].scenes.tolist() == sorted(2 * [*range(8)])


@pytest.fixture
def evaluated(monkeypatch):
    """The names of the test cases that are evaluated from here on."""
    names, evaluate = [], Evaluator.evaluate

    def spy(self, folds, dataset, cases, tick):
        names.append([case.name for case in cases])
        return evaluate(self, folds, dataset, cases, tick)

    monkeypatch.setattr(Evaluator, "evaluate", spy)
    return names


def test_a_damaged_file_is_evaluated_anew(settings, evaluated, tmp_path):
    settings = dataclasses.replace(settings, against=("corruptions",), severities=(1,), output=str(tmp_path))
    evaluation.run(settings)
    (tmp_path / "parts/static_fold_1.json").write_text("[]")
    evaluation.run(settings)
    assert evaluated == [["own", "gaussian_noise.1"]] * 3


def test_interrupted_it_stops_within_a_batch_and_goes_on_from_the_last_fold(settings, result, monkeypatch, tmp_path):
    finished, settings = settings.output_dir, dataclasses.replace(settings, output=str(tmp_path))
    evaluate = Evaluator.evaluate

    def interrupted(self, folds, dataset, cases, tick):
        if folds[0].number == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return evaluate(self, folds, dataset, cases, tick)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "evaluate", interrupted)
        with pytest.raises(Interrupted, match="stopped in fold 1 of static; the same command resumes with that fold"):
            evaluation.run(settings)
    assert [file.name for file in (tmp_path / "parts").iterdir()] == ["static_fold_0.json"]
    assert not (tmp_path / "evaluation.json").exists()
    resumed = evaluation.run(settings)
    assert (resumed["runs"], resumed["drops"]) == (result["runs"], result["drops"])
    before, after = (outcomes.read(folder / "outcomes.safetensors")["static"] for folder in (finished, tmp_path))
    for number, fold in before.items():
        for case, of_samples in fold.cases.items():
            np.testing.assert_array_equal(after[number].cases[case], of_samples)


def test_several_runs_are_rows_of_the_matrix(settings, tmp_path, capsys):
    uris = (str(tmp_path / "runs/learned"), str(tmp_path / "runs/static"))
    both = dataclasses.replace(settings, run=uris, against=("pipelines",), output=None)
    assert both.output_dir == tmp_path / "runs/evaluation"
    result = evaluation.run(both)
    matrix = result["matrices"]["pipelines"]
    assert (matrix["rows"], matrix["columns"]) == (["learned", "static"], ["own", OTHER, OWN])
    assert capsys.readouterr().out.splitlines()[0].split() == ["drop,", "points", "learned", "static"]
    # The runs were not measured on the same samples.
    assert result["differences"] == []


def test_the_outcomes_of_all_samples_average_to_the_scores(settings, result):
    kept = outcomes.read(settings.output_dir / "outcomes.safetensors")
    assert kept.keys() == {"static"}
    for number, tests in result["runs"]["static"]["folds"].items():
        fold = kept["static"][int(number)]
        np.testing.assert_array_equal(fold.samples, FOLDS[int(number)].valid_indices)
        assert fold.cases.keys() == tests.keys()
        for case, numbers in tests.items():
            assert fold.contributions(case).mean() == pytest.approx(numbers["accuracy"])
    found = result["drops"]["static"]
    # The folds have as many samples each.
    drop = result["runs"]["static"]["tests"]["gaussian_noise.5"]["drop"]["mean"]
    assert found["cases"]["gaussian_noise.5"]["estimate"] == pytest.approx(drop)
    assert (found["about"], found["samples"], found["measured"]) == ("model", 16, "validation samples")
    assert found["cases"].keys() == {OTHER, "gaussian_noise.1", "gaussian_noise.5"}


@pytest.mark.parametrize(
    ("kind", "case"),
    [("exposures", "exposure=0.01"), ("sensor", "row_noise.5"), ("corruptions", "gaussian_noise.5")],
)
def test_a_new_seed_draws_random_drift_anew(kind, case, evaluated, tmp_path):
    settings = EvaluationConfig(
        run=("static",),
        against=(kind,),
        exposures=(0.01,),
        sensor=("row_noise",),
        corruptions=("gaussian_noise",),
        severities=(5,),
        output=str(tmp_path),
    )

    def loss(seed):
        return evaluation.run(replace(settings, seed=seed))["runs"]["static"]["tests"][case]["loss"]["mean"]

    first = loss(0)
    count = len(evaluated)
    # The numbers of the same seed are read from the folder, those of another are not.
    assert loss(0) == first
    assert len(evaluated) == count
    assert loss(1) != pytest.approx(first, rel=1e-6)


@pytest.fixture
def group(runs, tmp_path):
    """The folder of a group of three trainings, which differ in what they take for bright."""
    for seed, gamma in enumerate((1.8, 2.2, 2.6), 1):
        (tmp_path / f"group/seed_{seed}/fold_0").mkdir(parents=True)
        model = brightness.model(DATASET, gamma=gamma)
        runs[f"seed_{seed}"] = [folds_by_hand.fold_of(DATASET, (), range(16), model=model)]
    return tmp_path / "group"


def test_a_group_has_intervals_about_its_recipe_and_an_ensemble(group, evaluated, capsys):
    settings = EvaluationConfig(run=(str(group),), against=("corruptions",), corruptions=("brightness",))
    assert settings.output_dir == group / "evaluation"
    result = evaluation.run(settings)
    printed = capsys.readouterr().out
    members = [f"group/seed_{seed}" for seed in (1, 2, 3)]
    found = result["drops"]["group"]
    assert (found["members"], found["about"]) == (members, "recipe")
    assert list(result["runs"]) == members
    own = [result["runs"][label]["tests"]["own"]["accuracy"]["mean"] for label in members]
    assert len(set(own)) > 1
    assert found["score"]["estimate"] == pytest.approx(np.mean(own))
    assert sum(found["shares"].values()) == pytest.approx(1)
    assert found["members_needed"].keys() == {"corruptions"}
    ensemble = found["ensemble"]["tests"]["own"]["accuracy"]["mean"]
    assert ensemble == pytest.approx(own[1])
    assert "Intervals: 95%, about the recipe (3 trainings, 16 validation samples)" in printed
    assert "group (ensemble)" in printed
    # The ensemble is evaluated together with the members, whose folders keep their numbers.
    assert evaluated == [["own"], [f"brightness.{severity}" for severity in range(1, 6)]]
    alone = evaluation.run(dataclasses.replace(settings, run=(str(group / "seed_2"),)))
    assert alone["runs"]["seed_2"]["tests"] == result["runs"]["group/seed_2"]["tests"]
    assert alone["drops"]["seed_2"]["about"] == "model"
    assert len(evaluated) == 2
    about_models = evaluation.run(dataclasses.replace(settings, about="model"))["drops"]["group"]
    width, narrower = (each["score"]["high"] - each["score"]["low"] for each in (found, about_models))
    assert narrower < width


def test_a_group_and_a_run_are_compared_on_the_same_samples(group, runs, tmp_path):
    settings = EvaluationConfig(
        run=(str(group), str(group / "seed_2")),
        against=("corruptions",),
        corruptions=("brightness", "contrast"),
        severities=(2, 5),
        output=str(tmp_path / "output"),
    )
    result = evaluation.run(settings)
    (found,) = result["differences"]
    assert (found["first"], found["second"], found["about"]) == ("group", "seed_2", "model")
    drops = [result["drops"][label]["groups"] for label in ("group", "seed_2")]
    for name in ("corruptions", "tone and color", "contrast"):
        difference = found["groups"][name]
        assert difference["estimate"] == pytest.approx(drops[0][name]["estimate"] - drops[1][name]["estimate"])
        assert 0 <= difference["probability"] <= 1
    assert sorted(file.name for file in (tmp_path / "output/parts").iterdir()) == [
        "group_ensemble_fold_0.json",
        *(f"group_seed_{seed}_fold_0.json" for seed in (1, 2, 3)),
        "seed_2_fold_0.json",
    ]


def test_what_a_group_cannot_tell_is_refused(group, runs, settings):
    about = dataclasses.replace(settings, about="recipe", output=None)
    with pytest.raises(InputError, match="one training cannot tell about its recipe"):
        evaluation.run(dataclasses.replace(about, run=(str(group), str(group / "seed_1"))))
    runs["seed_3"] = [brightness.fold(DATASET, (), range(8))]
    message = r"--run=.*group: all members must have as many samples to measure on, got 16 \(group/seed_1\), 16"
    with pytest.raises(InputError, match=message):
        evaluation.run(dataclasses.replace(about, run=(str(group),)))


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
    with pytest.raises(InputError, match=r"^--against=sensor: --run=none was trained on brightness, which is proc"):
        evaluation.run(dataclasses.replace(settings, against=("sensor",)))


def test_severities_are_of_the_sensor_and_of_corruptions():
    settings = EvaluationConfig(run=("run",), against=("sensor",), sensor=("defocus", "bits"), severities=(2, 4))
    assert [case.name for case in settings.cases()] == ["own", "defocus.2", "defocus.4", "bits.2", "bits.4"]


def test_drifts_of_the_sensor_have_their_matrix_groups_and_rows(settings, evaluated, capsys, tmp_path):
    """At severity 5 of underexposure, all images are dark."""
    kinds = ("underexposure", "vignetting", "read_noise")
    settings = dataclasses.replace(settings, against=("sensor",), sensor=kinds, output=str(tmp_path))
    result = evaluation.run(settings)
    names = [f"{kind}.{severity}" for kind in kinds for severity in (1, 5)]
    assert evaluated == [["own", *names]] * 2
    matrix, run = result["matrices"]["sensor"], result["runs"]["static"]
    assert (matrix["rows"], matrix["columns"]) == (list(kinds), [1, 5])
    bright = (INTENSITIES > brightness.BRIGHT).mean()
    assert run["tests"]["underexposure.5"]["drop"]["mean"] == pytest.approx(bright)
    assert matrix["mean"][0][1] == pytest.approx(1 - bright)
    groups, by_case = result["drops"]["static"]["groups"], result["drops"]["static"]["cases"]
    assert set(groups) == {"sensor", "light", "lens", "read-out", *kinds}
    assert groups["light"] == groups["underexposure"]
    mean = np.mean([by_case[name]["estimate"] for name in names])
    assert groups["sensor"]["estimate"] == pytest.approx(mean)
    assert run["headline"]["sensor_drop"] == pytest.approx(mean)
    printed = [line.split("  ")[0].strip() for line in capsys.readouterr().out.splitlines()[2:9]]
    assert (
        printed
        == ["own", "sensor", "light", "lens", "read-out", *(f"{kind} (mean of 2 severities)" for kind in kinds)][:7]
    )
    with (tmp_path / "evaluation.csv").open() as file:
        assert {row["test"] for row in csv.DictReader(file)} == {"own", *names}
    assert (tmp_path / "sensor.png").exists()
    again = evaluation.run(dataclasses.replace(settings, sensor=("read_noise",)))
    assert len(evaluated) == 2
    assert again["runs"]["static"]["tests"]["read_noise.5"] == run["tests"]["read_noise.5"]


def test_what_a_camera_cannot_have_is_refused_with_what_it_can(settings, runs, tmp_path):
    gray = isp.Camera(black_level=(0.1,), pattern="MONO")
    singular = dataclasses.replace(brightness.CAMERA, color_matrix=np.ones((3, 3)))
    for camera, kinds, message in (
        (gray, ("defocus", "pattern_shift"), "brightness is from a sensor without color filters; give --sensor=undere"),
        (singular, ("lamp_color",), "the camera's color_matrix must have an inverse"),
    ):
        runs["static"] = [brightness.fold(dataclasses.replace(DATASET, camera=camera), range(8), range(8, 16))]
        settings = dataclasses.replace(settings, against=("sensor",), sensor=kinds, output=str(tmp_path))
        with pytest.raises(InputError, match=f"^--sensor={kinds[-1]}: {message}") as refused:
            evaluation.run(settings)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"against": ("weather",)},
            "--against must be one of pipelines, intensities, exposures, sensor, corruptions, ",
        ),
        ({"against": ()}, r"--against is empty"),
        ({"run": ()}, r"--run is empty"),
        ({"pipelines": ()}, r"--pipelines is empty"),
        ({"severities": ()}, r"--severities is empty"),
        ({"against": ("sensor",), "severities": ()}, r"--severities is empty"),
        ({"against": ("sensor",), "sensor": ()}, r"--sensor is empty"),
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

import json

import numpy as np
import pytest
from report_pages import Page

from r2l_jax.apps.report.page import render
from r2l_jax.apps.study import curves, figures, page, synthesis
from r2l_jax.apps.study.plan import make_jobs, trainings_of
from r2l_jax.apps.study.published import Results, orientation
from r2l_jax.model.tasks import Classification
from r2l_jax.names import PUBLISHED_PIPELINES as PIPELINES
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.flags import flat, replace

TASK = Classification(("a", "b"), "resnet18")


def score(model, case, fold):
    """A made-up score: 0.9 on own images, less under other pipelines, drifts of the sensor and corruption.

    The drops are 0.1, 0.25 and 0.4. A fold makes 0.02.
    """
    drops = {"own": 0.0, model: 0.0, "defocus.3": 0.25, "bits.3": 0.25}
    drop = drops.get(case, 0.4 if case.endswith(".3") else 0.1)
    return 0.9 - drop + 0.02 * fold


@pytest.fixture(scope="module")
def results(config):
    """Files as the jobs of the study leave them, with made-up numbers."""
    pipelines = list(config.pipelines.values())
    cases = ["own", *pipelines, "defocus.3", "bits.3", "contrast.3", "gaussian_noise.3"]
    for training in trainings_of(config, "synthesis").values():
        name = training.run_dir.name
        folds = {str(fold): {case: {"accuracy": score(name, case, fold)} for case in cases} for fold in range(2)}
        write(training.run_dir / "evaluation" / "evaluation.json", {"runs": {name: {"folds": folds}}})
    model = trainings_of(config, "forensics")["model"]
    for group in config.choice.adv_parameters:
        for fold in range(2):
            rows = [
                {"group": group, "aux_weight": weight, "score": 0.9 - drop, "ssim": 1 - drop, "parameters": {}}
                for weight, drop in ((1e-4, 0.5), (1e-2, 0.1))
            ]
            file = config.search_of(model, group).output_dir / f"fold_{fold}" / "worst_case" / "worst_case.json"
            write(file, {"score": "accuracy", "default": {"score": 0.9, "loss": 0.1}, "rows": rows})
    write(model.run_dir / "fold_0" / "metrics.json", {"shape": [64, 32]})
    for name, training in trainings_of(config, "adjustment").items():
        for fold in range(2):
            slope = 0.2 if name == "learned" else 0.1
            history = [{"epoch": epoch, "val_accuracy": slope * (epoch + 1 + fold)} for epoch in range(3)]
            content = {"complete": True, "flags": flat(training), "history": history, "fingerprint": ""}
            about = {"task": "classification", "classes": ["a", "b"], "shape": [64, 32], "white_level": None}
            indices = {"train_indices": list(range(80)), "valid_indices": list(range(80, 100))}
            write(training.run_dir / f"fold_{fold}" / "metrics.json", {**content, **about, "camera": None, **indices})
    return make_jobs(config)


def write(file, content):
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(content, default=np.ndarray.tolist))


def collected(config, jobs, dataset="Synthetic"):
    theirs = orientation(dataset, "accuracy")
    collectors = {"synthesis": synthesis.collect, "forensics": curves.forensics, "adjustment": curves.adjustment}
    content = {name: collect(Results(config, TASK, theirs, jobs)) for name, collect in collectors.items()}
    about = {"dataset": dataset, "score": "accuracy", "folds": 2, "published": theirs.about, "failed": {}}
    return {**about, **content, "flags": {"output": "runs/study", "dataset": dataset}}


def test_matrices_have_means_and_deviations_of_the_folds(config, results):
    of_score = collected(config, results)["synthesis"]["scores"]["accuracy"]
    processing, corruption = of_score["processing"], of_score["corruption"]
    assert processing["rows"] == processing["columns"] == list(PIPELINES)
    wanted = np.full((12, 12), 0.81) + 0.1 * np.eye(12)
    np.testing.assert_allclose(processing["mean"], wanted)
    np.testing.assert_allclose(processing["std"], 0.01)
    np.testing.assert_allclose(processing["drop_mean"], 0.1 - 0.1 * np.eye(12), atol=1e-12)
    np.testing.assert_allclose(processing["drop_std"], 0, atol=1e-12)
    assert corruption["columns"] == ["contrast", "gaussian_noise"]
    np.testing.assert_allclose(corruption["mean"], 0.51)
    assert of_score["sensor"]["columns"] == ["defocus", "bits"]
    np.testing.assert_allclose(of_score["sensor"]["drop_mean"], 0.25)
    assert of_score["headline"]["sensor_drop"]["mean"] == pytest.approx(0.25)
    assert of_score["headline"]["log_ratio"]["estimate"] == pytest.approx(np.log(4))
    assert np.exp(of_score["published"]["headline"]["log_ratio"]["estimate"]) == pytest.approx(10.3, abs=0.1)
    assert "difference" not in processing


def test_differences_to_the_published_numbers_of_the_same_data(config, results):
    content = collected(config, results, "Microscopy")
    of_score = content["synthesis"]["scores"]["accuracy"]
    published = np.array(of_score["published"]["processing"]["mean"])
    np.testing.assert_allclose(
        of_score["processing"]["difference"], (np.array(of_score["processing"]["mean"]) - published) / 0.01
    )
    assert of_score["headline"]["own"]["difference"] == pytest.approx((0.91 - 0.828) / 0.01, abs=0.1)
    # All folds of the made-up searches agree: there is no deviation to count in.
    assert content["forensics"]["groups"]["all"]["difference"] == [None, None]
    assert content["adjustment"]["runs"]["learned"]["end"]["difference"] == pytest.approx((0.7 - 0.79) / 0.1)


def test_curves_go_from_the_largest_weight_to_the_smallest(config, results):
    forensics = collected(config, results)["forensics"]
    assert forensics["groups"]["black_level"]["weights"] == [1e-2, 1e-4]
    np.testing.assert_allclose(forensics["groups"]["black_level"]["mean"], [0.8, 0.4])
    assert forensics["default"] == {"mean": 0.9, "std": 0}
    # The values of a batch of 16 images of 64 by 32.
    assert forensics["l2_factor"] == 16 * 64 * 32 * 3
    assert forensics["published"]["groups"]["black_level"]["scores"][-1] == 0.55


def test_learning_curves_are_over_steps(config, results):
    runs = collected(config, results)["adjustment"]["runs"]
    # 80 samples in batches of 8.
    assert runs["learned"]["steps"] == [10, 20, 30]
    np.testing.assert_allclose(runs["learned"]["mean"], [0.3, 0.5, 0.7])
    np.testing.assert_allclose(runs["learned"]["std"], 0.1)
    np.testing.assert_allclose(runs["learned"]["folds"], [[0.2, 0.4, 0.6], [0.4, 0.6, 0.8]])
    assert runs["frozen"]["end"] == pytest.approx({"mean": 0.35, "std": 0.05})


def test_learning_curves_have_a_thin_line_for_each_fold(config, results):
    axes = figures.make(config, {**collected(config, results), "forensics": None, "synthesis": {}})["adjustment"].axes[
        0
    ]
    drawn = [line.get_ydata() for line in axes.get_lines() if line.get_color() == "C0"]
    mean, *folds = drawn[:3]
    np.testing.assert_allclose(mean, np.mean(folds, 0))
    np.testing.assert_allclose(folds, [[0.2, 0.4, 0.6], [0.4, 0.6, 0.8]])


def test_controls_are_shown_without_the_jobs_that_failed(config, results):
    lost = {f"evaluate synthesis/{PIPELINES[0]}", "search all", "train adjustment/frozen"}
    content = collected(config, [job for job in results if job.name not in lost])
    processing = content["synthesis"]["scores"]["accuracy"]["processing"]
    assert processing["rows"] == processing["columns"] == list(PIPELINES[1:])
    assert content["forensics"]["groups"].keys() == {"black_level"}
    assert content["adjustment"]["runs"].keys() == {"learned"}


def test_without_any_result_a_control_is_left_out(config):
    content = collected(config, [])
    sections = page.make_sections(content, config.output_dir)
    assert [section.title for section in sections] == ["Overview", "Reproduction"]
    assert figures.make(config, content) == {}


def test_a_damaged_evaluation_is_named(config, tmp_path):
    damaged = replace(config, output=str(tmp_path / "study"))
    write(damaged.output_dir / "synthesis" / PIPELINES[0] / "evaluation" / "evaluation.json", {})
    with pytest.raises(InputError, match=r"evaluation.json cannot be read .*the same command evaluates anew"):
        collected(damaged, make_jobs(damaged))


@pytest.mark.parametrize("dataset", ["Synthetic", "Microscopy"])
def test_the_page_shows_ours_beside_the_published(config, results, dataset):
    content = collected(config, results, dataset)
    shown = Page(render("study", page.make_sections(content, config.output_dir)))
    caption = "Mean accuracy of all models, and its drops"
    assert shown.value(caption, "own images", "ours") == pytest.approx(0.91)
    assert shown.value(caption, "drop under drift of the sensor", "ours") == pytest.approx(0.25)
    assert shown.value(caption, "own images", "published") == pytest.approx(0.828, abs=1e-3)
    orientation_only = any("for orientation only" in text for text in shown.texts)
    assert orientation_only == (dataset == "Synthetic")
    assert any("deviations from the published" in text for text in shown.texts) == (dataset == "Microscopy")
    assert "Drift forensics" in shown.headings
    assert "Drift adjustment" in shown.headings

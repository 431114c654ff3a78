import numpy as np
import pytest

import r2l_jax
from r2l_jax.drift import acquisition, cases
from r2l_jax.drift.adjustment import adaptation, methods
from r2l_jax.drift.adjustment.config import AdaptationConfig
from r2l_jax.drift.search.searcher import Searcher
from r2l_jax.runtime.flags import build, replace
from r2l_jax.training.run import open_runs


@pytest.fixture(scope="module")
def config(one_epoch, tmp_path_factory):
    return build(
        AdaptationConfig,
        run=str(one_epoch.run_dir),
        output=str(tmp_path_factory.mktemp("adjustment")),
        sensor=("black_level",),
        severities=(5,),
        unlabeled=16,
        labeled=8,
        force=True,
        starts=1,
        steps=2,
        batch_size=8,
        track_n_images=1,
    )


@pytest.fixture(scope="module")
def result(config):
    return adaptation.run(config)


def test_all_methods_stand_beside_the_baselines(result):
    one = result["folds"][0]["black_level.5"]
    names = ["exposure", "normalizer", "batch_norms", "statistics", "processing", "labels"]
    assert list(one["methods"]) == list(result["drifts"]["black_level.5"]["methods"]) == names
    assert one["after"] == one["methods"]["labels"]
    for name in names:
        interval = result["drifts"]["black_level.5"]["methods"][name]
        assert interval["estimate"] == pytest.approx(one["methods"][name]), name
    assert one["statistics"].startswith("16 images, whose share is ")
    assert "refusal" not in one


def test_the_adapted_run_predicts_as_was_measured(config, result):
    one = result["folds"][0]["black_level.5"]
    model = r2l_jax.load(config.output_dir / "black_level.5")
    (run,) = open_runs([config.run])
    (fold,) = run.folds
    (drift,) = cases.sensor(["black_level"], [5])
    dataset = acquisition.drifted(fold.config.data, fold.dataset, drift, None, 0)
    raws, targets = dataset.samples(fold.measured_indices)
    assert (model.predict(raws).argmax(-1) == targets).mean() == pytest.approx(one["after"])
    assert model.about.mended["drift"] == "black_level.5"
    for name, value in one["parameters"].items():
        np.testing.assert_allclose(model.pipeline.parameters()[name], value, rtol=1e-6)
    # An adaptation whose model was removed is made anew; else it is found again.
    assert adaptation.run(config)["folds"] == result["folds"]


def test_images_that_are_refused_change_nothing(config, tmp_path):
    config = replace(config, output=str(tmp_path), unlabeled=4, method="processing", labeled=0, force=False)
    one = adaptation.run(config)["folds"][0]["black_level.5"]
    assert one["refusal"] == "4 images are too few to mend by: it takes 8"
    assert one["methods"]["processing"] == one["methods"]["statistics"] == one["before"] == one["after"]
    assert one["parameters"] == one["default"]


def test_searches_by_features_see_no_labels(config, tmp_path, monkeypatch):
    seen, run = [], Searcher.run

    def watched(self, searches, raws, targets, *options):
        seen.append((len(raws), set(targets.tolist())))
        return run(self, searches, raws, targets, *options)

    monkeypatch.setattr(methods.Searcher, "run", watched)
    adaptation.run(replace(config, output=str(tmp_path), labeled=0))
    assert seen == [(16, {0})]


@pytest.mark.parametrize(
    ("distances", "certainties", "chosen"),
    [
        # The most certain end went astray under defocus, and cost 20 points.
        ((0.007, 0.030, 0.020, 0.015), (0.641, 0.600, 0.666, 0.582), 0),
        ((0.057, 0.013, 0.027, 0.162), (0.724, 0.741, 0.746, 0.765), 2),
        ((0.057, 0.013, 0.027, 0.162), (0.8, 0.741, 0.746, 0.565), 0),
    ],
)
def test_the_most_certain_end_is_chosen_of_those_nearer_than_no_search(distances, certainties, chosen):
    assert methods.choose(distances, certainties) == chosen

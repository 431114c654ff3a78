import jax
import numpy as np
import pytest
from flax import nnx

import r2l_jax
from r2l_jax.drift import acquisition, cases
from r2l_jax.drift.adjustment import adaptation, drifts, methods
from r2l_jax.drift.adjustment.config import AdaptationConfig
from r2l_jax.drift.search.searcher import Searcher
from r2l_jax.drift.watch import notice, reference
from r2l_jax.model import mending
from r2l_jax.runtime.flags import build, replace
from r2l_jax.training.run import load


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


def test_all_methods_stand_beside_the_baseline(result):
    one = result["folds"][0]["black_level.5"]
    names = ["batch_norms", "statistics", "processing", "labels"]
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
    run = load(config.run)
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


@pytest.mark.parametrize(("severity", "noticed"), [(1, False), (5, True)])
def test_a_model_is_adapted_if_a_drift_is_noticed(config, tmp_path, monkeypatch, severity, noticed):
    """The reference holds other training samples, without the drift: a model may be surer of these than of others."""
    seen = []

    def unnoticed(run, raws, find_reference):
        monkeypatch.setattr(reference, "LEAST", 8)
        known = find_reference()
        seen.extend([raws, known.raws])
        return None if np.median(raws) > np.median(known.raws) + 0.02 else "no drift is noticed"

    monkeypatch.setattr(notice, "unnoticed", unnoticed)
    monkeypatch.setattr(mending.Mended, "refusal", None)
    config = replace(config, output=str(tmp_path), severities=(severity,), method="statistics", labeled=0, force=False)
    one = adaptation.run(config)["folds"][0][f"black_level.{severity}"]
    assert one.get("refusal") == (None if noticed else "no drift is noticed")
    assert (one.get("statistics") is not None) == noticed
    new, clean = seen
    (fold,) = load(config.run)
    trained = fold.dataset.samples(fold.train_indices)[0]
    assert (len(new), len(clean)) == (16, 16)
    found = [np.abs(trained - raw).mean((1, 2)).argmin() for raw in (*new, *clean)]
    assert sorted(found) == list(range(32))
    np.testing.assert_allclose(clean, trained[found[16:]], atol=1e-5)


def watch_searches(monkeypatch):
    """The targets and the exposures of the start of each call of searches."""
    seen, run = [], Searcher.run

    def watched(self, frozen, searches, raws, targets, *options):
        seen.append((len(raws), set(targets.tolist()), [search.exposure for search in searches]))
        return run(self, frozen, searches, raws, targets, *options)

    monkeypatch.setattr(methods.Searcher, "run", watched)
    return seen


def test_searches_by_features_see_no_labels(config, tmp_path, monkeypatch):
    seen = watch_searches(monkeypatch)
    adaptation.run(replace(config, output=str(tmp_path), labeled=0))
    ((images, targets, _),) = seen
    assert (images, targets) == (16, {0})


def test_labels_go_on_where_features_end_with_their_statistics(config, tmp_path, monkeypatch):
    seen = watch_searches(monkeypatch)
    (fold,) = load(config.run)
    under = drifts.drifted(config, fold, *config.drifts)
    settings = replace(config, starts=3).searches
    tried = methods.try_all(settings, fold, under)
    (unlabeled, _, exposures), (labeled, targets, start) = seen
    assert (unlabeled, len(exposures)) == (16, 3)
    assert (labeled, start) == (8, [1.0])
    assert len(targets) > 1
    before, after = (tried.models[name] for name in ("processing", "labels"))
    assert jax.tree.all(jax.tree.map(np.array_equal, statistics_of(before), statistics_of(after)))
    assert not np.array_equal(nnx.state(before.processor)["gamma_correct"], nnx.state(after.processor)["gamma_correct"])


def statistics_of(model):
    return [nnx.to_pure_dict(nnx.state(part)) for part in (model.normalizer, model.head)]


@pytest.mark.slow
def test_without_statistics_labels_start_from_several_exposures(config, tmp_path, monkeypatch):
    seen = watch_searches(monkeypatch)
    config = replace(config, output=str(tmp_path), unlabeled=4, starts=3, force=False)
    one = adaptation.run(config)["folds"][0]["black_level.5"]
    assert one["refusal"] == "4 images are too few to mend by: it takes 8"
    assert [(images, exposures) for images, _, exposures in seen] == [(8, [1.0, 2.0, 4.0])]


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

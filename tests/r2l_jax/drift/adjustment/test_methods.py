import jax
import numpy as np
import pytest
from flax import nnx

import r2l_jax
from r2l_jax.cli.flags import build, replace
from r2l_jax.drift import acquisition, cases
from r2l_jax.drift.adjustment import adjustment, drifts, methods
from r2l_jax.drift.adjustment.config import AdjustmentConfig
from r2l_jax.drift.monitoring import reference
from r2l_jax.drift.search.searcher import Searcher
from r2l_jax.model import adaptation
from r2l_jax.results import result
from r2l_jax.training.run import load


@pytest.fixture(scope="module")
def config(one_epoch, tmp_path_factory):
    return build(
        AdjustmentConfig,
        run=str(one_epoch.run_dir),
        output=str(tmp_path_factory.mktemp("adjustment")),
        sensor=("black_level",),
        severities=(5,),
        unlabeled=16,
        labeled=8,
        force=True,
        steps=2,
        batch_size=8,
    )


@pytest.fixture(scope="module", autouse=True)
def one_start():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods, "_NEAREST", 1)
        # The few labels here confirm no search.
        patch.setattr(methods, "confirmed", lambda scores, sizes: scores.shape[1] - 1)
        yield


def tried(config, **changes):
    """What the settings try on the fold."""
    config = replace(config, **changes)
    (fold,) = load(config.run, with_data=True)
    return fold, methods.try_all(config.searches, fold, drifts.drifted(config, fold, *config.drifts))


@pytest.fixture(scope="module")
def found(config):
    return adjustment.run(config)


@pytest.mark.shows("adjustment.adjustment parameters.csv: largest offset")
def test_the_adapted_run_predicts_as_was_measured(config, found):
    scores = {row: interval[0] for row, interval in found.tables["adjustment"].rows}
    assert list(scores) == [
        "clean", "nothing", "all statistics", "mixed statistics", "processing", "labels", "recovered"
    ]  # fmt: skip
    assert found.metadata["score"] == "accuracy"
    model = r2l_jax.load(config.output_dir / "black_level.5")
    (fold,) = load(config.run)
    (drift,) = cases.sensor(["black_level"], [5])
    dataset = acquisition.drifted(fold.config.data, fold.dataset, drift, 0)
    raws, targets = dataset.samples(fold.measured_indices)
    assert (model.predict(raws).argmax(-1) == targets).mean() == pytest.approx(scores["labels"])
    assert model.about.adapted["drift"] == "black_level.5"
    of_fold = result.read(config.output_dir / "fold_0/black_level.5")
    assert of_fold.metadata["notes"][0].startswith("Statistics of 16 images with a weight of ")
    moved = {row[0]: row[3] for row in of_fold.tables["parameters"].rows}
    assert moved["gamma_correct"] > 0
    gamma = fold.model.processor.parameters()["gamma_correct"]
    moved_gamma = model.pipeline.parameters()["gamma_correct"]
    np.testing.assert_allclose(abs(np.log(moved_gamma / gamma)), moved["gamma_correct"], rtol=1e-3)


@pytest.mark.shows("adjust --force --method")
@pytest.mark.parametrize(("severity", "noticed"), [(1, False), (5, True)])
def test_a_model_is_adapted_if_a_drift_is_noticed(config, monkeypatch, severity, noticed):
    """The reference holds other training samples, without the drift: a model may be surer of these than of others."""
    seen = []

    def unnoticed(run, raws, find_reference, groups):
        monkeypatch.setattr(reference, "LEAST", 8)
        known = find_reference()
        seen.extend([raws, known.raws, groups])
        return None if np.median(raws) > np.median(known.raws) + 0.02 else "no drift is noticed"

    monkeypatch.setattr(reference, "unnoticed", unnoticed)
    monkeypatch.setattr(adaptation.Adapted, "refusal", None)
    fold, found = tried(config, severities=(severity,), method="statistics", labeled=0, force=False)
    assert found.refusal == (None if noticed else "no drift is noticed")
    assert (found.statistics is not None) == noticed
    assert list(found.models) == ["all statistics", "mixed statistics"]
    new, clean, groups = seen
    trained = fold.dataset.samples(fold.split.train)[0]
    assert (len(new), len(clean)) == (16, 16)
    places = [np.abs(trained - raw).mean((1, 2)).argmin() for raw in (*new, *clean)]
    assert sorted(places) == list(range(32))
    np.testing.assert_allclose(clean, trained[places[16:]], atol=1e-5)
    # Samples without groups are one each.
    np.testing.assert_array_equal(groups, fold.split.train[places[:16]])


@pytest.mark.shows("adjust --unlabeled --labeled")
def test_searches_by_features_see_no_labels_and_labels_go_on_where_these_end(config, monkeypatch):
    seen, run = [], Searcher.run

    def watched(self, frozen, searches, raws, targets, steps):
        if steps:
            seen.append((len(raws), set(targets.tolist()), [search.exposure for search in searches]))
        return run(self, frozen, searches, raws, targets, steps)

    monkeypatch.setattr(Searcher, "run", watched)
    monkeypatch.setattr(methods, "_NEAREST", 3)
    _, found = tried(config)
    (unlabeled, no_labels, exposures), (labeled, targets, start) = seen
    assert (unlabeled, no_labels, len(exposures)) == (16, {0}, 3)
    # Without each of eight labels, and with all.
    assert (labeled, start) == (8, [1.0] * 9)
    assert len(targets) > 1
    before, after = (found.models[name] for name in ("processing", "labels"))
    assert jax.tree.all(jax.tree.map(np.array_equal, statistics_of(before), statistics_of(after)))
    assert not np.array_equal(nnx.state(before.processor)["gamma_correct"], nnx.state(after.processor)["gamma_correct"])


def statistics_of(model):
    return [nnx.to_pure_dict(nnx.state(part)) for part in (model.normalizer, model.head)]


@pytest.mark.parametrize(
    ("distances", "information", "chosen"),
    [
        # The most confident end went astray under defocus, and cost 20 points.
        ((0.007, 0.030, 0.020, 0.015), (0.641, 0.600, 0.666, 0.582), 0),
        ((0.057, 0.013, 0.027, 0.162), (0.724, 0.741, 0.746, 0.765), 2),
        ((0.057, 0.013, 0.027, 0.162), (0.8, 0.741, 0.746, 0.565), 0),
    ],
)
def test_the_end_of_most_information_is_chosen_of_those_nearer_than_no_search(distances, information, chosen):
    assert methods.choose(distances, information) == chosen

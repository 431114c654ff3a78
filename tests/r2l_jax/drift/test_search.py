import jax.numpy as jnp
import numpy as np
import pytest

import isp
from r2l_jax import trained
from r2l_jax.data import loader
from r2l_jax.drift.ranges import natural_ranges
from r2l_jax.drift.search import Search, Searcher, deviation


@pytest.fixture(scope="module")
def fold(one_epoch):
    ((fold,),) = trained.load_runs([str(one_epoch.run_dir)])
    return fold


@pytest.fixture(scope="module")
def searcher(fold):
    return make(fold, "worst")


def make(fold, direction, **options):
    ranges = natural_ranges(fold.model.processor)
    return Searcher(fold.model, fold.objective, ranges, direction=direction, batch_size=8, **options)


def run(searcher, fold, searches, steps=4):
    raws, targets = fold.dataset.decoded
    return searcher.run(searches, raws[fold.fold.train_indices], targets[fold.fold.train_indices], steps)


ALL = ("black_level", "white_balance", "colour_correction", "gamma_correct")


@pytest.mark.parametrize(("direction", "sign"), [("worst", 1), ("best", -1)])
def test_the_task_loss_moves_in_the_direction(fold, direction, sign):
    searcher = make(fold, direction)
    (found,) = run(searcher, fold, [Search(ALL, aux_weight=0.0)], steps=25)
    assert found.task_loss.shape == (25,)
    assert found.deviation[0] == pytest.approx(0, abs=1e-6)
    batches = list(loader.eval_batches(fold.dataset, fold.fold.train_indices, 8))
    before, after = searcher.evaluate([searcher.default, found.parameters], batches)
    assert sign * (after["loss"] - before["loss"]) > 0.01
    assert before["ssim"] == pytest.approx(1, abs=1e-5)
    assert after["ssim"] < 0.999


def test_the_default_evaluates_as_training_did(fold, searcher):
    from small_runs import metrics

    (result,) = searcher.evaluate([searcher.default], loader.eval_batches(fold.dataset, fold.fold.valid_indices, 8))
    assert result["score"] == pytest.approx(metrics(fold.config)["val_accuracy"])
    assert result["loss"] == pytest.approx(metrics(fold.config)["val_loss"], rel=1e-4)


def test_only_the_group_moves(fold, searcher):
    groups = [("white_balance",), ("gamma_correct", "black_level")]
    for group, found in zip(groups, run(searcher, fold, [Search(group) for group in groups]), strict=True):
        for name, value in found.parameters.items():
            moved = (value != np.asarray(searcher.default[name])).any()
            assert moved == (name in group), name


def test_searches_of_a_stack_do_not_know_of_each_other(fold, searcher):
    searches = [Search(ALL, seed=1, spread=0.02), Search(("gamma_correct",), 10.0), Search(ALL, 0.1, seed=2)]
    together = run(searcher, fold, searches)
    alone = [run(searcher, fold, [search])[0] for search in searches]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.task_loss, other.task_loss, rtol=1e-3)
        for name, value in one.parameters.items():
            np.testing.assert_allclose(value, other.parameters[name], rtol=1e-3, atol=1e-3)
    compiled = len(searcher._compiled)
    run(searcher, fold, searches[::-1])
    assert len(searcher._compiled) == compiled


def test_parameters_stay_valid(fold):
    searcher = make(fold, "worst", learning_rate=10.0)
    (found,) = run(searcher, fold, [Search(tuple(searcher.default), aux_weight=0.0)], steps=6)
    ranges = natural_ranges(fold.model.processor)
    for name, value in found.parameters.items():
        _, low, high = ranges[name]
        assert (value >= low - 1e-5 * abs(low)).all(), name
        assert (value <= high + 1e-5 * abs(high)).all(), name
    assert found.parameters["gamma_correct"] > 0
    assert (found.parameters["black_level"] < 1).all()
    assert np.isfinite(found.task_loss).all()


def test_a_group_that_the_pipeline_does_not_have_is_named(fold, searcher):
    with pytest.raises(ValueError, match=r"group must be of .*'white_balance'\], got also \['radius'\]"):
        run(searcher, fold, [Search(("radius",))])


@pytest.mark.parametrize("aux_loss", ["ssim", "l2"])
def test_more_deviation_always_costs_more(aux_loss):
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.random((1, 16, 16, 3), np.float32))
    away = jnp.asarray(rng.normal(size=image.shape).astype(np.float32))
    costs = [float(deviation(image + amount * away, image, aux_loss)) for amount in (0.0, 0.01, 0.03, 0.1, 0.3)]
    assert costs[0] == pytest.approx(0, abs=1e-6)
    assert (np.diff(costs) > 0).all()


@pytest.mark.parametrize("name", isp.CAMERAS)
def test_defaults_lie_within_their_ranges(name):
    pipeline = isp.parametrized(isp.CAMERAS[name], additive_layer=(4, 4))
    for parameter, (width, low, high) in natural_ranges(pipeline).items():
        value = np.asarray(getattr(pipeline, parameter)[...])
        assert width.shape == low.shape == high.shape == value.shape
        assert (width > 0).all()
        assert ((low <= value) & (value <= high)).all()
        assert (np.sign(low) == np.sign(high)).all() or parameter != "white_balance"

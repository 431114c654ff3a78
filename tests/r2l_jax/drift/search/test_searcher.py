import numpy as np
import pytest
from whole_sets import every_sample

from r2l_jax.data import loader
from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.drift.search.measure import Measurer
from r2l_jax.drift.search.searcher import Search, Searcher
from r2l_jax.drift.search.stacks import Stacks
from r2l_jax.runtime.stop import Interrupted
from r2l_jax.training.run import open_runs


@pytest.fixture(scope="module")
def fold(one_epoch):
    ((fold,),) = open_runs([str(one_epoch.run_dir)])
    return fold


@pytest.fixture(scope="module")
def frozen(fold):
    return Frozen(fold.model, fold.task)


@pytest.fixture(scope="module")
def searcher(frozen):
    return make(frozen, "worst")


def make(frozen, direction, batch_size=8, **options):
    return Searcher(frozen, direction=direction, batch_size=batch_size, **options)


def run(searcher, fold, searches, steps=4, **options):
    raws, targets = every_sample(fold.dataset)
    return searcher.run(searches, raws[fold.train_indices], targets[fold.train_indices], steps, **options)


ALL = ("black_level", "white_balance", "colour_correction", "gamma_correct")


@pytest.mark.parametrize(("direction", "sign"), [("worst", 1), pytest.param("best", -1, marks=pytest.mark.slow)])
def test_the_task_loss_moves_in_the_direction(fold, frozen, direction, sign):
    searcher = make(frozen, direction)
    (found,) = run(searcher, fold, [Search(ALL, aux_weight=0.0)], steps=25)
    assert found.task_loss.shape == (25,)
    assert found.deviation[0] == pytest.approx(0, abs=1e-6)
    batches = loader.eval_batches(fold.dataset, fold.train_indices, 8)
    before, after = Measurer(frozen).measure([frozen.default, found.parameters], batches)
    assert sign * (after.loss - before.loss) > 0.01
    assert before.ssim == pytest.approx(1, abs=1e-5)
    assert after.ssim < 0.999


@pytest.mark.slow
def test_only_the_group_moves(fold, frozen, searcher):
    groups = [("white_balance",), ("gamma_correct", "black_level")]
    for group, found in zip(groups, run(searcher, fold, [Search(group) for group in groups]), strict=True):
        for name, value in found.parameters.items():
            moved = (value != np.asarray(frozen.default[name])).any()
            assert moved == (name in group), name


def test_searches_of_a_stack_do_not_know_of_each_other(fold, searcher):
    searches = [Search(ALL, seed=1, spread=0.02), Search(("gamma_correct",), 10.0), Search(ALL, 0.1, seed=2)]
    together = run(searcher, fold, searches)
    alone = [run(searcher, fold, [search])[0] for search in searches]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.task_loss, other.task_loss, rtol=1e-3)
        for name, value in one.parameters.items():
            np.testing.assert_allclose(value, other.parameters[name], rtol=1e-3, atol=1e-3)
    compiled = len(searcher._stacks._compiled)
    run(searcher, fold, searches[::-1])
    assert len(searcher._stacks._compiled) == compiled


def test_stopped_searches_go_on_where_they_were(fold, searcher, tmp_path):
    searches = [Search(ALL, seed=1, spread=0.02), Search(("gamma_correct",), 10.0)]
    whole = run(searcher, fold, searches, steps=5)
    file = tmp_path / "unfinished.npz"
    answers = iter([False, False, True])
    with pytest.raises(Interrupted, match="stopped at step 3 of 5; the same command goes on from there"):
        run(searcher, fold, searches, steps=5, stop=lambda: next(answers), file=file)
    steps_left = []
    parts = run(searcher, fold, searches, steps=5, stop=lambda: steps_left.append(1), file=file)
    assert len(steps_left) == 2
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one.task_loss, other.task_loss)
        np.testing.assert_array_equal(one.deviation, other.deviation)
        for name, value in one.parameters.items():
            np.testing.assert_array_equal(value, other.parameters[name])
    # Others start anew, and so does a file of another kind.
    kept = file.read_bytes()
    for others, content in ((searches[::-1], kept), (searches, b"something else"), (searches, kept[: len(kept) // 2])):
        file.write_bytes(content)
        steps_left.clear()
        run(searcher, fold, others, steps=5, stop=lambda: steps_left.append(1), file=file)
        assert len(steps_left) == 5


def test_parameters_stay_valid(fold, frozen):
    searcher = make(frozen, "worst", learning_rate=10.0)
    (found,) = run(searcher, fold, [Search(tuple(frozen.default), aux_weight=0.0)], steps=6)
    values = found.parameters
    assert ((values["black_level"] >= 0) & (values["black_level"] < 0.951)).all()
    for name in ("white_balance", "gamma_correct"):
        factor = values[name] / frozen.default[name]
        assert ((factor > 0.00999) & (factor < 100.1)).all()
    assert np.isfinite(found.task_loss).all()


@pytest.mark.slow
def test_l2_sum_is_l2_at_a_price_times_the_values_of_a_batch(fold, frozen):
    weight, values = 0.5, 8 * np.prod(fold.dataset.shape) * 3
    by_sum = make(frozen, "worst", aux_loss="l2_sum", batch_size=8)
    by_mean = make(frozen, "worst", aux_loss="l2", batch_size=8)
    (summed,) = run(by_sum, fold, [Search(ALL, weight, seed=1)], steps=3)
    (mean,) = run(by_mean, fold, [Search(ALL, weight * values, seed=1)], steps=3)
    for name, value in mean.parameters.items():
        np.testing.assert_allclose(summed.parameters[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(summed.deviation, mean.deviation, rtol=1e-3, atol=1e-7)


def test_a_group_that_the_pipeline_does_not_have_is_named(fold, searcher):
    with pytest.raises(ValueError, match=r"group must be of .*'white_balance'\], got also \['radius'\]"):
        run(searcher, fold, [Search(("radius",))])


def test_the_exposure_multiplies_the_gains_of_the_start_alone(fold, frozen, searcher):
    for searches in (
        [Search(ALL, exposure=2.0), Search(("gamma_correct",), exposure=2.0)],
        [Search(ALL, exposure=0.25), Search(ALL)],
    ):
        for search, found in zip(searches, run(searcher, fold, searches, steps=0), strict=True):
            factor = search.exposure if "white_balance" in search.group else 1
            for name, value in frozen.default.items():
                expected = factor * value if name == "white_balance" else value
                np.testing.assert_allclose(found.parameters[name], expected, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 0.02},
        {"batch_size": 4},
        {"aux_loss": "l2"},
        {"direction": "best"},
        {"steps": 6},
        {"raws": 1.01},
        {"targets": 2},
        {"gamma": 2.3},
    ],
    ids=str,
)
def test_stopped_searches_start_anew_under_other_settings(fold, frozen, searcher, tmp_path, monkeypatch, change):
    searches, file = [Search(ALL, seed=1), Search(("gamma_correct",), 10.0)], tmp_path / "unfinished.npz"

    def stopped(searcher, message, steps=5, raws=1.0, targets=1):
        all_raws, all_targets = every_sample(fold.dataset)
        arrays = (raws * all_raws, targets * all_targets)
        with pytest.raises(Interrupted, match=message):
            searcher.run(searches, *arrays, steps, lambda: True, file)

    def compile_nothing(stacks, function, stacked, shared, donated):
        state, _ = stacked
        raise Interrupted(f"goes on at step {state.step.max()}")

    stopped(searcher, "stopped at step 1 of 5")
    monkeypatch.setattr(Stacks, "compile", compile_nothing)
    stopped(make(frozen, "worst"), "goes on at step 1")
    change = dict(change)
    if gamma := change.pop("gamma", None):
        frozen = Frozen(fold.model, fold.task)
        frozen.default = frozen.default | {"gamma_correct": np.float32(gamma)}
    samples = {name: change.pop(name) for name in ("steps", "raws", "targets") if name in change}
    stopped(make(frozen, **{"direction": "worst", **change}), "goes on at step 0", **samples)

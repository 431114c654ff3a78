import brightness
import numpy as np
import pytest
from brightness import dark_images

from r2l_jax.drift.search.descent import deviation
from r2l_jax.drift.search.measure import Measurer
from r2l_jax.drift.search.searcher import Search, Searcher
from r2l_jax.runtime import stop
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.stop import Interrupted

DATASET, EVERY = dark_images(np.linspace(0.1, 0.45, 12), side=8), np.arange(12)
RAWS, TARGETS = DATASET.samples(EVERY)
ALL = ("black_level", "white_balance", "colour_correction", "gamma_correct")


@pytest.fixture(scope="module")
def frozen():
    return brightness.frozen(DATASET)


@pytest.fixture(scope="module")
def searcher(frozen):
    return make(frozen)


@pytest.fixture(scope="module")
def measurer(frozen):
    return Measurer(frozen)


def make(frozen, direction="worst", batch_size=4, **options):
    return Searcher(frozen, direction=direction, batch_size=batch_size, **options)


def run(searcher, searches, steps=3):
    return searcher.run(searches, RAWS, TARGETS, steps)


@pytest.mark.parametrize(("direction", "sign"), [("worst", 1), pytest.param("best", -1, marks=pytest.mark.slow)])
def test_the_task_loss_moves_in_the_direction(frozen, measurer, direction, sign):
    """The worst of dark images is to be bright."""
    (found,) = run(make(frozen, direction, learning_rate=0.03), [Search(ALL, aux_weight=0.0)], steps=6)
    assert found.task_loss.shape == (6,)
    before, after = measurer.measure_samples([frozen.default, found.parameters], DATASET, EVERY, 12)
    assert sign * (after.loss - before.loss) > 0.01
    for name, value in found.parameters.items():
        moved = sign * (value - frozen.default[name])
        assert (moved < 0 if name == "black_level" else moved > 0).all(), name


def test_losses_are_those_before_each_step(frozen, measurer):
    """The start lies beside the default. A batch of all samples has one loss, in whatever order they are drawn."""
    search = Search(ALL, seed=3, spread=0.5)
    for aux_loss in ("ssim", "l2"):
        searcher = make(frozen, batch_size=100, aux_loss=aux_loss)
        (start,), (found,) = (run(searcher, [search], steps=steps) for steps in (0, 1))
        images, default = (frozen.pipeline(values)(RAWS) for values in (start.parameters, frozen.default))
        assert found.deviation[0] == pytest.approx(float(deviation(images, default, aux_loss)), rel=1e-4)
        assert found.deviation[0] > 1e-4
        measured, _ = measurer.measure_samples([start.parameters] * 2, DATASET, EVERY, 12)
        assert found.task_loss[0] == pytest.approx(measured.loss, rel=1e-5)


def test_deviation_has_its_price(frozen):
    searches = [Search(ALL, aux_weight=weight) for weight in (0.0, 100.0)]
    free, dear = run(make(frozen, aux_loss="l2", batch_size=12), searches, steps=8)
    assert free.deviation[0] == pytest.approx(0, abs=1e-6)
    assert 0 < dear.deviation[-1] < 0.5 * free.deviation[-1]


def test_steps_begin_with_the_learning_rate_and_end_at_nothing(frozen):
    (found,) = run(make(frozen, learning_rate=0.1), [Search(("gamma_correct",), 0.0)], steps=2)
    # Adam's steps have the length of the rate, which is halved in the middle of half a cosine.
    moved = np.log(found.parameters["gamma_correct"] / frozen.default["gamma_correct"])
    assert moved == pytest.approx(0.1 + 0.05, rel=1e-2)


def test_only_the_group_moves(frozen, searcher):
    groups = [("white_balance",), ("gamma_correct", "black_level")]
    for group, found in zip(groups, run(searcher, [Search(group) for group in groups]), strict=True):
        for name, value in found.parameters.items():
            moved = (value != np.asarray(frozen.default[name])).any()
            assert moved == (name in group), name


def assert_same(ones, others, rtol):
    for one, other in zip(ones, others, strict=True):
        np.testing.assert_allclose(one.task_loss, other.task_loss, rtol=rtol)
        np.testing.assert_allclose(one.deviation, other.deviation, rtol=rtol, atol=rtol / 10)
        for name, value in one.parameters.items():
            np.testing.assert_allclose(value, other.parameters[name], rtol=rtol, atol=rtol / 10)


def test_searches_of_a_stack_do_not_know_of_each_other(searcher):
    searches = [Search(ALL, seed=1, spread=0.02), Search(("gamma_correct",), 10.0), Search(ALL, 0.1, seed=2)]
    together = run(searcher, searches)
    assert_same(together, [run(searcher, [search])[0] for search in searches], 1e-4)
    assert len({round(float(found.task_loss[0]), 6) for found in together}) == 3


def test_a_request_stops_searches_before_their_last_step(searcher, monkeypatch):
    answers = iter([False, True])
    monkeypatch.setattr(stop, "requested", lambda: next(answers))
    with pytest.raises(Interrupted, match="stopped; the same command begins this analysis anew"):
        run(searcher, [Search(ALL)], steps=3)
    monkeypatch.setattr(stop, "requested", lambda: True)
    assert len(run(searcher, [Search(ALL)], steps=1)[0].task_loss) == 1


def test_a_search_that_diverges_is_named(searcher):
    with pytest.raises(InputError, match=r"search over gamma_correct has diverged: try a learning rate below 0\.01"):
        searcher.run([Search(("gamma_correct",))], np.nan * RAWS, TARGETS, 1)


def test_a_group_that_the_pipeline_does_not_have_is_named(searcher):
    with pytest.raises(ValueError, match=r"group must be some of .*'white_balance'\], got also \['radius'\]"):
        run(searcher, [Search(("radius",))])


def test_the_exposure_multiplies_the_gains_of_the_start_alone(frozen, searcher):
    for searches in (
        [Search(ALL, exposure=2.0), Search(("gamma_correct",), exposure=2.0)],
        [Search(ALL, exposure=0.25), Search(ALL)],
    ):
        for search, found in zip(searches, run(searcher, searches, steps=0), strict=True):
            factor = search.exposure if "white_balance" in search.group else 1
            for name, value in frozen.default.items():
                expected = factor * value if name == "white_balance" else value
                np.testing.assert_allclose(found.parameters[name], expected, rtol=1e-6, err_msg=name)

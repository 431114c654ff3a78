import gc
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import brightness
import jax
import numpy as np
import pytest
from brightness import dark_images

from r2l_jax.cli import progress, stop
from r2l_jax.cli.stop import Interrupted
from r2l_jax.drift.cases import CLEAN
from r2l_jax.drift.measure import Model, Samples, measure
from r2l_jax.drift.search import searcher
from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.drift.search.ranges import deviation
from r2l_jax.drift.search.searcher import Search, Searcher, _step
from r2l_jax.errors import InputError

DATASET, EVERY = dark_images(np.linspace(0.1, 0.45, 12), side=8), np.arange(12)
RAWS, TARGETS = DATASET.samples(EVERY)
ALL = ("black_level", "white_balance", "colour_correction", "gamma_correct")


@pytest.fixture(scope="module")
def frozen():
    return brightness.frozen(DATASET)


def losses(values):
    """The losses of all samples under several values of the parameters."""
    shown = brightness.model(DATASET)
    models = {f"{number}": Model(shown, each) for number, each in enumerate(values)}
    return measure(models, [CLEAN], Samples(brightness.frozen(DATASET).task, DATASET, EVERY, 12)).loss[:, 0]


def run(frozen, searches, steps=3, batch_size=4, **options):
    return Searcher(direction="worst", batch_size=batch_size, **options).run(frozen, searches, RAWS, TARGETS, steps)


def test_the_task_loss_rises_in_the_worst_direction(frozen):
    """The worst of dark images is to be bright."""
    (found,) = run(frozen, [Search(ALL, aux_weight=0.0)], 6, learning_rate=0.03)
    assert found.task_loss.shape == (6,)
    before, after = losses([frozen.default, found.parameters])
    assert after - before > 0.01
    for name, value in found.parameters.items():
        moved = value - frozen.default[name]
        assert (moved < 0 if name == "black_level" else moved > 0).all(), name


def test_a_log_has_lines_of_a_long_search(frozen, monkeypatch, capsys):
    seconds = iter(range(0, 10_000, 16))  # A clock that is 16 seconds later each time that it is asked.
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    monkeypatch.setattr(progress.Bar, "_latest", 0)
    run(frozen, [Search(("gamma_correct",))], steps=6)
    assert capsys.readouterr().err.splitlines() == ["1 search: step 3 of 6", "1 search: step 5 of 6"]


def test_losses_are_those_before_each_step(frozen):
    """The start lies beside the default. A batch of all samples has one loss, in whatever order they are drawn."""
    search = Search(ALL, seed=3, spread=0.5)
    for aux_loss in ("ssim", "l2"):
        (start,), (found,) = (run(frozen, [search], steps, batch_size=100, aux_loss=aux_loss) for steps in (0, 1))
        images, default = (frozen.pipeline(values)(RAWS) for values in (start.parameters, frozen.default))
        assert found.deviation[0] == pytest.approx(float(deviation(images, default, aux_loss)), rel=1e-4)
        assert found.deviation[0] > 1e-4
        assert found.task_loss[0] == pytest.approx(losses([start.parameters])[0], rel=1e-5)


def test_searches_of_a_stack_do_not_know_of_each_other(frozen):
    searches = [Search(ALL, seed=1, spread=0.02), Search(("gamma_correct",), 10.0), Search(ALL, 0.1, seed=2)]
    together = run(frozen, searches)
    for search, one in zip(searches, together, strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *run(frozen, [search]), one)
    assert len({round(float(found.task_loss[0]), 6) for found in together}) == 3


def test_samples_that_are_left_out_change_nothing(frozen):
    """Each search is that of the other samples alone, whether or not a batch holds them all."""
    raws = np.where(np.isin(EVERY, (2, 7))[:, None, None], 0.9, RAWS).astype(np.float32)
    kept = np.delete(EVERY, (2, 7))
    best, search = Searcher(direction="best", batch_size=100), Search(ALL, 0.0)
    _, found = best.run(frozen, [search, search._replace(left_out=(2, 7))], raws, TARGETS, 3)
    (expected,) = best.run(frozen, [search], RAWS[kept], TARGETS[kept], 3)
    for each, other in zip(found[:2], expected[:2], strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), each, other)
    # A batch of four is drawn from the ten others.
    few = [
        Searcher(direction="best", batch_size=4).run(frozen, [search._replace(left_out=(2, 7))], each, TARGETS, 3)
        for each in (raws, np.where(np.isin(EVERY, (2, 7))[:, None, None], 0.1, RAWS).astype(np.float32))
    ]
    jax.tree.map(np.testing.assert_array_equal, *few)


def test_a_request_stops_searches_before_their_last_step(frozen, monkeypatch):
    answers = iter([False, True])
    monkeypatch.setattr(stop, "requested", lambda: next(answers))
    with pytest.raises(Interrupted, match="stopped; the same call starts this analysis again"):
        run(frozen, [Search(ALL)], steps=3)
    monkeypatch.setattr(stop, "requested", lambda: True)
    assert len(run(frozen, [Search(ALL)], steps=1)[0].task_loss) == 1


def test_a_search_that_diverges_is_named(frozen):
    with pytest.raises(InputError, match=r"search over gamma_correct has diverged: try a learning rate below 0\.01"):
        Searcher(direction="worst").run(frozen, [Search(("gamma_correct",))], np.nan * RAWS, TARGETS, 1)


def test_the_exposure_multiplies_the_gains_of_the_start_alone(frozen):
    for searches in (
        [Search(ALL, exposure=2.0), Search(("gamma_correct",), exposure=2.0)],
        [Search(ALL, exposure=0.25), Search(ALL)],
    ):
        for search, found in zip(searches, run(frozen, searches, steps=0), strict=True):
            factor = search.exposure if "white_balance" in search.group else 1
            for name, value in frozen.default.items():
                expected = factor * value if name == "white_balance" else value
                np.testing.assert_allclose(found.parameters[name], expected, rtol=1e-6, err_msg=name)


def member(frozen, number):
    """A model of the same structure with other numbers."""
    pipeline = frozen.pipeline({**frozen.default, "gamma_correct": np.float32(2 + 0.1 * number)})
    model = brightness.model(DATASET)
    return Frozen(model.processed_by(pipeline), frozen.task)


def resident():
    """The memory of this process in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.parametrize(("drifts", "members"), [(3, 2), pytest.param(20, 6, marks=pytest.mark.slow)])
def test_drifts_and_members_share_one_compiled_step_and_its_memory(frozen, drifts, members):
    one, searches, seen, ends = Searcher(direction="best", batch_size=4), [Search(ALL, 0.0)], [], set()
    for drift in range(drifts):
        for number in range(members):
            (found,) = one.run(member(frozen, number), searches, RAWS * (1 - 0.03 * drift), TARGETS, 2)
            ends.add(float(found.parameters["gamma_correct"]))
        gc.collect()
        executables = len(jax.devices()[0].client.live_executables())
        seen.append((executables, searcher.mapped(_step, donates=True)._cache_size(), resident()))
    assert len(ends) == drifts * members
    compiled = {each[:2] for each in seen[1:]}
    assert len(compiled) == 1
    assert seen[-1][2] - seen[drifts // 4][2] < 20


def trees(count):
    return [{"a": np.float32([number, 0.5]), "b": np.float32(10 * number)} for number in range(count)]


def added(factor, tree, other, shared):
    return tree["a"] + factor * tree["b"] + other + shared


def asked(*arguments):
    """Takes its numbers from the host, as a PyTorch network does."""
    numbers = jax.ShapeDtypeStruct((2,), np.float32)
    return jax.pure_callback(np.asarray, numbers, added(*arguments), vmap_method="broadcast_all")


@pytest.mark.parametrize("function", [added, asked])
def test_a_function_of_one_is_computed_for_all(function):
    carried, others = searcher.stack(trees(3)), searcher.stack([np.float32(0)] * 3)
    found = searcher.unstack(searcher.mapped(function)(2, carried, others, np.float32(100)), 3)
    np.testing.assert_allclose(found, [[100, 100.5], [121, 120.5], [142, 140.5]])


SCRIPT = """
import sys, jax, numpy as np, test_searcher as here
found = here.run(here.brightness.frozen(here.DATASET), here.SIX)
np.savez(sys.argv[1], *(np.concatenate([one.task_loss, one.parameters["white_balance"]]) for one in found))
assert jax.device_count() == 4
"""
SIX = [Search(ALL, seed=seed, spread=0.02) for seed in range(6)]


@pytest.mark.slow
def test_four_devices_find_what_one_finds(frozen, tmp_path):
    paths = ["tests/fixtures", "tests/r2l_jax/drift/fixtures", "tests/r2l_jax/drift/search"]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([".", *paths]),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
    }
    root = Path(__file__).parents[4]
    subprocess.run([sys.executable, "-c", SCRIPT, tmp_path / "four.npz"], env=environment, cwd=root, check=True)
    for one, of_four in zip(run(frozen, SIX), np.load(tmp_path / "four.npz").values(), strict=True):
        np.testing.assert_allclose(of_four, [*one.task_loss, *one.parameters["white_balance"]], rtol=1e-4)

"""Runs that differ only in their seeds, and what treats them as one model."""

import contextlib
import functools
import io
import re

import numpy as np
import pickled_jobs
import pytest
from small_runs import history, metrics, model, stop_at

import r2l_jax
from r2l_jax import jobs
from r2l_jax.cli.flags import flat, replace
from r2l_jax.cli.progress import hidden
from r2l_jax.cli.stop import Interrupted
from r2l_jax.config import GroupSettings
from r2l_jax.errors import InputError
from r2l_jax.training import group, train


@pytest.fixture(scope="module")
def recipe(base):
    return replace(base, run_name="group", epochs=1, test_size=5.0, save_locally=True)


@pytest.fixture(scope="module")
def trained(recipe):
    settings, out, progress = GroupSettings(seeds=(2, 4)), io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(progress), hidden():
        group.run(recipe, settings)
    assert progress.getvalue() == ""
    return settings.members(recipe), out.getvalue()


@pytest.fixture(scope="module")
def members(trained):
    """The trained members of a group by name."""
    return trained[0]


def test_a_member_is_the_ordinary_run_with_the_same_flags(recipe, members):
    alone, member = replace(recipe, run_name="alone", seed=4, split_seed=1), members["seed_4"]
    train.run(alone)
    assert flat(member) == flat(replace(alone, run_name="group/seed_4"))
    assert history(alone) == history(member)
    for name, value in model(member).items():
        np.testing.assert_array_equal(value, model(alone)[name], err_msg=name)


@pytest.mark.shows("train --seed --split_seed --seeds")
def test_members_differ_in_weights_and_order_and_share_their_samples(members):
    two, four = members.values()
    assert history(two) != history(four)
    for part in ("train", "valid", "test"):
        assert metrics(two)[f"{part}_indices"] == metrics(four)[f"{part}_indices"]


def test_members_share_the_split_of_the_recipe(recipe):
    made = GroupSettings(seeds=(4,)).members(recipe)
    assert list(made) == ["seed_1", "seed_2", "seed_3", "seed_4"]
    assert flat(made["seed_3"]) == flat(recipe) | {"split_seed": 1, "seed": 3, "run_name": "group/seed_3"}
    made = GroupSettings(seeds=(2,)).members(replace(recipe, split_seed=7))
    assert [member.optimization.split_seed for member in made.values()] == [7, 7]


def test_a_group_ends_with_the_scores_of_its_members_and_the_next_commands(recipe, members, trained):
    _, out = trained
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if re.match("seed|mean|range", line)}
    scores = [[100 * metrics(each)[f"{which}val_accuracy"] for which in ("", "best_")] for each in members.values()]
    for name, expected in zip(("seed_2", "seed_4", "mean"), (*scores, np.mean(scores, 0)), strict=True):
        assert rows[name] == [f"{value:.3g}" for value in expected]
    low, high = sorted(first for first, _ in scores)
    assert rows["range"][:3] == [f"{low:.3g}", "to", f"{high:.3g}"]
    assert "\nScores in points, on 7 validation samples\n" in out
    assert f"python scripts/evaluate.py --run={recipe.run_dir}\n" in out


def test_a_stopped_group_resumes_with_the_member_that_was_stopped(recipe, members, monkeypatch):
    config = replace(recipe, run_name="stopped")
    first, second = made = list(GroupSettings(seeds=(2, 4)).members(config).values())
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        with pytest.raises(Interrupted, match="stopped at step 2 of 3; the same call resumes"):
            group.run(config, GroupSettings(seeds=(2, 4)))
    # Its folder shows how many runs the group will have.
    assert list(second.run_dir.iterdir()) == []
    group.run(config, GroupSettings(seeds=(2, 4)))
    assert [history(each) for each in made] == [history(each) for each in members.values()]
    before = (first.run_dir / "fold_0/metrics.json").stat().st_mtime_ns
    group.run(config, GroupSettings(seeds=(2, 4)))
    assert (first.run_dir / "fold_0/metrics.json").stat().st_mtime_ns == before


def test_a_group_predicts_with_the_mean_of_its_members(recipe, members):
    together = r2l_jax.load(recipe.run_dir)
    raws, _ = together.dataset.samples(together.folds[0].split.test)
    each = [r2l_jax.load(member.run_dir).predict(raws) for member in members.values()]
    assert np.abs(each[0] - each[1]).max() > 1e-3
    np.testing.assert_array_equal(together.predict(raws), np.mean(each, axis=0))
    assert [fold.folder for fold in together] == [member.run_dir / "fold_0" for member in members.values()]
    with pytest.raises(InputError, match=r"^.*group/seed_2 must be a run folder with a fold_1: found fold_0$"):
        r2l_jax.load(recipe.run_dir, fold=1)


@pytest.mark.shows("train --scheduler")
def test_members_are_trained_as_jobs_and_one_that_fails_stops_no_other(recipe, monkeypatch, tmp_path):
    config, begun = replace(recipe, logdir=str(tmp_path)), []

    def run_elsewhere(given, scheduler, logs):
        assert (scheduler, logs) == ("local:2", config.run_dir / "logs")
        return pickled_jobs.run_elsewhere(given, scheduler, logs)

    @functools.wraps(train.run)
    def run(member, rule, shows):
        begun.append(member.tracking.run_name)
        if member.optimization.seed == 1:
            raise InputError("training diverged")

    monkeypatch.setattr(jobs, "run_elsewhere", run_elsewhere)
    monkeypatch.setattr(train, "run", run)
    with pytest.raises(InputError, match=r"^seed_1: training diverged$"):
        group.run(config, GroupSettings(seeds=(2,), scheduler="local:2"))
    assert sorted(begun) == ["group/seed_1", "group/seed_2"]


@pytest.mark.parametrize("seeds", [(1, 1), (0,)])
def test_refused_settings_of_a_group(seeds):
    with pytest.raises(InputError, match="`seeds` must be distinct seeds, or their number, got "):
        GroupSettings(seeds=seeds)


def test_a_folder_holds_a_run_or_a_group(recipe, members, one_epoch):
    with pytest.raises(InputError, match="is a group of seeds: choose another `run_name`"):
        train.run(recipe)
    with pytest.raises(InputError, match="is a single run: choose another `run_name` for the group"):
        group.run(one_epoch, GroupSettings(seeds=(2,)))

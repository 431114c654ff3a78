import functools
import math
import shutil

import numpy as np
import pytest
from matplotlib.figure import Figure as Canvas

from r2l_jax.cli import stop
from r2l_jax.cli.flags import replace
from r2l_jax.cli.progress import Bar
from r2l_jax.cli.stop import Interrupted
from r2l_jax.drift.forensics import forensics, sensitivity, tolerance, worst_case
from r2l_jax.drift.forensics.config import ANALYSES, ForensicsConfig, ToleranceSettings, WorstCaseSettings
from r2l_jax.errors import InputError
from r2l_jax.results.result import Column, Result, Table, read
from r2l_jax.training.run import load


@pytest.fixture
def config(one_epoch, tmp_path):
    return ForensicsConfig(run=str(one_epoch.run_dir), output=str(tmp_path / "forensics"))


@pytest.fixture
def group(one_epoch, tmp_path):
    """A group of three members, which have trained alike."""
    for seed in (1, 2, 3):
        shutil.copytree(one_epoch.run_dir, tmp_path / "group" / f"seed_{seed}")
    return tmp_path / "group"


def table(title, columns, *rows):
    return Table("table", [Column(title), *map(Column, columns)], rows)


def made(n):
    """What any of the analyses needs."""
    number = [0.2, 0.3, 0.7][n - 2]  # The median is not the mean.
    tables = {
        "parameters": table("parameters", ["worst"], ["parameters", number]),
        "stages": table("images", ["worst"], ["stages", number]),
        "distances": table("knob", ["low", "high"], ["gain", -number, 2 * number]),
        "map": table("x", ["1"], ["2", 0.5]),
        "worst_case": table("worst case", ["drop"], ["black_level, weight 1", number]),
    }
    worst = {"black_level": "black_level, weight 1"}
    needed = [205, None, 188][n - 2]
    return Result({"samples": 8, "groups": 4, "tolerance": 0.02, "samples_needed": needed, "worst": worst}, tables)


@pytest.fixture
def calls(monkeypatch):
    """Puts quick analyses in place of the known ones, and lists those that are made; their numbers grow."""
    calls = []

    def analyze(name, *_):
        calls.append(name)
        # Logs get at most a line every half minute.
        monkeypatch.setattr(Bar, "_latest", -math.inf)
        with Bar(desc="search", total=1, unit="step") as bar:
            bar.update()
        return made(1 + calls.count(name))

    modules = {"sensitivity": sensitivity, "tolerance": tolerance, "worst_case": worst_case}
    for name, module in modules.items():
        monkeypatch.setattr(module, "analyze", functools.partial(analyze, name))
    return calls


@pytest.mark.shows(
    "forensics.forensics keys: title, flags, checkpoint, model, samples, samples_needed, tolerance, worst"
)
def test_a_result_is_made_once_and_says_what_it_is_about(config, calls, capsys):
    (found,) = forensics.run(config).values()
    printed = capsys.readouterr().out
    assert tuple(found) == ANALYSES
    assert calls == ["sensitivity", "tolerance", "worst_case"]
    for name in ANALYSES:
        kept = read(config.output_dir / "fold_0" / name)
        assert kept is not None
        assert kept.metadata == found[name].metadata
        assert kept.metadata["notes"][-1] == "measured on 8 validation samples, best checkpoint"
        assert kept.metadata.items() >= made(2).metadata.items()
        assert (kept.metadata["checkpoint"], kept.metadata["model"]) == ("best", load(config.run).identity)
        assert f"fold_0: {kept.text()}\nresults in {config.output_dir}/fold_0/{name}\n" in printed
    assert found["worst_case"].metadata["flags"]["steps"] == 60
    assert found["worst_case"].metadata["title"] == "Worst cases"
    assert forensics.run(config)["fold_0"].keys() == found.keys()
    forensics.run(replace(config, tolerance=3.0))
    assert calls[3:] == ["tolerance"]
    assert not (config.output_dir / "worst_case").exists()


@pytest.mark.shows(
    "forensics.forensics keys: verdict, training, notes, groups",
    "forensics.forensics worst_case.csv: drop, drop high, drop low, *, worst case",
    "forensics.forensics parameters.csv: *, worst, worst high, worst low, parameters",
    "forensics.forensics stages.csv: *, worst, worst high, worst low",
    "forensics.forensics distances.csv: *, low, low low, low high, high, high low, high high",
    "forensics.forensics figures: dots",
)
def test_a_group_has_medians_ranges_and_dots_over_its_members(group, calls, capsys, monkeypatch):
    made, dots = [], forensics.dots
    monkeypatch.setattr(forensics, "dots", lambda *given: made.append(dots(*given)) or made[-1])
    config = ForensicsConfig(run=str(group))
    results = forensics.run(config)
    names = [f"seed_{seed}/fold_0" for seed in (1, 2, 3)]
    assert list(results) == names
    whole = {name: read(group / "forensics" / name) for name in ANALYSES}
    assert whole["worst_case"].tables["worst_case"].rows == [["black_level, weight 1", pytest.approx((0.3, 0.2, 0.7))]]
    assert whole["sensitivity"].tables["parameters"].rows == [["parameters", pytest.approx((0.3, 0.2, 0.7))]]
    assert whole["sensitivity"].tables["stages"].rows == [["stages", pytest.approx((0.3, 0.2, 0.7))]]
    assert whole["tolerances"].tables["distances"].rows == [
        ["gain", pytest.approx((-0.3, -0.7, -0.2)), pytest.approx((0.6, 0.4, 1.4))]
    ]
    assert whole["worst_case"].metadata["verdict"] == [
        "The worst black level that a search found costs 20.0 to 70.0 points in 3 models (30.0 in the median)."
    ]
    assert list(whole["worst_case"].metadata["training"]) == names
    assert "map" not in whole["tolerances"].tables
    assert whole["tolerances"].metadata["notes"] == [
        "8 samples of 4 groups are too few to show a drop of 2 points at every end: that takes 205 of 102 groups",
        "measured on 8 validation samples, best checkpoint",
    ]
    printed = capsys.readouterr()
    assert whole["worst_case"].text() in printed.out
    assert printed.err.splitlines() == [
        f"{fold} ({number} of 3), {name} ({place} of 3), search: step 1 of 1"
        for number, fold in enumerate(names, 1)
        for place, name in enumerate(ANALYSES, 1)
    ]
    assert all((group / "forensics" / name / "dots.svg").exists() for name in ANALYSES)
    axes = [figure.draw(Canvas().subplots()) for figure in made]
    shown = {each.get_xlabel().split()[0]: each for each in axes}
    n = np.array([2, 3, 7])
    for label, rows in {
        "rise": [0.1 * n, 0.1 * n],
        "ends,": [-0.1 * n, 0.2 * n],
        "points": [10.0 * n],
    }.items():
        dots = [line.get_xdata() for line in shown[label].lines if line.get_marker() == "o"]
        np.testing.assert_allclose(dots, rows)
        bars = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in shown[label].patches]
        np.testing.assert_allclose(bars, [(row.min(), row.max()) for row in rows])
        middles = [line.get_xdata()[0] for line in shown[label].lines if line.get_linewidth() == 2]
        assert middles == pytest.approx([np.median(row) for row in rows])
    # Nothing is analyzed twice, neither for the group nor for one of its members.
    forensics.run(replace(config, run=str(group / "seed_2")))
    assert len(calls) == 9


def test_a_request_to_stop_is_met_between_analyses(config, calls, monkeypatch):
    monkeypatch.setattr(stop, "requested", lambda: bool(calls))
    with pytest.raises(Interrupted, match="stopped before tolerances of fold_0; the same call resumes with it"):
        forensics.run(config)
    assert calls == ["sensitivity"]


@pytest.mark.shows("forensics --by --batch_size --seed --output")
def test_analyses_get_the_settings(config, tmp_path, monkeypatch):
    """The tests of each analysis show what its settings do."""
    given = {}

    def analyze(name, fold, *rest):
        given[name] = rest
        return made(2)

    for name, module in {"sensitivity": sensitivity, "tolerance": tolerance, "worst_case": worst_case}.items():
        monkeypatch.setattr(module, "analyze", functools.partial(analyze, name))
    monkeypatch.setattr(worst_case, "by_shot", functools.partial(analyze, "shots"))
    monkeypatch.setattr(forensics.shot_groups, "groups", lambda *_: {})
    settings = {"tolerance": 3.0, "map": ("gamma_correct", "white_balance"), "batch_size": 3, "seed": 9}
    searches = {"adv_parameters": ("all",), "adv_aux_loss": "l2", "adv_aux_weight": (2.0,), "adv_noise_layer": True}
    searches |= {"adv_track_differences": True, "starts": 3, "steps": 5, "step_size": 0.2, "samples": 7}
    searches |= {"track_n_images": 2}
    (found,) = forensics.run(replace(config, by=("iso",), **settings, **searches)).values()
    assert list(found) == [*ANALYSES, "shots"]
    assert (tmp_path / "forensics/fold_0/shots/result.json").exists()
    assert given["sensitivity"] == (3,)
    assert given["tolerance"] == (ToleranceSettings(tolerance=3.0, map=settings["map"]), 3, 9)
    assert given["worst_case"] == (WorstCaseSettings(**searches), 3, 9)
    assert given["shots"][0] == ("iso",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"adv_parameters": ("hue",)}, "`adv_parameters` must be one of all, black_level, .* got 'hue'"),
        ({"map": ("gamma_correct", "gamma_correct")}, "`map` must be two of .* got 'gamma_correct,gamma_correct'"),
        ({"by": ("lens",)}, "`by=lens`: .* has no shot metadata; a Folder has"),
    ],
)
def test_refuses_before_anything_is_analyzed(config, calls, change, message):
    with pytest.raises(InputError, match=message):
        forensics.run(replace(config, **change))
    assert not calls

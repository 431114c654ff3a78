import json
import shutil

import numpy as np
import pytest
import report_runs
from matplotlib.figure import Figure
from tqdm import tqdm

from r2l_jax.drift.analysis import Analysis
from r2l_jax.drift.forensics import camera_check, forensics
from r2l_jax.drift.forensics.config import ANALYSES, ForensicsConfig
from r2l_jax.drift.forensics.group import make_figure
from r2l_jax.drift.forensics.sensitivity import SensitivityAnalysis
from r2l_jax.drift.forensics.tolerance import ToleranceAnalysis
from r2l_jax.drift.forensics.worst_case import WorstCaseAnalysis
from r2l_jax.drift.results import EndOfTrainings, Forensics, KnobOfTrainings, Spread
from r2l_jax.runtime import stop
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.flags import replace
from r2l_jax.runtime.stop import Interrupted

# The parameters that are tuned by hand, after those of the camera.
LATER = ("sharpening_filter", "gaussian_blur", "gamma_correct")


@pytest.fixture
def config(one_epoch, tmp_path):
    return ForensicsConfig(run=str(one_epoch.run_dir), output=str(tmp_path / "forensics"))


@pytest.fixture
def calls(monkeypatch):
    """Puts a quick analysis in place of the known ones, and lists those that are asked for."""
    calls = []

    def analyze(self, fold, done):
        calls.append(self.name)
        table, rows = f"table of {self.name}", [{"a": 1, "b": 2}]
        return Analysis({"number": len(calls)}, table, {"figure": Figure()}, {"rows": rows})

    for kind in (SensitivityAnalysis, ToleranceAnalysis, WorstCaseAnalysis):
        monkeypatch.setattr(kind, "analyze", analyze)
    return calls


def test_the_work_is_said_before_it_begins(config, one_epoch, group, calls, monkeypatch, capsys):
    """By default, there is a search for each group, three weights and two starts."""
    forensics.run(config)
    first, *others = capsys.readouterr().err.splitlines()
    groups = ("all", "black_level", "white_balance", "colour_correction", *LATER)
    metrics = json.loads((one_epoch.run_dir / "fold_0" / "metrics.json").read_text())
    a_step = metrics["history"][0]["seconds"] / 32 * 16
    time = tqdm.format_interval(len(groups) * 6 * 60 * a_step)
    searches = f"{len(groups) * 6} searches of 60 steps (about {time} if a step takes as long as in training)"
    short = "--adv_parameters=all --adv_aux_weight=10 --starts=1 is a first look, by 1 search"
    assert first == f"to do: sensitivity, tolerances of 21 knobs, {searches}; {short}"
    assert not any("to do" in line for line in others)
    monkeypatch.setattr(forensics.group, "write", lambda *_: None)
    settings = {"adv_parameters": ("all",), "adv_aux_weight": (10.0,), "starts": 1, "steps": 2}
    forensics.run(replace(config, run=str(group), output=None, analyses=("worst_case",), **settings))
    first = capsys.readouterr().err.splitlines()[0]
    assert first.startswith("to do: 1 search of 2 steps (about ")
    assert first.endswith(" as in training), for each of 3 models")


def test_every_analysis_leaves_its_files(config, calls, capsys):
    result = forensics.run(config)[0]
    printed = capsys.readouterr().out
    assert tuple(result) == tuple(calls) == ANALYSES
    for name, analysis in zip(ANALYSES, forensics.make_analyses(config), strict=True):
        folder = config.output_dir / "fold_0" / name
        written = json.loads((folder / f"{name}.json").read_text())
        assert written == result[name]
        assert written["flags"] == json.loads(json.dumps(analysis.flags))
        assert (folder / "rows.csv").read_text().split() == ["a,b", "1,2"]
        assert (folder / "figure.png").exists()
        assert len(list(folder.glob("events.*"))) == 1
        assert written["measured"] == "validation"
        assert written["table"].startswith(f"table of {name}\nmeasured on ")
        assert written["table"].endswith(" validation samples")
        assert written["table"] in printed


@pytest.fixture
def group(one_epoch, tmp_path):
    """A group of three members, which have trained alike."""
    for seed in (1, 2, 3):
        shutil.copytree(one_epoch.run_dir, tmp_path / "group" / f"seed_{seed}")
    return tmp_path / "group"


def test_a_group_has_medians_and_ranges_over_its_members(group, monkeypatch, capsys):
    numbers, found = report_runs.Numbers(), []

    def analyze(self, fold, done):
        content = getattr(report_runs, self.name)("", numbers)
        if self.name == "tolerances":
            # The second member needs the most; all ends of the first are at a limit.
            content["samples_needed"] = [None, 205, 188][len(found) // 3]
        found.append(content)
        return Analysis({name: content[name] for name in content.keys() - {"training", "identity"}}, "table", {})

    for kind in (SensitivityAnalysis, ToleranceAnalysis, WorstCaseAnalysis):
        monkeypatch.setattr(kind, "analyze", analyze)
    config = ForensicsConfig(run=str(group))
    results = forensics.run(config)
    assert len(found) == 9
    assert [results[number]["tolerances"]["default"] for number in range(3)] == [
        each["default"] for each in found[1::3]
    ]
    written = json.loads((group / "forensics/forensics.json").read_text())

    def spread(values):
        least, median, greatest = sorted(values)
        return {"median": median, "least": least, "greatest": greatest, "trainings": values}

    sensitivities, tolerances, worst = found[::3], found[1::3], [each["rows"][1] for each in found[2::3]]
    changes = [each["overall"]["stages"]["clipped"]["worst"] for each in sensitivities]
    assert written["sensitivity"]["after clipped"] == spread(changes)
    knobs = [each["knobs"]["gamma_correct"] for each in tolerances]
    high, low = (written["tolerances"]["gamma_correct"]["ends"][end] for end in ("high", "low"))
    assert high["value"] == spread([knob["high"] for knob in knobs])
    away = [(knob["high"] - knob["value"]) / 0.5 for knob in knobs]
    assert high["away"]["trainings"] == pytest.approx(away, rel=1e-5)
    assert (high["at_limit"], low["at_limit"]) == (3, 0)
    assert low["failing"] == spread([knob["low_failing"] for knob in knobs])
    assert high["failing"] == {"median": None, "least": None, "greatest": None, "trainings": [None] * 3}
    for name in ("drop", "ssim", "change", "color", "color_95"):
        assert written["worst_case"]["white_balance"][name] == spread([row[name] for row in worst])
    assert list(written["training"]) == [f"seed_{seed}/fold_0" for seed in (1, 2, 3)]
    assert (written["measured"], written["samples_needed"]) == ("validation", 205)
    assert (group / "forensics/forensics.png").exists()
    last = f"median (least to greatest) of 3 trainings, measured on {written['samples']} validation samples"
    assert written["table"].endswith(f"\n{last}")
    assert f"{last}\n\nresults in {group}/forensics\n" in capsys.readouterr().out
    # Nothing is analyzed twice, neither for the group nor for one of its members.
    forensics.run(replace(config, run=str(group / "seed_2")))
    assert len(found) == 9


def test_the_figure_of_a_group_has_a_dot_for_each_training():
    spread = Spread.of([0.1, 0.3, None])
    end = EndOfTrainings(spread, spread, 0, spread)
    knobs = {name: KnobOfTrainings("gain", spread, {"low": end, "high": end}) for name in ("a", "b")}
    content = Forensics("accuracy", "test", 9, 0.02, None, {}, knobs, {"all": {"drop": spread}})
    tolerances, worst = make_figure(content).axes
    assert [len(axes.lines) for axes in (tolerances, worst)] == [8, 2]
    np.testing.assert_allclose(worst.lines[0].get_xdata(), [10, 30])


def test_a_request_to_stop_is_met_between_analyses(config, calls, monkeypatch):
    monkeypatch.setattr(stop, "requested", lambda: bool(calls))
    with pytest.raises(Interrupted, match="stopped before tolerances of fold 0; the same command resumes with it"):
        forensics.run(config)
    monkeypatch.undo()
    assert calls == ["sensitivity"]


@pytest.mark.parametrize(
    ("inside", "together", "tolerated"), [(True, 0.79, True), (True, 0.77, False), (False, 0.8, False)]
)
def test_a_camera_is_tolerated_figure_by_figure_and_as_a_whole(config, calls, monkeypatch, inside, together, tolerated):
    finding = camera_check.Finding("white_balance.red", 1.0, 0.5, 1.5 if inside else 0.9, inside, 0.1, 0.1)
    monkeypatch.setattr(camera_check, "check", lambda tolerances, facts, camera: [finding])
    monkeypatch.setattr(camera_check, "score_together", lambda *arguments: (0.8, together))
    assert forensics.check(replace(config, check="drone", tolerance=2.0)) == tolerated
    assert calls == ["tolerances"]


def test_a_group_tolerates_a_camera_if_all_its_members_do(group, calls, monkeypatch, capsys):
    monkeypatch.setattr(camera_check, "check", lambda tolerances, facts, camera: [])
    together = iter([0.8, 0.8, 0.7])
    monkeypatch.setattr(camera_check, "score_together", lambda *arguments: (0.8, next(together)))
    config = ForensicsConfig(run=str(group), check="drone")
    assert not forensics.check(config)
    printed = capsys.readouterr().out
    assert all(f"seed_{seed}/fold_0: drone\n" in printed for seed in (1, 2, 3))
    monkeypatch.setattr(camera_check, "score_together", lambda *arguments: (0.8, 0.8))
    assert forensics.check(config)
    assert calls == ["tolerances"] * 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"adv_parameters": ("hue",)}, "--adv_parameters must be one of all, black_level, .* got 'hue'"),
        ({"map": ("gamma_correct",)}, "--map must be two of black_level, .* got 'gamma_correct'"),
        (
            {"map": ("gamma_correct", "gamma_correct")},
            "--map must be two of .* got 'gamma_correct,gamma_correct'",
        ),
        (
            {"map": ("gamma_correct", "white_balance", "white_balance")},
            "--map must be two of .* got 'white_balance'",
        ),
        ({"map": ("gamma_correct", "hue")}, "--map must be two of black_level, .* got 'gamma_correct,hue'"),
        ({"run": "nowhere"}, "nowhere is not a run's folder with a fold_0: not found"),
        ({"steps": 0}, "--steps must be positive, got 0"),
        ({"analyses": ("gradients",)}, "--analyses must be one of sensitivity, tolerances, worst_case, got 'grad"),
        ({"adv_aux_loss": "lpips"}, "--adv_aux_loss must be one of ssim, l2, l2_sum, got 'lpips'"),
        ({"adv_aux_weight": (-1.0,)}, r"--adv_aux_weight must not be negative, got -1.0"),
    ],
)
def test_refuses(config, change, message):
    with pytest.raises(InputError, match=message):
        forensics.run(replace(config, **change))

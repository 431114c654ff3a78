import json

import pytest
from matplotlib.figure import Figure

from r2l_jax.drift.analysis import Analysis
from r2l_jax.drift.forensics import camera_check, forensics
from r2l_jax.drift.forensics.config import ANALYSES, ForensicsConfig
from r2l_jax.drift.forensics.sensitivity import SensitivityAnalysis
from r2l_jax.drift.forensics.tolerance import ToleranceAnalysis
from r2l_jax.drift.forensics.worst_case import WorstCaseAnalysis
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.flags import replace
from r2l_jax.runtime.stop import Interrupted


@pytest.fixture
def config(one_epoch, tmp_path):
    return ForensicsConfig(run=str(one_epoch.run_dir), output=str(tmp_path / "forensics"))


@pytest.fixture
def calls(monkeypatch):
    """Puts a quick analysis in place of the known ones, and lists those that are asked for."""
    calls = []

    def analyze(self, fold, done, stop, file):
        calls.append(self.name)
        file.write_text("unfinished")
        table, rows = f"table of {self.name}", [{"a": 1, "b": 2}]
        return Analysis({"number": len(calls)}, table, {"figure": Figure()}, {"rows": rows})

    for kind in (SensitivityAnalysis, ToleranceAnalysis, WorstCaseAnalysis):
        monkeypatch.setattr(kind, "analyze", analyze)
    return calls


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
        assert not (folder / "unfinished.npz").exists()
        assert f"table of {name}" in printed


def test_a_request_to_stop_is_met_between_analyses(config, calls, monkeypatch):
    monkeypatch.setattr(forensics.StopSignals, "agreed", lambda self: bool(calls))
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"adv_parameters": ("hue",)}, "--adv_parameters must be of all, black_level, .* got 'hue'"),
        ({"map": ("gamma_correct",)}, "--map must be two of black_level, .* got 'gamma_correct'"),
        (
            {"map": ("gamma_correct", "gamma_correct")},
            "--map must be two of .* got 'gamma_correct,gamma_correct'",
        ),
        ({"map": ("gamma_correct", "hue")}, "--map must be two of black_level, .* got 'gamma_correct,hue'"),
        ({"run": "nowhere"}, "--run=nowhere is not a run's folder: not found"),
        ({"steps": 0}, "--steps must be positive, got 0"),
        ({"analyses": ("gradients",)}, "--analyses must be of sensitivity, tolerances, worst_case, got 'gradients'"),
        ({"adv_aux_loss": "lpips"}, "--adv_aux_loss must be one of ssim, l2, l2_sum, got 'lpips'"),
        ({"adv_aux_weight": (-1.0,)}, r"--adv_aux_weight must not be negative, got -1.0"),
    ],
)
def test_refuses(config, change, message):
    with pytest.raises(InputError, match=message):
        forensics.run(replace(config, **change))

import sys

import pytest

from r2l_jax.bench import scale
from r2l_jax.bench.scale import Line
from r2l_jax.runtime import startup


def test_a_line_goes_through_two_measurements():
    line = Line.through((4, 16), (10.0, 34.0))
    assert line == Line(start=2.0, frame=2.0)


def test_the_cost_falls_with_workers_until_the_scheduler_is_busy():
    line = Line(start=10.0, frame=1.0)
    seconds = {workers: scale.seconds(10**6, line, workers, chunk=10, job=0.01) for workers in (1, 10, 100, 1000, 2000)}
    assert seconds == {1: 1000010, 10: 100010, 100: 10010, 1000: 1010, 2000: 1010}


def test_the_last_jobs_keep_some_workers_busy_alone():
    line = Line(start=0.0, frame=1.0)
    assert scale.seconds(25, line, 2, chunk=10, job=0.0) == 20


@pytest.mark.slow
def test_jobs_that_do_nothing_are_measured():
    pytest.importorskip("distributed")
    assert 0 < scale.job_seconds(3, jobs=10) < 5


def test_without_dask_the_module_ends_in_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "dask", None)
    monkeypatch.setattr(startup, "prepare", lambda *arguments: None)
    assert startup.exit_status(scale.main, ["scale.py"]) == 1
    message = "scale.py: error: the workers of --scheduler need Dask: pip install 'r2l_jax[cluster]'\n"
    assert capsys.readouterr().err == message


@pytest.mark.slow
def test_rendering_is_measured(tmp_path):
    cost = scale.rendering(tmp_path, (64, 64), (2, 40), "serial")
    assert cost.core.start > 0  # The seconds of so few frames are lost in its noise.
    assert len(list((tmp_path / "out_40").glob("*.tiff"))) == 40

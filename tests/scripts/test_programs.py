"""Programs do their smallest real jobs, and refuse wrong flags in one line."""

import math
import socket

import pytest
import report_runs
from programs import call, program
from report_pages import Page

from r2l_jax.results import result


@pytest.mark.shows("report --run --output --compare")
def test_report_compares_runs_and_names_its_file(tmp_path):
    report_runs.write_everything(tmp_path / "first")
    report_runs.write_run(tmp_path / "second", start=500, lr=0.5, folds=2)
    done = call("report.py", f"--run={tmp_path}/first,{tmp_path}/second", f"--output={tmp_path}/a.html", "--compare")
    assert (done.returncode, done.stderr) == (0, "")
    untested = "no paired difference: python scripts/evaluate.py has not tested first and second"
    assert f"\n\nfirst - second: {untested}\n\n{tmp_path}/a.html" in done.stdout
    assert (tmp_path / "a.html").exists()


@pytest.mark.slow
def test_the_benchmark_is_of_optimized_code_and_prints_its_rows(tmp_path):
    optimized = {"XLA_FLAGS": "", "JAX_COMPILATION_CACHE_DIR": str(tmp_path)}
    done = program("benchmark.py", "--rows=denoise_bilateral", "--json", "--repeats=5", environment=optimized.items())
    assert done.returncode == 0, done.stderr
    assert '"name": "denoise_bilateral"' in done.stdout


@pytest.mark.slow
def test_the_results_of_all_programs_are_in_the_report(trained_run, tmp_path):
    commands = [
        ("evaluate.py", "--against=pipelines,corruptions", "--corruptions=contrast", "--severities=1,2"),
        ("forensics.py", "--analyses=sensitivity,worst_case", "--adv_parameters=white_balance", "--steps=2"),
        ("adjust.py", "--exposures=0.25", "--steps=2", "--labeled=8", "--unlabeled=8", "--method=all", "--force"),
    ]
    for name, *flags in commands:
        done = program(name, f"--run={trained_run}", *flags)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == f"python scripts/report.py --run={trained_run}"
    done = program("report.py", f"--run={trained_run}", f"--output={tmp_path}/report.html")
    assert done.returncode == 0, done.stderr
    page = Page((tmp_path / "report.html").read_text())
    shown = {float(cell["data-value"]) for _, cell in page.tags if "data-value" in cell}
    for file in trained_run.rglob(result.FILE):
        for table in result.read(file.parent).tables.values():
            cells = [cell[0] if isinstance(cell, tuple) else cell for row in table.rows for cell in row]
            assert {cell for cell in cells if isinstance(cell, float) and math.isfinite(cell)} <= shown, file
    drops = result.read(trained_run / "evaluation").tables["drops"]
    for test, drop, *_ in drops.rows[1:]:  # The first row is of the clean images.
        assert page.value(drops.title, test, "drop, points") == drop[0]


REFUSED = [
    ("adjust", "--run=nowhere --exposures=0.5", "nowhere must be a run folder with a fold_0: not found"),
    ("download", "--dataset=Drone --data_dir=x --source=b2", "needs an application key"),
    ("evaluate", "--run=x --against=pipelines --severities=1", "--severities has no effect without --against=sensor|"),
    ("export", "--output=out --run=x --size=512,767", "--size must be an even height and an even width, such as"),
    ("forensics", "--run=x --analyses=tolerances --steps=3", "--steps has no effect without --analyses=worst_case"),
    ("lab", "--port={taken}", "cannot listen on --port={taken}: Address already in use"),
    ("monitor", "--run=x --input=raw --follow --level=0.1", "--level has no effect with --follow"),
    ("process", "--input=raw --output=out --run=r --half_size", "--run=r sets the processing: leave --half_size out"),
    ("report", "--run=a --compare", "--compare takes two or more runs, got --run=a"),
    ("study", "--scheduler=local", "--scheduler must be serial, local:<number of processes>"),
    ("train", "--run_name=r --sp_debayer=menon2007", "--sp_debayer has no effect without --processing_mode=static"),
]


@pytest.mark.parametrize(("name", "flags", "message"), REFUSED)
def test_refused_flags_are_one_line(tmp_path, monkeypatch, name, flags, message):
    if name == "lab":
        pytest.importorskip("nicegui")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("B2_APPLICATION_KEY_ID", "1")
    monkeypatch.delenv("B2_APPLICATION_KEY", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = call(f"{name}.py", *flags.format(taken=port).split())
    assert (done.returncode, done.stdout) == (1, "")
    # Programs that read files report their progress before.
    *_, last = done.stderr.splitlines()
    assert last.startswith(f"{name}.py: error: ")
    assert message.format(taken=port) in last
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []

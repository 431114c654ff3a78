import pytest
import report_runs
from programs import call


def test_runs_are_compared(tmp_path):
    runs = [report_runs.write_run(tmp_path / name, lr=lr) for name, lr in (("first", 1e-4), ("second", 1e-3))]
    done = call("compare.py", f"--run={runs[0]},{runs[1]}", f"--output={tmp_path}/curves.png")
    assert (done.returncode, done.stderr) == (0, "")
    assert ["--lr", "0.0001", "0.001"] in [line.split() for line in done.stdout.splitlines()]
    assert done.stdout.endswith(f"\n\ncurves in {tmp_path}/curves.png\n")
    assert (tmp_path / "curves.png").is_file()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--run=a"], "--run must name at least two runs, got 'a'"),
        (["--run=a,b"], "--run=a is no run's folder: not found"),
        (["--run=a,b", "--output=curves.svg"], "--output must be a file that ends in .png, got 'curves.svg'"),
    ],
)
def test_mistakes_are_one_line(flags, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = call("compare.py", *flags)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"compare.py: error: {message}\n"

import pytest
from programs import program

from r2l_jax.results.result import read

FORENSICS = ("--adv_parameters=all", "--adv_aux_weight=1e-2,1e-4", "--steps=2")


@pytest.mark.slow
def test_a_study_writes_its_results_and_page(tmp_path):
    scenes = ("--synthetic_images=25", "--synthetic_size=32", f"--data_dir={tmp_path}/data")
    flags = (*scenes, "--n_splits=2", "--epochs=3", "--low_intensity=0.25", "--lr=1e-3", "--batch_size=8")
    output = tmp_path / "study"
    command = ("--controls=forensics,adjustment", *flags, *FORENSICS, f"--output={output}")
    done = program("study.py", *command)
    assert done.returncode == 0, done.stderr
    assert "[4 of 4] train adjustment/frozen: " in done.stderr
    assert "Scores after the last epoch" in done.stdout
    assert program("study.py", *command, "--dry_run").stdout.splitlines()[0] == "train forensics/model"
    rows = read(output / "forensics").tables["worst_cases"].rows
    assert [row[0] for row in rows] == ["default", "all at 0.01", "all at 0.0001"]
    for name in ("forensics/worst_cases.png", "adjustment/curves.png", "study.html"):
        assert (output / name).stat().st_size > 1000, name

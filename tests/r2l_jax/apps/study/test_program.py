import pytest
from programs import program

from r2l_jax.apps.study.config import StudyConfig
from r2l_jax.cli.flags import build
from r2l_jax.programs import study
from r2l_jax.results.result import read

FORENSICS = ("--adv_parameters=all", "--adv_aux_weight=1e-2,1e-4", "--steps=2")


def test_a_dry_run_lists_the_jobs_of_the_chosen_controls_and_writes_nothing(tmp_path, capsys):
    output = tmp_path / "study"
    config = build(StudyConfig, controls=("adjustment", "forensics"), n_splits=2, output=str(output), dry_run=True)
    assert study.main(config) == 0
    learned, frozen, model, search = capsys.readouterr().out.splitlines()
    assert {learned, frozen} == {"train adjustment/learned", "train adjustment/frozen"}
    assert (model, search) == ("train forensics/model", "search forensics/model")
    assert not output.exists()


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

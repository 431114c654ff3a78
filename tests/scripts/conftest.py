"""A run that a program has trained, for the programs that analyze it."""

import pytest
from programs import program


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory):
    """The folder of a run on 25 scenes of 32x32, 20 of them to train on, with a ResNet-18."""
    folder = tmp_path_factory.mktemp("trained")
    done = program(
        "train.py",
        f"--logdir={folder}",
        f"--data_dir={folder}/data",
        "--experiment_name=test",
        "--run_name=run",
        "--synthetic_images=25",
        "--synthetic_size=32",
        "--batch_size=8",
        "--epochs=1",
    )
    assert done.returncode == 0, done.stderr
    return folder / "test" / "run"

import json

import programs
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("scripts_train")


def arguments(folder, run_name, *flags):
    """25 scenes of 32x32, 16 of them to train on, in 2 batches an epoch."""
    folders = [f"--logdir={folder}/runs", f"--data_dir={folder}/data"]
    names = ["--experiment_name=test", f"--run_name={run_name}"]
    scenes = ["--synthetic_images=25", "--synthetic_size=32", "--train_size=0.64"]
    return ["train.py", *folders, *names, *scenes, "--lr=1e-3", "--batch_size=8", *flags]


def run(*run, **options):
    return programs.program(*arguments(*run), **options)


def history(folder, run_name):
    """Returns the numbers of a run's epochs without their seconds."""
    metrics = json.loads((folder / "runs" / "test" / run_name / "fold_0" / "metrics.json").read_text())
    return [{name: row[name] for name in row if name != "seconds"} for row in metrics["history"]]


def gradient_norms(folder, run_name):
    """Returns the norm of the gradient of each of the processor's parameters in the first epoch."""
    events = EventAccumulator(str(folder / "runs" / "test" / run_name / "fold_0"))
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag.startswith("processor_gradient_norm/")]
    assert len(tags) == 7
    return {tag: events.Scalars(tag)[0].value for tag in tags}


@pytest.mark.slow
def test_log_model_takes_its_value_apart(folder):
    result = run(folder, "log_model", "--test_run", "--epochs=1", "--log_model", "False")
    assert result.returncode == 0, result.stderr
    assert not (folder / "runs" / "test" / "log_model" / "fold_0" / "checkpoints").exists()
    assert "val accuracy" in result.stdout
    assert f"tensorboard --logdir {folder}/runs\n" in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("head", "loss", "norms"),
    [
        # No sample depends on the others of its batch: sums in another order round differently, and nothing else does.
        (["--classifier_network=ResNet50", "--processing_mode=static"], 1e-5, None),
        # A batch norm divides by the spread of a batch, and its gradient is a small difference of large sums. Adam then
        # turns the rounding of a gradient near zero into an update of full size. Max pool and ReLU send gradients
        # elsewhere: on one device, a change of the raw values by 1e-7 of themselves moves these norms by up to 2%.
        # Gradients of a part of the batch would be off by far more.
        (["--lr=1e-5"], 1e-3, 5e-2),
    ],
    ids=["without batch norm", "with batch norm"],
)
def test_devices_and_processes_take_the_same_steps(folder, head, loss, norms):
    flags = ["--epochs=4", "--batch_size=8", "--augmentation=strong", *head]
    prefix = "norms" if norms else "plain"
    assert run(folder, f"{prefix}_1", *flags).returncode == 0
    expected = history(folder, f"{prefix}_1")
    for devices in (2, 4):
        done = run(folder, f"{prefix}_{devices}", *flags, devices=devices)
        assert done.returncode == 0, done.stderr
    together = programs.ends(programs.start_together(*arguments(folder, f"{prefix}_processes", *flags)))
    assert [process.returncode for process in together] == [0, 0], together
    for name in ("2", "4", "processes"):
        for row, one in zip(history(folder, f"{prefix}_{name}"), expected, strict=True):
            assert row == pytest.approx(one, rel=loss), name
        if norms:
            ours = gradient_norms(folder, f"{prefix}_{name}")
            assert ours == pytest.approx(gradient_norms(folder, f"{prefix}_1"), rel=norms)

import json

import pytest
from programs import ends, program, start_together
from small_runs import events


def arguments(folder, run_name, *flags):
    """25 scenes of 32x32, 16 of them to train on, in 2 batches an epoch."""
    places = [f"--logdir={folder}", f"--data_dir={folder}/data", "--experiment_name=test", f"--run_name={run_name}"]
    scenes = ["--synthetic_images=25", "--synthetic_size=32", "--train_size=0.64"]
    return ["train.py", *places, *scenes, "--lr=1e-3", "--batch_size=8", "--epochs=4", "--augmentation=strong", *flags]


def history(folder, run_name):
    """Returns the numbers of a run's epochs without their seconds."""
    metrics = json.loads((folder / "test" / run_name / "fold_0" / "metrics.json").read_text())
    return [{name: row[name] for name in row if name != "seconds"} for row in metrics["history"]]


def gradient_norms(folder, run_name):
    """Returns the norm of the gradient of each of the processor's parameters in the first epoch."""
    recorded = events(folder / "test" / run_name / "fold_0")
    tags = [tag for tag in recorded.Tags()["scalars"] if tag.startswith("processor_gradient_norm/")]
    assert len(tags) == 7
    return {tag: recorded.Scalars(tag)[0].value for tag in tags}


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
        (["--lr=1e-5", "--auto=none"], 1e-3, 5e-2),
    ],
    ids=["without batch norm", "with batch norm"],
)
def test_devices_and_processes_take_the_same_steps(tmp_path, head, loss, norms):
    for devices in (1, 2, 4):
        done = program(*arguments(tmp_path, devices, *head), devices=devices)
        assert done.returncode == 0, done.stderr
    together = ends(start_together(*arguments(tmp_path, "processes", *head)))
    assert [process.returncode for process in together] == [0, 0], together
    for name in (2, 4, "processes"):
        for row, one in zip(history(tmp_path, str(name)), history(tmp_path, "1"), strict=True):
            assert row == pytest.approx(one, rel=loss), name
        if norms:
            assert gradient_norms(tmp_path, str(name)) == pytest.approx(gradient_norms(tmp_path, "1"), rel=norms)

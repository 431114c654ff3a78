import pathlib

import numpy as np
import pytest
from small_runs import metrics

from r2l_jax.runtime.flags import replace
from r2l_jax.training import tracking, train


def test_an_epoch_has_one_line_of_at_most_80_characters():
    row = {
        "epoch": 8, "train_loss": 0.51234, "train_accuracy": 0.91234, "val_loss": 1.61234, "val_accuracy": 0.81234,
        "seconds": 123.45,
    }  # fmt: skip
    line = tracking.epoch_line(row, 12, "accuracy", is_best=True)
    assert line == "epoch  9/12  loss 0.5123 val 1.6123  accuracy 0.9123 val 0.8123  123.5 s  *"
    assert len(line) <= 80
    assert "*" not in tracking.epoch_line(row, 12, "accuracy", is_best=False)
    without = {name: value for name, value in row.items() if not name.startswith("val")}
    assert tracking.epoch_line(without, 12, "accuracy", is_best=False).endswith("accuracy 0.9123  123.5 s")


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "nothing was left to do"), (59.6, "1 min 0 s"), (7.2, "7 s"), (3725.0, "1 h 2 min")]
)
def test_the_end_says_how_long_it_took(seconds, text):
    assert text in tracking.closing(pathlib.Path("runs/a"), "runs", True, seconds).splitlines()[0]


def test_samples_of_several_classes_count_for_each():
    """An object of few pixels is in as many samples as its background."""
    fold = {f"val_{name}": {"background": 0.5, "car": 0.25} for name in ("precision", "recall", "f1")}
    fold |= {"val_confusion_matrix": [[3.8, 0.0], [0.1, 0.1]], "val_samples": {"background": 4.0, "car": 4.0}}
    _, *rows = tracking.class_table([fold, fold]).splitlines()
    assert [line.split()[:2] for line in rows if line[0].isalpha()] == [["background", "8"], ["car", "8"]]


def test_a_run_ends_with_its_classes_and_the_next_commands(base, capsys):
    config = replace(base, run_name="told", epochs=2, n_splits=2)
    train.run(config)
    out, err = capsys.readouterr()
    assert "\r" not in err  # It is no terminal, which would show a bar.
    lines = [line for line in err.splitlines() if line.startswith("epoch ")]
    assert [line.split()[1] for line in lines] == ["1/2", "2/2"] * 2
    assert sum(line.endswith("*") for line in lines) >= 2
    table = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line[:1].isupper()}
    folds = [metrics(config, fold) for fold in range(2)]
    for number, name in enumerate(folds[0]["classes"]):
        samples, _, _, f1 = table[name]
        assert int(samples) == sum(sum(fold["val_confusion_matrix"][number]) for fold in folds)
        np.testing.assert_allclose(float(f1), np.mean([fold["val_f1"][name] for fold in folds]), atol=6e-5)
        assert [fold["val_samples"][name] for fold in folds] == [
            sum(fold["val_confusion_matrix"][number]) for fold in folds
        ]
    assert f"python scripts/evaluate.py --run={config.run_dir}" in out
    train.run(config)
    assert "nothing was left to do: the run is complete" in capsys.readouterr().out

import numpy as np
import pytest
from matplotlib.colors import to_rgb as colors_of
from matplotlib.figure import Figure

import isp
from r2l_jax.model.tasks.classification import Classification
from r2l_jax.training import tracking
from r2l_jax.training.tracking import Tracker

TASK = Classification(("a$b$", "c"), "resnet18")


def lines(figure):
    axes = Figure(layout="constrained").subplots()
    figure.draw(axes)
    return {line.get_label(): line.get_xydata().tolist() for line in axes.lines}


def test_curves_show_scores_in_points_by_epoch_from_1():
    history = [
        {"epoch": 0, "train_accuracy": 0.25, "train_loss": 2.0, "seconds": 1.0},
        {"epoch": 1, "train_accuracy": 0.5, "val_accuracy": 0.75, "train_loss": 1.0, "val_loss": 0.5, "seconds": 1.0},
    ]
    found = {name: lines(figure) for name, figure in tracking._curves(history, TASK).items()}
    chance, training = [[0, 50], [1, 50]], [[1, 25], [2, 50]]
    assert found["accuracy"] == {"validation": [[2, 75]], "training": training, "chance": chance}
    assert found["loss"] == {"validation": [[2, 0.5]], "training": [[1, 2], [2, 1]]}
    table = tracking._epochs(history, "accuracy")
    assert [[*row] for row in table.rows] == [[1, 0.25, 2.0, None, None, 1.0], [2, 0.5, 1.0, 0.75, 0.5, 1.0]]
    assert [column.name for column in table.columns][1:3] == ["train accuracy", "train loss"]


@pytest.mark.parametrize("knows_start", [True, False])
def test_changes_of_parameters_begin_at_the_start_and_have_the_names_of_elements(tmp_path, knows_start):
    with Tracker(tmp_path, 0, False) as tracker:
        if knows_start:
            tracker.start({"white_balance": np.array([1.0, 2, 3]), "gamma_correct": np.float32(2.2), "net": {}})
        for epoch, step in enumerate((0.5, 1.5)):
            values = {"white_balance": np.array([1 + step, 2, 3 - step]), "gamma_correct": np.array(2.2)}
            tracker.processor(values, {"white_balance": 4.0 + epoch, "gamma_correct": 0.0}, epoch)
    found = tracking._processing(tmp_path, isp.parametrized(isp.CAMERAS["drone"]))
    assert lines(found["gradient_norms"]) == {"white_balance": [[1, 4], [2, 5]]}
    if not knows_start:
        assert lines(found["parameter_white_balance"])["red"] == [[1, 0], [2, 1]]
        assert found["parameter_white_balance"].caption == "white balance: change since the end of the first epoch"
        return
    assert found.keys() == {"parameter_white_balance", "gradient_norms"}
    assert lines(found["parameter_white_balance"]) == {
        "red": [[0, 0], [1, 0.5], [2, 1.5]],
        "green": [[0, 0], [1, 0], [2, 0]],
        "blue": [[0, 0], [1, -0.5], [2, -1.5]],
    }
    axes = found["parameter_white_balance"].draw(Figure().subplots())
    colors = [colors_of(line.get_color()) for line in axes.lines if line.get_label() in ("red", "green", "blue")]
    assert np.argmax(colors, 1).tolist() == [0, 1, 2]

import numpy as np
import pytest

from r2l_jax.apps.study.published import difference, orientation
from r2l_jax.apps.study.synthesis import Scores, headline, published_scores, ratio_text


@pytest.mark.parametrize(
    ("dataset", "score", "means", "ratio", "column", "without"),
    [
        ("Microscopy", "accuracy", (0.828, 0.805, 0.585), 10.3, "malvar2004.sharpening_filter.median_denoising", True),
        ("DroneSegmentation", "iou", (0.701, 0.655, 0.520), 3.9, "bilinear.unsharp_masking.median_denoising", False),
    ],
)
def test_the_headline_of_the_published_tables(dataset, score, means, ratio, column, without):
    theirs = orientation(dataset, score)
    assert theirs.comparable
    numbers = headline(published_scores(theirs))
    found = [numbers[name]["mean"] for name in ("own", "other_pipelines", "corruption")]
    assert found == pytest.approx(means, abs=1e-3)
    found = numbers["log_ratio"]
    assert np.exp(found["estimate"]) == pytest.approx(ratio, abs=0.1)
    assert 0 < found["low"] < found["estimate"] < found["high"]
    assert numbers["largest_column"]["pipeline"] == column
    # One column makes most of the drop of Microscopy.
    assert (numbers["largest_column"]["share"] > 0.5) == without


def test_other_data_is_only_for_orientation():
    assert orientation("Synthetic", "accuracy")[1:] == ("microscopy", False, "accuracy")
    assert orientation("SyntheticSegmentation", "iou")[1:] == ("drone_segmentation", False, "tile_iou")
    assert orientation("Folder", "iou").about["comparable"] is False


def scores():
    """Three models of two folds: 0.9 and 0.8 on own images, 0.1 less under other pipelines, 0.3 under corruption."""
    own = np.tile([0.9, 0.8], (3, 1))
    processing = np.repeat((own - 0.1)[:, None], 3, 1)
    processing[range(3), range(3)] = own
    return Scores(["a", "b", "c"], processing, np.repeat((own - 0.3)[:, None], 4, 1))


def test_the_headline_of_equal_models():
    numbers = headline(scores())
    assert "sensor_drop" not in numbers
    assert numbers["own"] == pytest.approx({"mean": 0.85, "std": 0.05})
    assert numbers["processing_drop"] == pytest.approx({"mean": 0.1, "std": 0}, abs=1e-12)
    assert numbers["corruption"]["mean"] == pytest.approx(0.55)
    assert numbers["log_ratio"] == pytest.approx(dict.fromkeys(("estimate", "low", "high"), np.log(3)))
    assert numbers["largest_column"]["share"] == pytest.approx(1 / 3)
    assert numbers["largest_column"]["log_ratio"] == pytest.approx(numbers["log_ratio"])
    assert ratio_text(numbers["log_ratio"]) == "1.10 (1.10 to 1.10)"


def test_the_largest_column_is_left_out_of_its_ratio():
    made = scores()
    made.processing[1:, 0] -= 0.4
    numbers = headline(made)
    column = numbers["largest_column"]
    assert (column["pipeline"], column["share"]) == ("a", pytest.approx((2 * 0.5) / (2 * 0.5 + 4 * 0.1)))
    assert column["log_ratio"]["estimate"] == pytest.approx(np.log(3))
    assert numbers["log_ratio"]["estimate"] == pytest.approx(np.log(0.3 / ((2 * 0.5 + 4 * 0.1) / 6)))


@pytest.mark.parametrize("others", [0, [[[0.5]], [[-0.1]], [[-0.1]]]], ids=["none", "of one model alone"])
def test_there_is_no_ratio_to_a_drop_that_may_be_0(others):
    made = scores()
    made.processing[:] = made.own[:, None] - others
    made.processing[range(3), range(3)] = 0.9, 0.8
    numbers = headline(made)
    assert numbers["log_ratio"] is None
    assert ratio_text(numbers["log_ratio"]) == "left out, since a drop may be 0"


def test_differences_are_in_standard_deviations_of_the_folds():
    assert difference(0.8, 0.05, 0.7) == pytest.approx(2)
    assert difference(0.8, 0.0, 0.7) is None
    assert difference(0.8, 0.05, None) is None


@pytest.mark.parametrize("shape", [(101, 1), (2, 101)], ids=["over models", "over folds"])
def test_the_interval_holds_95_percent_of_the_ratios_of_bootstrap_samples(shape):
    """Drops under corruption of 0 to 1: their mean over 101 draws is nearly normal, and its percentiles are known."""
    models, _ = shape
    spread = np.linspace(0.0, 1.0, 101)
    own, damage = np.ones(shape), np.broadcast_to(spread[:, None] if models == 101 else spread, shape)
    processing = np.repeat((own - 0.5)[:, None], models, 1)
    processing[range(models), range(models)] = own
    numbers = headline(Scores([str(model) for model in range(models)], processing, (own - damage)[:, None]))
    error = 1.96 * spread.std() / np.sqrt(101) / 0.5
    found = {name: np.exp(value) for name, value in numbers["log_ratio"].items()}
    assert found["estimate"] == pytest.approx(1)
    assert (found["low"], found["high"]) == pytest.approx((1 - error, 1 + error), abs=0.03 * error)

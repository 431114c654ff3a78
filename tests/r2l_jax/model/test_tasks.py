import numpy as np
import pytest
from PIL import Image
from small_runs import metrics

from r2l_jax.data.sets import datasets
from r2l_jax.runtime.flags import replace
from r2l_jax.training import train


@pytest.fixture(scope="module")
def segmented(base):
    """A finished run of segmentation."""
    config = replace(
        base,
        run_name="segmented",
        dataset="SyntheticSegmentation",
        augmentation="weak",
        epochs=8,
        lr=1e-2,
        track_predictions=True,
        track_n_images=3,
    )
    return config, train.run(config)


def test_segmentation_is_trained_by_its_overlap(segmented):
    config, summary = segmented
    content = metrics(config)
    assert list(summary) == ["val_iou", "val_loss", "train_iou", "train_loss"]
    assert content["classes"] == ["white cell"]
    assert set(content["val_f1"]) == {"background", "white cell"}
    (_, false_positive), (false_negative, positive) = content["val_confusion_matrix"]
    assert content["val_iou"] == pytest.approx(positive / (positive + false_positive + false_negative), rel=1e-6)
    assert np.sum(content["val_confusion_matrix"]) == pytest.approx(8, rel=1e-6)
    assert content["best_val_iou"] == max(row["val_iou"] for row in content["history"])
    # A cell covers a fifth of its scene: that is the overlap of calling everything cell.
    assert content["best_val_iou"] > 0.5


def test_masks_are_shown_below_pictures_and_above_predictions(segmented):
    config, _ = segmented
    picture = np.asarray(Image.open(config.run_dir / "fold_0/results/epoch_0007/predictions.png"))
    assert picture.shape == (3 * 32, 3 * 32, 3)
    dataset = datasets.load(
        "SyntheticSegmentation", data_dir=config.data.data_dir, synthetic_images=40, synthetic_size=32
    )
    shown = picture[32:64, :, 0].reshape(32, 3, 32).swapaxes(0, 1)
    np.testing.assert_array_equal(shown, [255 * dataset[index][1] for index in range(3)])

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from scipy import ndimage
from small_runs import metrics

import tasks
from r2l_jax.cli.flags import build, replace
from r2l_jax.data.sets import datasets
from r2l_jax.errors import InputError
from r2l_jax.model import pictures
from r2l_jax.model.settings import NetworkSettings
from r2l_jax.model.tasks import make_task
from r2l_jax.model.tasks.classification import Classification
from r2l_jax.model.tasks.segmentation import Segmentation
from r2l_jax.results import result
from r2l_jax.training import train


@pytest.fixture(scope="module")
def segmented(base):
    """A finished run of segmentation."""
    settings = {"epochs": 8, "lr": 1e-2, "track": ("predictions",), "track_n_images": 3, "log_model": False}
    config = replace(base, run_name="segmented", dataset="SyntheticSegmentation", augmentation="weak", **settings)
    return config, train.run(config)


def test_segmentation_is_trained_by_its_overlap(segmented):
    config, summary = segmented
    content = metrics(config)
    assert list(summary) == ["val_iou", "val_loss", "train_iou", "train_loss", "val_tile_iou"]
    # A cell covers about as much of every scene, so the mean over scenes is near the score of all pixels.
    assert 0 < abs(content["val_tile_iou"] - content["val_iou"]) < 0.1
    assert all("val_tile_iou" in row for row in content["history"])
    assert set(content["val_f1"]) == {"background", "white cell"}
    (_, false_positive), (false_negative, positive) = content["val_confusion_matrix"]
    assert content["val_iou"] == pytest.approx(positive / (positive + false_positive + false_negative), rel=1e-6)
    # Every scene has a cell and something beside it.
    assert content["val_samples"] == {"background": 8, "white cell": 8}
    assert content["best_val_iou"] == max(row["val_iou"] for row in content["history"])
    # A cell covers a fifth of its scene: that is the overlap of calling everything cell.
    assert content["best_val_iou"] > 0.5


def test_predictions_are_drawn_on_pictures_with_the_borders_of_the_masks(segmented):
    config, _ = segmented
    sheet = np.asarray(Image.open(config.run_dir / "fold_0/results/epoch_0007/predictions.png"))
    dataset = datasets.load("SyntheticSegmentation", **config.data.source)
    for index in range(3):
        # Each pixel is drawn as a square of 8 x 8.
        panel = sheet[-264:-8, 8 + 264 * index :][4:256:8, 4:256:8]
        mask = dataset[index][1] > 0
        border = mask & ~ndimage.binary_erosion(mask, border_value=1)
        green, magenta = ((panel == color).all(-1) for color in ((0, 204, 0), (255, 0, 255)))
        np.testing.assert_array_equal(green, border & ~magenta)
        assert border.any()


def test_outlines_are_the_borders_of_both_masks():
    task = Segmentation(("background", "car"), "resnet18")
    target, logits = np.zeros((6, 8), np.uint8), np.full((6, 8, 1), -1.0)
    target[1:5, 1:5] = 1
    logits[1:5, 3:7] = 1
    shown, words = task.judged(np.full((6, 8, 3), 0.25), logits, target, 6)
    assert words == "IoU 0.33"
    magenta, green = (shown == (1, 0, 1)).all(-1), (shown == (0, 0.8, 0)).all(-1)
    assert (magenta.sum(), green.sum()) == (12, 6 + 2)
    np.testing.assert_array_equal(shown[2, :], np.array(shown[3, :]))
    np.testing.assert_array_equal(shown[0], 0.25)
    assert task.judged(np.zeros((6, 8, 3)), np.full((6, 8, 1), -1.0), 0 * target, 6)[1] == "no object, none found"
    of_classes = Classification(("a", "b", "c"), "resnet18")
    assert of_classes.judged(shown, np.log([0.1, 0.7, 0.2]), np.int32(2), 6) == (shown, "target c, b 70%")


def test_the_iou_of_tiles_is_the_mean_of_each_tile():
    masks = np.zeros((3, 4, 4), int)
    masks[0, :2] = 1  # Half of the first tile, all of which is predicted with as many pixels beside it.
    masks[1, 0, 0] = 1  # One pixel of the second, which is predicted exactly.
    predicted = np.copy(masks)
    predicted[0, 2:] = 1
    logits, weights = jnp.asarray(2.0 * predicted - 1)[..., None], np.array([1, 1, 0])
    task = Segmentation(("background", "car"), "resnet18")
    found = task.scores(jax.device_get(task.outcome(logits, {"target": jnp.asarray(masks)})), weights)
    assert found["tile_iou"] == pytest.approx((0.5 + 1) / 2)
    # Of all pixels together, 9 are common and 17 are true or predicted.
    assert found["iou"] == pytest.approx(9 / 17)


def test_the_loss_of_a_segmentation_is_its_dice_loss():
    # Half of all pixels are objects and half are predicted, of which half are right.
    masks = jnp.tile(jnp.array([0, 1]), (2, 3, 4))
    logits = jnp.where(jnp.arange(8) < 4, -100.0, 100.0)[None, None, :, None] * jnp.ones((2, 3, 1, 1))
    task, batch = Segmentation(("background", "car"), "resnet18"), {"target": masks, "weight": jnp.ones(2)}
    assert float(task.loss(logits, batch)) == pytest.approx(0.5)
    np.testing.assert_allclose(task.outcome(logits, batch)["confusion"], np.full((2, 2, 2), 1 / 4), rtol=1e-6)


def test_logits_of_half_the_size_count_for_four_pixels_each():
    rng = np.random.default_rng(0)
    half, masks = rng.normal(size=(2, 3, 5, 1)).astype(np.float32), rng.integers(0, 2, (2, 6, 10))
    batch = {"target": jnp.asarray(masks), "weight": jnp.ones(2)}
    task = Segmentation(("background", "car"), "resnet18")
    small, large = (task.outcome(jnp.asarray(logits), batch) for logits in (half, half.repeat(2, 1).repeat(2, 2)))
    jax.tree.map(np.testing.assert_array_equal, small, large)


@pytest.mark.parametrize("name", ["classification", "segmentation"])
def test_the_loss_that_is_measured_does_not_depend_on_batches(name):
    rng, taken = np.random.default_rng(0), np.arange(12) < 10
    if name == "segmentation":
        # Objects grow from scene to scene, and the first scenes have none.
        task, shape = Segmentation(("background", "car"), "resnet18"), (12, 8, 8, 1)
        targets = (rng.random((12, 8, 8)) < np.linspace(-0.2, 0.9, 12)[:, None, None]).astype(int)
        logits = rng.normal(size=shape) * np.linspace(4, 1, 12)[:, None, None, None]
        probabilities = 1 / (1 + np.exp(-logits[taken, ..., 0]))
        expected = 1 - 2 * probabilities[targets[taken] > 0].sum() / (probabilities.sum() + targets[taken].sum())
    else:
        task, targets = Classification(("a", "b", "c"), "resnet18"), rng.integers(0, 3, 12)
        logits = rng.normal(size=(12, 3)) * np.linspace(4, 1, 12)[:, None]
        of_classes = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        expected = -np.log(of_classes[np.arange(12), targets])[taken].mean()

    def loss(size):
        parts = []
        for part in (slice(start, start + size) for start in range(0, 12, size)):
            batch = {"target": jnp.asarray(targets[part]), "weight": jnp.float32(taken[part])}
            parts.append(jax.device_get(task.outcome(jnp.float32(logits[part]), batch)))
        return task.mean_loss(jax.tree.map(lambda *each: np.concatenate(each), *parts), taken)

    # Sums of 64 pixels round by up to 64 * 2**-24 of their size.
    np.testing.assert_allclose([loss(3), loss(8), loss(12)], expected, rtol=5e-6)


NAMES = ("road", "car", "tree", "roof")
CLASSES = Segmentation(NAMES, "resnet18", several=True, colors=("#000000", "#ff0000", "#00ff00", "#0000ff"))


def of_classes():
    """Logits of three images, and masks in which a fifth of the pixels are ignored and no roof is ever found."""
    rng = np.random.default_rng(0)
    masks = rng.choice([0, 1, 2, 255], (3, 4, 6), p=[0.4, 0.3, 0.1, 0.2]).astype(np.uint8)
    logits = rng.normal(size=(3, 4, 6, 4)).astype(np.float32) - np.float32([0, 0, 0, 99])
    return logits, masks


def test_the_mean_iou_is_that_of_all_pixels_without_ignored_ones_and_absent_classes():
    logits, masks = of_classes()
    outcome = jax.device_get(CLASSES.outcome(jnp.asarray(logits), {"target": jnp.asarray(masks)}))
    predicted, counted = logits.argmax(-1), masks != 255
    ious = []
    for number in range(3):
        found, true = (predicted == number) & counted, masks == number
        ious.append((found & true).sum() / (found | true).sum())
    weights = np.ones(3)
    assert CLASSES.score.name == "mean_iou"
    assert CLASSES.score(outcome, weights) == pytest.approx(np.mean(ious), rel=1e-5)
    scores = [score(outcome, weights) for score in CLASSES.class_scores.values()]
    np.testing.assert_allclose(scores, [*ious, 0], rtol=1e-5)
    assert [*CLASSES.class_scores] == [*NAMES]
    assert outcome["confusion"].sum() == pytest.approx(counted.mean() * 3, rel=1e-5)
    shown = {name: (masks == number).any((1, 2)).sum() for number, name in enumerate(NAMES)}
    assert CLASSES.class_samples(outcome) == shown
    assert (max(shown.values()), shown["roof"]) == (3, 0)
    # By images, the mean is another one.
    of_images = np.mean([CLASSES.score(outcome, row) for row in np.eye(3)])
    assert abs(of_images - CLASSES.score(outcome, weights)) > 1e-4


def test_the_loss_of_classes_is_that_of_all_pixels_and_by_weight():
    logits, masks = of_classes()
    batch = {"target": jnp.asarray(masks), "weight": jnp.array([1.0, 1, 0])}
    taken = masks[:2] != 255
    probabilities = np.exp(logits[:2][taken]) / np.exp(logits[:2][taken]).sum(-1, keepdims=True)
    true = np.eye(4)[masks[:2][taken]]
    dice = 1 - 2 * (probabilities * true).sum(0) / (probabilities.sum(0) + true.sum(0))
    expected = dice[:3].sum() / 4 - np.log((probabilities * true).sum(-1)).mean()
    assert float(CLASSES.loss(jnp.asarray(logits), batch)) == pytest.approx(expected, rel=1e-5)
    outcome = jax.device_get(CLASSES.outcome(jnp.asarray(logits), batch))
    assert CLASSES.mean_loss(outcome, np.array([1, 1, 0])) == pytest.approx(expected, rel=1e-5)


def test_several_classes_make_a_task_of_their_own_and_one_makes_the_object():
    one, several = (make_task("segmentation", names, NetworkSettings()) for names in (("car",), NAMES))
    assert (one.several, one.classes, one.outputs) == (False, ("background", "car"), 1)
    assert (several.several, several.classes, several.outputs) == (True, NAMES, 4)
    assert several.logits_shape((2, 64, 32, 3)) == (2, 64, 32, 4)
    assert make_task("segmentation", NAMES, NetworkSettings(score="iou:car")).score.name == "iou:car"
    with pytest.raises(InputError, match=r"`score=iou` is for two classes: name one of road, car, tree, roof"):
        make_task("segmentation", NAMES, NetworkSettings(score="iou"))


@pytest.mark.shows("train --classifier_network --smp_encoder --precision")
def test_the_settings_name_the_network_its_encoder_and_its_precision(monkeypatch):
    made = []
    monkeypatch.setattr(tasks, "resnet", lambda name, dtype, **_: made.append((name, dtype)) or nnx.Module())
    monkeypatch.setattr(tasks, "unet", lambda _, encoder, dtype, **__: made.append((encoder, dtype)) or nnx.Module())
    settings = {"classifier_network": "ResNet34", "smp_encoder": "resnet50", "precision": "bfloat16"}
    for task in ("classification", "segmentation"):
        make_task(task, ("a",), build(NetworkSettings, settings)).make_head(nnx.Rngs(0))
    assert made == [("resnet34", "bfloat16"), ("resnet50", "bfloat16")]


def test_masks_of_classes_are_indices_in_files_and_colors_in_pictures():
    logits, masks = of_classes()
    probabilities = np.asarray(CLASSES.probabilities(jnp.asarray(logits[:, :2, :3]), 4))
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)
    stated = CLASSES.stated(probabilities)
    np.testing.assert_array_equal(stated, logits[:, :2, :3].repeat(2, 1).repeat(2, 2).argmax(-1))
    picture = CLASSES.mask_file(stated[0])
    assert picture.mode == "P"
    np.testing.assert_array_equal(picture, stated[0])
    colors = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]])
    np.testing.assert_array_equal(picture.convert("RGB"), colors[stated[0]])
    images = np.full((3, 4, 6, 3), 0.5)
    shown, words = CLASSES.judged(images[0], logits[0], masks[0], len(masks[0]))
    # The color of the road is black, which leaves the image as it is.
    expected = {0: (0.5, 0.5, 0.5), 1: (0.75, 0.25, 0.25), 2: (0.25, 0.75, 0.25)}
    np.testing.assert_allclose(
        shown, np.array([expected[each] for each in logits[0].argmax(-1).ravel()]).reshape(4, 6, 3)
    )
    assert words == f"mean IoU {CLASSES.overlap(logits[0].argmax(-1), masks[0])[1]:.2f}"
    np.testing.assert_array_equal(CLASSES.mask_pictures(masks[0]), masks[:1])


def test_default_colors_are_those_of_pascal_voc():
    assert pictures.palette((), 22)[[0, 1, 2, 3, 15, 21]].tolist() == [
        [0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [192, 128, 128], [128, 64, 128],
    ]  # fmt: skip


@pytest.fixture(scope="module")
def of_parts(base):
    """A finished run on the parts of the scenes."""
    settings = {"epochs": 6, "lr": 1e-2, "track": ("predictions",), "log_model": False, "augmentation": "weak"}
    data = {"dataset": "SyntheticSegmentation", "classes": ("nucleus", "red cell")}
    config = replace(base, run_name="parts", **data, **settings)
    return config, train.run(config)


def test_several_classes_are_trained_by_their_mean_iou(of_parts):
    config, summary = of_parts
    content = metrics(config)
    assert list(summary) == ["val_mean_iou", "val_loss", "train_mean_iou", "train_loss"]
    assert content["classes"] == ["background", "nucleus", "red cell"]
    confusion = np.array(content["val_confusion_matrix"])
    ious = np.diag(confusion) / (confusion.sum(0) + confusion.sum(1) - np.diag(confusion))
    np.testing.assert_allclose([*content["val_IoU"].values()], ious, rtol=1e-5)
    assert content["val_mean_iou"] == pytest.approx(ious.mean(), rel=1e-5)
    assert [*content["val_IoU"]] == content["classes"]
    table = result.read(config.run_dir / "fold_0/training").tables["classes"]
    assert [column.name for column in table.columns] == ["class", "samples", "precision", "recall", "f1", "IoU"]
    np.testing.assert_allclose([row[-1] for row in table.rows], ious, rtol=1e-5)
    # Calling every pixel background has a mean of 0.2.
    assert content["best_val_mean_iou"] > 0.3

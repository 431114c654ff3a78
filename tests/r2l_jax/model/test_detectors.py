"""Frozen detectors as heads: their boxes, and the gradients of their losses."""

import detection_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r2l_jax.errors import InputError
from r2l_jax.model.detectors import Detector, matches
from r2l_jax.model.heads import resized
from r2l_jax.model.host_networks import OnnxNetwork, TorchNetwork

torch = pytest.importorskip("torch")

IMAGES = np.random.default_rng(0).random((3, 16, 24, 3), np.float32)
# Two objects and a crowd, none, and one of another class.
TARGETS = np.full((3, 3, 6), -1, np.float32)
TARGETS[0] = [[0, 0, 8, 8, 0, 0], [8, 8, 16, 16, 1, 0], [0, 0, 24, 16, 1, 1]]
TARGETS[2, 1] = [16, 0, 24, 16, 1, 0]
SIDE = 8


class Cells(torch.nn.Module):
    """Finds a box in each cell of 8x8 pixels, with the mean of red as the score, and labels them in turns.

    The losses are the squares of 1 - the mean in each box, times its label, of the images after batch norm and dropout,
    and random numbers.
    """

    def __init__(self):
        super().__init__()
        self.norm, self.drop = torch.nn.BatchNorm2d(3), torch.nn.Dropout(0.5)
        self.norm.running_mean[:] = torch.tensor([0.1, 0.2, 0.3])

    def forward(self, images, targets=None):
        if self.training:
            losses, numbers = [], torch.rand(2)
            for image, target in zip(images, targets, strict=True):
                seen = self.drop(self.norm(image[None]))[0]
                for (x1, y1, x2, y2), label in zip(target["boxes"].int().tolist(), target["labels"], strict=True):
                    losses.append(label * (1 - seen[:, y1:y2, x1:x2].mean()) ** 2)
            return {"inside": sum(losses) + 0 * numbers[0], "random": numbers.sum() + 0 * images[0].sum()}
        found = []
        for image in images:
            places = [(y, x) for y in range(0, image.shape[1], SIDE) for x in range(0, image.shape[2], SIDE)]
            boxes = [[x, y, x + SIDE, y + SIDE] for y, x in places]
            scores = [image[0, y : y + SIDE, x : x + SIDE].mean() for y, x in places]
            labels = [1 + number % 2 for number in range(len(places))]
            parts = {"boxes": torch.tensor(boxes).float(), "scores": torch.stack(scores)}
            found.append({**parts, "labels": torch.tensor(labels)})
        return found


def expected_boxes(images):
    """The boxes in the order of their scores, with classes from 0."""
    found = []
    for image in images:
        rows = []
        for y in range(0, 16, SIDE):
            for x in range(0, 24, SIDE):
                score = image[y : y + SIDE, x : x + SIDE, 0].mean()
                rows.append([x, y, x + SIDE, y + SIDE, score, len(rows) % 2])
        found.append(sorted(rows, key=lambda row: -row[4]))
    return np.array(found)


@pytest.fixture(scope="module")
def network():
    return TorchNetwork(Cells().eval())


def test_boxes_are_those_of_the_module_in_the_order_of_their_scores(network):
    detector = Detector(network, 2)
    found = jax.jit(detector)(IMAGES)
    assert found["boxes"].shape == (3, 200, 6)
    # The mean of 64 values in [0, 1], which is a score, rounds by up to 64 * 2**-24.
    np.testing.assert_allclose(found["boxes"][:, :6], expected_boxes(IMAGES), atol=4e-6)
    assert (np.asarray(found["boxes"])[:, 6:, 5] == -1).all()
    np.testing.assert_array_equal(found["images"], IMAGES)
    together = jax.jit(jax.vmap(detector))(np.stack([IMAGES, IMAGES[::-1]]))
    np.testing.assert_array_equal(together["boxes"][1], found["boxes"][::-1])


def test_classes_are_found_by_their_labels_and_others_are_no_objects(network):
    found = np.asarray(Detector(network, 1, [[2, 5]])(IMAGES)["boxes"])
    wanted = [[row for row in rows if row[5] == 1] for rows in expected_boxes(IMAGES)]
    np.testing.assert_allclose(found[:, :3, :5], np.array(wanted)[..., :5], atol=4e-6)
    np.testing.assert_array_equal(found[..., 5], np.tile([0.0] * 3 + [-1] * 97, (3, 1)))
    with pytest.raises(InputError, match=r"label its boxes from 1 to 1, .* got 2: name the labels .* `class_outputs`"):
        Detector(network, 1)._detected(IMAGES)


def losses_of(images):
    """The losses in NumPy, with the batch norm's stored statistics and without dropout."""
    seen = (np.asarray(images, np.float64) - [0.1, 0.2, 0.3]) / np.sqrt(1 + 1e-5)
    first = (1 - seen[0, :8, :8].mean()) ** 2 + 2 * (1 - seen[0, 8:16, 8:16].mean()) ** 2
    torch.manual_seed(0)
    random = float(torch.rand(2).sum())
    return np.array([first, 0, 2 * (1 - seen[2, :, 16:].mean()) ** 2]) + random


def test_losses_are_taken_in_training_mode_with_batch_norm_and_dropout_frozen(network):
    before = {name: each.clone() for name, each in network._module.state_dict().items()}
    detector, expected = Detector(network, 2), losses_of(IMAGES)
    for _ in range(2):
        np.testing.assert_allclose(jax.jit(detector.losses)(IMAGES, TARGETS), expected, rtol=1e-5)
    assert not any(each.training for each in network._module.modules())
    assert all(torch.equal(each, before[name]) for name, each in network._module.state_dict().items())


def test_losses_have_the_gradient_of_each_image(network):
    detector, weights = Detector(network, 2), np.array([1, 2, 3], np.float32)

    def total(images):
        return (detector.losses(images, jnp.asarray(TARGETS)) * weights).sum()

    value, found = jax.jit(jax.value_and_grad(total))(IMAGES)
    np.testing.assert_allclose(value, losses_of(IMAGES) @ weights, rtol=1e-5)
    seen = (IMAGES.astype(np.float64) - [0.1, 0.2, 0.3]) / np.sqrt(1 + 1e-5)
    expected = np.zeros(IMAGES.shape)
    for image, rows, columns, factor in ((0, (0, 8), (0, 8), 1), (0, (8, 16), (8, 16), 2), (2, (0, 16), (16, 24), 2)):
        part = np.s_[image, slice(*rows), slice(*columns)]
        expected[part] = -2 * factor * weights[image] * (1 - seen[part].mean()) / seen[part].size / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)
    mapped = jax.vmap(jax.grad(total))(np.stack([IMAGES, IMAGES]))
    np.testing.assert_allclose(mapped[1], found, rtol=1e-6)


def test_labels_of_true_boxes_are_those_of_the_network(network):
    class Labels(torch.nn.Module):
        def forward(self, images, targets=None):
            return {"labels": sum(target["labels"].sum() for target in targets) + 0 * images[0].sum()}

    detector = Detector(TorchNetwork(Labels()), 2, [[7], [30, 31]])
    np.testing.assert_array_equal(detector.losses(jnp.asarray(IMAGES), jnp.asarray(TARGETS)), [37, 0, 30])


class Wrong(torch.nn.Module):
    def __init__(self, found=None, losses=None):
        super().__init__()
        self.found, self.kept = found, losses

    def forward(self, images, targets=None):
        return self.kept if self.training else self.found


BOX = {"boxes": torch.zeros(2, 4), "scores": torch.zeros(2), "labels": torch.ones(2)}


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (torch.zeros(3, 5), "Wrong must return a list with a dict for each of 3 images"),
        ([BOX], "Wrong must return a list with a dict for each of 3 images"),
        ([torch.zeros(5)] * 3, "Wrong must return a dict of boxes, scores, labels for each image, got a Tensor"),
        ([{"boxes": torch.zeros(2, 4)}] * 3, "Wrong must return a dict of boxes, scores, labels .*, got boxes"),
        ([{**BOX, "labels": torch.ones(3)}] * 3, r"labels \(K,\) of an image, got \(2, 4\), \(2,\), \(3,\)"),
        ([{**BOX, "scores": torch.full((2,), torch.nan)}] * 3, "must return finite boxes and scores"),
    ],
)
def test_what_is_no_detector_is_named(found, message):
    with pytest.raises(InputError, match=message):
        Detector(TorchNetwork(Wrong(found)), 1)._detected(IMAGES)


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        (torch.zeros(()), "Wrong must return a dict of losses in training mode"),
        ({"box": torch.tensor(torch.inf)}, "Wrong must return finite losses, got box"),
        ({"box": torch.zeros(())}, "Wrong must return losses with a gradient for its images"),
    ],
)
def test_what_has_no_losses_is_named(losses, message):
    detector = Detector(TorchNetwork(Wrong(losses=losses)), 2)
    with pytest.raises(InputError, match=message):
        detector._host_losses(True, IMAGES, TARGETS)


@pytest.mark.parametrize(("batch", "last"), [(None, False), (1, False), (1, True)])
def test_onnx_files_detect_whatever_the_order_of_their_outputs(tmp_path, batch, last):
    network = OnnxNetwork(detection_files.write_onnx(tmp_path / "net.onnx", batch=batch, last=last))
    found = np.asarray(jax.jit(Detector(network, 2))(IMAGES)["boxes"])
    for image, rows in zip(IMAGES, found, strict=True):
        scores = image.mean((0, 1))
        order = np.argsort(-scores)
        np.testing.assert_allclose(rows[:3, 4], scores[order], rtol=1e-5)
        np.testing.assert_array_equal(rows[:3, :4], np.arange(12).reshape(3, 4)[order])
        np.testing.assert_array_equal(rows[:3, 5], np.array([0, 1, 0])[order])


def test_onnx_files_have_no_losses_and_need_the_three_outputs(tmp_path):
    detector = Detector(OnnxNetwork(detection_files.write_onnx(tmp_path / "net.onnx")), 2)
    with pytest.raises(InputError, match="the head must have gradients, got an ONNX network, which has none"):
        detector.losses(jnp.asarray(IMAGES), jnp.asarray(TARGETS))
    network = OnnxNetwork(detection_files.write_onnx(tmp_path / "net.onnx", ("boxes", "confidence", "labels")))
    with pytest.raises(InputError, match=r"net.onnx must have the outputs boxes, scores, labels .*, lacks scores"):
        network.detections(np.moveaxis(IMAGES, -1, 1))


def test_matches_of_several_images_and_of_mapped_ones(network):
    targets = jnp.asarray(TARGETS)
    found = Detector(network, 2)(IMAGES)["boxes"]
    matched = jax.jit(matches, static_argnums=2)(found, targets, 2)
    np.testing.assert_array_equal(matched["objects"], [[1, 1], [0, 0], [0, 1]])
    # The cells (0, 0) and (1, 1) of the first image are objects of their classes; the crowd is of the second class.
    boxes, right = np.asarray(found[0]), np.asarray(matched["matched"][0])
    for row, of_box in zip(boxes[:6], right[:6], strict=True):
        cell = row[:2].tolist()
        expected = 1 if cell == [0, 0] else 0 if row[5] == 0 else -1
        np.testing.assert_array_equal(of_box, expected, err_msg=str(cell))
    stacked = jnp.stack([found, found[::-1]])
    mapped = jax.jit(jax.vmap(lambda boxes: matches(boxes, targets, 2)))(stacked)
    np.testing.assert_array_equal(mapped["matched"][0], matched["matched"])
    np.testing.assert_array_equal(mapped["matched"][1], matches(found[::-1], targets, 2)["matched"])


def test_images_are_resized_for_the_network_and_boxes_are_those_of_the_images(network):
    large = np.repeat(np.repeat(IMAGES, 2, 1), 3, 2)
    detector = Detector(network, 2, sides=(16, 24))
    found, expected = detector(large)["boxes"], Detector(network, 2)(resized(large, (16, 24)))["boxes"]
    np.testing.assert_allclose(found[..., :4], expected[..., :4] * np.array([3, 2, 3, 2]), rtol=1e-6)
    np.testing.assert_array_equal(found[..., 4:], expected[..., 4:])
    targets = jnp.asarray(TARGETS * np.array([3, 2, 3, 2, 1, 1], np.float32))
    losses = Detector(network, 2).losses(resized(large, (16, 24)), jnp.asarray(TARGETS))
    np.testing.assert_allclose(detector.losses(jnp.asarray(large), targets), losses, rtol=1e-6)

"""Boxes follow the size of their images, whether a pipeline or a detector resizes them; without PyTorch."""

import jax.numpy as jnp
import numpy as np

from r2l_jax.model.detectors import Detector
from r2l_jax.model.host_networks import TorchNetwork
from r2l_jax.model.tasks.detection import Detection

# An object of each of two classes, and an empty row.
TARGETS = np.array([[8, 0, 24, 8, 0, 0], [0, 8, 8, 16, 1, 0], [-1] * 6], np.float32)


class Recorded(TorchNetwork):
    """Keeps the true boxes that it is given."""

    def __init__(self):
        self.given = []

    def losses(self, images, targets, gradient):
        self.given += targets
        return np.zeros(len(images), np.float32), np.zeros(images.shape, np.float32)


def test_losses_are_those_of_true_boxes_in_pixels_that_the_network_sees():
    network = Recorded()
    Detector(network, 2, sides=(8, 8)).losses(jnp.zeros((1, 16, 32, 3)), jnp.asarray(TARGETS[None])).block_until_ready()
    ((boxes, labels),) = network.given
    np.testing.assert_array_equal(boxes, [[2, 0, 6, 4], [0, 4, 2, 8]])
    assert labels.tolist() == [1, 2]


def test_boxes_found_are_judged_by_true_boxes_of_the_raw_image():
    # At half the size, the second object is found, and a box is beside the first one.
    found = np.array([[0, 4, 4, 8, 0.9, 1], [4, 4, 12, 8, 0.8, 0], [0, 0, 0, 0, 0, -1]], np.float32)
    image = np.zeros((8, 16, 3), np.float32)
    picture, words = Detection(("a", "b"), "").judged(image, {"boxes": found, "images": image}, TARGETS, height=16)
    assert words == "1 of 2 objects found, 1 wrong boxes"
    green, magenta = ((picture == np.float32(color)).all(-1) for color in ((0, 0.8, 0), (1, 0, 1)))
    expected = np.zeros((8, 16), bool)
    expected[:4, 4:12] = True
    expected[1:3, 5:11] = False
    np.testing.assert_array_equal(green, expected)
    assert magenta.sum() == 12 + 20

"""Frozen detectors of others as heads, and their losses, as parts of JAX models.

All arrays have one row for each image. Functions of NumPy are called outside of JAX; axes that `vmap` adds become part
of the batch.
"""

import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

import tasks
from r2l_jax.errors import InputError
from r2l_jax.model.heads import resized
from r2l_jax.model.host_networks import HostNetwork, of_images, with_gradient

AnyArray = jax.Array | np.ndarray

# The most detections of an image that are kept, and their least number for several classes.
_MOST = 300


class Detector(nnx.Module):
    """A frozen detector as a head.

    `labels` are the numbers that the network gives to each class, by default 1 to `classes`, as torchvision counts
    them; others are no objects of the data. `sides` are the height and width to which images are resized, if any.
    """

    def __init__(
        self,
        network: HostNetwork,
        classes: int,
        labels: Sequence[Sequence[int]] | None = None,
        sides: tuple[int, int] | None = None,
    ):
        self.network, self.classes, self.sides = network, classes, sides
        self.labels = None if labels is None else tuple(map(tuple, labels))

    @property
    def size(self) -> int:
        """The most detections of an image that are kept."""
        return min(tasks.detection.MOST * self.classes, _MOST)

    def __call__(self, images: Float[Array | np.ndarray, "batch height width 3"]) -> dict[str, Array]:
        """Detects objects in normalized images: returns these `images`, of which `losses` has a gradient, and `boxes`.

        `boxes (B, D, 6)` are x1, y1, x2, y2 in pixels of the images, the score, and the class or -1 for an empty row,
        in the order of the scores.
        """
        images, shape = jnp.asarray(images), jax.ShapeDtypeStruct((self.size, 6), jnp.float32)
        seen, scale = self._seen(images)
        # Boxes have no gradient.
        boxes = of_images(self._detected, shape, (jax.lax.stop_gradient(seen), 3))
        return {"boxes": boxes / scale, "images": images}

    def _seen(self, images: Array) -> tuple[Array, Array]:
        """Returns the images that the network sees, and the factors on their boxes `(6,)`."""
        high, wide = (1.0, 1.0) if self.sides is None else np.divide(self.sides, images.shape[1:3]).tolist()
        seen = images if self.sides is None else resized(images, self.sides)
        return seen, jnp.array([wide, high, wide, high, 1, 1], jnp.float32)

    def losses(self, images: Float[Array, "batch height width 3"], targets: Array) -> Float[Array, " batch"]:
        """Computes the sum of the network's losses for each image, with a gradient, or raises an InputError without.

        `targets (B, N, 6)` are x1, y1, x2, y2 in pixels of the images, the class or -1, and 1 for a crowd, which the
        losses leave out.
        """
        with_gradient(self.network)
        seen, scale = self._seen(images)
        return _losses(self, seen, targets * scale)

    def _detected(self, images: AnyArray) -> np.ndarray:
        found = np.zeros((len(images), self.size, 6), np.float32)
        found[..., 5] = -1
        for rows, detections in zip(found, self.network.detections(_channels_first(images)), strict=True):
            detections[:, 5] = self._classes_of(detections[:, 5])
            kept = tasks.detection.best(detections, self.size)
            rows[: len(kept)] = kept
        return found

    def _classes_of(self, labels: np.ndarray) -> np.ndarray:
        if self.labels is None:
            if wrong := sorted(set(labels.tolist()) - set(range(1, self.classes + 1))):
                raise InputError(
                    f"the head must label its boxes from 1 to {self.classes}, in the order of the categories' ids, got "
                    f"{wrong[0]:g}: name the labels of the data's classes with `class_outputs`"
                )
            return labels - 1
        found = np.full(len(labels), -1)
        for number, of_class in enumerate(self.labels):
            found[np.isin(labels, of_class)] = number
        return found

    def _host_losses(self, gradient: bool, images: AnyArray, targets: AnyArray) -> tuple[np.ndarray, np.ndarray]:
        first = np.arange(1, self.classes + 1) if self.labels is None else np.array([each[0] for each in self.labels])
        objects = [rows[(rows[:, 4] >= 0) & (rows[:, 5] == 0)] for rows in np.asarray(targets)]
        given = [(rows[:, :4], first[rows[:, 4].astype(int)].astype(np.int64)) for rows in objects]
        losses, gradients = with_gradient(self.network).losses(_channels_first(images), given, gradient)
        return losses, np.moveaxis(gradients, 1, -1)


def matches(boxes: Array, targets: Array, classes: int) -> dict[str, Array]:
    """Matches the boxes `(B, D, 6)` that a `Detector` finds with objects `(B, N, 6)`, see `tasks.detection.match`."""
    size = boxes.shape[1]

    def matched(boxes: AnyArray, targets: AnyArray) -> Mapping[str, np.ndarray]:
        images = zip(np.asarray(boxes), np.asarray(targets), strict=True)
        each = [tasks.detection.match(*image, classes, size) for image in images]
        return {name: np.stack([of_image[name] for of_image in each]) for name in each[0]}

    # The shapes of one image.
    none = tasks.detection.match(np.zeros((0, 6)), np.zeros((0, 6)), classes, size)
    return of_images(matched, none, (boxes, 2), (targets, 2))


def _channels_first(images: AnyArray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(np.asarray(images), -1, 1), np.float32)


def _losses_of(detector: Detector, gradient: bool, images: Array, targets: Array) -> tuple[Array, Array]:
    shapes = jax.ShapeDtypeStruct((), jnp.float32), jax.ShapeDtypeStruct(images.shape[1:], jnp.float32)
    return of_images(functools.partial(detector._host_losses, gradient), shapes, (images, 3), (targets, 2))


def _forward(detector: Detector, images: Array, targets: Array) -> tuple[Array, tuple[Array, Array]]:
    losses, gradients = _losses_of(detector, True, images, targets)
    return losses, (gradients, targets)


def _backward(detector: Detector, kept: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    gradients, targets = kept
    return gradients * cotangent[:, None, None, None], jnp.zeros_like(targets)


_losses = jax.custom_vjp(lambda *given: _losses_of(given[0], False, *given[1:])[0], nondiff_argnums=(0,))
_losses.defvjp(_forward, _backward)

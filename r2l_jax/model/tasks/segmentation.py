"""Segmentation: the pixels of an object, or the class of each pixel."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

import tasks
from r2l_jax.data.loader import Batch
from r2l_jax.model import pictures
from r2l_jax.model.augment import augment_masks
from r2l_jax.model.heads import NamedHead
from r2l_jax.model.scores import MeanIou, OfCounts, Outcome, Score
from r2l_jax.model.settings import NetworkSettings
from r2l_jax.model.tasks.base import Task
from r2l_jax.runtime.contact_sheet import quantized


@dataclasses.dataclass(frozen=True)
class Segmentation(Task):
    """Finds the pixels of an object: a U-Net++, trained by the Dice loss and scored by the intersection over union.

    `network` is the name in `tasks.resnet` of the ResNet that encodes, `precision` the type in which the network
    computes, and `custom` another head in its place.
    """

    known_scores: ClassVar[tuple[str, ...]] = ("iou", "mean_iou", "accuracy", "balanced_accuracy", "macro_f1")
    unused: ClassVar[tuple[str, ...]] = ("label_smoothing",)
    unused_with_own_head: ClassVar[tuple[str, ...]] = ("classifier_network",)
    class_layers: ClassVar[tuple[str, ...]] = ("segmentation_head",)
    has_masks: ClassVar[bool] = True

    @classmethod
    def of(cls, classes: tuple[str, ...], model: NetworkSettings, custom: NamedHead | None) -> "Segmentation":
        """Makes the task of a data set's object, whose name is given, or of its classes, if there are several."""
        if len(classes) > 1:
            return ClassSegmentation(classes, model.smp_encoder, model.precision, custom)
        return cls(("background", *classes), model.smp_encoder, model.precision, custom)

    @property
    def outputs(self) -> int:
        """The number of logits of each pixel."""
        return 1

    @property
    def default_score(self) -> Score:
        """The object's intersection over union over all pixels."""
        return OfCounts("iou", self.classes, of=1)

    @property
    def metrics(self) -> dict[str, Score]:
        """The mean intersection over union of images, which the published program reports."""
        return {"tile_iou": MeanIou("tile_iou")}

    @property
    def multiple(self) -> int:
        """The number that must divide height and width of an image: a U-Net halves its input five times."""
        return 32 if self.custom is None else 1

    def logits_shape(self, images: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape of the logits of images of a shape."""
        return (*images[:3], self.outputs)

    def make_head(self, rngs: nnx.Rngs) -> nnx.Module:
        """Makes the head, which turns normalized images into logits `(B, H, W, outputs)`."""
        if self.custom is not None:
            return self.custom(self.outputs, rngs)
        return tasks.unet("unetplusplus", encoder=self.network, classes=self.outputs, dtype=self.precision, rngs=rngs)

    def augmented(self, batch: Batch, keys: jax.Array, augmentation: str) -> Batch:
        """Returns the batch with masks that follow the augmentation of its images."""
        return {**batch, "target": augment_masks(batch["target"], keys, augmentation)}

    def loss(self, logits: jax.Array, batch: Batch) -> jax.Array:
        """Computes the Dice loss of all pixels of a batch."""
        masks = batch["target"].astype(jnp.int32)
        return tasks.losses.dice(enlarged(logits, masks.shape[1])[..., 0], masks, batch["weight"])

    def outcome(self, logits: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Computes the confusion matrix of each sample's pixels, and the sums of its Dice loss `(B, 3)`.

        The pixels of an image count as one, since the pixels of a data set are too many to count in float32.
        """
        masks = batch["target"].astype(jnp.int32)
        logits = enlarged(logits, masks.shape[1])[..., 0]

        def of_one(logits, mask):
            confusion = tasks.metrics.confusion_matrix(logits[None] > 0, mask[None], 2) / mask.size
            return confusion, jnp.stack(tasks.losses.dice_sums(logits[None], mask[None]))

        confusion, loss = jax.vmap(of_one)(logits, masks)
        return {"confusion": confusion, "loss": loss}

    def mean_loss(self, outcome: Outcome, weights: np.ndarray) -> float:
        """Computes the Dice loss of all samples together."""
        return float(tasks.losses.dice_of(*jnp.asarray(weights @ outcome["loss"].astype(np.float64))))

    def probabilities(self, logits: jax.Array, height: int) -> jax.Array:
        """Computes the probability of the object at each site `(B, H, W)` of raw images of a height."""
        return jax.nn.sigmoid(enlarged(logits, height)[..., 0])

    def distributions(self, probabilities: jax.Array) -> jax.Array:
        """Returns the probabilities of background and object."""
        return jnp.stack([1 - probabilities, probabilities], -1)

    def logits_of(self, probabilities: jax.Array) -> jax.Array:
        """Computes logits that have these probabilities."""
        return jax.scipy.special.logit(probabilities)[..., None]

    def stated(self, probabilities: np.ndarray) -> np.ndarray:
        """Returns what predicted masks state of each site, `(..., H, W)`: the probability of the object."""
        return probabilities

    def found(self, stated: np.ndarray) -> np.ndarray:
        """Returns the most probable class of each site, `(..., H, W)` uint8, from what masks state."""
        return (stated > 0.5).astype(np.uint8)

    def mask_file(self, stated: np.ndarray) -> Image.Image:
        """Makes the picture of a mask `(H, W)`: 255 times the probability of the object."""
        return Image.fromarray(quantized(stated, np.uint8))

    @property
    def palette(self) -> np.ndarray:
        """The colors of the classes in pictures, `(C, 3)` uint8."""
        return pictures.palette(self.colors, len(self.classes))

    def overlaid(self, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Mixes an image `(H, W, 3)` with the colors of the classes of a mask `(H, W)`."""
        return pictures.overlaid(image, mask, self.palette)

    def overlap(self, found: np.ndarray, target: np.ndarray) -> tuple[str, float]:
        """Returns the intersection over union of the object in two masks `(H, W)`; 1 if neither has one."""
        union = np.count_nonzero(found | target)
        return "IoU", np.count_nonzero(found & target) / union if union else 1.0

    def predictions_picture(self, images: np.ndarray, logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Draws images `(N, H, W, 3)` in a row, below them their masks, and below these the predicted masks."""
        images, logits = (enlarged(array, targets.shape[1]) for array in (images, logits))
        return pictures.masks(images, logits, targets)

    def judged(self, image: np.ndarray, logits: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, str]:
        """Returns an image `(H, W, 3)` with the outlines of its two masks, and their overlap in words."""
        image, logits = (enlarged(array[None], len(target))[0] for array in (image, logits))
        predicted = logits[..., 0] > 0
        union = np.count_nonzero(predicted | (target > 0))
        overlap = f"IoU {np.count_nonzero(predicted & (target > 0)) / union:.2f}" if union else "no object, none found"
        return pictures.outlined(image, target > 0, predicted), overlap

    def picture_files(self, label: int, stem: str, suffix: str) -> tuple[str, ...]:
        """Names the files of a sample in a folder of pictures: a picture and a mask."""
        return (f"images/{stem}.{suffix}", f"masks/{stem}.png")

    def mask_pictures(self, target: np.ndarray | np.integer) -> list[np.ndarray]:
        """Returns the pictures of a sample besides its image: its mask, 255 where the object is."""
        return [255 * np.asarray(target)]


@dataclasses.dataclass(frozen=True)
class ClassSegmentation(Segmentation):
    """Finds the class of each pixel: trained by Dice loss plus cross-entropy, scored by the mean IoU of the classes.

    Targets hold the indices of the classes; pixels of other values, such as 255, count nowhere.
    """

    known_scores: ClassVar[tuple[str, ...]] = ("mean_iou", "iou", "accuracy", "balanced_accuracy", "macro_f1")
    # Not "iou", which is the score of a single object.
    class_metrics: ClassVar[tuple[str, ...]] = ("precision", "recall", "f1", "IoU")

    @property
    def title(self) -> str:
        """The name of the task."""
        return "segmentation"

    @property
    def outputs(self) -> int:
        """The number of logits of each pixel."""
        return len(self.classes)

    @property
    def default_score(self) -> Score:
        """The mean intersection over union of the classes, each over all pixels."""
        return OfCounts("mean_iou", self.classes)

    @property
    def metrics(self) -> dict[str, Score]:
        """No other scores: `class_scores` has those of the classes."""
        return {}

    @property
    def class_scores(self) -> dict[str, Score]:
        """The intersection over union of each class."""
        return {name: OfCounts(f"iou:{name}", self.classes, of=place) for place, name in enumerate(self.classes)}

    def loss(self, logits: jax.Array, batch: Batch) -> jax.Array:
        """Computes the loss of all pixels of a batch."""
        sums = tasks.losses.class_sums(enlarged(logits, batch["target"].shape[1]), batch["target"])
        return tasks.losses.class_loss(jnp.tensordot(batch["weight"], sums, 1))

    def outcome(self, logits: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Computes the confusion matrix of each sample's pixels, as shares of the image, and its sums of the loss."""
        masks = batch["target"]
        logits = enlarged(logits, masks.shape[1])

        def of_one(predicted, mask):
            return tasks.metrics.confusion_matrix(predicted[None], mask[None], len(self.classes)) / mask.size

        return {
            "confusion": jax.vmap(of_one)(logits.argmax(-1), masks),
            "loss": tasks.losses.class_sums(logits, masks),
        }

    def mean_loss(self, outcome: Outcome, weights: np.ndarray) -> float:
        """Computes the loss of all samples together."""
        return float(tasks.losses.class_loss(jnp.asarray(np.tensordot(weights, outcome["loss"].astype(np.float64), 1))))

    def probabilities(self, logits: jax.Array, height: int) -> jax.Array:
        """Computes the probability of each class at each site, `(B, H, W, C)`, of raw images of a height."""
        return jax.nn.softmax(enlarged(logits, height))

    def distributions(self, probabilities: jax.Array) -> jax.Array:
        """Returns the probabilities of the classes as they are."""
        return probabilities

    def logits_of(self, probabilities: jax.Array) -> jax.Array:
        """Computes logits that have these probabilities."""
        return jnp.log(jnp.maximum(probabilities, jnp.finfo(probabilities.dtype).tiny))

    def stated(self, probabilities: np.ndarray) -> np.ndarray:
        """Returns what predicted masks state of each site, `(..., H, W)` uint8: the most probable class."""
        return probabilities.argmax(-1).astype(np.uint8)

    def found(self, stated: np.ndarray) -> np.ndarray:
        """Returns the most probable class of each site, which is what masks state."""
        return stated

    def mask_file(self, stated: np.ndarray) -> Image.Image:
        """Makes the picture of a mask `(H, W)`: the indices of classes, with their colors as palette."""
        picture = Image.fromarray(stated)
        picture.putpalette(self.palette.tobytes())
        return picture

    def predictions_picture(self, images: np.ndarray, logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Draws images `(N, H, W, 3)` in a row, below them their masks, and below these the predicted masks."""
        images, logits = (enlarged(array, targets.shape[1]) for array in (images, logits))
        return pictures.class_masks(images, logits.argmax(-1), targets, self.palette)

    def overlap(self, found: np.ndarray, target: np.ndarray) -> tuple[str, float]:
        """Returns the mean intersection over union of the classes in two masks `(H, W)`."""
        one = jnp.asarray(found)[None], jnp.asarray(target)[None]
        return "mean IoU", float(tasks.metrics.mean_iou(tasks.metrics.confusion_matrix(*one, len(self.classes))))

    def judged(self, image: np.ndarray, logits: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, str]:
        """Returns an image `(H, W, 3)` mixed with the colors of the predicted classes, and the overlap in words."""
        image, logits = (enlarged(array[None], len(target))[0] for array in (image, logits))
        predicted = logits.argmax(-1)
        name, overlap = self.overlap(predicted, target)
        return self.overlaid(image, predicted), f"{name} {overlap:.2f}"

    def mask_pictures(self, target: np.ndarray | np.integer) -> list[np.ndarray]:
        """Returns the pictures of a sample besides its image: its mask, with the indices of classes."""
        return [np.asarray(target)]


def enlarged(images: Any, height: int) -> Any:
    """Repeats the pixels of images `(B, H, W, C)`, such as images of half the size, up to a given height."""
    factor = height // images.shape[1]
    return images if factor == 1 else images.repeat(factor, 1).repeat(factor, 2)

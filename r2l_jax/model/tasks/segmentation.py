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
from r2l_jax.results.contact_sheet import quantized


@dataclasses.dataclass(frozen=True)
class Segmentation(Task):
    """Finds the pixels of an object or, if `several`, the class of each pixel, with a U-Net++.

    An object has one logit and the Dice loss; `classes` are then "background" and the object. Several classes have a
    logit each, and Dice loss plus cross-entropy; pixels whose target is not the index of a class, such as 255, count
    nowhere. `network` names the ResNet that encodes.
    """

    several: bool = False

    known_scores: ClassVar[tuple[str, ...]] = ("iou", "mean_iou", "accuracy", "balanced_accuracy", "macro_f1")
    unused: ClassVar[tuple[str, ...]] = ("label_smoothing",)
    unused_with_own_head: ClassVar[tuple[str, ...]] = ("classifier_network",)
    class_layers: ClassVar[tuple[str, ...]] = ("segmentation_head",)
    has_masks: ClassVar[bool] = True

    @classmethod
    def of(cls, classes: tuple[str, ...], model: NetworkSettings, custom: NamedHead | None) -> "Segmentation":
        """Makes the task of a data set's object, whose name is given, or of its classes, if there are several."""
        several = len(classes) > 1
        names = classes if several else ("background", *classes)
        return cls(names, model.smp_encoder, model.precision, custom, several=several)

    @property
    def class_metrics(self) -> tuple[str, ...]:
        """The scores of each class that `by_class` computes."""
        # Not "iou", which is the score of a single object.
        return (*super().class_metrics, "IoU") if self.several else super().class_metrics

    @property
    def outputs(self) -> int:
        """The number of logits of each pixel."""
        return len(self.classes) if self.several else 1

    @property
    def default_score(self) -> Score:
        """The intersection over union over all pixels: the object's, or the mean of the classes'."""
        return OfCounts("mean_iou", self.classes) if self.several else OfCounts("iou", self.classes, of=1)

    @property
    def metrics(self) -> dict[str, Score]:
        """For an object, the mean intersection over union of images, which the published program reports."""
        return {} if self.several else {"tile_iou": MeanIou("tile_iou")}

    @property
    def class_scores(self) -> dict[str, Score]:
        """The intersection over union of each of several classes."""
        names = self.classes if self.several else ()
        return {name: OfCounts(f"iou:{name}", names, of=place) for place, name in enumerate(names)}

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
        """Computes the loss of all pixels of a batch."""
        sums = self._loss_sums(enlarged(logits, batch["target"].shape[1]), batch["target"])
        return self._loss_of(tasks.losses.weighted_sum(sums, batch["weight"]))

    def _loss_sums(self, logits: jax.Array, masks: jax.Array) -> jax.Array:
        """Computes the sums of each image from which `_loss_of` computes the loss."""
        losses = tasks.losses
        return losses.class_sums(logits, masks) if self.several else losses.dice_sums(logits[..., 0], masks)

    def _loss_of(self, sums: jax.Array) -> jax.Array:
        return tasks.losses.class_loss(sums) if self.several else tasks.losses.dice_of(sums)

    def outcome(self, logits: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Computes the confusion matrix of each sample's pixels, and the sums of its loss.

        The pixels of an image count as one, since the pixels of a data set are too many to count in float32.
        """
        masks = batch["target"]
        logits = enlarged(logits, masks.shape[1])

        def confusion(predicted, mask):
            return tasks.metrics.confusion_matrix(predicted[None], mask[None], len(self.classes)) / mask.size

        found = jax.vmap(confusion)(self._predicted(logits), masks)
        return {"confusion": found, "loss": self._loss_sums(logits, masks)}

    def mean_loss(self, outcome: Outcome, weights: np.ndarray) -> float:
        """Computes the loss of all samples together."""
        return float(self._loss_of(jnp.asarray(np.tensordot(weights, outcome["loss"].astype(np.float64), 1))))

    def _predicted(self, logits: Any) -> Any:
        """Returns the most probable class of each pixel; for an object, whether it is there."""
        return logits.argmax(-1) if self.several else logits[..., 0] > 0

    def probabilities(self, logits: jax.Array, height: int) -> jax.Array:
        """Computes probabilities at the sites of raw images: of classes `(B, H, W, C)`, or the object `(B, H, W)`."""
        logits = enlarged(logits, height)
        return jax.nn.softmax(logits) if self.several else jax.nn.sigmoid(logits[..., 0])

    def distributions(self, probabilities: jax.Array) -> jax.Array:
        """Returns the probabilities of all classes, `(..., C)`."""
        return probabilities if self.several else jnp.stack([1 - probabilities, probabilities], -1)

    def logits_of(self, probabilities: jax.Array) -> jax.Array:
        """Computes logits that have these probabilities."""
        if self.several:
            return jnp.log(jnp.maximum(probabilities, jnp.finfo(probabilities.dtype).tiny))
        return jax.scipy.special.logit(probabilities)[..., None]

    def stated(self, probabilities: np.ndarray) -> np.ndarray:
        """Returns the content of predicted masks `(..., H, W)`: the object's probability, or the class in uint8."""
        return probabilities.argmax(-1).astype(np.uint8) if self.several else probabilities

    def found(self, stated: np.ndarray) -> np.ndarray:
        """Returns the most probable class of each site, `(..., H, W)` uint8, from the content of masks."""
        return stated if self.several else (stated > 0.5).astype(np.uint8)

    def mask_file(self, stated: np.ndarray) -> Image.Image:
        """Makes the picture of a mask `(H, W)`: 255 times the probability, or indices with colors as palette."""
        if not self.several:
            return Image.fromarray(quantized(stated, np.uint8))
        picture = Image.fromarray(stated)
        picture.putpalette(self.palette.tobytes())
        return picture

    @property
    def palette(self) -> np.ndarray:
        """The colors of the classes in pictures, `(C, 3)` uint8."""
        return pictures.palette(self.colors, len(self.classes))

    def overlaid(self, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Mixes an image `(H, W, 3)` with the colors of the classes of a mask `(H, W)`."""
        return pictures.overlaid(image, mask, self.palette)

    def overlap(self, found: np.ndarray, target: np.ndarray) -> tuple[str, float]:
        """Returns the intersection over union in two masks `(H, W)`: the object's, 1 without any, or the mean."""
        if not self.several:
            union = np.count_nonzero(found | target)
            return "IoU", np.count_nonzero(found & target) / union if union else 1.0
        one = jnp.asarray(found)[None], jnp.asarray(target)[None]
        return "mean IoU", float(tasks.metrics.mean_iou(tasks.metrics.confusion_matrix(*one, len(self.classes))))

    def judged(self, image: np.ndarray, logits: np.ndarray, target: np.ndarray, height: int) -> tuple[np.ndarray, str]:
        """Returns an image `(H, W, 3)` with the outlines of both masks or the predicted colors, and their overlap."""
        image, logits = (enlarged(array[None], len(target))[0] for array in (image, logits))
        predicted, true = self._predicted(logits), target if self.several else target > 0
        words = "{} {:.2f}".format(*self.overlap(predicted, true))
        if self.several:
            return self.overlaid(image, predicted), words
        is_empty = not (predicted.any() or true.any())
        return pictures.outlined(image, true, predicted), "no object, none found" if is_empty else words

    def picture_files(self, label: int, stem: str, suffix: str) -> tuple[str, ...]:
        """Names the files of a sample in a folder of pictures: a picture and a mask."""
        return (f"images/{stem}.{suffix}", f"masks/{stem}.png")

    def mask_pictures(self, target: np.ndarray | np.integer) -> list[np.ndarray]:
        """Returns the pictures of a sample besides its image: its mask, of indices, or 255 where the object is."""
        return [np.asarray(target) * (1 if self.several else 255)]


def enlarged(images: Any, height: int) -> Any:
    """Repeats the pixels of images `(B, H, W, C)`, such as images of half the size, up to a given height."""
    factor = height // images.shape[1]
    return images if factor == 1 else images.repeat(factor, 1).repeat(factor, 2)

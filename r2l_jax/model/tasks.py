"""The tasks of models: classification and segmentation, each with its head, loss, score and pictures.

Tasks let other code treat both kinds of data sets alike. They are frozen and hashable, so that compiled functions can
take them as static arguments.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import tasks
from r2l_jax.data.loader import Batch
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.model import pictures
from r2l_jax.model.augment import augment_masks
from r2l_jax.model.heads import NamedHead, find_head
from r2l_jax.model.settings import NetworkSettings

# The probability of a guess in the loss of a frozen head under random cameras.
_GUESSED = 0.1


# Sums over samples, each times its weight: the task `loss ()`, and the `confusion (C, C)` of targets in rows.
Sums = dict[str, jax.Array]


class _Task:
    """The interface of both tasks. Methods take logits from the task's head, and batches from the loader."""

    # Names of the means over samples that are recorded beside the score.
    metrics: ClassVar[tuple[str, ...]] = ()
    # The shape of the sum from which `totals` computes the loss.
    loss_shape: ClassVar[tuple[int, ...]] = ()
    # The layers of the head whose shapes depend on the number of classes.
    class_layers: ClassVar[tuple[str, ...]] = ()
    # The number that must divide the height and width of an image.
    multiple = 1

    def for_training(self, labels: np.ndarray, smoothing: float, balanced: bool, guesses: bool) -> Any:
        """Returns the task with the training loss, which validation does not use."""
        return self

    def augmented(self, batch: Batch, keys: jax.Array, augmentation: str) -> Batch:
        """Returns the batch with targets that follow the augmentation of its images: classes stay."""
        return batch

    def totals(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the total sums of an evaluation, in which the loss is the mean loss times the number of samples."""
        return {**sums}

    def groups(self, labels: np.ndarray) -> dict[str, np.ndarray]:
        """Returns masks `(N,)` of the samples of each class, if each sample has one class."""
        return {}

    def mask_pictures(self, target: np.ndarray | np.integer) -> list[np.ndarray]:
        """Returns the pictures of a sample besides its image."""
        return []


@dataclasses.dataclass(frozen=True)
class Classification(_Task):
    """Gives each image one class: a ResNet, trained by cross entropy and scored by accuracy.

    `classes` name the rows and columns of the confusion matrix. The loss spreads the share `smoothing` of each target
    over all classes, and weighs classes by `class_weights`, if there are any; `guessed` is the probability of a guess
    (see `tasks.losses.cross_entropy`). `network` is the ResNet's name in `tasks.resnet`, `precision` the type in which
    it computes, and `custom` another head in its place.
    """

    classes: tuple[str, ...]
    network: str
    smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None
    guessed: float = 0.0
    precision: str = "float32"
    custom: NamedHead | None = None

    name: ClassVar[str] = "classification"
    # The metric by which epochs are compared; higher is better.
    score: ClassVar[str] = "accuracy"
    class_layers: ClassVar[tuple[str, ...]] = ("fc",)

    @property
    def outputs(self) -> int:
        """The number of logits for each image."""
        return len(self.classes)

    def logits_shape(self, images: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape of the logits of images of a shape."""
        return (images[0], self.outputs)

    def for_training(self, labels: np.ndarray, smoothing: float, balanced: bool, guesses: bool) -> "Classification":
        """Returns the task with the training loss: `balanced` weighs classes inversely to their numbers of samples.

        `guesses` counts one answer in ten as a guess, which bounds the loss of an image. Under random cameras, a frozen
        head confidently predicts wrong classes for the darkest images, whose loss would outweigh all others.
        """
        weights = None
        if balanced:
            counts = np.bincount(labels, minlength=len(self.classes))
            weights = tuple((len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))).tolist())
        guessed = _GUESSED if guesses else 0.0
        return dataclasses.replace(self, smoothing=smoothing, class_weights=weights, guessed=guessed)

    def make_head(self, rngs: nnx.Rngs) -> nnx.Module:
        """Makes the head, which turns normalized images into logits `(B, C)`."""
        if self.custom is not None:
            return self.custom(self.outputs, rngs)
        return tasks.resnet(self.network, num_classes=len(self.classes), dtype=self.precision, rngs=rngs)

    def sums(self, logits: jax.Array, batch: Batch) -> Sums:
        """Computes the sums of a batch."""
        target, weight = batch["target"], batch["weight"]
        losses = tasks.losses.cross_entropy(logits, target, self.smoothing, self.guessed)
        if self.class_weights is not None:
            losses *= jnp.array(self.class_weights)[target]
        return {
            "loss": (losses * weight).sum(),
            "confusion": tasks.metrics.confusion_matrix(logits.argmax(-1), target, len(self.classes), weight),
        }

    # In evaluation, they are added up over batches.
    measure = sums

    def contained(self, target: jax.Array) -> jax.Array:
        """Returns which classes each sample contains, `(B, C)`: its label."""
        return jax.nn.one_hot(target, len(self.classes))

    def outcome(self, confusion: Any) -> tuple[Any, Any]:
        """Returns the score's numerators and denominators of matrices `(..., C, C)`: correct samples and all."""
        return confusion.trace(axis1=-2, axis2=-1), confusion.sum((-2, -1))

    def score_of(self, confusion: jax.Array | np.ndarray) -> jax.Array:
        """Computes the accuracy of a confusion matrix."""
        return tasks.metrics.accuracy(confusion)

    def probabilities(self, logits: jax.Array, height: int) -> jax.Array:
        """Computes the probability of each class, `(B, C)`, whatever the height of the raw images."""
        return jax.nn.softmax(logits)

    def logits_of(self, probabilities: jax.Array) -> jax.Array:
        """Computes logits that have these probabilities."""
        return jnp.log(jnp.maximum(probabilities, jnp.finfo(probabilities.dtype).tiny))

    def groups(self, labels: np.ndarray) -> dict[str, np.ndarray]:
        """Returns masks `(N,)` of the samples of each class, for results by class."""
        return {name: labels == number for number, name in enumerate(self.classes)}

    def predictions_picture(self, images: np.ndarray, logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Draws images `(N, H, W, 3)` with their targets and predictions, `(rows, cols, 3)` in [0, 1]."""
        return pictures.predictions(images, logits, targets, self.classes)

    def judged(self, image: np.ndarray, logits: np.ndarray, target: np.integer) -> tuple[np.ndarray, str]:
        """Returns an image `(H, W, 3)`, and its target and prediction in words."""
        return image, pictures.verdict(logits, int(target), self.classes)

    def picture_files(self, label: int, stem: str, suffix: str) -> tuple[str, ...]:
        """Names the files of a sample in a folder of pictures: a picture in the folder of its class."""
        return (f"{self.classes[label]}/{stem}.{suffix}",)


@dataclasses.dataclass(frozen=True)
class Segmentation(_Task):
    """Finds the pixels of an object: a U-Net++, trained by the Dice loss and scored by the intersection over union.

    `network` is the name in `tasks.resnet` of the ResNet that encodes, `precision` the type in which the network
    computes, and `custom` another head in its place.
    """

    objects: tuple[str, ...]
    network: str
    precision: str = "float32"
    custom: NamedHead | None = None

    name: ClassVar[str] = "segmentation"
    score: ClassVar[str] = "iou"
    # The mean over images, which the published program reports, beside the score of all pixels together.
    metrics: ClassVar[tuple[str, ...]] = ("tile_iou",)
    loss_shape: ClassVar[tuple[int, ...]] = (3,)
    # The number of logits for each pixel.
    outputs: ClassVar[int] = 1

    @property
    def multiple(self) -> int:
        """The number that must divide height and width of an image: a U-Net halves its input five times."""
        return 32 if self.custom is None else 1

    def logits_shape(self, images: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape of the logits of images of a shape."""
        return (*images[:3], self.outputs)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the confusion matrix's rows and columns."""
        return ("background", *self.objects)

    def make_head(self, rngs: nnx.Rngs) -> nnx.Module:
        """Makes the head, which turns normalized images into logits `(B, H, W, 1)`."""
        if self.custom is not None:
            return self.custom(self.outputs, rngs)
        return tasks.unet("unetplusplus", encoder=self.network, classes=1, dtype=self.precision, rngs=rngs)

    def augmented(self, batch: Batch, keys: jax.Array, augmentation: str) -> Batch:
        """Returns the batch with masks that follow the augmentation of its images."""
        return {**batch, "target": augment_masks(batch["target"], keys, augmentation)}

    def sums(self, logits: jax.Array, batch: Batch) -> Sums:
        """Computes the sums of a batch in training: its Dice loss times its samples, and the confusion of its pixels.

        The pixels of an image count as one, since the pixels of an epoch are too many to count in float32.
        """
        measured, weight = self.measure(logits, batch), batch["weight"]
        loss = tasks.losses.dice_of(*measured["loss"]) * weight.sum()
        return {"loss": loss, "confusion": measured["confusion"]}

    def measure(self, logits: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Computes the sums of a batch in evaluation, which can be added up over batches, see `totals`.

        The loss is that of all samples together, from `tasks.losses.dice_sums`. `tile_iou` is the sum of each image's
        intersection over union times its sample's weight.
        """
        masks, weight = batch["target"].astype(jnp.int32), batch["weight"]
        logits = _enlarged(logits, masks.shape[1])[..., 0]
        return {
            "loss": jnp.stack(tasks.losses.dice_sums(logits, masks, weight)),
            "confusion": tasks.metrics.confusion_matrix(logits > 0, masks, 2, weight / masks[0].size),
            "tile_iou": jnp.vdot(tasks.metrics.iou_of_images(logits > 0, masks), weight),
        }

    def totals(self, sums: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the total sums of an evaluation, whose loss is the Dice loss of all samples times their number."""
        return {**sums, "loss": tasks.losses.dice_of(*jnp.asarray(sums["loss"])) * sums["confusion"].sum()}

    def contained(self, target: jax.Array) -> jax.Array:
        """Returns which classes each sample contains, `(B, C)`: every class that any of its pixels has."""
        return jnp.stack([(target == number).any((1, 2)) for number in range(len(self.classes))], 1)

    def outcome(self, confusion: Any) -> tuple[Any, Any]:
        """Returns the score's numerators and denominators of matrices `(..., 2, 2)`: intersections and unions."""
        return confusion[..., 1, 1], confusion.sum((-2, -1)) - confusion[..., 0, 0]

    def score_of(self, confusion: jax.Array | np.ndarray) -> jax.Array:
        """Computes the object's intersection over union from a confusion matrix."""
        return tasks.metrics.iou(confusion)[1]

    def probabilities(self, logits: jax.Array, height: int) -> jax.Array:
        """Computes the probability of the object at each site `(B, H, W)` of raw images of a height."""
        return jax.nn.sigmoid(_enlarged(logits, height)[..., 0])

    def logits_of(self, probabilities: jax.Array) -> jax.Array:
        """Computes logits that have these probabilities."""
        return jax.scipy.special.logit(probabilities)[..., None]

    def predictions_picture(self, images: np.ndarray, logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Draws images `(N, H, W, 3)` in a row, below them their masks, and below these the predicted masks."""
        images, logits = (_enlarged(array, targets.shape[1]) for array in (images, logits))
        return pictures.masks(images, logits, targets)

    def judged(self, image: np.ndarray, logits: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, str]:
        """Returns an image `(H, W, 3)` with the outlines of its two masks, and their overlap in words."""
        image, logits = (_enlarged(array[None], len(target))[0] for array in (image, logits))
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


Task = Classification | Segmentation
TASKS: tuple[type[Task], ...] = (Classification, Segmentation)


def task_of(dataset: RawDataset, model: NetworkSettings | None = None) -> Task:
    """Returns the task of a data set, by default with the default networks."""
    return make_task(dataset.task, dataset.classes, model or NetworkSettings())


def make_task(name: str, classes: tuple[str, ...], model: NetworkSettings) -> Task:
    """Makes a task by its name, "classification" or "segmentation"."""
    custom = find_head(model, classes)
    if name == Segmentation.name:
        return Segmentation(classes, model.smp_encoder, model.precision, custom)
    return Classification(classes, model.classifier_network.lower(), precision=model.precision, custom=custom)


def confusions(task: Task, logits: jax.Array, batch: Batch) -> jax.Array:
    """Computes the confusion matrix of each sample of a batch, `(B, C, C)`."""

    def confusion(logits, sample):
        return task.sums(logits[None], jax.tree.map(lambda leaf: leaf[None], sample))["confusion"]

    return jax.vmap(confusion)(logits, batch)


def _enlarged(images, height: int):
    """Repeats the pixels of images `(B, H, W, C)`, such as images of half the size, up to a given height."""
    factor = height // images.shape[1]
    return images if factor == 1 else images.repeat(factor, 1).repeat(factor, 2)

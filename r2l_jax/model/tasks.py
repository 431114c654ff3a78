"""What a model is trained for: the head, the loss and the score of each kind of task."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import tasks
from r2l_jax.config import TrainConfig
from r2l_jax.data.loader import Batch
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.model.augment import augment_masks

# A U-Net halves its input five times.
SEGMENTATION_MULTIPLE = 32


class Objective(NamedTuple):
    """A kind of task.

    Attributes:
        score: the metric that epochs are compared by; more is better.
        classes: names of the confusion matrix's rows and columns.
        network: the ResNet in the head, by its name in `tasks.resnet`.
        make_head: normalised images to logits, from the random streams that draw its weights.
        augmented: a batch whose targets follow the augmentation of its images, `(batch, key, augmentation)`.
        sums: of logits and a batch, what adds up over batches: `loss` and `confusion`, each sample's part times its
            weight.
        score_of: the score of such a confusion matrix.
    """

    score: str
    classes: tuple[str, ...]
    network: str
    make_head: Callable[[nnx.Rngs], nnx.Module]
    augmented: Callable[[Batch, jax.Array, str], Batch]
    sums: Callable[[jax.Array, Batch], dict[str, jax.Array]]
    score_of: Callable[[jax.Array], jax.Array]

    @property
    def summary(self) -> tuple[str, ...]:
        """What a run is summed up by."""
        return tuple(f"{split}_{name}" for split in ("val", "train") for name in (self.score, "loss"))


def make_objective(config: TrainConfig, dataset: RawDataset) -> Objective:
    """The objective of a data set's task: a ResNet and cross entropy, or a U-Net++ and Dice."""
    if dataset.task == "segmentation":
        return Objective(
            score="iou",
            classes=("background", *dataset.classes),
            network=config.encoder,
            make_head=lambda rngs: tasks.unet("unetplusplus", encoder=config.encoder, classes=1, rngs=rngs),
            augmented=lambda batch, key, name: {**batch, "target": augment_masks(batch["target"], key, name)},
            sums=_segmentation_sums,
            score_of=lambda confusion: tasks.metrics.iou(confusion)[1],
        )
    num_classes, network = len(dataset.classes), config.classifier_network.lower()
    return Objective(
        score="accuracy",
        classes=dataset.classes,
        network=network,
        make_head=lambda rngs: tasks.resnet(network, num_classes=num_classes, rngs=rngs),
        augmented=lambda batch, key, name: batch,
        sums=lambda logits, batch: _classification_sums(logits, batch, num_classes),
        score_of=tasks.metrics.accuracy,
    )


def _classification_sums(logits: jax.Array, batch: Batch, num_classes: int) -> dict[str, jax.Array]:
    loss = (tasks.losses.cross_entropy(logits, batch["target"]) * batch["weight"]).sum()
    predictions = logits.argmax(-1)
    return {
        "loss": loss,
        "confusion": tasks.metrics.confusion_matrix(predictions, batch["target"], num_classes, batch["weight"]),
    }


def _segmentation_sums(logits: jax.Array, batch: Batch) -> dict[str, jax.Array]:
    """The batch's Dice loss times its samples, and the confusion of its pixels, of which an image's count one."""
    masks, weight = batch["target"].astype(jnp.int32), batch["weight"]
    logits = enlarged(logits, masks.shape[1])[..., 0]
    # Fractions of images, since the pixels of an epoch are too many to count in float32.
    confusion = tasks.metrics.confusion_matrix(logits > 0, masks, 2, weight / masks[0].size)
    return {"loss": tasks.losses.dice(logits, masks, weight) * weight.sum(), "confusion": confusion}


def enlarged(images: jax.Array | np.ndarray, height: int) -> jax.Array | np.ndarray:
    """Images `(B, H, W, C)` at a multiple of their size, pixels repeated: without processing they are half as large."""
    factor = height // images.shape[1]
    return images if factor == 1 else images.repeat(factor, 1).repeat(factor, 2)

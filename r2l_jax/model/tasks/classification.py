"""Classification: one class for each image."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import tasks
from r2l_jax.data.loader import Batch
from r2l_jax.model import pictures
from r2l_jax.model.heads import NamedHead
from r2l_jax.model.scores import Auroc, OfCounts, Score
from r2l_jax.model.settings import NetworkSettings
from r2l_jax.model.tasks.base import Task

# The probability of a guess in the loss of a frozen head under random cameras.
_GUESSED = 0.1


@dataclasses.dataclass(frozen=True)
class Classification(Task):
    """Gives each image one class: a ResNet, trained by cross entropy (see `tasks.losses`) and scored by accuracy."""

    smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None
    guessed: float = 0.0

    known_scores: ClassVar[tuple[str, ...]] = ("accuracy", "balanced_accuracy", "macro_f1", "mean_iou", "iou", "auroc")
    class_layers: ClassVar[tuple[str, ...]] = ("fc",)
    unused: ClassVar[tuple[str, ...]] = ("smp_encoder",)
    has_labels: ClassVar[bool] = True

    @classmethod
    def of(cls, classes: tuple[str, ...], model: NetworkSettings, custom: NamedHead | None) -> "Classification":
        """Makes the task of a data set's classes."""
        return cls(classes, model.classifier_network.lower(), precision=model.precision, custom=custom)

    @property
    def default_score(self) -> Score:
        """The accuracy."""
        return OfCounts("accuracy", self.classes)

    def for_training(self, labels: np.ndarray, smoothing: float, balanced: bool, guesses: bool) -> "Classification":
        """Returns the task with the training loss: `balanced` weighs classes inversely to their numbers of samples.

        `guesses` counts one answer in ten as a guess, which bounds an image's loss. Under random cameras, the darkest
        images, of which a frozen head confidently predicts wrong classes, would outweigh all others.
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

    def loss(self, logits: jax.Array, batch: Batch) -> jax.Array:
        """Computes the mean loss of a batch, with the classes' weights."""
        losses, weight = self._losses(logits, batch), batch["weight"]
        if self.class_weights is not None:
            losses *= jnp.array(self.class_weights)[batch["target"]]
        return (losses * weight).sum() / weight.sum()

    def outcome(self, logits: jax.Array, batch: Batch) -> dict[str, jax.Array]:
        """Computes the predicted class, the target and the loss of each sample; for AUROC, a class's probability."""
        kind = jnp.uint8 if len(self.classes) <= 256 else jnp.uint16
        found = {
            "predicted": logits.argmax(-1).astype(kind),
            "target": batch["target"].astype(kind),
            "loss": self._losses(logits, batch),
        }
        if isinstance(self.score, Auroc):
            found["probability"] = jax.nn.softmax(logits)[:, self.score.of]
        return found

    def _losses(self, logits: jax.Array, batch: Batch) -> jax.Array:
        return tasks.losses.cross_entropy(logits, batch["target"], self.smoothing, self.guessed)

    def probabilities(self, logits: jax.Array, height: int) -> jax.Array:
        """Computes the probability of each class, `(B, C)`, whatever the height of the raw images."""
        return jax.nn.softmax(logits)

    def distributions(self, probabilities: jax.Array) -> jax.Array:
        """Returns the probabilities, which are those of every class."""
        return probabilities

    def logits_of(self, probabilities: jax.Array) -> jax.Array:
        """Computes logits that have these probabilities."""
        return jnp.log(jnp.maximum(probabilities, jnp.finfo(probabilities.dtype).tiny))

    def groups(self, labels: np.ndarray) -> dict[str, np.ndarray]:
        """Returns masks `(N,)` of the samples of each class, for results by class."""
        return {name: labels == number for number, name in enumerate(self.classes)}

    def judged(self, image: np.ndarray, logits: np.ndarray, target: np.integer, height: int) -> tuple[np.ndarray, str]:
        """Returns an image `(H, W, 3)`, and its target and prediction in words."""
        return image, pictures.verdict(logits, int(target), self.classes)

    def picture_files(self, label: int, stem: str, suffix: str) -> tuple[str, ...]:
        """Names the files of a sample in a folder of pictures: a picture in the folder of its class."""
        return (f"{self.classes[label]}/{stem}.{suffix}",)

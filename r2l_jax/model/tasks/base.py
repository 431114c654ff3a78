"""The interface of tasks, with what most tasks share."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

import tasks
from r2l_jax.data.loader import Batch
from r2l_jax.errors import InputError
from r2l_jax.model.heads import NamedHead
from r2l_jax.model.scores import Outcome, Score, confusion_of, counts_of
from r2l_jax.named_code import Source


@dataclasses.dataclass(frozen=True)
class Task:
    """What a model computes: its head, loss, outcomes, score and pictures. Other code treats all tasks alike.

    A task of one's own (`--task`) needs `outputs`, `default_score`, `make_head` and `outcome`. Without `probabilities`,
    it makes no predictions; without `logits_of`, no ensembles; and without `distributions`, the monitor does not test
    its outputs. Tasks are frozen dataclasses, so that compiled functions can take them as static arguments. Methods
    take logits from the task's head, and batches from the loader.
    """

    classes: tuple[str, ...] = ()  # of the rows and columns of the confusion matrix, if the task has one
    network: str = ""  # a ResNet of `tasks.resnet`
    precision: str = "float32"
    custom: NamedHead | None = None  # a head in place of the task's own
    scored: Score | None = None  # a score in place of the default one
    source: Source | None = None  # the file of a task of one's own
    colors: tuple[str, ...] = ()  # of the classes in pictures, such as "#ff8000", if not the default ones

    known_scores: ClassVar[tuple[str, ...]] = ()  # the scores of --score that its outcomes have
    class_layers: ClassVar[tuple[str, ...]] = ()  # layers of the head whose shapes depend on the number of classes
    # Flags without an effect on the task, and those without an effect on its own head.
    unused: ClassVar[tuple[str, ...]] = ("classifier_network", "smp_encoder", "label_smoothing")
    unused_with_own_head: ClassVar[tuple[str, ...]] = ()
    has_labels: ClassVar[bool] = False  # whether each sample has one class, so that images of all classes are a mixture
    has_masks: ClassVar[bool] = False  # whether targets and predictions are masks
    has_boxes: ClassVar[bool] = False  # whether targets and predictions are boxes
    trains: ClassVar[bool] = True  # whether heads of the task can be trained
    adapts: ClassVar[bool] = True  # whether models can be adapted by the statistics of their layers

    @property
    def score(self) -> Score:
        """The score by which epochs, models and cases are compared."""
        return self.scored or self.default_score

    @property
    def default_score(self) -> Score:
        """The score without --score."""
        raise NotImplementedError

    @property
    def multiple(self) -> int:
        """The number that must divide the height and width of an image."""
        return 1

    @property
    def title(self) -> str:
        """The name of the task."""
        return type(self).__name__.lower()

    @property
    def can_average(self) -> bool:
        """Whether an ensemble can predict the mean of its members' probabilities."""
        return type(self).logits_of is not Task.logits_of

    @property
    def has_distributions(self) -> bool:
        """Whether predictions are probabilities of classes."""
        return type(self).distributions is not Task.distributions

    @property
    def outputs(self) -> int:
        """The number of logits of each image or pixel."""
        return len(self.classes)

    @property
    def metrics(self) -> dict[str, Score]:
        """Other scores that are recorded beside `score`."""
        return {}

    @property
    def class_metrics(self) -> tuple[str, ...]:
        """The scores of each class that `by_class` computes."""
        return "precision", "recall", "f1"

    @property
    def class_scores(self) -> dict[str, Score]:
        """The score of each class by its name, for tasks whose samples contain several classes."""
        return {}

    def scored_by(self, score: Score) -> "Task":
        """Returns the task with another score."""
        return dataclasses.replace(self, scored=score)

    def logits_shape(self, images: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape of the logits of images of a shape."""
        return (images[0], self.outputs)

    def for_training(self, labels: np.ndarray, smoothing: float, balanced: bool, guesses: bool) -> Any:
        """Returns the task with the training loss, which validation does not use."""
        return self

    def make_head(self, rngs: nnx.Rngs) -> nnx.Module:
        """Makes the head, which turns normalized images `(B, H, W, 3)` into logits."""
        raise NotImplementedError

    def augmented(self, batch: Batch, keys: jax.Array, augmentation: str) -> Batch:
        """Returns the batch with targets that follow the augmentation of its images: those of whole images stay."""
        return batch

    def loss(self, logits: Any, batch: Batch) -> jax.Array:
        """Computes the mean loss of a batch, in which samples have the weights `batch["weight"]`."""
        losses = self.outcome(logits, batch)["loss"]
        return jnp.vdot(losses, batch["weight"]) / batch["weight"].sum()

    def outcome(self, logits: Any, batch: Batch) -> dict[str, jax.Array]:
        """Computes all that score and loss need of each sample: arrays `(B, ...)` by name, one of them `loss`."""
        raise NotImplementedError

    def mean_loss(self, outcome: Outcome, weights: np.ndarray) -> float:
        """Computes the loss of samples from their outcomes."""
        return float(np.average(outcome["loss"].astype(np.float64), weights=weights))

    def confusion(self, outcome: Outcome, weights: np.ndarray) -> np.ndarray | None:
        """Computes the confusion matrix `(C, C)` of samples, true classes in rows; None if the task has none."""
        return confusion_of(outcome, weights, len(self.classes))

    def by_class(self, outcome: Outcome, weights: np.ndarray) -> dict[str, list[float]]:
        """Computes scores of each class by the names in `class_metrics`."""
        confusion = confusion_of(outcome, weights, len(self.classes))
        return {name: getattr(tasks.metrics, name.lower())(confusion).tolist() for name in self.class_metrics}

    def class_samples(self, outcome: Outcome) -> dict[str, int]:
        """Counts the samples that contain each class."""
        present = counts_of(outcome, len(self.classes)).true > 0
        return dict(zip(self.classes, present.sum(0).tolist(), strict=True))

    def probabilities(self, logits: Any, height: int) -> jax.Array:
        """Computes what predictions state for raw images of a height: probabilities, or other numbers `(B, K)`."""
        raise InputError(f"the task {self.title} has no method probabilities, and predictions need it")

    def distributions(self, probabilities: jax.Array) -> jax.Array:
        """Returns the probability of every class, `(..., C)`, from what predictions state."""
        raise NotImplementedError

    def stated(self, probabilities: np.ndarray) -> np.ndarray:
        """Returns what the files of predictions state, from probabilities: these."""
        return probabilities

    def found(self, stated: np.ndarray) -> np.ndarray:
        """Returns the most probable class of each sample, from what is stated."""
        return np.asarray(stated.argmax(-1), np.int32)

    def logits_of(self, probabilities: jax.Array) -> jax.Array:
        """Computes logits from what predictions state, such as the mean over an ensemble."""
        raise NotImplementedError

    def groups(self, labels: np.ndarray) -> dict[str, np.ndarray]:
        """Returns masks `(N,)` of the samples of each class, if each sample has one class."""
        return {}

    def judged(self, image: np.ndarray, logits: np.ndarray, target: Any, height: int) -> tuple[np.ndarray, str]:
        """Returns the image `(H, W, 3)` of a raw image of a height, with target and prediction in words or drawn."""
        return image, ""

    def mask_file(self, stated: np.ndarray) -> Image.Image:
        """Makes the picture of a predicted mask."""
        raise NotImplementedError

    def overlaid(self, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Mixes an image `(H, W, 3)` with the colors of the classes of a mask `(H, W)`."""
        raise NotImplementedError

    def overlap(self, found: np.ndarray, target: np.ndarray) -> tuple[str, float]:
        """Returns a measure of the overlap of two masks `(H, W)`, its name and its value."""
        raise NotImplementedError

    def mask_pictures(self, target: np.ndarray | np.integer) -> list[np.ndarray]:
        """Returns the pictures of a sample besides its image."""
        return []

    def picture_files(self, label: int, stem: str, suffix: str) -> tuple[str, ...]:
        """Names the files of a sample in a folder of pictures."""
        return (f"images/{stem}.{suffix}",)

    def check_adapts(self) -> None:
        """Raises an InputError unless models can be adapted to new images."""
        if not self.adapts:
            raise InputError(f"adaptation by statistics is not for {self.title}, whose network stays as it is")

    def scores(self, outcome: Outcome, weights: np.ndarray) -> dict[str, float]:
        """Computes the loss, the score and the other metrics of weighted samples, by name."""
        known: Mapping[str, Score] = {self.score.name: self.score, **self.metrics}
        found = {name: float(score(outcome, weights)) for name, score in known.items()}
        return {"loss": self.mean_loss(outcome, weights), **found}

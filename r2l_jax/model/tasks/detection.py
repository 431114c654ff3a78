"""Detection: the boxes and classes of objects, by frozen networks."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import tasks
from r2l_jax.data.loader import Batch
from r2l_jax.errors import InputError
from r2l_jax.model import pictures
from r2l_jax.model.detectors import Detector, matches
from r2l_jax.model.heads import FittedHead, FrozenHead, NamedHead, NormalizedHead
from r2l_jax.model.host_networks import TorchNetwork
from r2l_jax.model.scores import AveragePrecision, Outcome, Score
from r2l_jax.model.settings import NetworkSettings
from r2l_jax.model.tasks.base import Task

# The least score of a box that is shown.
SHOWN = 0.5


@dataclasses.dataclass(frozen=True)
class Detection(Task):
    """Finds objects: a frozen network of the user's, scored by the mean average precision.

    Logits are those of a `Detector`: the boxes found, and the images, for the gradient of the network's own losses.
    """

    known_scores: ClassVar[tuple[str, ...]] = ("map", "map50")
    unused: ClassVar[tuple[str, ...]] = ("smp_encoder", "label_smoothing")
    has_boxes: ClassVar[bool] = True
    trains: ClassVar[bool] = False
    adapts: ClassVar[bool] = False

    @classmethod
    def of(cls, classes: tuple[str, ...], model: NetworkSettings, custom: NamedHead | None) -> "Detection":
        """Makes the task of a data set's classes."""
        return cls(classes, model.classifier_network, custom=custom)

    @property
    def default_score(self) -> Score:
        """The mean average precision over the thresholds 0.5 to 0.95 of the intersection over union, mAP@50:95."""
        return AveragePrecision("map", self.classes)

    @property
    def class_metrics(self) -> tuple[str, ...]:
        """The scores of each class that `by_class` computes."""
        return "AP", "AP50"

    @property
    def metrics(self) -> dict[str, Score]:
        """The mean average precision at a threshold of 0.5, mAP@50."""
        return {each.name: each for each in [AveragePrecision("map50", self.classes)] if each.name != self.score.name}

    @property
    def detector(self) -> Detector:
        """The user's frozen network; an InputError if there is none."""
        head = self.custom and self.custom.frozen(self.outputs)
        core, labels, sides = getattr(head, "core", None), None, None
        while isinstance(core, FittedHead):
            core, labels, sides = core.network, labels or core.groups, sides or core.size
        if not isinstance(core, FrozenHead):
            wanted = "a torch.nn.Module from my_detector.py:make, or an ONNX file"
            named = f"`classifier_network={self.network}`"
            raise InputError(f"{named} cannot detect: boxes need a trained detector, {wanted}")
        return Detector(core.network, len(self.classes), labels, sides)

    def make_head(self, rngs: nnx.Rngs) -> nnx.Module:
        """Makes the frozen network with its normalization."""
        head = self.custom and self.custom.frozen(self.outputs)
        detector = self.detector
        assert isinstance(head, NormalizedHead)
        return NormalizedHead(head.mean, head.std, detector)

    def logits_shape(self, images: tuple[int, ...]) -> Any:
        """Returns the shapes of the boxes, and of the images."""
        return {"boxes": (images[0], self.detector.size, 6), "images": images}

    def loss(self, logits: Any, batch: Batch) -> jax.Array:
        """Computes the mean of the network's losses, with a gradient for the images."""
        losses = self.detector.losses(logits["images"], self._in_pixels_of(logits, batch))
        return jnp.vdot(losses, batch["weight"]) / batch["weight"].sum()

    def _in_pixels_of(self, logits: Any, batch: Batch) -> jax.Array:
        """Returns the true boxes in pixels of the images, which may have half the size of the raw images."""
        return jnp.asarray(batch["target"]) * _factors(logits["images"].shape[1] / batch["raw"].shape[1])

    def outcome(self, logits: Any, batch: Batch) -> dict[str, jax.Array]:
        """Computes the matches of each sample, see `tasks.detection.match`, and the network's losses, NaN without."""
        detector, targets = self.detector, self._in_pixels_of(logits, batch)
        losses = jnp.full(len(targets), jnp.nan)
        if isinstance(detector.network, TorchNetwork):
            losses = detector.losses(logits["images"], targets)
        found = matches(logits["boxes"], targets, len(self.classes))
        return {**found, "index": batch["index"], "loss": losses}

    def confusion(self, outcome: Outcome, weights: np.ndarray) -> None:
        """Returns None, since boxes have no confusion matrix."""

    def class_samples(self, outcome: Outcome) -> dict[str, int]:
        """Counts the samples that contain each class."""
        return dict(zip(self.classes, (outcome["objects"] > 0).sum(0).tolist(), strict=True))

    def by_class(self, outcome: Outcome, weights: np.ndarray) -> dict[str, list[float]]:
        """Computes the average precision of each class, 0 for a class without objects."""
        found = np.nan_to_num(tasks.detection.average_precision(outcome, weights))
        return {"AP": found.mean(-1).tolist(), "AP50": found[:, 0].tolist()}

    def probabilities(self, logits: Any, height: int) -> jax.Array:
        """Returns the boxes `(B, D, 6)` in pixels of raw images of a height: corners, score, and class or -1."""
        return logits["boxes"] * _factors(height / logits["images"].shape[1])

    def distributions(self, probabilities: jax.Array) -> jax.Array:
        """Returns the highest score of each class among the boxes `(..., D, 6)` of an image, 0 without a box."""
        scores, labels = probabilities[..., 4:5], probabilities[..., 5:]
        return jnp.where(labels == jnp.arange(len(self.classes)), scores, 0).max(-2)

    def judged(self, image: np.ndarray, logits: Any, target: np.ndarray, height: int) -> tuple[np.ndarray, str]:
        """Returns an image `(H, W, 3)` with its true boxes and those found, and how many of them agree."""
        target = target * _factors(len(image) / height)
        boxes = logits["boxes"][logits["boxes"][:, 4] >= SHOWN]
        matched = tasks.detection.match(boxes, target, len(self.classes), len(boxes))
        right = np.count_nonzero(matched["matched"][:, 0] == tasks.detection.RIGHT)
        wrong = np.count_nonzero(matched["matched"][matched["labels"] >= 0, 0] == tasks.detection.WRONG)
        picture = pictures.boxed(image, target[target[:, 4] >= 0], pictures.TRUE)
        picture = pictures.boxed(picture, boxes[boxes[:, 5] >= 0], pictures.FOUND)
        return picture, f"{right} of {matched['objects'].sum()} objects found, {wrong} wrong boxes"


def _factors(scale: float) -> np.ndarray:
    """Returns the factors on a row `(6,)` of boxes in an image that is resized by a scale: only corners change."""
    return np.array([scale] * 4 + [1, 1], np.float32)

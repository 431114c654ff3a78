"""Scores: functions of the samples' outcomes and weights, by the names that --score takes.

An outcome is all that a score needs of a sample, as arrays `(S, ...)` by name, see `Task.outcome`. A score takes
weights `(..., S)` and returns `(...)`, so that one call scores many weightings of the same samples. A weight of 0
leaves a sample out, and 2 counts it twice. Higher is better, and 1 is the best, so differences can be stated in points.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

import tasks
from r2l_jax import named_code
from r2l_jax.errors import InputError
from r2l_jax.named_code import Source
from tasks.metrics import Counts

Outcome = Mapping[str, np.ndarray]

Scored = np.ndarray | np.floating | float

# Scores of counts by name.
OF_COUNTS: dict[str, Callable[[Counts], Any]] = {
    "accuracy": tasks.metrics.accuracy,
    "balanced_accuracy": tasks.metrics.balanced_accuracy,
    "macro_f1": tasks.metrics.macro_f1,
    "mean_iou": tasks.metrics.mean_iou,
}

# Scores that may be those of one class, as in `iou:<class>`.
_OF_CLASS = ("iou", "auroc", "map", "map50")

# The most weights that are held at once.
_AT_ONCE = 2**22


@dataclasses.dataclass(frozen=True)
class Score:
    """A score by its name."""

    name: str
    classes: tuple[str, ...] = ()  # the rows and columns of confusion matrices
    least: float = 0.0  # the lowest value that it can have
    source: Source | None = None  # the file of a user's score

    @property
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest score."""
        return self.least, 1.0

    @property
    def drop_bounds(self) -> tuple[float, float]:
        """The lowest and the highest difference of two scores."""
        return self.least - 1, 1 - self.least

    def __call__(self, outcome: Outcome, weights: Shaped[np.ndarray, "*lead S"]) -> Scored:
        """Computes the score `(...)` for each weighting of the samples; 0 if all weights are 0."""
        raise NotImplementedError

    def without_each(
        self, outcome: Outcome, weights: Shaped[np.ndarray, " S"], groups: Int[np.ndarray, " S"]
    ) -> np.ndarray:
        """Computes the score without each group of samples, `(G,)`, in the order of the groups' numbers."""
        numbers = np.unique(groups)
        parts = np.array_split(numbers, -(-len(numbers) * len(groups) // _AT_ONCE))
        return np.concatenate([np.asarray(self(outcome, weights * (groups != part[:, None]))) for part in parts])


@dataclasses.dataclass(frozen=True)
class OfCounts(Score):
    """A score of the classes' counts: a key of `OF_COUNTS`, or the intersection over union of class `of`."""

    of: int | None = None

    def __call__(self, outcome: Outcome, weights: Shaped[np.ndarray, "*lead S"]) -> Scored:
        """Computes the score `(...)` for each weighting of the samples; 0 if all weights are 0."""
        counted = np.stack(counts_of(outcome, len(self.classes)))
        return self._of(np.tensordot(weights, counted.astype(np.float64), ((-1,), (1,))))

    def without_each(
        self, outcome: Outcome, weights: Shaped[np.ndarray, " S"], groups: Int[np.ndarray, " S"]
    ) -> np.ndarray:
        """Computes the score without each group of samples, `(G,)`, from the difference of sums."""
        order, starts = np.argsort(groups, kind="stable"), np.unique(np.sort(groups), return_index=True)[1]
        counted = np.stack(counts_of(outcome, len(self.classes)), 1)[order] * weights[order, None, None]
        joined = np.add.reduceat(counted.astype(np.float64), starts, 0)
        # Shares of images that differ by rounding are equal.
        left = joined.sum(0) - joined
        return np.asarray(self._of(np.where(left > 1e-9, left, 0.0)))

    def _of(self, counted: np.ndarray) -> Scored:
        """Computes the score of counts `(..., 3, C)`."""
        parts = Counts(*np.moveaxis(counted, -2, 0))
        if self.of is not None:
            return tasks.metrics.iou(parts)[..., self.of]
        return OF_COUNTS[self.name](parts)


@dataclasses.dataclass(frozen=True)
class MeanIou(Score):
    """The mean over samples of the object's intersection over union in each: 1 if no object is there or found."""

    def __call__(self, outcome: Outcome, weights: Shaped[np.ndarray, "*lead S"]) -> Scored:
        """Computes the mean `(...)` for each weighting of the samples."""
        parts = counts_of(outcome, 2)
        empty = (parts.true + parts.predicted)[:, 1] == 0
        of_each = np.where(empty, 1.0, tasks.metrics.iou(parts)[:, 1]).astype(np.float64)
        return weights @ of_each / np.maximum(weights.sum(-1), np.finfo(float).tiny)


@dataclasses.dataclass(frozen=True)
class Auroc(Score):
    """The area under the receiver operating characteristic of class `of` against all others.

    It is the probability that a sample of the class has a higher probability of it than another sample; ties count half
    (J. Hanley & B. McNeil, Radiology 143, 1982). Without samples on both sides it is 0.
    """

    of: int | None = 1

    def __call__(self, outcome: Outcome, weights: Shaped[np.ndarray, "*lead S"]) -> Scored:
        """Computes the area `(...)` for each weighting of the samples."""
        order = np.argsort(outcome["probability"], kind="stable")
        found, weights = outcome["probability"][order], np.asarray(weights, np.float64)[..., order]
        positive = weights * (outcome["target"][order] == self.of)
        negative = weights - positive
        # Samples of equal probability are at one place.
        starts = np.flatnonzero(np.concatenate([[True], found[1:] != found[:-1]]))
        positive, negative = (np.add.reduceat(each, starts, -1) for each in (positive, negative))
        below = negative.cumsum(-1) - negative / 2
        pairs = positive.sum(-1) * negative.sum(-1)
        return (positive * below).sum(-1) / (pairs + (pairs == 0))


@dataclasses.dataclass(frozen=True)
class AveragePrecision(Score):
    """The mean average precision of boxes: "map" over ten thresholds, "map50" at 0.5; of all classes, or of `of`."""

    of: int | None = None

    def __call__(self, outcome: Outcome, weights: Shaped[np.ndarray, "*lead S"]) -> Scored:
        """Computes the mean average precision `(...)` for each weighting of the samples."""
        found = tasks.detection.average_precision(outcome, weights)
        found = found[..., :1] if self.name.startswith("map50") else found
        found = found if self.of is None else found[..., [self.of], :]
        return np.nan_to_num(tasks.detection.mean_average_precision(found))


@dataclasses.dataclass(frozen=True)
class OwnScore(Score):
    """A user's score: `function(outcome, weights)`, from the file `source`."""

    function: Callable[[Outcome, np.ndarray], Any] | None = dataclasses.field(default=None, compare=False)

    def __call__(self, outcome: Outcome, weights: Shaped[np.ndarray, "*lead S"]) -> Scored:
        """Computes the score `(...)`; raises an InputError unless it is finite, at most 1, and of this shape."""
        if self.function is None:
            raise InputError(f"`score={self.name}`: the file of the score is not known here")
        try:
            found = np.asarray(self.function(outcome, weights), np.float64)
        except Exception as error:  # The user's function may raise anything.
            file = self.source.file if self.source else ""
            raise InputError(f"`score={self.name}` raised {named_code.in_one_line(error, file)}") from error
        shape = weights.shape[:-1]
        if found.shape != shape or not np.isfinite(found).all() or (found > 1 + 1e-6).any():
            raise InputError(
                f"`score={self.name}` must return finite numbers of at most 1, of shape {shape} for weights "
                f"{weights.shape}, got {f'shape {found.shape}' if found.shape != shape else f'{found.max():g}'}"
            )
        return found


def find_score(name: str, classes: Sequence[str], known: Sequence[str]) -> Score:
    """Finds a score by a name of `known`, or the user's by `<file>.py:<function>`, whose file it runs."""
    kind, _, of = name.partition(":")
    if named_code.is_file(name):
        source, make = named_code.load(name, "score", "score")
        try:
            made = _made_once(make, tuple(classes))
        except Exception as error:  # The user's function may raise anything.
            raise InputError(f"`score={name}` raised {named_code.in_one_line(error, source.file)}") from error
        if not callable(made):
            raise InputError(
                f"`score={name}` must return a function of outcomes and weights, got {type(made).__name__}"
            )
        return OwnScore(named_code.title(name), tuple(classes), -np.inf, source, made)
    if kind not in known or (of and kind not in _OF_CLASS) or (of and of not in classes):
        of_class = f" with a class of {', '.join(classes)}" if of else ""
        raise InputError(
            f"`score` must be one of {', '.join(known)}{of_class}, or a function in a file such as my_score.py:make, "
            f"got {name}"
        )
    if kind in ("iou", "auroc") and not of and len(classes) != 2:
        raise InputError(f"`score={name}` is for two classes: name one of {', '.join(classes)}, as {name}:{classes[0]}")
    return recorded_score(name, classes)


def recorded_score(name: str, classes: Sequence[str]) -> Score:
    """Returns a score by the name that a result records; a user's score, whose file is not run, cannot be computed."""
    kind, _, of = name.partition(":")
    if kind in OF_COUNTS:
        return OfCounts(name, tuple(classes))
    if kind in ("map", "map50"):
        return AveragePrecision(name, tuple(classes), of=classes.index(of) if of else None)
    if kind in ("iou", "auroc"):
        place = classes.index(of) if of else 1
        return (Auroc if kind == "auroc" else OfCounts)(name, tuple(classes), of=place)
    return OwnScore(name, tuple(classes), -np.inf)


def counts_of(outcome: Outcome, classes: int) -> Counts:
    """Returns the counts of each class in each sample, `(S, C)`, from confusion matrices or predicted classes."""
    if "confusion" in outcome:
        return tasks.metrics.counts(outcome["confusion"])
    true, predicted = (outcome[name][:, None] == np.arange(classes) for name in ("target", "predicted"))
    return Counts(true & predicted, true, predicted)


def confusion_of(outcome: Outcome, weights: np.ndarray, classes: int) -> np.ndarray:
    """Computes the confusion matrix `(C, C)` of weighted samples."""
    if "confusion" in outcome:
        return np.tensordot(weights, outcome["confusion"], 1)
    cells = outcome["target"].astype(np.int64) * classes + outcome["predicted"]
    return np.bincount(cells, weights, classes**2).reshape(classes, classes)


@functools.cache
def _made_once(make: Callable[..., Any], classes: tuple[str, ...]) -> Any:
    return make(classes)

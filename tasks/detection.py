"""Average precision of detected boxes, as COCO's evaluation program computes it, with weighted images.

`match` finds the objects that the detections of one image hit, once. `average_precision` then needs only the matches,
for any weights of the images. Both compute in NumPy, in float64.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Real

# The least intersections over unions of a detection and its object: 0.5, 0.55, ..., 0.95.
THRESHOLDS = np.linspace(0.5, 0.95, 10)
# The most detections of a class in an image that count.
MOST = 100
# Values of `matched`. A detection in a region that is marked as a crowd counts neither way.
IGNORED, WRONG, RIGHT = -1, 0, 1

_RECALLS = np.linspace(0, 1, 101)
# The most numbers of an array of intermediate results.
_AT_ONCE = 2**22


def match(
    detections: Float[np.ndarray, "found 6"], objects: Float[np.ndarray, "objects 6"], classes: int, size: int
) -> dict[str, np.ndarray]:
    """Matches the detections in an image with its objects, at each of `THRESHOLDS`.

    In the order of their scores, each detection takes the object of its class that it overlaps most among those that
    are not taken, if its intersection over union reaches the threshold. If there is no such object, it is ignored
    if a crowd contains so large a share of it.

    Args:
        detections: Boxes x1, y1, x2, y2 in pixels, the score, and the class from 0; -1 marks an empty row.
        objects: Boxes x1, y1, x2, y2, the class, -1 for an empty row, and 1 for a crowd, else 0.
        classes: The number of classes.
        size: The most detections to keep, D. Of these, COCO counts only the best 100 of each class.

    Returns:
        The detections in the order of their scores: `scores (D,)` float32, `labels (D,)` int32, -1 in empty rows, and
        `matched (D, 10)` int8, `RIGHT`, `WRONG` or `IGNORED`; and `objects (C,)` int32, the objects of each class
        without crowds.
    """
    objects = np.asarray(objects, np.float64)
    objects = objects[objects[:, 4] >= 0]
    detections = best(detections, size)
    labels = detections[:, 5].astype(np.int32)
    matched = np.full((size, len(THRESHOLDS)), WRONG, np.int8)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        matched[rows] = _matched(detections[rows, :4], objects[objects[:, 4] == label])
    empty = (0, size - len(labels))
    return {
        "scores": np.pad(detections[:, 4], empty).astype(np.float32),
        "labels": np.pad(labels, empty, constant_values=-1),
        "matched": matched,
        "objects": np.bincount(objects[objects[:, 5] == 0, 4].astype(int), minlength=classes).astype(np.int32),
    }


def best(detections: Float[np.ndarray, "found 6"], size: int) -> Float[np.ndarray, "kept 6"]:
    """Returns the detections that count, see `match`, in the order of their scores."""
    detections = np.asarray(detections, np.float64)
    detections = detections[detections[:, 5] >= 0]
    detections = detections[np.argsort(-detections[:, 4], kind="stable")]
    counts = np.zeros(len(detections), bool)
    for label in np.unique(detections[:, 5]):
        counts[np.flatnonzero(detections[:, 5] == label)[:MOST]] = True
    return detections[counts][:size]


def _matched(boxes: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """Matches boxes `(K, 4)` of one class, in the order of their scores; returns `matched (K, 10)`."""
    overlaps = _overlaps(boxes, objects)
    crowds = objects[:, 5] == 1
    single, crowd = overlaps[:, ~crowds], overlaps[:, crowds].max(1, initial=0.0)
    free = np.ones((len(THRESHOLDS), single.shape[1]), bool)
    matched = np.where(crowd[:, None] >= THRESHOLDS, IGNORED, WRONG).astype(np.int8)
    if not single.shape[1]:
        return matched
    every = np.arange(len(THRESHOLDS))
    for number, overlap in enumerate(single):
        fits = np.where(free & (overlap >= THRESHOLDS[:, None]), overlap, -1.0)
        # The last of equally large overlaps, as in COCO's program.
        best = fits.shape[1] - 1 - fits[:, ::-1].argmax(1)
        right = fits[every, best] >= 0
        free[every[right], best[right]] = False
        matched[number, right] = RIGHT
    return matched


def _overlaps(boxes: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """Computes the intersection over union of boxes and objects `(K, N)`; for crowds, over the area of the box."""
    low = np.maximum(boxes[:, None, :2], objects[None, :, :2])
    high = np.minimum(boxes[:, None, 2:4], objects[None, :, 2:4])
    common = (high - low).clip(0).prod(-1)
    area, of_object = ((each[:, 2:4] - each[:, :2]).prod(-1) for each in (boxes, objects))
    whole = np.where(objects[:, 5] == 1, area[:, None], area[:, None] + of_object - common)
    return np.divide(common, whole, out=np.zeros_like(common), where=whole > 0)


def average_precision(
    outcome: Mapping[str, np.ndarray], weights: Real[np.ndarray, "*weightings samples"]
) -> Float[np.ndarray, "*weightings classes thresholds"]:
    """Computes the average precision of each class at each of `THRESHOLDS`; NaN for a class without objects.

    It is the mean of the interpolated precision at 101 recalls. An image of weight 2 counts as two images.

    Args:
        outcome: What `match` returns for each image, stacked, `(S, ...)`; and `index (S,)`, any different integers. Of
            detections with equal scores, the one in the image of the lower index comes first, as in COCO's program.
        weights: The weight of each image, 0 or more. Leading axes are different weightings.
    """
    weights = np.asarray(weights, np.float64)
    flat = weights.reshape(-1, weights.shape[-1])
    objects = flat @ np.asarray(outcome["objects"], np.float64)
    found = np.full((*objects.shape, len(THRESHOLDS)), np.nan)
    labels, scores = np.asarray(outcome["labels"]), np.asarray(outcome["scores"])
    sample, place = np.nonzero(labels >= 0)
    order = np.lexsort((place, np.asarray(outcome["index"])[sample], -scores[sample, place]))
    sample, place = sample[order], place[order]
    matched = np.asarray(outcome["matched"])[sample, place]
    for label in np.flatnonzero((objects > 0).any(0)):
        of_class = labels[sample, place] == label
        rows = max(1, _AT_ONCE // max(int(of_class.sum()), 1))
        for start in range(0, len(flat), rows):
            part = np.s_[start : start + rows]
            found[part, label] = _of_class(matched[of_class], flat[part, sample[of_class]], objects[part, label])
    return found.reshape(*weights.shape[:-1], *found.shape[1:])


def _of_class(matched: np.ndarray, weights: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """Computes the average precision `(W, 10)` of detections `(K, 10)` in the order of their scores.

    `weights (W, K)` are those of the detections' images, and `objects (W,)` the weighted numbers of objects.
    """
    found = np.empty((len(weights), len(THRESHOLDS)))
    for number, of_threshold in enumerate(matched.T):
        # Precision and recall change for the better only at right detections, so the interpolation needs no others.
        counted = of_threshold != IGNORED
        right = of_threshold[counted] == RIGHT
        counted_weights = weights[:, counted]
        correct = counted_weights[:, right].cumsum(1)
        precision = correct / (counted_weights.cumsum(1)[:, right] + np.spacing(1))
        precision = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
        recall = np.divide(correct, objects[:, None], out=np.zeros_like(correct), where=objects[:, None] > 0)
        reached = np.searchsorted(_RECALLS, recall, side="right")
        found[:, number] = (precision * np.diff(reached, axis=1, prepend=0)).sum(1) / len(_RECALLS)
    return np.where(objects[:, None] > 0, found, np.nan)


def mean_average_precision(
    precisions: Float[np.ndarray, "*weightings classes thresholds"],
) -> Float[np.ndarray, " *weightings"]:
    """Computes the mean of average precisions over thresholds and the classes with objects; NaN without objects.

    All thresholds give mAP@50:95, and `precisions[..., :1]` gives mAP@50.
    """
    of_classes = np.asarray(precisions).mean(-1)
    there = ~np.isnan(of_classes)
    total = np.where(there, of_classes, 0).sum(-1)
    return np.divide(total, there.sum(-1), out=np.full_like(total, np.nan), where=there.any(-1))

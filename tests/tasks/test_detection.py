"""Compares average precision with COCO's evaluation program, as faster-coco-eval has it."""

import numpy as np
import pytest
from faster_coco_eval import COCO, COCOeval_faster

from tasks import detection

CLASSES = 3


def of_coco(images, classes=CLASSES):
    """Computes the average precision `(C, 10)` of pairs of detections and objects with faster-coco-eval."""

    def box(row):
        return [row[0], row[1], row[2] - row[0], row[3] - row[1]]

    objects, found = [], []
    for image, (detections, there) in enumerate(images, 1):
        for row in np.asarray(there, float).tolist():
            area = (row[2] - row[0]) * (row[3] - row[1])
            identity = {"id": len(objects) + 1, "image_id": image, "category_id": int(row[4]) + 1}
            objects.append({**identity, "bbox": box(row), "area": area, "iscrowd": int(row[5])})
        for row in np.asarray(detections, float).tolist():
            found.append({"image_id": image, "category_id": int(row[5]) + 1, "bbox": box(row), "score": row[4]})
    coco = COCO(
        {
            "info": {},
            "images": [{"id": image, "width": 200, "height": 200} for image in range(1, len(images) + 1)],
            "categories": [{"id": number + 1, "name": str(number)} for number in range(classes)],
            "annotations": objects,
        }
    )
    evaluation = COCOeval_faster(coco, coco.loadRes(found), "bbox", print_function=lambda *_: None)
    evaluation.evaluate()
    evaluation.accumulate()
    precision = np.array(evaluation.eval["precision"])[..., 0, -1]
    return np.where(precision < 0, np.nan, precision).mean(1).T


def outcome_of(images, classes=CLASSES, size=400):
    each = [detection.match(*image, classes, size) for image in images]
    stacked = {name: np.stack([of_image[name] for of_image in each]) for name in each[0]}
    return {**stacked, "index": np.arange(len(images))}


def precision_of(images, weights=None, **settings):
    return detection.average_precision(
        outcome_of(images, **settings), np.ones(len(images)) if weights is None else weights
    )


def scene(random, objects, extra, ties=False, crowds=0.0, classes=CLASSES):
    """Draws objects on a grid, with detections that are moved by a few pixels, and others that hit nothing."""
    corners = random.integers(0, 60, (objects, 2)) * 2.0
    boxes = np.concatenate([corners, corners + random.integers(4, 20, (objects, 2)) * 2], 1)
    labels, crowd = random.integers(0, classes, objects), random.random(objects) < crowds
    wanted = np.column_stack([boxes, labels, crowd]).reshape(-1, 6)
    moved = np.repeat(boxes, 2, 0) + random.integers(-2, 3, (2 * objects, 4))
    corners = random.integers(0, 120, (extra, 2)).astype(float)
    others = np.concatenate([corners, corners + random.integers(4, 40, (extra, 2))], 1)
    found = np.concatenate([moved, others])
    scores = random.random(len(found)).astype(np.float32)
    scores = np.round(scores * 4) / 4 if ties else scores
    named = np.concatenate([np.repeat(labels, 2), random.integers(0, classes, extra)])
    named = np.where(random.random(len(found)) < 0.1, random.integers(0, classes, len(found)), named)
    return np.column_stack([found, scores, named]).reshape(-1, 6), wanted


def scenes(seed, count=12, **settings):
    random = np.random.default_rng(seed)
    return [scene(random, int(random.integers(0, 8)), int(random.integers(0, 6)), **settings) for _ in range(count)]


NOTHING = np.zeros((0, 6))
# The best box overlaps two objects equally; the other one is exactly the first of them.
BETWEEN = (
    np.array([[2, 0, 22, 10, 1, 0], [0, 0, 20, 10, 0.9, 0]]),
    np.array([[0.0, 0, 20, 10, 0, 0], [4, 0, 24, 10, 0, 0]]),
)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("settings", [{}, {"ties": True}, {"crowds": 0.3}, {"ties": True, "crowds": 0.5}], ids=str)
def test_equals_coco(seed, settings):
    images = scenes(seed, **settings)
    random = np.random.default_rng(seed)
    images += [(NOTHING, images[0][1]), (images[1][0], NOTHING), (NOTHING, NOTHING), scene(random, 5, 3, **settings)]
    images.append(BETWEEN)
    found = precision_of(images)
    assert 0.02 < np.nanmean(found) < 0.98
    np.testing.assert_allclose(found, of_coco(images), atol=1e-12)


def test_only_the_best_hundred_detections_of_a_class_in_an_image_count():
    random = np.random.default_rng(0)
    images = [scene(random, 70, 60, classes=2), scene(random, 3, 150, classes=2)]
    # Each object has two detections, so that each class of the first image has about 100.
    assert all(np.bincount(found[:, 5].astype(int)).max() > 100 for found, _ in images[:1])
    expected = of_coco(images, classes=2)
    np.testing.assert_allclose(precision_of(images, classes=2), expected, atol=1e-12)
    everything = [(found[np.argsort(-found[:, 4])][:60], there) for found, there in images]
    assert np.abs(precision_of(everything, classes=2) - expected).max() > 0.01


def test_a_class_without_objects_has_no_precision_and_is_left_out_of_the_mean():
    images = [(found, there[there[:, 4] != 1]) for found, there in scenes(3)]
    found = precision_of(images)
    assert np.isnan(found[1]).all()
    expected = of_coco(images)
    assert np.isnan(expected[1]).all()
    np.testing.assert_allclose(detection.mean_average_precision(found), np.nanmean(expected), atol=1e-12)
    np.testing.assert_allclose(detection.mean_average_precision(found[:, :1]), np.nanmean(expected[:, 0]), atol=1e-12)
    assert np.isnan(detection.mean_average_precision(precision_of([(images[0][0], NOTHING)])))


def test_a_crowd_is_neither_an_object_nor_a_mistake():
    crowd, box = [0, 0, 50, 50, 0, 1], [100, 100, 120, 120, 0, 0]
    inside, right = [10, 10, 20, 20, 0.9, 0], [100, 100, 120, 120, 0.5, 0]
    images = [(np.array([inside, right], float), np.array([crowd, box], float))]
    np.testing.assert_allclose(precision_of(images)[0], 1.0)
    without = [(images[0][0], images[0][1][1:])]
    np.testing.assert_allclose(precision_of(without)[0], 0.5)


@pytest.mark.parametrize("seed", range(3))
def test_weight_0_leaves_an_image_out_and_weight_2_counts_it_twice(seed):
    images = scenes(seed, crowds=0.2)
    weights = np.ones(len(images))
    weights[[2, 5]] = 0
    left = [image for number, image in enumerate(images) if number not in (2, 5)]
    np.testing.assert_allclose(precision_of(images, weights), of_coco(left), atol=1e-12)
    weights = np.ones(len(images))
    weights[[1, 4]] = 2
    np.testing.assert_allclose(precision_of(images, weights), of_coco([*images, images[1], images[4]]), atol=1e-12)


def test_order_and_copies_do_not_matter_even_for_equal_scores():
    outcome = outcome_of(scenes(0, ties=True, crowds=0.2))
    random = np.random.default_rng(0)
    weights = random.integers(0, 3, 12)
    expected = detection.average_precision(outcome, weights)
    order = random.permutation(12)
    permuted = {name: array[order] for name, array in outcome.items()}
    np.testing.assert_array_equal(detection.average_precision(permuted, weights[order]), expected)
    copied = {name: np.repeat(array, weights.astype(int), 0) for name, array in outcome.items()}
    found = detection.average_precision(copied, np.ones(int(weights.sum())))
    np.testing.assert_allclose(found, expected, atol=1e-14)


def test_several_weightings_are_computed_at_once(monkeypatch):
    outcome = outcome_of(scenes(1, ties=True))
    weights = np.concatenate([np.ones((1, 12)), 1 - np.eye(12)])
    expected = np.stack([detection.average_precision(outcome, each) for each in weights])
    # Small parts, so that the weightings of one class are divided.
    monkeypatch.setattr(detection, "_AT_ONCE", 100)
    np.testing.assert_array_equal(detection.average_precision(outcome, weights), expected)
    np.testing.assert_array_equal(detection.average_precision(outcome, weights[None, :, None]), expected[None, :, None])


def test_empty_rows_of_detections_and_objects_count_nothing():
    found, there = scenes(2)[0]
    padded = (np.pad(found, ((0, 5), (0, 0)), constant_values=-1), np.pad(there, ((3, 0), (0, 0)), constant_values=-1))
    expected = detection.match(found, there, CLASSES, 50)
    assert (expected["labels"] >= 0).sum() == len(found)
    for name, array in detection.match(*padded, CLASSES, 50).items():
        np.testing.assert_array_equal(array, expected[name])

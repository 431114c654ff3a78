"""Predicts the boxes of objects in raw files: rows of a table, a COCO JSON file, and pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from r2l_jax.data.files.remote import Place
from r2l_jax.model import pictures as drawing
from r2l_jax.model.tasks.detection import SHOWN
from r2l_jax.results.contact_sheet import quantized
from r2l_jax.results.files import replacing, write_json
from r2l_jax.training.run import Run

COLUMNS = ("class", "score", "x1", "y1", "x2", "y2")


def detect(run: Run, folders: Sequence[Path], file: Place, raw: np.ndarray) -> list[Any]:
    """Detects objects in a raw image with one model: its height, its width, and a row for each object.

    A row is x1, y1, x2, y2 in pixels of the raw image, the score, and the class. Pictures of the processed image with
    its boxes are written to the folders.
    """
    boxes = np.asarray(run.predict(raw[None])[0], np.float64)
    boxes = boxes[boxes[:, 5] >= 0]
    for folder in folders:
        image = np.clip(run.render(raw[None])[0], 0, 1)
        seen = boxes[boxes[:, 4] >= SHOWN] * (len(image) / len(raw))
        with replacing(folder / f"{file.stem}.png") as part:
            drawn = drawing.boxed(image, seen, drawing.FOUND)
            Image.fromarray(quantized(drawn, np.uint8)).save(part, format="png")
    return [*raw.shape, boxes.round(4).tolist()]


def rows_of(results: Mapping[Place, Any], classes: Sequence[str]) -> list[dict[str, str]]:
    """Returns a row for each box, by the names in `COLUMNS`; none for a file without boxes."""
    rows = []
    for file, (_, _, boxes) in results.items():
        for x1, y1, x2, y2, score, number in boxes:
            values = (classes[int(number)], *(f"{value:.7g}" for value in (score, x1, y1, x2, y2)))
            rows.append({"file": str(file), **dict(zip(COLUMNS, values, strict=True))})
    return rows


def write_coco(file: Path, results: Mapping[Place, Any], classes: Sequence[str]) -> None:
    """Writes all boxes as a COCO JSON file, whose annotations have scores; categories count from 1."""
    images, annotations = [], []
    for number, (name, (height, width, boxes)) in enumerate(results.items(), 1):
        images.append({"id": number, "file_name": str(name), "height": height, "width": width})
        for x1, y1, x2, y2, score, category in boxes:
            box = {"id": len(annotations) + 1, "image_id": number, "category_id": int(category) + 1, "score": score}
            size = [x2 - x1, y2 - y1]
            annotations.append({**box, "bbox": [x1, y1, *size], "area": size[0] * size[1], "iscrowd": 0})
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, 1)]
    write_json(file, {"images": images, "annotations": annotations, "categories": categories})

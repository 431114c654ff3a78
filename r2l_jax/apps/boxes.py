"""Predicts the boxes of objects in raw files: rows of a table, a COCO JSON file, and pictures."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from r2l_jax.data.files.remote import Place
from r2l_jax.errors import InputError, in_words
from r2l_jax.jobs import Ended
from r2l_jax.model import pictures as drawing
from r2l_jax.model.tasks.detection import SHOWN
from r2l_jax.results.contact_sheet import quantized
from r2l_jax.results.files import replacing, write_json
from r2l_jax.training.run import Run

COLUMNS = ("class", "score", "x1", "y1", "x2", "y2")


def detect(decoded: Iterator[Ended], run: Run, pictures: Path | None) -> Iterator[Ended]:
    """Detects objects in raw images, one by one; yields the size and the boxes of each, or its error.

    A result is the height, the width, and rows of x1, y1, x2, y2 in pixels of the raw image, the score, and the class.

    Args:
        decoded: the raw image of each file, or its error.
        run: one model.
        pictures: the folder for pictures of the processed images with their boxes, if any.
    """
    for file, raw, error, warnings, _ in decoded:
        if raw is None:
            yield Ended(file, error=error)
            continue
        try:
            boxes = np.asarray(run.predict(raw[None])[0], np.float64)
        except InputError as failed:
            yield Ended(file, error=f"{file}: {in_words(failed)}")
            continue
        boxes = boxes[boxes[:, 5] >= 0]
        if pictures is not None:
            image = np.clip(run.render(raw[None])[0], 0, 1)
            seen = boxes[boxes[:, 4] >= SHOWN] * (len(image) / len(raw))
            with replacing(picture_file(file, pictures)) as part:
                drawn = drawing.boxed(image, seen, drawing.FOUND)
                Image.fromarray(quantized(drawn, np.uint8)).save(part, format="png")
        yield Ended(file, [*raw.shape, boxes.round(4).tolist()], warnings=warnings)


def picture_file(file: Place, pictures: Path) -> Path:
    """Returns the file of a picture."""
    return pictures / f"{file.stem}.png"


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

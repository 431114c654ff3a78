"""The scores that the study has published: `published_scores.json`, which names its source.

L. Oala et al., "Data models for dataset drift controls in machine learning with optical images", TMLR (2023).
"""

import importlib.resources
import json
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Published(NamedTuple):
    """The published numbers of one data set.

    Attributes:
        data: the published data set.
        score: its score in words.
        source: where the numbers were published, and how exact they are.
        pipelines: the pipelines that models were trained with, and tested under.
        corruptions: the corruptions, of which the first one changes nothing.
        processing: the mean scores of the models (in rows) under each pipeline.
        corruption: the mean scores of the models under each corruption.
        default: the accuracy of the searched model with its default processing.
        worst: for each group of parameters, the accuracy that searches left, by the weight of the distance.
        searched: the data set of that model.
        ends: the scores at the end of training, with the processing `learned` and `frozen`.
    """

    data: str
    score: str
    source: str
    pipelines: list[str]
    corruptions: list[str]
    processing: Float[np.ndarray, "models pipelines"]
    corruption: Float[np.ndarray, "models corruptions"]
    default: float
    worst: Mapping[str, Mapping[float, float]]
    searched: str
    ends: Mapping[str, float]

    @property
    def recorded(self) -> str:
        """The name under which this project records the score."""
        return "accuracy" if self.data == "microscopy" else "tile_iou"

    def is_of(self, dataset: str) -> bool:
        """Tells whether the numbers are for a data set; otherwise they are only a rough guide."""
        return _NAMES[self.data] == dataset

    def note(self, dataset: str) -> str:
        """States the source of the numbers, and whether they are for a data set."""
        other = "" if self.is_of(dataset) else ", which is different data: they are only a rough guide"
        return f"The published numbers are for {_NAMES[self.data]}{other}. Source: {self.source}."


_NAMES = {"microscopy": "Microscopy", "drone_segmentation": "DroneSegmentation"}


def published(task: str) -> Published:
    """Reads the published numbers of the data set with a task, "classification" or "segmentation"."""
    file = importlib.resources.files("r2l_jax.apps.study").joinpath("published_scores.json")
    content = json.loads(file.read_text(encoding="utf-8"))
    data = {"classification": "microscopy", "segmentation": "drone_segmentation"}[task]
    tables, searches = content[data], content["forensics"]
    return Published(
        data,
        tables["score"],
        content["source"],
        content["pipelines"],
        content["corruptions"],
        np.array(tables["processing_drift"]),
        np.array(tables["corruption"]),
        searches["default_accuracy"],
        {
            group: {float(weight): score for weight, score in curve.items()}
            for group, curve in searches["accuracy_at_lambda"].items()
            # Groups that changed nothing are described in words.
            if isinstance(curve, dict)
        },
        searches["data"],
        content["learning"][data],
    )

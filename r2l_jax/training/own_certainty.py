"""What adapting a trained model compares new images with, measured on the data of its run."""

from typing import NamedTuple

import numpy as np

from r2l_jax.data import loader
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.model.mending import LEAST, MOST, Known, known_of, needed_by
from r2l_jax.model.raw_to_logit import RawToLogit
from r2l_jax.model.tasks import Task
from r2l_jax.runtime.hosts import on_every_process


class Clean(NamedTuple):
    """What a model makes of clean images.

    Attributes:
        certainty: the certainty that it needs of new images to be adapted by them.
        statistics: those of all layers that normalize; None where those of the training are better.
    """

    certainty: float
    statistics: Known | None


def measured(
    model: RawToLogit, task: Task, dataset: RawDataset, indices: np.ndarray, many_cameras: bool = False
) -> Clean:
    """Measures a model by samples of all classes of its run, and by those of each class.

    Classes with too few samples to mend by are left out, and so are those of segmentation.

    Args:
        model: the model.
        task: its task.
        dataset: its data.
        indices: the samples to draw from.
        many_cameras: whether the training took the samples with other cameras as well. Its statistics are then of all
            cameras, and the clean images of one differ from them. Otherwise, they are of more images than are drawn
            here, and better: at a twentieth of the light by 2 and 8 points in two trainings.
    """
    drawn = np.random.default_rng(0).permutation(indices)
    groups = [drawn[:MOST]]
    if task.name == "classification":
        each = [drawn[dataset.labels[drawn] == label] for label in range(len(dataset.classes))]
        each = [samples for samples in each if len(samples) >= LEAST]
        # Groups of one size are compiled once.
        count = min([MOST, *map(len, each)])
        groups += [samples[:count] for samples in each]
    batches = on_every_process(lambda: [loader.batch_of(dataset, group) for group in groups])
    mixture, *classes = [batch["raw"] for batch in batches]
    statistics = known_of(model, mixture, task) if many_cameras and len(mixture) == MOST else None
    return Clean(needed_by(model, task, mixture, classes, statistics), statistics)

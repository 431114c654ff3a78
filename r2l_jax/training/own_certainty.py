"""The certainty that a trained model needs of new images to be adapted by them, measured on the data of its run."""

import numpy as np

from r2l_jax.data import loader
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.model.mending import LEAST, MOST, needed_by
from r2l_jax.model.raw_to_logit import RawToLogit
from r2l_jax.model.tasks import Task
from r2l_jax.runtime.hosts import on_every_process


def measured(model: RawToLogit, task: Task, dataset: RawDataset, indices: np.ndarray) -> float:
    """Measures the certainty that a model needs, by samples of all classes of its run, and by those of each class.

    Classes with too few samples to mend by are left out, and so are those of segmentation.

    Args:
        model: the model.
        task: its task.
        dataset: its data.
        indices: the samples to draw from.
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
    return needed_by(model, task, mixture, classes, [batch.get("cameras") for batch in batches])

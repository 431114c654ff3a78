"""How certain a trained model is of the data of its run, by which new images are judged before they mend it."""

import numpy as np

from r2l_jax.data import loader
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.model.certainty import OwnCertainty
from r2l_jax.model.mending import LEAST, MOST, own_certainty
from r2l_jax.model.raw_to_logit import RawToLogit
from r2l_jax.model.tasks import Task
from r2l_jax.runtime.hosts import on_every_process


def measured(model: RawToLogit, task: Task, dataset: RawDataset, indices: np.ndarray) -> OwnCertainty:
    """Measures how certain a model is of samples of its run: of some of all classes, and of some of each class.

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
    return own_certainty(model, task, mixture, classes, [batch.get("cameras") for batch in batches])

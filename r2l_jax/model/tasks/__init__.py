"""The tasks of models: one file each. A task is made from a data set and the settings of its network."""

from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.model.heads import find_head
from r2l_jax.model.scores import find_score
from r2l_jax.model.settings import NetworkSettings
from r2l_jax.model.tasks.base import Task
from r2l_jax.model.tasks.classification import Classification
from r2l_jax.model.tasks.segmentation import Segmentation

__all__ = ["Task", "has_masks", "make_task", "task_of"]

_KNOWN: dict[str, type[Classification | Segmentation]] = {task.name: task for task in (Classification, Segmentation)}


def task_of(dataset: RawDataset, model: NetworkSettings | None = None) -> Task:
    """Returns the task of a data set, by default with the default networks."""
    return make_task(dataset.task, dataset.classes, model or NetworkSettings())


def has_masks(name: str) -> bool:
    """Tells whether the predictions of a task are masks."""
    return _KNOWN[name].has_masks


def make_task(name: str, classes: tuple[str, ...], model: NetworkSettings) -> Task:
    """Makes a task by its name, "classification" or "segmentation"."""
    task = _KNOWN[name].of(classes, model, find_head(model, classes))
    return task if model.score is None else task.scored_by(find_score(model.score, task.classes, task.known_scores))

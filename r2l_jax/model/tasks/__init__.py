"""The tasks of models: one file each. A task is made from a data set and the settings of its network."""

import dataclasses

from r2l_jax import named_code
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.errors import InputError
from r2l_jax.model.heads import find_head
from r2l_jax.model.scores import find_score
from r2l_jax.model.settings import NetworkSettings
from r2l_jax.model.tasks.base import Task
from r2l_jax.model.tasks.classification import Classification
from r2l_jax.model.tasks.detection import Detection
from r2l_jax.model.tasks.segmentation import Segmentation

__all__ = ["Task", "make_task", "task_of"]

_KNOWN: dict[str, type[Classification | Detection | Segmentation]] = {
    "classification": Classification,
    "detection": Detection,
    "segmentation": Segmentation,
}


def task_of(dataset: RawDataset, model: NetworkSettings | None = None) -> Task:
    """Returns the task of a data set, by default with the default networks."""
    return make_task(dataset.task, dataset.classes, model or NetworkSettings(), dataset.colors)


def make_task(name: str, classes: tuple[str, ...], model: NetworkSettings, colors: tuple[str, ...] = ()) -> Task:
    """Makes the task for targets of a kind, such as "classification", or the user's. Runs the user's file.

    `classes` are the names of the data set's classes, or of the object to segment, and `colors` those of the classes.
    """
    custom = find_head(model, classes)
    if model.task is not None:
        task = dataclasses.replace(_own(model.task, classes), custom=custom)
    elif name in _KNOWN:
        task = dataclasses.replace(_KNOWN[name].of(classes, model, custom), colors=colors)
    else:
        raise InputError(f"targets that are {name} need a task of your own: name it with `task=my_task.py:make`")
    return task if model.score is None else task.scored_by(find_score(model.score, task.classes, task.known_scores))


def _own(name: str, classes: tuple[str, ...]) -> Task:
    """Makes the user's task with the function that takes the names of the classes or targets."""
    source, make = named_code.load(name, "task", "task")
    try:
        made = make(classes)
    except Exception as error:  # The user's function may raise anything.
        raise InputError(f"`task={name}` raised {named_code.in_one_line(error, source.file)}") from error
    if not isinstance(made, Task):
        raise InputError(f"`task={name}` must return a r2l_jax.model.tasks.Task, got {type(made).__name__}")
    return dataclasses.replace(made, source=source)

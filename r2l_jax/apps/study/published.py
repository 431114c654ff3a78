"""The results of a study and the published numbers that they stand beside."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from r2l_jax.apps.study.config import StudyConfig
from r2l_jax.apps.study.plan import StudyJob
from r2l_jax.drift.published_scores import Ends, Study, Tables, published
from r2l_jax.model.tasks import Task

# The published tables of each data set.
_TABLES = {"Microscopy": "microscopy", "DroneSegmentation": "drone_segmentation"}


class Orientation(NamedTuple):
    """The published numbers of one data set.

    Attributes:
        study: all published numbers.
        name: the published data set.
        comparable: whether this study is of the same data; otherwise the numbers are shown for orientation only.
        score: the name under which this project records the published score.
    """

    study: Study
    name: str
    comparable: bool
    score: str

    @property
    def tables(self) -> Tables:
        """The scores under drift."""
        return getattr(self.study, self.name)

    @property
    def ends(self) -> Ends:
        """The scores with the processing learned and frozen."""
        return getattr(self.study.learning, self.name)

    @property
    def about(self) -> dict[str, Any]:
        """Says where the numbers come from, as study.json records it."""
        return {
            "data": self.name,
            "score": self.tables.score,
            "recorded_as": self.score,
            "comparable": self.comparable,
            "source": self.study.source,
        }

    @property
    def attacks(self) -> Mapping[str, Mapping[float, float]]:
        """The scores that searches left, by group and weight, of groups that the study shows as curves."""
        return {
            group: {float(weight): score for weight, score in curve.items()}
            for group, curve in self.study.forensics.accuracy_at_lambda.items()
            if not isinstance(curve, str)
        }


def orientation(dataset: str, score: str) -> Orientation:
    """Returns the published numbers of a data set, or of the data set with the same task.

    Args:
        dataset: the name of the data set.
        score: the score of its task.
    """
    by_task = "microscopy" if score == "accuracy" else "drone_segmentation"
    # The study's intersection over union is the mean over tiles.
    recorded = "tile_iou" if score == "iou" else score
    return Orientation(published(), _TABLES.get(dataset, by_task), dataset in _TABLES, recorded)


class Results(NamedTuple):
    """The results of a study, from which the numbers of its controls are collected.

    Attributes:
        config: the study.
        task: its task.
        theirs: the published numbers.
        jobs: the jobs that have succeeded.
    """

    config: StudyConfig
    task: Task
    theirs: Orientation
    jobs: Sequence[StudyJob]


def difference(mean: float, deviation: float, theirs: float | None) -> float | None:
    """Returns how many standard deviations of the folds a mean is above a published one; None if that is undefined."""
    return None if theirs is None or deviation == 0 else (mean - theirs) / deviation

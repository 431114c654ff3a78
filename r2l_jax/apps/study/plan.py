"""The jobs of a study: trainings, evaluations and searches, each of which any process can run by itself."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from r2l_jax.apps.study.config import CONTROLS, FROZEN, LEARNED, StudyConfig
from r2l_jax.config import TrainConfig
from r2l_jax.drift.forensics import forensics
from r2l_jax.drift.forensics.config import ForensicsConfig
from r2l_jax.drift.synthesis import evaluation
from r2l_jax.drift.synthesis.config import EvaluationConfig
from r2l_jax.model.settings import STATIC_FLAGS
from r2l_jax.runtime.flags import build, flat
from r2l_jax.runtime.jobs import Job
from r2l_jax.training import train

Kind = Literal["training", "evaluation", "search"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyJob(Job):
    """A job of a study.

    Attributes:
        kind: the function that it calls.
        control: the drift control of the study that it belongs to.
        config: the settings of the function.
        folds: the number of folds that it covers.
    """

    kind: Kind
    control: str
    config: TrainConfig | EvaluationConfig | ForensicsConfig
    folds: int


def make_jobs(config: StudyConfig) -> list[StudyJob]:
    """Makes the jobs of the chosen controls, each after those that it needs."""
    jobs = list[StudyJob]()
    for control in (control for control in CONTROLS if control in config.choice.controls):
        for training in trainings_of(config, control).values():
            name, work = f"train {_title(config, training)}", functools.partial(train.run, training)
            folds = config.data.n_splits
            jobs.append(StudyJob(name, work, kind="training", control=control, config=training, folds=folds))
            jobs += _tests(config, training, control, name)
    return jobs


def trainings_of(config: StudyConfig, control: str) -> dict[str, TrainConfig]:
    """Returns the runs of a control by name: pipelines by the study's names, `model`, or `learned` and `frozen`."""
    if control == "synthesis":
        return {
            published: config.training_of(f"synthesis/{name}", processing_mode="static", **_algorithms(name))
            for published, name in config.pipelines.items()
        }
    if control == "forensics":
        return {"model": config.training_of("forensics/model")}
    low = (config.choice.low_intensity,)
    return {
        name: config.training_of(f"adjustment/{name}", iso=low, freeze_processor=name == FROZEN)
        for name in (LEARNED, FROZEN)
    }


def _algorithms(pipeline: str) -> dict[str, str]:
    """Returns the flags that choose a static pipeline's algorithms. Under the flag `pipeline`, it would be trained."""
    return dict(zip(STATIC_FLAGS, pipeline.split("."), strict=True))


def _tests(config: StudyConfig, training: TrainConfig, control: str, trained: str) -> Iterator[StudyJob]:
    """Yields the evaluation of a run, or the searches in its model, after the job that trains it."""
    shared: Any = {"control": control, "after": (trained,), "folds": config.data.n_splits}
    if control == "synthesis":
        wanted = config.evaluation_of(training)
        name, work = f"evaluate {_title(config, training)}", functools.partial(_evaluate, flat(wanted))
        yield StudyJob(name, work, kind="evaluation", config=wanted, **shared)
    elif control == "forensics":
        for group in config.choice.adv_parameters:
            search = config.search_of(training, group)
            work = functools.partial(forensics.run, search)
            yield StudyJob(f"search {group}", work, kind="search", config=search, **shared)


def _evaluate(flags: Mapping[str, Any]) -> None:
    """Evaluates with flags, which can be pickled, unlike the cases of an EvaluationConfig."""
    evaluation.run(build(EvaluationConfig, flags))


def _title(config: StudyConfig, training: TrainConfig) -> str:
    return training.run_dir.relative_to(config.output_dir).as_posix()

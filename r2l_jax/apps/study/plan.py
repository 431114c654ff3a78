"""The jobs of a study: runs, evaluations and searches, each of which can run in its own process."""

import functools

from r2l_jax.apps.study.config import StudyConfig
from r2l_jax.cli.flags import build
from r2l_jax.config import TrainConfig
from r2l_jax.drift.forensics import forensics
from r2l_jax.drift.forensics.config import ForensicsConfig
from r2l_jax.drift.synthesis import evaluation
from r2l_jax.drift.synthesis.config import EvaluationConfig
from r2l_jax.jobs import Job
from r2l_jax.model.settings import STATIC_FLAGS
from r2l_jax.names import PUBLISHED_PIPELINES
from r2l_jax.training import train

# The two runs that adjustment compares.
LEARNED, FROZEN = "learned", "frozen"

# The twelve pipelines: the published name of each, and the name of the one that is computed. As in the study's program,
# unsharp masking blurs along columns only.
PIPELINES = {name: name.replace("unsharp_masking", "unsharp_masking_vertical") for name in PUBLISHED_PIPELINES}

# The jobs that test the trained models of a control.
_TESTS = {"synthesis": "evaluate", "forensics": "search"}


def make_jobs(config: StudyConfig) -> list[Job]:
    """Makes the jobs of the chosen controls, each after those that it needs."""
    jobs = list[Job]()
    for control in config.choice.controls:
        for run in runs_of(config, control).values():
            trained = job_of("train", run)
            jobs.append(Job(trained, functools.partial(train.run, run)))
            if control in _TESTS:
                work = functools.partial(evaluate if control == "synthesis" else search, config, run)
                jobs.append(Job(job_of(_TESTS[control], run), work, after=(trained,)))
    return jobs


def job_of(verb: str, run: TrainConfig) -> str:
    """Returns the name of a job that trains or tests a run, such as "train forensics/model"."""
    return f"{verb} {run.tracking.experiment_name}/{run.tracking.run_name}"


def runs_of(config: StudyConfig, control: str) -> dict[str, TrainConfig]:
    """Returns the runs of a control by name: pipelines by their published names, `model`, or `learned` and `frozen`."""
    if control == "synthesis":
        # Under the flag `pipeline`, the parameters of a pipeline would be trained.
        return {
            name: config.training_of(
                control, computed, processing_mode="static", **dict(zip(STATIC_FLAGS, computed.split("."), strict=True))
            )
            for name, computed in PIPELINES.items()
        }
    if control == "forensics":
        return {"model": config.training_of(control, "model")}
    low = (config.choice.low_intensity,)
    return {
        name: config.training_of(control, name, iso=low, freeze_processor=name == FROZEN) for name in (LEARNED, FROZEN)
    }


def evaluate(config: StudyConfig, run: TrainConfig) -> None:
    """Evaluates a run under all pipelines and corruptions, at its last epoch, as the study did."""
    evaluation.run(
        EvaluationConfig(
            run=(str(run.run_dir),),
            output=str(run.run_dir / "evaluation"),
            code=run.code,
            against=("pipelines", "corruptions"),
            pipelines=tuple(PIPELINES.values()),
            corruptions=config.choice.corruptions,
            severities=config.choice.severities,
            checkpoint="last",
        )
    )


def search(config: StudyConfig, run: TrainConfig) -> None:
    """Searches for the worst cases of a run over each group of parameters, at its last epoch."""
    forensics.run(
        build(
            ForensicsConfig,
            run=str(run.run_dir),
            code=run.code,
            analyses=("worst_case",),
            adv_parameters=config.choice.adv_parameters,
            adv_aux_weight=config.choice.adv_aux_weight,
            adv_aux_loss="l2_sum",
            checkpoint="last",
            starts=1,
            steps=config.choice.steps,
        )
    )

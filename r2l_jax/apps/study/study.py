"""A study from its settings to study.json, its figures and its page."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from r2l_jax.apps.report.page import render
from r2l_jax.apps.study import curves, estimate, figures, page, plan, synthesis
from r2l_jax.apps.study.config import StudyConfig
from r2l_jax.apps.study.published import Results, orientation
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.data.sets import datasets
from r2l_jax.model.tasks import task_of
from r2l_jax.runtime import jobs as workers
from r2l_jax.runtime.environment import environment
from r2l_jax.runtime.files import replacing, write_json
from r2l_jax.runtime.flags import flat
from r2l_jax.runtime.locks import writing_to

Numbers = dict[str, Any]


def run(config: StudyConfig) -> Numbers:
    """Runs what earlier calls have left of the chosen controls, and shows the results beside the published ones.

    Writes to the output folder: every trained run as an ordinary run's folder, `study.json` (all numbers), figures in
    the layout of the study as PNG, and `study.html`. Jobs that failed are left out of their control, and listed under
    `failed` in study.json.

    Returns:
        The content of study.json.

    Raises:
        InputError: settings or data that do not fit, a scheduler that cannot be used, or another program is writing to
            the output folder.
        Interrupted: SIGINT or SIGTERM came; the same call resumes where this one stopped.
    """
    dataset = _prepare(config)
    with writing_to(config.output_dir):
        failed = _run_jobs(config, dataset)
        content = _collect(config, dataset, failed)
        _write(config, content)
    return content


def dry_run(config: StudyConfig) -> str:
    """Returns a table of the jobs that `run` would run, and of the time that they take; measures an epoch for it.

    Raises:
        InputError: as for `run`.
    """
    dataset = _prepare(config)
    jobs = plan.make_jobs(config)
    ledger = estimate.Ledger(config.output_dir)
    at_once = workers.asked_for(config.choice.scheduler)[0]
    return estimate.table(jobs, ledger, estimate.Samples.of(config, dataset), lambda: estimate.measure(config), at_once)


def _prepare(config: StudyConfig) -> RawDataset:
    """Loads the data, and renders or downloads it first, before jobs of several workers would."""
    workers.prepare(config.choice.scheduler)
    data = config.data
    dataset = datasets.load(data.dataset, download=data.download, **data.source)
    if "adjustment" in config.choice.controls:
        datasets.load(data.dataset, download=data.download, **data.source, iso=config.choice.low_intensity)
    return dataset


def _run_jobs(config: StudyConfig, dataset: RawDataset) -> dict[str, str]:
    """Runs all jobs, prints how each ended, and returns why jobs failed, by name."""
    jobs, failed, ledger = plan.make_jobs(config), {}, estimate.Ledger(config.output_dir)
    samples = estimate.Samples.of(config, dataset)
    by_name = {job.name: job for job in jobs}
    ended = workers.run(jobs, config.choice.scheduler, config.output_dir / "logs")
    for number, (name, _, error, _, seconds) in enumerate(ended, start=1):
        if error is None:
            ledger.add(by_name[name], seconds, estimate.passes(by_name[name], samples))
        else:
            failed[name] = error
        print(f"[{number} of {len(jobs)}] {name}: {error or f'{seconds:.0f} s'}", file=sys.stderr, flush=True)
    return failed


def _collect(config: StudyConfig, dataset: RawDataset, failed: Mapping[str, str]) -> Numbers:
    """Collects the numbers of all controls from the folders of the runs."""
    task = task_of(dataset, config.network)
    theirs = orientation(config.data.dataset, task.score)
    results = Results(config, task, theirs, [job for job in plan.make_jobs(config) if job.name not in failed])
    collectors = {"synthesis": synthesis.collect, "forensics": curves.forensics, "adjustment": curves.adjustment}
    return {
        "dataset": dataset.name,
        "score": task.score,
        "folds": config.data.n_splits,
        "published": theirs.about,
        **{control: collectors[control](results) for control in config.choice.controls},
        "failed": dict(failed),
        "flags": json.loads(json.dumps(flat(config))),
        **environment(),
    }


def _write(config: StudyConfig, content: Numbers) -> None:
    output = config.output_dir
    figures.write(output, figures.make(config, content))
    text = render(f"The study on {content['dataset']}", page.make_sections(content, output))
    with replacing(output / "study.html") as part:
        part.write_text(text, encoding="utf-8")
    write_json(output / "study.json", content)


def conclude(content: Numbers) -> Sequence[str]:
    """Returns the lines that a study ends with: its most important numbers, and the jobs that failed."""
    lines = [*synthesis.lines(content), *curves.lines(content)]
    return [*lines, *(f"failed: {name}: {reason}" for name, reason in content["failed"].items())]

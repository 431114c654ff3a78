"""Runs a study: its jobs, the comparisons with the published numbers, and its page."""

from collections.abc import Mapping

from r2l_jax import jobs
from r2l_jax.apps.report.document import Code, Findings, Section
from r2l_jax.apps.report.page import blocks_of, render
from r2l_jax.apps.study import comparison
from r2l_jax.apps.study.config import StudyConfig
from r2l_jax.apps.study.plan import job_of, make_jobs, runs_of
from r2l_jax.apps.study.published import published
from r2l_jax.cli.commands import command
from r2l_jax.cli.flags import arguments, flat
from r2l_jax.data.sets import datasets
from r2l_jax.results.files import replacing
from r2l_jax.results.locks import writing_to
from r2l_jax.results.result import Result, read, write

# The function that compares each control, and the least number of runs that it needs.
_COMPARISONS = {
    "synthesis": (comparison.synthesis, 3),
    "forensics": (comparison.forensics, 1),
    "adjustment": (comparison.adjustment, 1),
}


def run(config: StudyConfig) -> bool:
    """Runs the chosen controls, except for jobs that earlier calls have finished, and compares the results.

    Writes to the output folder: each trained run as an ordinary run folder, the result of each control in its folder,
    and `study.html`. Prints how each job ended, and the most important numbers.

    Returns:
        Whether all jobs have succeeded. Runs of failed jobs are left out of the results.

    Raises:
        InputError: settings or data that do not fit, a scheduler that cannot be used, or another program is writing to
            the output folder.
        Interrupted: SIGINT or SIGTERM came; the same call resumes where this one stopped.
    """
    jobs.prepare(config.choice.scheduler)
    data = config.data
    # Renders or downloads the data now, so that several workers do not.
    task = datasets.load(data.dataset, download=data.download, **data.source).task
    if "adjustment" in config.choice.controls:
        datasets.load(data.dataset, download=data.download, **data.source, iso=config.choice.low_intensity)
    with writing_to(config.output_dir):
        failed = jobs.failures(make_jobs(config), config.choice.scheduler, config.output_dir / "logs")
        results = _compare(config, task, failed)
        _write_page(config, results, failed)
    for result in results.values():
        print(next(iter(result.tables.values())).text(), *result.metadata["verdict"], sep="\n", end="\n\n")
    for name, error in failed.items():
        print(f"failed: {name}: {error}")
    return not failed


def _compare(config: StudyConfig, task: str, failed: Mapping[str, str]) -> dict[str, Result]:
    """Writes and returns the results of those controls that have enough runs."""
    theirs, results = published(task), {}
    for control in config.choice.controls:
        compare, least = _COMPARISONS[control]
        runs = {
            name: run
            for name, run in runs_of(config, control).items()
            if not any(job_of(verb, run) in failed for verb in ("train", "evaluate", "search"))
        }
        if len(runs) >= least:
            folder = config.output_dir / control
            write(folder, compare(config, theirs, runs))
            results[control] = read(folder)
    return results


def _write_page(config: StudyConfig, results: Mapping[str, Result], failed: Mapping[str, str]) -> None:
    """Writes `study.html`."""
    sections = []
    for result in results.values():
        verdict = [Findings(result.metadata["verdict"])] if result.metadata["verdict"] else []
        sections.append(Section(result.metadata["title"], [*verdict, *blocks_of(result)]))
    missing = [f"{name}: {error}" for name, error in failed.items()]
    if missing:
        sections.append(Section("Failed jobs (not in the tables)", missing))
    changed = " ".join(arguments(StudyConfig, flat(config)))
    sections.append(Section("How to reproduce", [Code(f"{command('study')} {changed}")]))
    with replacing(config.output_dir / "study.html") as part:
        part.write_text(render(f"The study on {config.data.dataset}", sections), encoding="utf-8")

"""Tests trained models under drift: all cases on the validation samples of all folds, from mosaics read once."""

import dataclasses
import functools
import hashlib
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from tqdm import tqdm

from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.drift import cases, figures, shot_groups
from r2l_jax.drift.acquisition import at_intensity
from r2l_jax.drift.cases import OWN, Case
from r2l_jax.drift.results import Evaluation, plain
from r2l_jax.drift.synthesis import summary
from r2l_jax.drift.synthesis.config import EvaluationConfig
from r2l_jax.drift.synthesis.evaluator import Evaluator
from r2l_jax.drift.synthesis.summary import Numbers, RunResults
from r2l_jax.model.model_hash import processor_hash
from r2l_jax.runtime import store
from r2l_jax.runtime.commands import closing
from r2l_jax.runtime.environment import environment
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.files import write_csv
from r2l_jax.runtime.flags import flat
from r2l_jax.runtime.hosts import is_first, no_bar, on_every_process, on_first_process
from r2l_jax.runtime.locks import writing_to
from r2l_jax.runtime.stop import Interrupted, StopSignals
from r2l_jax.training.record import run_names
from r2l_jax.training.run import TrainedFold, open_runs


def run(config: EvaluationConfig) -> dict[str, Any]:
    """Tests every fold of every run on its validation samples, except for cases that an earlier call has finished.

    The output folder gets `evaluation.json` (all numbers, and everything needed to reproduce them), `evaluation.csv` (a
    row for each fold and case), and a heat map of each kind of drift, as PNG and as TensorBoard events. While the
    evaluation proceeds, finished numbers are kept in `parts/<run>_fold_<k>.json`, where later calls find them.

    Returns:
        The content of `evaluation.json`, without its identity and the list of the files beside it.

    Raises:
        InputError: folders that are not finished runs, cases that do not fit the runs, or another program that writes
            to the output folder.
        Interrupted: SIGINT or SIGTERM arrived; the same call resumes where this one stopped.
    """
    labels = run_names(config.run)
    opened = open_runs(config.run, config.data_dir, config.pipeline, config.checkpoint)
    runs = {label: run.folds for label, run in zip(labels, opened, strict=True)}
    on_every_process(lambda: _check(config, runs))
    with writing_to(config.output_dir):
        return _test(config, runs)


def _test(config: EvaluationConfig, runs: Mapping[str, Sequence[TrainedFold]]) -> dict[str, Any]:
    """Tests the folds of runs, and writes and returns the results."""
    tested, output = config.cases(), config.output_dir
    # All processes have read the parts before the first one adds to them.
    parts_of = on_every_process(lambda: _parts(config, runs, tested))
    parts = [part for of_key in parts_of.values() for part in of_key]
    evaluator = _evaluator(_batch_size(config.batch_size, parts), config.seed)
    with StopSignals() as stop:
        for part in parts:
            _evaluate(evaluator, part, stop)

    results = {label: _results(parts_of[label,], tested) for label in runs}
    groups = {
        key: [(part.fold.measured_indices, part.tests) for part in of_group]
        for key, of_group in parts_of.items()
        if len(key) == 3
    }
    task, dataset = parts[0].fold.task, parts[0].fold.dataset
    found = summary.summarize(results, tested, task.score, groups)
    content = {
        "classes": list(task.classes),
        "dataset": dataset.name,
        **plain(found),
        "flags": flat(config),
        **environment(),
    }
    models = {part.title: part.model for part in parts}
    identity = store.identity(content["flags"], model=models, data=dataset.content)
    on_first_process(lambda: _write(output, found, content, identity))
    if is_first():
        print(summary.make_table(found))
        print(f"\n{closing(output, config.run, config.output is None)}")
    return content


def _parts(
    config: EvaluationConfig, runs: Mapping[str, Sequence[TrainedFold]], tested: Sequence[Case]
) -> dict[tuple[str, ...], list["_Part"]]:
    """Makes a part of each fold by the name of its run, and one for each group of its samples.

    A group has the name of its run, a field of shots and one of its values. Its part is of a fold of fewer samples.
    """
    parts: dict[tuple[str, ...], list[_Part]] = {}
    load_at = functools.cache(at_intensity)
    for label, folds in runs.items():
        for fold in folds:
            samples = {(label,): fold.measured_indices}
            for field, groups in shot_groups.groups(fold.dataset, fold.measured_indices, config.by).items():
                samples |= {(label, field, value): indices for value, indices in groups.items()}
            for key, indices in samples.items():
                own = key == (label,)
                of_key = fold if own else fold.measuring(indices)
                name = label if own else f"{label} {'='.join(key[1:])}"
                part = _Part(config.output_dir, name, of_key, tested, load_at, config.seed)
                parts.setdefault(key, []).append(part)
    return parts


def _write(output: pathlib.Path, found: Evaluation, content: Mapping[str, Any], identity: store.Identity) -> None:
    """Writes the files of a finished evaluation in place of an earlier one's."""
    file, pictures = output / "evaluation.json", summary.make_figures(found)
    planned = ["evaluation.csv", *(f"{name}.png" for name in pictures)]
    store.begin(file, planned)
    write_csv(output / "evaluation.csv", summary.csv_rows(found))
    events = figures.write(output, pictures)
    store.finish(file, content, identity, [*planned, *events])


def _check(config: EvaluationConfig, runs: Mapping[str, Sequence[TrainedFold]]) -> None:
    """Raises an InputError unless all runs share one data set and can be tested against the chosen cases."""
    first = next(iter(runs.values()))[0].dataset
    for uri, (fold, *_) in zip(config.run, runs.values(), strict=True):
        if (fold.dataset.name, fold.dataset.fingerprint) != (first.name, first.fingerprint):
            raise InputError(
                f"--run={uri} was trained on {fold.dataset.name}, --run={config.run[0]} on "
                f"{'another ' if fold.dataset.name == first.name else ''}{first.name}: evaluate them one by one"
            )
        cases.check(config.against, fold.config, fold.dataset, f"--run={uri}")
        shot_groups.groups(fold.dataset, fold.measured_indices, config.by)
        if "pipelines" in config.against:
            cases.check_pipelines([cases.for_run(case, fold.config.processing) for case in config.cases()], first)


# A data set, and the cases that start from its mosaics.
Source = tuple[RawDataset, list[Case]]


class _Part:
    """The numbers of one fold by case, which a file of the output folder keeps.

    Numbers of an earlier call are reused for each case whose identity is the same.

    Attributes:
        fold: the fold.
        title: the name of the run and the number of the fold.
        model: the hash of the fold's model.
        tests: the numbers, by case. A case on which the run was trained is only there under the name of `OWN`.
        missing: the cases that are still to be evaluated.
    """

    def __init__(
        self,
        output: pathlib.Path,
        label: str,
        fold: TrainedFold,
        tested: Sequence[Case],
        load_at: Callable[..., RawDataset],
        seed: int,
    ):
        file = output / "parts" / f"{_file_name(label)}_fold_{fold.number}.json"
        self._entries = on_first_process(lambda: store.Entries(file))
        self._identities: dict[str, store.Identity] = {}
        self._label = label
        self.fold, self.title = fold, f"{label} fold {fold.number}"
        self.model = fold.fingerprint
        self.tests: dict[str, Numbers] = {}
        sources: dict[float | None, Source] = {}
        anew = {}
        for case in (cases.for_run(each, fold.config.processing) for each in tested):
            if case.group != OWN.group and cases.is_own(case, fold.config):
                continue
            dataset = (
                fold.dataset if case.iso is None else load_at(fold.config.data, case.iso, fold.dataset.fingerprint)
            )
            self._identities[case.name] = _identity(fold, self.model, dataset, case, seed)
            numbers, reasons = self._entries.find(case.name, self._identities[case.name])
            if numbers is not None:
                self.tests[case.name] = numbers
                continue
            sources.setdefault(case.iso, (dataset, []))[1].append(case)
            if reasons:
                anew.setdefault(tuple(reasons), []).append(case.name)
        self.missing = list(sources.values())
        if is_first():
            for reasons, names in anew.items():
                store.say_anew(f"{self.title}, {', '.join(names)}", reasons)

    def add(self, tests: Mapping[str, Numbers]) -> None:
        """Adds the numbers of cases, and writes the file."""
        self.tests |= tests
        on_first_process(lambda: self._entries.add(tests, self._identities))

    def interrupted(self) -> Interrupted:
        """Returns the error that stops an evaluation of this fold."""
        return Interrupted(
            f"stopped in fold {self.fold.number} of {self._label}; the same command resumes with that fold"
        )


def _file_name(label: str) -> str:
    """Returns a name for files; a group's name, which holds words of strangers, gets its hash appended."""
    safe = label.strip("/").replace("/", "_")
    if "=" not in label:
        return safe
    digest = hashlib.sha256(label.encode()).hexdigest()[:8]
    return f"{re.sub('[^A-Za-z0-9_=.-]', '_', safe)[:80]}_{digest}"


def _identity(fold: TrainedFold, model: str, dataset: RawDataset, case: Case, seed: int) -> store.Identity:
    """Collects everything that the numbers of a case depend on."""
    random = case.group in ("exposures", "corruptions")
    # Pipelines start from the camera's calibration values, and exposures are computed with them. In other cases, the
    # model's own values count.
    of_camera = case.group in ("pipelines", "exposures")
    camera = dataclasses.asdict(cases.camera_of(fold.dataset)) if of_camera else None
    processing = None
    if case.pipeline is not None:
        processing = [*case.pipeline.identity, processor_hash(case.pipeline(cases.camera_of(fold.dataset)))]
    return store.identity(
        # A pipeline is identified by its content, not by the path of its file.
        {"case": case._replace(pipeline=None)._asdict(), "seed": seed if random else None},
        model=model,
        data=dataset.content_of(fold.measured_indices),
        camera=camera,
        processing=processing,
    )


@functools.lru_cache(maxsize=1)
def _evaluator(batch_size: int, seed: int) -> Evaluator:
    """Returns the last evaluator if it fits: a process that evaluates many runs compiles their functions once."""
    return Evaluator(batch_size, seed)


def _batch_size(wanted: int, parts: Sequence[_Part]) -> int:
    """Returns the batch size, at most the largest fold, rounded up to a multiple of the devices."""
    devices = jax.device_count()
    largest = max(len(part.fold.measured_indices) for part in parts)
    return -(-min(wanted, largest) // devices) * devices


def _evaluate(evaluator: Evaluator, part: _Part, stop: StopSignals) -> None:
    """Evaluates the missing cases of a fold, and keeps their numbers after each data set."""
    total = sum(evaluator.count(part.fold, tested) for _, tested in part.missing)
    if not total:
        return
    with tqdm(total=total, desc=part.title, unit="test", disable=no_bar()) as bar:

        def tick() -> None:
            bar.update()
            if stop.after_step():
                raise part.interrupted()

        for dataset, tested in part.missing:
            if stop.agreed():
                raise part.interrupted()
            part.add(evaluator.evaluate(part.fold, dataset, tested, tick))


def _results(parts: Sequence[_Part], tested: Sequence[Case]) -> RunResults:
    """Collects the numbers of a run's folds."""
    fold = parts[0].fold
    pipeline = fold.config.processing.named_pipeline
    own = tuple(case.name for case in tested if case.group != OWN.group and cases.is_own(case, fold.config))
    return RunResults(
        folder=str(fold.folder.parent),
        processing_mode=fold.config.processing.processing_mode,
        pipeline=pipeline and pipeline.title,
        own=own,
        folds={
            part.fold.number: {case.name: part.tests[OWN.name if case.name in own else case.name] for case in tested}
            for part in parts
        },
        training={part.fold.number: part.fold.training for part in parts},
    )

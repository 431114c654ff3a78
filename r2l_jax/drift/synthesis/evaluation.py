"""Tests trained models under drift: all cases on the measured samples of all folds, from mosaics read once."""

import contextlib
import dataclasses
import functools
import hashlib
import pathlib
import re
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from tqdm import tqdm

from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.drift import cases, figures, outcomes, shot_groups, statistics
from r2l_jax.drift.acquisition import at_intensity
from r2l_jax.drift.cases import OWN, Case
from r2l_jax.drift.outcomes import Outcomes
from r2l_jax.drift.results import Evaluation, plain
from r2l_jax.drift.synthesis import comparison, summary
from r2l_jax.drift.synthesis.comparison import Trainings
from r2l_jax.drift.synthesis.config import EvaluationConfig
from r2l_jax.drift.synthesis.evaluator import Evaluator
from r2l_jax.drift.synthesis.summary import OUTCOMES, Numbers, RunResults
from r2l_jax.model.model_hash import processor_hash
from r2l_jax.names import About
from r2l_jax.runtime import stop, store
from r2l_jax.runtime.commands import closing
from r2l_jax.runtime.environment import environment
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.files import write_csv, write_json
from r2l_jax.runtime.flags import flat
from r2l_jax.runtime.locks import writing_to
from r2l_jax.runtime.stop import Interrupted
from r2l_jax.training.artifact import Artifact
from r2l_jax.training.record import members, run_names
from r2l_jax.training.run import load


def run(config: EvaluationConfig) -> dict[str, Any]:
    """Tests every fold of every run on its measured samples, except for cases that an earlier call has finished.

    The output folder gets `evaluation.json` (all numbers, and everything needed to reproduce them), `evaluation.csv` (a
    row for each fold and case), `outcomes.safetensors` (the outcome of each sample in each case), and a heat map of
    each kind of drift, as PNG and as TensorBoard events. While the evaluation proceeds, finished numbers are kept in
    `parts/<run>_fold_<k>.json`, where later calls find them. The numbers of a group's members are kept in the members'
    own folders.

    Returns:
        The content of `evaluation.json`, without its identity and the list of the files beside it.

    Raises:
        InputError: folders that are not finished runs, cases that do not fit the runs, or another program that writes
            to the output folder.
        Interrupted: SIGINT or SIGTERM arrived; the same call resumes where this one stopped.
    """
    groups = _open(config)
    _check(config, groups)
    outputs = {config.output_dir, *(run.output for runs in groups.values() for run in runs)}
    outputs |= {_kept_in(config, uri) for uri, runs in zip(config.run, groups.values(), strict=True) if len(runs) > 1}
    with contextlib.ExitStack() as held:
        for folder in sorted(outputs):
            held.enter_context(writing_to(folder))
        return _test(config, groups)


class _Run(NamedTuple):
    """A run alone, a member of a group of trainings, or an ensemble, with the folds of its first member.

    Attributes:
        label: its name in results.
        output: the folder that keeps its numbers in `parts`.
        file: its name there.
        folds: its folds.
    """

    label: str
    output: pathlib.Path
    file: str
    folds: Sequence[Artifact]


def _open(config: EvaluationConfig) -> dict[str, list[_Run]]:
    """Opens the members of each group, or the run itself, by the name of each `--run`."""
    labels = run_names(config.run)
    folders = [members(uri) for uri in config.run]
    groups: dict[str, list[_Run]] = {}
    for label, uri, of_group in zip(labels, config.run, folders, strict=True):
        groups[label] = []
        for folder in of_group:
            folds = load(folder, None, config.checkpoint, config.code, config.data_dir, with_data=True).folds
            if folder == pathlib.Path(uri):
                groups[label].append(_Run(label, config.output_dir, label, folds))
            else:
                name = f"{label}/{folder.name}"
                file = name if config.output else folder.name
                groups[label].append(_Run(name, _kept_in(config, folder), file, folds))
    return groups


def _kept_in(config: EvaluationConfig, folder: str | pathlib.Path) -> pathlib.Path:
    """Returns the folder that keeps the numbers of a group or a member: its own, where later calls find them."""
    return config.output_dir if config.output else pathlib.Path(folder) / "evaluation"


def _test(config: EvaluationConfig, groups: Mapping[str, Sequence[_Run]]) -> dict[str, Any]:
    """Tests the folds of runs, and writes and returns the results."""
    tested, output = config.cases(), config.output_dir
    runs = [run for of_group in groups.values() for run in of_group]
    # All processes have read the parts before the first one adds to them.
    parts_of = _parts(config, runs, tested)
    ensembles = _ensembles(config, groups, parts_of, tested)
    # An ensemble is evaluated together with its members.
    parts = [part for of_key in (*ensembles.values(), *parts_of.values()) for part in of_key]
    _say_missing([part for of_key in parts_of.values() for part in of_key])
    evaluator = _evaluator(_batch_size(config.batch_size, parts), config.seed)
    with stop.after_step():
        for part in parts:
            _evaluate(evaluator, part)

    task, dataset = parts[0].fold.task, parts[0].fold.dataset
    results = {run.label: _results(parts_of[run.label,], tested) for run in runs}
    by_shots = {
        key: [(part.fold.measured_indices, part.tests) for part in of_key]
        for key, of_key in parts_of.items()
        if len(key) == 3
    }
    found = summary.summarize(results, tested, task.score, by_shots)
    kept = {run.label: _outcomes(parts_of[run.label,], tested) for run in runs}
    _compare(config, groups, kept, found)
    for label, of_group in ensembles.items():
        together = _results(of_group, tested)._replace(folder=str(of_group[0].fold.folder.parent.parent), training={})
        found.drops[label].ensemble = summary.summarize_run(together, tested, task.score)
        kept[f"{label} (ensemble)"] = _outcomes(of_group, tested)
    content = {
        "classes": list(task.classes),
        "dataset": dataset.name,
        **plain(found),
        "flags": flat(config),
        **environment(),
    }
    models = {part.title: part.model for part in parts}
    identity = store.identity(content["flags"], dataset.content, models)
    _write(output, found, kept, content, identity)
    print(summary.make_table(found))
    print(f"\n{closing(output, config.run, config.output is None)}")
    return content


def _compare(
    config: EvaluationConfig,
    groups: Mapping[str, Sequence[_Run]],
    kept: Mapping[str, Mapping[int, Outcomes]],
    found: Evaluation,
) -> None:
    """Adds drops with intervals and differences of groups to an evaluation, from the outcomes of all runs."""
    about = typing.cast(About | None, config.about)
    trainings = {
        label: Trainings({run.label: kept[run.label] for run in runs}, found.runs[runs[0].label].own, config.cases())
        for label, runs in groups.items()
    }
    first = {label: runs[0].folds[0] for label, runs in groups.items()}
    measured = {label: f"{fold.measured} {fold.dataset.counted}" for label, fold in first.items()}
    found.drops = {
        label: comparison.drops(each, measured[label], about, config.as_published) for label, each in trainings.items()
    }
    found.differences = comparison.differences(trainings, about)


def _parts(
    config: EvaluationConfig, runs: Sequence[_Run], tested: Sequence[Case]
) -> dict[tuple[str, ...], list["_Part"]]:
    """Makes a part of each fold by the name of its run, and one for each group of its samples.

    A group has the name of its run, a field of shots and one of its values. Its part is of a fold of fewer samples.
    """
    parts: dict[tuple[str, ...], list[_Part]] = {}
    load_at = functools.cache(at_intensity)
    for run in runs:
        for fold in run.folds:
            samples = {(run.label,): fold.measured_indices}
            for field, groups in shot_groups.groups(fold.dataset, fold.measured_indices, config.by).items():
                samples |= {(run.label, field, value): indices for value, indices in groups.items()}
            for key, indices in samples.items():
                of_key = fold if len(key) == 1 else fold.measuring(indices)
                suffix = f" {'='.join(key[1:])}" if len(key) == 3 else ""
                parts.setdefault(key, []).append(_Part(run, suffix, [of_key], tested, load_at, config.seed))
    return parts


def _ensembles(
    config: EvaluationConfig,
    groups: Mapping[str, Sequence[_Run]],
    parts: Mapping[tuple[str, ...], Sequence["_Part"]],
    tested: Sequence[Case],
) -> dict[str, list["_Part"]]:
    """Makes the parts of the ensembles of those groups whose members are measured on the same samples."""
    ensembles: dict[str, list[_Part]] = {}
    load_at = functools.cache(at_intensity)
    for (label, runs), uri in zip(groups.items(), config.run, strict=True):
        if len(runs) == 1 or len({_samples(run.folds) for run in runs}) > 1:
            continue
        name = label if config.output else pathlib.Path(uri).resolve().name
        run = _Run(f"{label} (ensemble)", _kept_in(config, uri), f"{name}_ensemble", runs[0].folds)
        ensembles[label] = [
            _Part(run, "", [part.fold for part in together], tested, load_at, config.seed, together)
            for together in zip(*(parts[run.label,] for run in runs), strict=True)
        ]
    return ensembles


def _samples(folds: Sequence[Artifact]) -> tuple[tuple[int, ...], ...]:
    """Returns the samples that folds are measured on, after their numbers."""
    return tuple((fold.number, *fold.measured_indices.tolist()) for fold in folds)


def _write(
    output: pathlib.Path,
    found: Evaluation,
    kept: Mapping[str, Mapping[int, Outcomes]],
    content: Mapping[str, Any],
    identity: store.Identity,
) -> None:
    """Writes the files of a finished evaluation in place of an earlier one's."""
    file = output / "evaluation.json"
    store.clear(file)
    outcomes.write(output / outcomes.FILE, kept)
    write_csv(output / "evaluation.csv", summary.csv_rows(found))
    drawn = figures.write(output, summary.make_figures(found))
    store.finish(file, content, identity, ["evaluation.csv", outcomes.FILE, *drawn])


def _check(config: EvaluationConfig, groups: Mapping[str, Sequence[_Run]]) -> None:
    """Raises an InputError unless all runs share one data set, can be tested, and tell what was asked for."""
    if config.about == "recipe":
        statistics.check_about("recipe", *map(len, groups.values()))
    first = next(iter(groups.values()))[0].folds[0].dataset
    for uri, runs in zip(config.run, groups.values(), strict=True):
        counts = {run.label: sum(len(fold.measured_indices) for fold in run.folds) for run in runs}
        if len({*counts.values()}) > 1:
            found = ", ".join(f"{count} ({label})" for label, count in counts.items())
            raise InputError(f"--run={uri}: all members must have as many samples to measure on, got {found}")
        fold = runs[0].folds[0]
        if (fold.dataset.name, fold.dataset.fingerprint) != (first.name, first.fingerprint):
            raise InputError(
                f"--run={uri} was trained on {fold.dataset.name}, --run={config.run[0]} on "
                f"{'another ' if fold.dataset.name == first.name else ''}{first.name}: evaluate them one by one"
            )
        cases.check(config.against, fold.config, fold.dataset, f"--run={uri}")
        shot_groups.groups(fold.dataset, fold.measured_indices, config.by)
        cases.check_sensor(config.cases(), first)
        if "pipelines" in config.against:
            cases.check_pipelines([cases.for_run(case, fold.config.processing) for case in config.cases()], first)


# A data set, and the cases that start from its mosaics.
Source = tuple[RawDataset, list[Case]]


class _Part:
    """The numbers of one fold by case, or of an ensemble of folds, which a file keeps.

    Numbers of an earlier call are reused for each case whose identity is the same.

    Args:
        run: the run.
        suffix: added to the run's name to make the part's name.
        folds: the fold, or all folds of an ensemble.
        tested: the cases.
        load_at: loads the data set of a fold at another intensity.
        seed: the seed of the cases' noise.
        members: the parts of an ensemble's folds, which are evaluated with it.

    Attributes:
        folds: the fold, or all folds of an ensemble.
        fold: the first of them.
        members: the parts of an ensemble's folds.
        title: the name of the run and the number of the fold.
        model: the hash of the fold's model, or the hashes of all models of an ensemble.
        tests: the numbers, by case. A case that equals the run's own images is only there under the name of `OWN`.
    """

    def __init__(
        self,
        run: _Run,
        suffix: str,
        folds: Sequence[Artifact],
        tested: Sequence[Case],
        load_at: Callable[..., RawDataset],
        seed: int,
        members: Sequence["_Part"] = (),
    ):
        fold = folds[0]
        file = run.output / "parts" / f"{_file_name(run.file + suffix)}_fold_{fold.number}.json"
        # The numbers of each case by its name, with their own identity.
        self._file, self._entries = file, store.read(file) or {}
        self._identities: dict[str, store.Identity] = {}
        self._label = run.label + suffix
        self.folds, self.fold, self.members = folds, fold, members
        self.title = f"{self._label} fold {fold.number}"
        self.model = [each.identity for each in folds] if members else fold.identity
        self.tests: dict[str, Numbers] = {}
        # An ensemble keeps its numbers after each group of cases, since all of its members take long.
        sources: dict[tuple[float | None, str], Source] = {}
        anew = {}
        for case in (cases.for_run(each, fold.config.processing) for each in tested):
            if case.group != OWN.group and cases.equals_own(case, fold.config):
                continue
            dataset = (
                fold.dataset if case.iso is None else load_at(fold.config.data, case.iso, fold.dataset.fingerprint)
            )
            self._identities[case.name] = _identity(fold, self.model, dataset, case, seed)
            entry, reasons = self._entries.get(case.name), []
            if isinstance(entry, dict):
                reasons = store.differences(entry.get("identity"), self._identities[case.name])
                if not reasons:
                    self.tests[case.name] = entry["content"]
                    continue
            sources.setdefault((case.iso, case.group if members else ""), (dataset, []))[1].append(case)
            if reasons:
                anew.setdefault(tuple(reasons), []).append(case.name)
        self._sources = list(sources.values())
        for reasons, names in anew.items():
            store.say_anew(f"{self.title}, {', '.join(names)}", reasons)

    @property
    def missing(self) -> list[Source]:
        """The cases that are still to be evaluated."""
        missing = [
            (dataset, [case for case in of_data if case.name not in self.tests]) for dataset, of_data in self._sources
        ]
        return [source for source in missing if source[1]]

    def add(self, tests: Mapping[str, Numbers]) -> None:
        """Adds the numbers of cases that were missing, and writes the file."""
        added = {name: numbers for name, numbers in tests.items() if name not in self.tests}
        self.tests |= added
        for name, numbers in added.items():
            self._entries[name] = {"identity": self._identities[name], "content": numbers}
        write_json(self._file, self._entries)

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


def _identity(fold: Artifact, model: str | list[str], dataset: RawDataset, case: Case, seed: int) -> store.Identity:
    """Collects everything that the numbers of a case depend on."""
    random = case.group in ("exposures", "sensor", "corruptions")
    # Pipelines start from the camera's calibration values, and exposures and the drift of a sensor are computed with
    # them. In other cases, the model's own values count.
    of_camera = case.group in ("pipelines", "exposures", "sensor")
    camera = dataclasses.asdict(cases.camera_of(fold.dataset)) if of_camera else None
    processing = None
    if case.pipeline is not None:
        processing = [*case.pipeline.identity, processor_hash(case.pipeline(cases.camera_of(fold.dataset)))]
    return store.identity(
        # A pipeline is identified by its content, not by the path of its file.
        {"case": case._replace(pipeline=None)._asdict(), "seed": seed if random else None},
        data=[dataset.content_of(fold.measured_indices), camera],
        model=[model, processing],
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


def _say_missing(parts: Sequence[_Part]) -> None:
    """Says, before the first test, how many there are."""
    counts = [sum(len(tested) for _, tested in part.missing) for part in parts]
    if any(counts):
        # A fold also has a part for each group of its samples.
        models = len({part.fold.identity for part, count in zip(parts, counts, strict=True) if count})
        of_models = f"for each of {models} models" if models > 1 else "for 1 model"
        print(
            f"to test: {max(counts)} cases {of_models}, each on {len(parts[0].fold.measured_indices)} samples",
            file=sys.stderr,
        )


def _evaluate(evaluator: Evaluator, part: _Part) -> None:
    """Evaluates the missing cases of a fold, and keeps their numbers after each data set."""
    total = sum(evaluator.count(part.fold, tested) for _, tested in part.missing)
    if not total:
        return
    with tqdm(total=total, desc=part.title, unit="test", disable=None) as bar:

        def tick() -> None:
            bar.update()
            if stop.requested():
                raise part.interrupted()

        for dataset, tested in part.missing:
            if stop.requested():
                raise part.interrupted()
            found = evaluator.evaluate(part.folds, dataset, tested, tick)
            for each, numbers in zip([*part.members, part], found, strict=True):
                each.add(numbers)


def _results(parts: Sequence[_Part], tested: Sequence[Case]) -> RunResults:
    """Collects the numbers of a run's folds."""
    fold = parts[0].fold
    pipeline = fold.config.processing.named_pipeline
    own = tuple(case.name for case in tested if case.group != OWN.group and cases.is_own(case, fold.config))
    return RunResults(
        folder=str(fold.folder.parent),
        processing_mode=None if fold.config.processing.pipeline else fold.config.processing.processing_mode,
        pipeline=pipeline and pipeline.title,
        own=own,
        folds={
            part.fold.number: {
                name: {key: value for key, value in numbers.items() if key != OUTCOMES}
                for name, numbers in _by_case(part, tested).items()
            }
            for part in parts
        },
        training={part.fold.number: part.fold.training for part in parts},
    )


def _outcomes(parts: Sequence[_Part], tested: Sequence[Case]) -> dict[int, Outcomes]:
    """Collects the outcomes of the samples of a run's folds."""
    found = {}
    for part in parts:
        samples = part.fold.measured_indices
        by_case = _by_case(part, tested)
        found[part.fold.number] = Outcomes(
            samples,
            {name: outcomes.from_text(each[OUTCOMES], samples) for name, each in by_case.items()},
            part.fold.dataset.scenes(samples),
        )
    return found


def _by_case(part: _Part, tested: Sequence[Case]) -> dict[str, Numbers]:
    """Returns the numbers of all cases. A case that equals the run's own images has the numbers of these."""
    config = part.fold.config
    return {case.name: part.tests[OWN.name if cases.equals_own(case, config) else case.name] for case in tested}

"""Tests trained models under drift: every test case on the validation samples of every fold, from raw read once."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.experimental import multihost_utils
from tqdm import tqdm

from r2l_jax.config import INTENSITIES, OWN_PIPELINE, PIPELINE_NAMES
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.drift import cases, figures
from r2l_jax.drift.acquisition import at_intensity
from r2l_jax.drift.cases import OWN, Case
from r2l_jax.drift.corruptions import CORRUPTIONS, SEVERITIES
from r2l_jax.drift.synthesis import summary
from r2l_jax.drift.synthesis.evaluator import Evaluator
from r2l_jax.drift.synthesis.summary import Numbers, RunResults
from r2l_jax.model.model_hash import processor_hash
from r2l_jax.runtime import store
from r2l_jax.runtime.environment import environment
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.files import write_csv
from r2l_jax.runtime.flags import NOT_NEGATIVE, POSITIVE, Settings, flat, setting
from r2l_jax.runtime.stop import Interrupted, StopSignals
from r2l_jax.training.trained import TrainedFold, load_runs


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig(Settings):
    """Evaluation.

    Raises:
        InputError: values that are not known or out of range.
    """

    run: tuple[str, ...] = setting("folders of finished runs, or of their folds, separated by commas", kind="repeated")
    against: tuple[str, ...] = setting(
        f"what to test against, of {', '.join(cases.GROUPS)}", ("pipelines", "corruptions"), each=cases.GROUPS
    )
    pipelines: tuple[str, ...] = setting(f"other processing: {PIPELINE_NAMES}", cases.PIPELINES)
    intensities: tuple[float, ...] = setting("other measured intensities", INTENSITIES)
    exposures: tuple[float, ...] = setting(
        "exposures by the model of the sensor, as factors on the light; any raw data", cases.EXPOSURES
    )
    corruptions: tuple[str, ...] = setting(f"of processed images, of {', '.join(CORRUPTIONS)}", cases.CHANGES)
    severities: tuple[int, ...] = setting(
        f"of the corruptions, of {', '.join(map(str, SEVERITIES))}", tuple(SEVERITIES)
    )
    data_dir: str | None = setting("folder of the data set; default: where it was in training", None)
    output: str | None = setting(
        "folder for the results; default: evaluation in the run's folder, or in the innermost that all runs are in",
        None,
    )
    pipeline: tuple[str, ...] = setting(OWN_PIPELINE, ())
    batch_size: int = setting("samples at once, over all devices; results do not depend on it", 32, bound=POSITIVE)
    seed: int = setting("of the noise of exposures and corruptions", 0, bound=NOT_NEGATIVE)

    def __post_init__(self):
        super().__post_init__()
        for name in ("run", "against", *self.against, *(["severities"] if "corruptions" in self.against else [])):
            if not getattr(self, name):
                raise InputError(f"--{name} is empty")
        self.cases()

    def without_effect(self) -> dict[str, str]:
        """Returns the flags of groups that are not tested against."""
        ignored = {}
        for group in cases.GROUPS:
            if group not in self.against:
                names = [group, "severities"] if group == "corruptions" else [group]
                ignored |= dict.fromkeys(names, f"without {group} in --against")
        if not {"exposures", "corruptions"}.intersection(self.against):
            ignored["seed"] = "without exposures or corruptions in --against"
        return ignored

    def cases(self) -> list[Case]:
        """The test cases, each once, and first of all the runs' own images."""
        return list(self._cases)

    @functools.cached_property
    def _cases(self) -> tuple[Case, ...]:
        known = {
            "pipelines": cases.pipelines(self.pipelines),
            "intensities": cases.intensities(self.intensities),
            "exposures": cases.exposures(self.exposures),
            "corruptions": cases.corruptions(self.corruptions, self.severities),
        }
        chosen = [case for group in cases.GROUPS if group in self.against for case in known[group]]
        return tuple(dict.fromkeys([OWN, *chosen]))

    @property
    def output_dir(self) -> pathlib.Path:
        """Where the results go: `evaluation` in the run's folder, or in the innermost one that all runs are in."""
        if self.output:
            return pathlib.Path(self.output)
        if len(self.run) == 1:
            return pathlib.Path(self.run[0]) / "evaluation"
        return pathlib.Path(os.path.commonpath([os.path.abspath(uri) for uri in self.run])) / "evaluation"


def run(config: EvaluationConfig) -> dict:
    """Tests every fold of every run on its validation samples, or what an earlier call left undone.

    Writes to the output folder `evaluation.json` (all numbers, and how to reproduce them), `evaluation.csv` (a line for
    each fold and test case), a heat map of each kind of drift, as PNG and in TensorBoard's events; and as it goes
    `parts/<run>_fold_<k>.json`, whose numbers a later call takes if it needs them.

    Returns:
        What evaluation.json holds, but its identity and the list of the files beside it.

    Raises:
        InputError: folders that are no finished runs, or test cases that do not fit them.
        Interrupted: SIGINT or SIGTERM came; the same call goes on where this one stopped.
    """
    tested, output = config.cases(), config.output_dir
    runs = dict(zip(_labels(config.run), load_runs(config.run, config.data_dir, config.pipeline), strict=True))
    _check(config, runs)
    try:
        (output / "parts").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{output}: no folder to write to ({error.strerror})") from None
    folds = [(label, fold) for label, folds in runs.items() for fold in folds]
    load_at = functools.cache(at_intensity)
    parts = [_Part(output, label, fold, tested, load_at, config.seed) for label, fold in folds]
    # All processes have read what is done before the first one adds to it.
    multihost_utils.sync_global_devices("evaluation planned")

    devices = jax.device_count()
    largest = max(len(fold.fold.valid_indices) for _, fold in folds)
    evaluator = Evaluator(-(-min(config.batch_size, largest) // devices) * devices, config.seed)
    with StopSignals() as stop:
        for (label, fold), part in zip(folds, parts, strict=True):
            _evaluate(evaluator, label, fold, part, part.missing, stop)

    results = {}
    for label, of_run in runs.items():
        trained = of_run[0].config
        own = tuple(case.name for case in tested if case.group != OWN.group and cases.is_own(case, trained))
        tests = {
            fold.fold.number: {case.name: part.tests[OWN.name if case.name in own else case.name] for case in tested}
            for (name, fold), part in zip(folds, parts, strict=True)
            if name == label
        }
        folder, pipeline = str(of_run[0].fold.folder.parent), trained.processing.named_pipeline
        results[label] = RunResults(folder, trained.processing.processing_mode, pipeline and pipeline.title, own, tests)
    task, dataset = folds[0][1].task, folds[0][1].dataset
    content = {
        "score": task.score,
        "classes": list(task.classes),
        "dataset": dataset.name,
        **summary.summarize(results, tested, task.score),
        "flags": flat(config),
        **environment(),
    }
    if jax.process_index() == 0:
        names = [f"{label} fold {fold.fold.number}" for label, fold in folds]
        models = dict(zip(names, (part.model for part in parts), strict=True))
        _write(output, content, store.identity(content["flags"], model=models, data=dataset.content))
        print(summary.make_table(content, task.score))
        print(f"\nresults in {output}\ntensorboard --logdir '{output}'")
    return content


def _write(output: pathlib.Path, content: Mapping[str, Any], identity: store.Identity) -> None:
    """Writes what is left to read, and removes the heat maps of an earlier call that had others."""
    file, pictures = output / "evaluation.json", summary.make_figures(content, content["score"])
    planned = ["evaluation.csv", *(f"{name}.png" for name in pictures)]
    store.begin(file, planned, unlisted=[f"{group}.png" for group in cases.GROUPS])
    write_csv(output / "evaluation.csv", summary.csv_rows(content, content["score"]))
    events = figures.write(output, pictures)
    store.finish(file, content, identity, [*planned, *events])


def _labels(uris: Sequence[str]) -> list[str]:
    """What runs are called: by their folders' names, or if they share those, by the paths as they came."""
    paths = [pathlib.Path(uri).resolve() for uri in uris]
    for number, path in enumerate(paths):
        if path in paths[:number]:
            raise InputError(f"--run={uris[number]} is given twice")
    names = ["/".join(path.parts[-2:]) if path.name.startswith("fold_") else path.name for path in paths]
    return names if len(set(names)) == len(names) else list(uris)


def _check(config: EvaluationConfig, runs: Mapping[str, list[TrainedFold]]) -> None:
    """Raises an InputError unless all runs are of one data set, and can be tested against what was asked for."""
    first = next(iter(runs.values()))[0].dataset
    for uri, (fold, *_) in zip(config.run, runs.values(), strict=True):
        if (fold.dataset.name, fold.dataset.fingerprint) != (first.name, first.fingerprint):
            raise InputError(
                f"--run={uri} was trained on {fold.dataset.name}, --run={config.run[0]} on "
                f"{'another ' * (fold.dataset.name == first.name)}{first.name}: evaluate them one by one"
            )
        cases.check(config.against, fold.config, fold.dataset, f"--run={uri}")
    if "pipelines" in config.against:
        cases.check_pipelines(config.cases(), first)


Source = tuple[RawDataset, list[Case]]


class _Part:
    """What is known of a fold: the numbers of test cases by name, in a file of the output folder.

    Of what an earlier call has left there, each test case counts that depends on nothing that has changed since.

    Attributes:
        model: the hash of the fold's model.
        tests: the numbers, of all test cases but the run's own under another name.
        missing: the test cases that are still to be evaluated, with the data set that each is made of.
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
        file = output / "parts" / f"{label.strip('/').replace('/', '_')}_fold_{fold.fold.number}.json"
        self._entries, self._identities = store.Entries(file), {}
        self.model = fold.fingerprint
        self.tests: dict[str, Numbers] = {}
        sources: dict[float | None, Source] = {}
        anew = {}
        for case in tested:
            if case.group != OWN.group and cases.is_own(case, fold.config):
                continue
            dataset = fold.dataset if case.iso is None else load_at(fold.config, case.iso, fold.dataset.fingerprint)
            self._identities[case.name] = _identity(fold, self.model, dataset, case, seed)
            numbers, reasons = self._entries.find(case.name, self._identities[case.name])
            if numbers is not None:
                self.tests[case.name] = numbers
                continue
            sources.setdefault(case.iso, (dataset, []))[1].append(case)
            if reasons:
                anew.setdefault(tuple(reasons), []).append(case.name)
        self.missing = list(sources.values())
        if jax.process_index() == 0:
            for reasons, names in anew.items():
                store.say_anew(f"{label} fold {fold.fold.number}, {', '.join(names)}", reasons)

    def add(self, tests: Mapping[str, Numbers]) -> None:
        """Keeps the numbers of test cases."""
        self.tests |= tests
        self._entries.add(tests, self._identities)


def _identity(fold: TrainedFold, model: str, dataset: RawDataset, case: Case, seed: int) -> store.Identity:
    """Collects all that a test case's numbers depend on.

    The camera's figures are what pipelines start from, and what exposures are taken by; the model has its own numbers.
    """
    random = case.group in ("exposures", "corruptions")
    camera, processing = fold.dataset.camera, None
    if case.pipeline is not None:
        processing = [*case.pipeline.identity, processor_hash(case.pipeline(camera))]
    return store.identity(
        # Where the file of a pipeline is does not matter, but what it makes.
        {"case": case._replace(pipeline=None)._asdict(), "seed": seed if random else None},
        model=model,
        data=dataset.content_of(fold.fold.valid_indices),
        camera=dataclasses.asdict(camera) if case.group in ("pipelines", "exposures") else None,
        processing=processing,
    )


def _evaluate(
    evaluator: Evaluator, label: str, fold: TrainedFold, part: _Part, sources: Sequence[Source], stop: StopSignals
) -> None:
    """Evaluates what is missing of a fold, and keeps it."""
    interrupted = Interrupted(f"stopped in fold {fold.fold.number} of {label}; the same command goes on with that fold")
    total = sum(evaluator.count(fold, tested) for _, tested in sources)
    if not total:
        return
    with tqdm(
        total=total, desc=f"{label} fold {fold.fold.number}", unit="test", disable=jax.process_index() > 0
    ) as bar:

        def tick():
            bar.update()
            if stop.after_step():
                raise interrupted

        for dataset, tested in sources:
            if stop.after_epoch():
                raise interrupted
            part.add(evaluator.evaluate(fold, dataset, tested, tick))

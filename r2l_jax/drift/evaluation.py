"""Tests trained models under drift: every test case on the validation samples of every fold, from raw read once."""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from tqdm import tqdm

import tasks
from r2l_jax import compiler, report
from r2l_jax.data import loader
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.data.synthetic import INTENSITIES
from r2l_jax.drift import figures, summary, variants
from r2l_jax.drift.corruptions import SEVERITIES
from r2l_jax.drift.drifted import at_intensity
from r2l_jax.drift.summary import Numbers, RunResults
from r2l_jax.drift.variants import OWN, Variant
from r2l_jax.errors import InputError
from r2l_jax.files import write_csv, write_json
from r2l_jax.model import RawToLogit
from r2l_jax.processors import Unprocessed
from r2l_jax.steps import shardings, to_devices
from r2l_jax.stop import Interrupted, StopSignals
from r2l_jax.trained import TrainedFold, load_runs


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """An evaluation.

    Attributes are documented by the flags of scripts/evaluate.py.

    Raises:
        InputError: values that are not known or out of range.
    """

    run: tuple[str, ...]
    against: tuple[str, ...] = ("pipelines", "corruptions")
    pipelines: tuple[str, ...] = variants.PIPELINES
    intensities: tuple[float, ...] = INTENSITIES
    exposures: tuple[float, ...] = variants.EXPOSURES
    corruptions: tuple[str, ...] = variants.CHANGES
    severities: tuple[int, ...] = tuple(SEVERITIES)
    data_dir: str | None = None
    output: str | None = None
    pipeline: tuple[str, ...] = ()
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self):
        for group in self.against:
            if group not in variants.GROUPS:
                raise InputError(f"--against must be of {', '.join(variants.GROUPS)}, got {group!r}")
        for name in ("run", "against", *self.against, *(["severities"] if "corruptions" in self.against else [])):
            if not getattr(self, name):
                raise InputError(f"--{name} is empty")
        if self.batch_size <= 0:
            raise InputError(f"--batch_size must be positive, got {self.batch_size}")
        if self.seed < 0:
            raise InputError(f"--seed must not be negative, got {self.seed}")
        self.cases()

    def cases(self) -> list[Variant]:
        """The test cases, each once, and first of all the runs' own images."""
        known = {
            "pipelines": variants.pipelines(self.pipelines),
            "intensities": variants.intensities(self.intensities),
            "exposures": variants.exposures(self.exposures),
            "corruptions": variants.corruptions(self.corruptions, self.severities),
        }
        chosen = [case for group in variants.GROUPS if group in self.against for case in known[group]]
        return list(dict.fromkeys([OWN, *chosen]))

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
        What evaluation.json holds.

    Raises:
        InputError: folders that are no finished runs, or test cases that do not fit them.
        Interrupted: SIGINT or SIGTERM came; the same call goes on where this one stopped.
    """
    cases, output = config.cases(), config.output_dir
    runs = dict(zip(_labels(config.run), load_runs(config.run, config.data_dir, config.pipeline), strict=True))
    _check(config, runs)
    try:
        (output / "parts").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{output}: no folder to write to ({error.strerror})") from None
    folds = [(label, fold) for label, folds in runs.items() for fold in folds]
    code = report.environment()["git_commit"]
    parts = [_Part(output, label, fold, {"seed": config.seed, "git_commit": code}) for label, fold in folds]
    load_at = functools.cache(at_intensity)
    todo = [_by_raw(fold, part, cases, load_at) for (_, fold), part in zip(folds, parts, strict=True)]
    # All processes have read what is done before the first one adds to it.
    multihost_utils.sync_global_devices("evaluation planned")

    devices = jax.device_count()
    largest = max(len(fold.fold.valid_indices) for _, fold in folds)
    evaluator = Evaluator(-(-min(config.batch_size, largest) // devices) * devices, config.seed)
    with StopSignals() as stop:
        for (label, fold), part, sources in zip(folds, parts, todo, strict=True):
            _evaluate(evaluator, label, fold, part, sources, stop)

    results = {}
    for label, of_run in runs.items():
        trained = of_run[0].config
        own = tuple(case.name for case in cases if case.group != OWN.group and variants.is_own(case, trained))
        tests = {
            fold.fold.number: {case.name: part.tests[OWN.name if case.name in own else case.name] for case in cases}
            for (name, fold), part in zip(folds, parts, strict=True)
            if name == label
        }
        results[label] = RunResults(str(of_run[0].fold.folder.parent), trained.processing_mode, own, tests)
    objective, dataset = folds[0][1].objective, folds[0][1].dataset
    content = {
        "score": objective.score,
        "classes": list(objective.classes),
        "dataset": dataset.name,
        **summary.summarize(results, cases, objective.score),
        "flags": dataclasses.asdict(config),
        **report.environment(),
    }
    if jax.process_index() == 0:
        write_json(output / "evaluation.json", content)
        write_csv(output / "evaluation.csv", summary.csv_rows(content, objective.score))
        figures.write(output, summary.make_figures(content, objective.score))
        print(summary.make_table(content, objective.score))
        print(f"\nresults in {output}\ntensorboard --logdir '{output}'")
    return content


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
        variants.check(config.against, fold.config, fold.dataset, f"--run={uri}")
    if "pipelines" in config.against:
        variants.check_pipelines(config.cases(), first)


class _Part:
    """What is known of a fold: the numbers of test cases by name, in a file of the output folder.

    An earlier file counts if it was written for the same training, settings and code.
    """

    def __init__(self, output: pathlib.Path, label: str, fold: TrainedFold, settings: Mapping[str, object]):
        self._file = output / "parts" / f"{label.strip('/').replace('/', '_')}_fold_{fold.fold.number}.json"
        training = hashlib.sha256(fold.fold.metrics_file.read_bytes()).hexdigest()
        self._settings = {"training": training, **settings}
        self.tests: dict[str, Numbers] = {}
        try:
            earlier = json.loads(self._file.read_text())
            if earlier["settings"] == self._settings:
                self.tests = earlier["tests"]
        except (OSError, ValueError, LookupError, TypeError):
            pass  # It is not there, or not ours: its test cases are evaluated again.

    def add(self, tests: Mapping[str, Numbers]) -> None:
        self.tests |= tests
        if jax.process_index() == 0:
            write_json(self._file, {"settings": self._settings, "tests": self.tests})


Source = tuple[RawDataset, list[Variant]]


def _by_raw(fold: TrainedFold, part: _Part, cases: Sequence[Variant], load_at: Callable) -> list[Source]:
    """The test cases that are still to be evaluated, with the data set that each is made of."""
    sources: dict[float | None, Source] = {}
    for case in cases:
        own = case.group != OWN.group and variants.is_own(case, fold.config)
        if not own and case.name not in part.tests:
            if case.iso not in sources:
                own_data = fold.dataset
                dataset = own_data if case.iso is None else load_at(fold.config, case.iso, own_data.fingerprint)
                sources[case.iso] = dataset, []
            sources[case.iso][1].append(case)
    return list(sources.values())


def _evaluate(
    evaluator: "Evaluator", label: str, fold: TrainedFold, part: _Part, sources: Sequence[Source], stop: StopSignals
) -> None:
    """Evaluates what is missing of a fold, and keeps it."""
    interrupted = Interrupted(f"stopped in fold {fold.fold.number} of {label}; the same command goes on with that fold")
    total = sum(evaluator.count(fold, cases) for _, cases in sources)
    if not total:
        return
    with tqdm(
        total=total, desc=f"{label} fold {fold.fold.number}", unit="test", disable=jax.process_index() > 0
    ) as bar:

        def tick():
            bar.update()
            if stop.after_step():
                raise interrupted

        for dataset, cases in sources:
            if stop.after_epoch():
                raise interrupted
            part.add(evaluator.evaluate(fold, dataset, cases, tick))


class Evaluator:
    """Evaluates test cases, several of which share what is compiled and what is computed.

    One compiled function makes the images of all pipelines and processors, another takes images to the sums of loss and
    confusion, and each is compiled again only for another structure or shape: once for all folds of a run, and for runs
    of one head and data set.

    Args:
        batch_size: samples at once, a multiple of the devices.
        seed: of what is random in test cases.
    """

    def __init__(self, batch_size: int, seed: int = 0):
        self._batch_size = batch_size
        self._seed = seed
        self._sums_by_task = {}
        jit = functools.partial(jax.jit, compiler_options=compiler.options())
        images = functools.partial(jit, out_shardings=shardings().split)
        self._process = images(variants.process, static_argnums=0)
        self._expose = images(variants.expose, static_argnames="camera")
        self._corrupt = images(variants.corrupt, static_argnums=0)
        self._add = jit(_add, static_argnums=(0, 1), out_shardings=shardings().everywhere)

    def count(self, fold: TrainedFold, cases: Sequence[Variant]) -> int:
        """How many times `evaluate` calls its `tick`."""
        return len(cases) * -(-len(fold.fold.valid_indices) // self._batch_size)

    def evaluate(
        self,
        fold: TrainedFold,
        dataset: RawDataset,
        cases: Sequence[Variant],
        tick: Callable[[], None] = lambda: None,
    ) -> dict[str, Numbers]:
        """The numbers of a fold's model in test cases, on the validation samples.

        They do not depend on the size of batches, nor on what else is evaluated.

        Args:
            fold: the model and the samples' indices.
            dataset: what the mosaics are read from.
            cases: the test cases that are made of them.
            tick: called after each test case of each batch; what it raises ends the evaluation.

        Returns:
            Of each test case, by its name: `loss`, the score, `precision`, `recall`, `f1` by class, and `confusion`.
        """
        model, camera, objective = fold.model, fold.dataset.camera, fold.objective
        own = nnx.split(model.processor)
        head = nnx.split(RawToLogit(Unprocessed(), model.normalizer, model.head))
        # An objective's functions are made anew for each run, but are the same for one task and its classes.
        sums_of = self._sums_by_task.setdefault((fold.dataset.task, objective.classes), objective.sums)
        pipelines = {
            case.pipeline: nnx.split(variants.make_pipeline(case.pipeline, camera)) for case in cases if case.pipeline
        }
        keys = {case.name: variants.random_key(case, self._seed) for case in cases}
        zeros = {"loss": jnp.zeros(()), "confusion": jnp.zeros(2 * (len(objective.classes),))}
        sums = {case.name: jax.device_put(zeros, shardings().everywhere) for case in cases}

        previous = None
        for batch in loader.eval_batches(loader.Numbered.of(dataset), fold.fold.valid_indices, self._batch_size):
            target, index = batch["target"]
            batch = to_devices({**batch, "target": target, "index": index}, shardings().split)
            processed = None
            for case in cases:
                key = keys[case.name]
                if case.pipeline is not None:
                    images = self._process(*pipelines[case.pipeline], batch["raw"])
                elif case.exposure is not None:
                    raw = self._expose(batch["raw"], batch["index"], key, case.exposure, camera=camera)
                    images = self._process(*own, raw)
                else:
                    if processed is None:
                        processed = self._process(*own, batch["raw"])
                    images = processed
                    if case.corruption is not None:
                        images = self._corrupt(*case.corruption, images, batch["index"], key)
                added = self._add(head[0], sums_of, head[1], sums[case.name], images, batch)
                # The device works on one test case while the next is sent off, and no further ahead: images of all of
                # them would fill its memory.
                jax.block_until_ready(previous)
                previous = sums[case.name] = added
                tick()
        return {
            name: _numbers(total, objective.score, objective.score_of, objective.classes)
            for name, total in jax.device_get(sums).items()
        }


def _add(graph, sums_of, state, sums, images, batch):
    return jax.tree.map(jnp.add, sums, sums_of(nnx.merge(graph, state)(images), batch))


def _numbers(
    sums: Mapping[str, np.ndarray], score: str, score_of: Callable[[jax.Array], jax.Array], classes: Sequence[str]
) -> Numbers:
    confusion = sums["confusion"]
    return {
        "loss": float(sums["loss"] / confusion.sum()),
        score: float(score_of(confusion)),
        **{
            metric: dict(zip(classes, map(float, getattr(tasks.metrics, metric)(confusion)), strict=True))
            for metric in summary.PER_CLASS
        },
        "confusion": confusion.tolist(),
    }

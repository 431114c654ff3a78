"""Measures models on samples in cases: the outcome of each sample, the basis of every control's numbers.

Outcomes of the same samples, see `Task.outcome`, make all comparisons of models and cases paired.
"""

import contextlib
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from r2l_jax.cli import stop
from r2l_jax.cli.progress import Bar
from r2l_jax.cli.stop import Interrupted
from r2l_jax.config import FinishedRun
from r2l_jax.data import loader
from r2l_jax.data.loader import Batch
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.devices import compiler
from r2l_jax.devices.placement import OneAhead, each_on_devices, shardings, to_devices
from r2l_jax.drift import statistics
from r2l_jax.drift.acquisition import at_intensity
from r2l_jax.drift.cases import CLEAN, Case, camera_of
from r2l_jax.drift.renderer import Processor, Renderer, grouped
from r2l_jax.drift.trained_folds import folds_of, member_of
from r2l_jax.errors import InputError
from r2l_jax.model.processors import Unprocessed
from r2l_jax.model.raw_to_logit import Logits, RawToLogit, pipeline_of
from r2l_jax.model.scores import Score, recorded_score
from r2l_jax.model.tasks import Task
from r2l_jax.pipelines import NamedPipeline, metering_of
from r2l_jax.results.result import Arrays, points
from r2l_jax.training.model_io import Trained
from r2l_jax.training.run import Tested

# The most parameter values that are computed together; more fill a device's memory, and are no faster.
TOGETHER = 16

# The prefix of ensembles' names among the outcomes, where the prefix of folds' names is the member's folder.
ENSEMBLE = "ensemble"

# The prefix of the arrays of outcomes in a file.
_OUTCOME = "outcome/"


class Model(NamedTuple):
    """A trained model, with other values of its pipeline's parameters if there are `values`."""

    model: RawToLogit
    values: Mapping[str, ArrayLike] | None = None


class Samples(NamedTuple):
    """Labeled samples to measure on.

    Attributes:
        task: the task.
        dataset: the data set.
        indices: the samples.
        batch_size: samples at once, over all devices; results do not depend on it.
        seed: the seed of the cases' noise.
        load: loads the data set at another measured intensity, for cases that have one.
    """

    task: Task
    dataset: RawDataset
    indices: np.ndarray
    batch_size: int = 16
    seed: int = 0
    load: Callable[[float], RawDataset] | None = None

    @classmethod
    def of(cls, fold: Trained, batch_size: int = 16, seed: int = 0) -> "Samples":
        """Returns the samples that a trained model is measured on."""
        load = functools.partial(at_intensity, fold.config.data, fingerprint=fold.dataset.fingerprint)
        return cls(fold.task, fold.dataset, fold.measured_indices, batch_size, seed, load)

    def at(self, iso: float | None) -> RawDataset:
        """Returns the data set at another measured intensity."""
        if iso is None:
            return self.dataset
        assert self.load is not None
        return self.load(iso)

    @property
    def at_once(self) -> int:
        """The batch size: a multiple of the devices, and rounded for few samples, so that few sizes are compiled."""
        few = 2 ** (len(self.indices) - 1).bit_length()
        return jax.device_count() * -(-min(self.batch_size, few) // jax.device_count())

    @property
    def groups(self) -> np.ndarray | None:
        """The group of each sample, numbered in the data set; None if all are independent."""
        return None if self.dataset.groups is None else self.dataset.groups[self.indices]


class Outcomes(NamedTuple):
    """The outcomes of models (M) in cases (K) on samples (S).

    Attributes:
        models: the names of the models.
        cases: the names of the cases.
        samples: the samples' indices in the data set.
        arrays: all that the score needs of each sample, `(M, K, S, ...)` by name, see `Task.outcome`.
        loss: the task loss of all samples.
        scoring: the score.
        groups: the group of each sample, numbered in the data set; None if all samples are independent.
    """

    models: tuple[str, ...]
    cases: tuple[str, ...]
    samples: Int[np.ndarray, " S"]
    arrays: dict[str, np.ndarray]
    loss: Float[np.ndarray, "M K"]
    scoring: Score
    groups: Int[np.ndarray, " S"] | None = None

    def at(self, model: str, case: str = CLEAN.name) -> dict[str, np.ndarray]:
        """Returns the outcomes of a model in a case, `(S, ...)` by name."""
        place = self._place(model, case)
        return {name: array[place] for name, array in self.arrays.items()}

    def _place(self, model: str, case: str) -> tuple[int, int]:
        if model not in self.models or case not in self.cases:
            raise InputError(f"there are no outcomes of {model} in the case {case}: measure them again")
        return self.models.index(model), self.cases.index(case)

    def loss_of(self, model: str, case: str = CLEAN.name) -> float:
        """Returns the task loss of a model in a case."""
        return float(self.loss[self._place(model, case)])

    def score(
        self, model: str, case: str = CLEAN.name, taken: np.ndarray | None = None, scoring: Score | None = None
    ) -> float:
        """Computes the score of a model in a case, on all or some samples; by default, `scoring`."""
        weights = np.ones(len(self.samples)) if taken is None else taken.astype(np.float64)
        return float((scoring or self.scoring)(self.at(model, case), weights))

    def by_group(self, model: str, case: str = CLEAN.name) -> np.ndarray:
        """Computes a number for each group of samples whose mean is the score, see `statistics.by_group`."""
        return statistics.by_group(self.scoring, self.at(model, case), self.groups_or_samples)

    @property
    def groups_or_samples(self) -> np.ndarray:
        """The group of each sample, or the samples if all are independent."""
        return self.samples if self.groups is None else self.groups

    def of_models(self, names: Mapping[str, str]) -> "Outcomes":
        """Returns the outcomes of some models, given their names in these outcomes by their new names."""
        places = [self.models.index(name) for name in names.values()]
        arrays = {name: array[places] for name, array in self.arrays.items()}
        return self._replace(models=(*names,), arrays=arrays, loss=self.loss[places])

    def joined(self, other: "Outcomes") -> "Outcomes":
        """Adds other cases of the same models and samples."""
        arrays = {name: np.concatenate([array, other.arrays[name]], 1) for name, array in self.arrays.items()}
        return self._replace(
            cases=self.cases + other.cases, arrays=arrays, loss=np.concatenate([self.loss, other.loss], 1)
        )


def packed_blocks(blocks: Iterable[Outcomes]) -> Arrays:
    """Returns outcomes of several sets of samples as the arrays of one file."""
    arrays, about = {}, {}
    for number, block in enumerate(blocks):
        own = {"samples": block.samples, "loss": block.loss.astype(np.float64)}
        own |= {f"{_OUTCOME}{name}": array for name, array in block.arrays.items()}
        own |= {} if block.groups is None else {"groups": block.groups}
        arrays |= {f"{number}/{name}": array for name, array in own.items()}
        score = [block.scoring.name, *block.scoring.classes]
        about[f"{number}"] = json.dumps({"models": block.models, "cases": block.cases, "score": score})
    return Arrays(arrays, about)


def unpacked_blocks(packed: Arrays | None, scoring: Score | None = None) -> list[Outcomes]:
    """Reads the arrays of `packed_blocks`; raises an InputError for anything else.

    `scoring` is the task's score; only scores that r2l_jax defines can be read without it.
    """
    blocks, (arrays, about) = [], packed or Arrays({})
    try:
        for number in map(str, range(len(about))):
            named = json.loads(about[number])
            models, cases, (score, *classes) = (tuple(named[name]) for name in ("models", "cases", "score"))
            own = {name[len(number) + 1 :]: array for name, array in arrays.items() if name.startswith(f"{number}/")}
            samples, loss, groups = own["samples"], own["loss"], own.get("groups")
            found = {name[len(_OUTCOME) :]: array for name, array in own.items() if name.startswith(_OUTCOME)}
            shape = (len(models), len(cases), len(samples))
            if not found or any(array.shape[:3] != shape for array in found.values()) or loss.shape != shape[:2]:
                raise ValueError(f"{ {array.shape for array in found.values()} } outcomes of {shape}")
            if groups is not None and groups.shape != samples.shape:
                raise ValueError("groups do not fit the samples")
            known = scoring or recorded_score(score, classes)
            blocks.append(Outcomes(models, cases, samples, found, loss, known, groups))
    except (LookupError, TypeError, ValueError) as error:
        raise InputError(f"the outcomes of samples are damaged ({error}): measure them again") from None
    return blocks


def over_folds(
    folds: Sequence[tuple[str, Outcomes]], case: str = CLEAN.name, scoring: Score | None = None
) -> np.ndarray:
    """Computes a number for each group of a run's samples, given the names of its folds with their outcomes.

    Folds that measure the same samples, such as test samples, are averaged. A sample that only some folds measure, as
    random splits validate on it, counts once: each of its outcomes weighs as little as it has others.
    """
    first, each = folds[0][1], [outcomes.at(name, case) for name, outcomes in folds]
    score = scoring or first.scoring
    if all(np.array_equal(outcomes.samples, first.samples) for _, outcomes in folds):
        return np.mean([statistics.by_group(score, outcome, first.groups_or_samples) for outcome in each], 0)
    samples, groups = (
        np.concatenate([getattr(outcomes, name) for _, outcomes in folds]) for name in ("samples", "groups_or_samples")
    )
    _, places, times = np.unique(samples, return_inverse=True, return_counts=True)
    joined = {name: np.concatenate([outcome[name] for outcome in each]) for name in each[0]}
    return statistics.by_group(score, joined, groups, 1 / times[places])


def joined_samples(blocks: Iterable[Outcomes]) -> np.ndarray:
    """Returns the samples of several outcomes, sorted and each once."""
    return np.unique(np.concatenate([block.samples for block in blocks]))


def by_member(blocks: Iterable[Outcomes]) -> dict[str, list[tuple[str, Outcomes]]]:
    """Returns the names of the folds of each member of a group with their outcomes, by the member's name.

    A run alone has an empty name, and an ensemble the name `ENSEMBLE`.
    """
    found: dict[str, list[tuple[str, Outcomes]]] = {}
    for block in blocks:
        for name in block.models:
            found.setdefault(member_of(name), []).append((name, block))
    return found


def stated(found: Tested, state: str) -> str:
    """Returns the last line of a training, about its test samples; `state` says which checkpoint was measured."""
    value, low, high = map(points, (found.value, found.low, found.high))
    of = f"mean of {found.seeds} seeds, " if found.seeds > 1 else ""
    drawn = statistics.drawn(found.samples, found.groups, "test")
    title = f"test {found.name}:".ljust(22)
    return f"{title}{value} (95% confidence interval: {low} to {high}; {of}{drawn}, {state})"


def tested(uri: str, code: tuple[str, ...]) -> Tested | None:
    """Scores a run, or the members of a group, on its test samples.

    Returns None if there are fewer than two groups of test samples, or if folds or members have different ones.

    Raises:
        InputError: the folder holds no finished run with checkpoints.
    """
    folds = folds_of(FinishedRun(run=uri, code=code))
    samples = {tuple(trained.fold.split.test.tolist()) for trained in folds}
    fold = folds[0].fold
    groups = len(np.unique(fold.dataset.groups_of(fold.split.test)))
    if len(samples) > 1 or groups < 2:
        return None
    found = measure({trained.name: Model(trained.fold.model) for trained in folds}, [CLEAN], Samples.of(fold))
    outcomes = np.stack([over_folds(folds) for folds in by_member([found]).values()])
    about = "recipe" if len(outcomes) > 1 else "model"
    value, low, high = statistics.bounded(outcomes, about, found.scoring.bounds)
    return Tested(fold.task.score.name, value, low, high, len(fold.split.test), groups, len(outcomes))


def measure(
    models: Mapping[str, Model],
    cases: Sequence[Case],
    samples: Samples,
    *,
    ensemble: str | None = None,
    title: str = "",
) -> Outcomes:
    """Measures models in cases on the same samples; the numbers depend on no other model or case.

    Raw images are read once for all cases of one intensity, and drifted ones are drawn once for all models. Images
    of a pipeline that models share are rendered once. Consecutive models that differ only in `values` are processed
    together, at most `TOGETHER` at once. Functions are compiled once for all heads of one structure.

    Args:
        models: the models by name, of one task. Only models in cases without a pipeline may have values.
        cases: the cases.
        samples: the samples.
        ensemble: a name under which the mean of all models' probabilities is measured as well.
        title: the title of a progress bar; None shows no bar.

    Raises:
        Interrupted: a signal has asked to stop.
    """
    stacks, task = _stacks(models), samples.task
    names = [*models, *([ensemble] if ensemble else [])]
    size = samples.at_once
    renderer, functions = _renderer(samples.seed), _functions()
    counts = [len(stack.names) for stack in stacks] + [1] * bool(ensemble)
    found: dict[str, list] = {case.name: [] for case in cases}
    # The device works at most one case ahead, because the images of many cases would fill its memory.
    ahead = OneAhead()
    with ticking(title, len(cases) * -(-len(samples.indices) // size)) as tick:
        for iso, of_iso in grouped(cases, lambda case: case.iso):
            dataset = samples.at(iso)
            processors = _processors(stacks, of_iso, dataset)
            for batch in loader.eval_batches(dataset, samples.indices, size):
                batch = to_devices(batch, shardings().split)
                index = functions.gathered(batch["index"])
                for case, rendered in renderer.images(of_iso, batch["raw"], batch["index"], dataset.camera, processors):
                    of_stacks = rendered * (len(stacks) // len(rendered))
                    logits = [
                        functions.logits(*stack.head, each) for stack, each in zip(stacks, of_stacks, strict=True)
                    ]
                    if ensemble:
                        logits.append(functions.average(task, logits, batch["raw"]))
                    moved = renderer.targets(case.state_of(dataset.camera), batch["target"], dataset.shape[:2])
                    taken = {**batch, "target": moved}
                    parts = [
                        ahead.begun(functions.outcomes(task, each, taken, n))
                        for each, n in zip(logits, counts, strict=True)
                    ]
                    found[case.name].append((index, parts))
                    tick()
    whole = [_whole(samples.indices, jax.device_get(found[case.name])) for case in cases]
    arrays = jax.tree.map(lambda *of_cases: np.stack(of_cases, 1), *whole)
    equal = np.ones(len(samples.indices))
    losses = np.zeros((len(names), len(cases)))
    for place in np.ndindex(*losses.shape):
        losses[place] = task.mean_loss({name: array[place] for name, array in arrays.items()}, equal)
    del arrays["loss"]
    named = tuple(case.name for case in cases)
    return Outcomes((*names,), named, samples.indices, arrays, losses, task.score, samples.groups)


class _Stack(NamedTuple):
    """A model with the values of its processing's parameters under each of some names."""

    names: list[str]
    head: tuple[nnx.GraphDef, nnx.State]
    model: RawToLogit
    processor: Processor


def _stacks(models: Mapping[str, Model]) -> list[_Stack]:
    """Divides models into stacks of those that differ only in the values of their pipelines."""
    groups: list[list[str]] = []
    for name, each in models.items():
        last = models[groups[-1][-1]] if groups else None
        fits = last is not None and each.values is not None and last.values is not None and last.model is each.model
        if fits and len(groups[-1]) < TOGETHER:
            groups[-1].append(name)
        else:
            groups.append([name])
    stacks = []
    for names in groups:
        model, values = models[names[0]].model, [models[name].values for name in names]
        processors = [model.processor if each is None else pipeline_of(model).with_values(each) for each in values]
        graph, state = nnx.split(processors[0])
        if len(names) > 1:
            state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(nnx.state(each) for each in processors))
        head = nnx.split(model.processed_by(Unprocessed()))
        stacks.append(_Stack(names, head, model, Processor(graph, state, len(names))))
    return stacks


def _processors(
    stacks: Sequence[_Stack], cases: Sequence[Case], dataset: RawDataset
) -> dict[NamedPipeline | None, list[Processor]]:
    """Returns the processor of each pipeline, shared by all stacks or one for each; None is the model's pipeline."""
    found: dict[NamedPipeline | None, list[Processor]] = {None: [stack.processor for stack in stacks]}
    # Each model meters to its own target.
    sharing = stacks if metering_of(stacks[0].model.processor) else stacks[:1]
    for each in dict.fromkeys(case.pipeline for case in cases if case.pipeline is not None):
        metered = [each.metered_as(stack.model.processor) for stack in sharing]
        found[each] = [Processor.of(pipeline(camera_of(dataset))) for pipeline in metered]
    return found


class _Functions:
    """Functions that are compiled once for all calls."""

    def __init__(self):
        jit = functools.partial(jax.jit, compiler_options=compiler.options(), static_argnums=0)
        split, everywhere = shardings()
        self.logits = jit(_logits, out_shardings=split)
        self.average = jit(_average, out_shardings=split)
        self.outcomes = jit(_outcomes, static_argnums=(0, 3), out_shardings=everywhere)
        self.gathered = jax.jit(lambda index: index, out_shardings=everywhere)


@functools.lru_cache(maxsize=1)
def _functions() -> _Functions:
    return _Functions()


@functools.lru_cache(maxsize=1)
def _renderer(seed: int) -> Renderer:
    return Renderer(seed, shardings().split)


def _logits(graph: nnx.GraphDef, state: nnx.State, images: jax.Array) -> Logits:
    return nnx.merge(graph, state)(images)


def _average(task: Task, logits: Sequence[Logits], raw: jax.Array) -> jax.Array:
    """Computes the logits of the mean of several models' probabilities."""
    return task.logits_of(jnp.mean(jnp.stack([task.probabilities(each, raw.shape[1]) for each in logits]), 0))


def _outcomes(task: Task, logits: Logits, batch: Batch, count: int) -> dict[str, jax.Array]:
    """Computes the outcomes `(count, B, ...)` of a batch under `count` processings."""
    each = jax.tree.map(lambda leaf: leaf.reshape(-1, count, *leaf.shape[1:]), logits)
    return jax.vmap(lambda logits: task.outcome(logits, batch), in_axes=1)(each)


def _whole(
    samples: np.ndarray, batches: Sequence[tuple[np.ndarray, Sequence[dict[str, np.ndarray]]]]
) -> dict[str, np.ndarray]:
    """Joins the outcomes of batches `(M, S, ...)` in the order of the samples, without those that only pad a batch."""
    index = np.concatenate([index for index, _ in batches])
    joined = [jax.tree.map(lambda *stacks: np.concatenate(stacks), *parts) for _, parts in batches]
    # A sample that pads a batch comes again.
    _, first = np.unique(index, return_index=True)
    places = first[np.searchsorted(index[first], samples)]
    return jax.tree.map(lambda *parts: np.concatenate(parts, 1)[:, places], *joined)


def of_each_sample(function: Callable[[Batch], Any], samples: Samples, title: str) -> Any:
    """Computes numbers of each sample, batch by batch.

    Args:
        function: computes a tree of arrays `(B, ...)` from a batch; both are split over the devices.
        samples: the samples.
        title: the title of the progress bar.

    Returns:
        The tree with NumPy arrays `(S, ...)`.

    Raises:
        Interrupted: a signal has asked to stop.
    """
    size, found = samples.at_once, []

    def gathered(batch: Batch) -> tuple[Any, Any]:
        return _functions().gathered((function(batch), batch["weight"]))

    with ticking(title, -(-len(samples.indices) // size)) as tick:
        # One exchange among the devices at a time, since several would block each other on CPUs.
        for part in each_on_devices(gathered, loader.eval_batches(samples.dataset, samples.indices, size)):
            found.append(part)
            tick()
    every, weight = jax.tree.map(lambda *parts: np.concatenate(parts), *jax.device_get(found))
    return jax.tree.map(lambda leaf: leaf[weight > 0], every)


@contextlib.contextmanager
def ticking(title: str, total: int) -> Iterator[Callable[[], None]]:
    """Shows a progress bar, if it has a title, and yields the function that moves it and raises Interrupted."""
    with Bar(total=total, desc=title, unit="batch", disable=None if title else True) as bar:

        def tick() -> None:
            bar.update()
            if stop.requested():
                where = f" in {title}, which the same command begins again" if title else ""
                raise Interrupted(f"stopped{where}; what was finished before is kept")

        yield tick

"""Measures models on samples in cases: the outcome of each sample, the basis of every control's numbers.

An outcome is two numbers, see `Task.outcome`: 1 or 0 of 1 for classification, and for segmentation the intersection
and the union, as shares of the image. Outcomes of the same samples make all comparisons of models and cases paired.
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

import isp
from r2l_jax.config import FinishedRun
from r2l_jax.data import loader
from r2l_jax.data.loader import Batch
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.drift import statistics
from r2l_jax.drift.acquisition import at_intensity
from r2l_jax.drift.cases import CLEAN, Case, camera_of
from r2l_jax.drift.renderer import Processor, Renderer, Rendering, grouped
from r2l_jax.drift.trained_folds import folds_of, member_of
from r2l_jax.model.processors import Unprocessed
from r2l_jax.model.raw_to_logit import RawToLogit, pipeline_of
from r2l_jax.model.tasks import Task, confusions
from r2l_jax.pipelines import NamedPipeline, metering_of
from r2l_jax.runtime import compiler, stop
from r2l_jax.runtime.devices import OneAhead, shardings, to_devices
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.progress import Bar
from r2l_jax.runtime.result import Arrays, points
from r2l_jax.runtime.stop import Interrupted
from r2l_jax.training.artifact import Artifact

# The most parameter values that are computed together; more fill a device's memory, and are no faster.
TOGETHER = 16

# The prefix of ensembles' names among the outcomes, where the prefix of folds' names is the member's folder.
ENSEMBLE = "ensemble"


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
    def of(cls, fold: Artifact, batch_size: int = 16, seed: int = 0) -> "Samples":
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
        counted: the numerator of each outcome.
        total: its denominator.
        loss: the task loss of all samples.
        groups: the group of each sample, numbered in the data set; None if all samples are independent.
    """

    models: tuple[str, ...]
    cases: tuple[str, ...]
    samples: Int[np.ndarray, " S"]
    counted: Float[np.ndarray, "M K S"]
    total: Float[np.ndarray, "M K S"]
    loss: Float[np.ndarray, "M K"]
    groups: Int[np.ndarray, " S"] | None = None

    def at(self, model: str, case: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns the numerators and denominators of a model in a case, `(S,)` each."""
        place = self._place(model, case)
        return self.counted[place].astype(np.float64), self.total[place].astype(np.float64)

    def _place(self, model: str, case: str) -> tuple[int, int]:
        if model not in self.models or case not in self.cases:
            raise InputError(f"there are no outcomes of {model} in the case {case}: measure them again")
        return self.models.index(model), self.cases.index(case)

    def loss_of(self, model: str, case: str = CLEAN.name) -> float:
        """Returns the task loss of a model in a case."""
        return float(self.loss[self._place(model, case)])

    def score(self, model: str, case: str = CLEAN.name, taken: np.ndarray | None = None) -> float:
        """Computes the score of a model in a case, on all or some samples; 0 if the total is 0."""
        counted, total = (part if taken is None else part[taken] for part in self.at(model, case))
        return float(counted.sum() / total.sum()) if total.sum() else 0.0

    def of_samples(self) -> "Outcomes":
        """Returns outcomes whose score is the mean score of samples: 1 if no object is there or found."""
        scores = np.where(self.total == 0, 1.0, self.counted / np.where(self.total == 0, 1.0, self.total))
        return self._replace(counted=scores, total=np.ones_like(scores))

    def by_group(self, model: str, case: str = CLEAN.name) -> np.ndarray:
        """Computes a number for each group of samples whose mean is the score, see `statistics.by_group`."""
        return statistics.by_group(*self.at(model, case), self.groups_or_samples)

    @property
    def groups_or_samples(self) -> np.ndarray:
        """The group of each sample, or the samples if all are independent."""
        return self.samples if self.groups is None else self.groups

    def packed(self) -> Arrays:
        """Returns the outcomes as arrays for a file: as bits if each outcome is 1 or 0 of 1."""
        of_bits = bool((self.total == 1).all() and np.isin(self.counted, (0, 1)).all())
        arrays = {"samples": self.samples, "loss": self.loss.astype(np.float64)}
        if of_bits:
            arrays["bits"] = np.packbits(self.counted.astype(bool), axis=-1)
        else:
            arrays |= {"counted": self.counted.astype(np.float32), "total": self.total.astype(np.float32)}
        if self.groups is not None:
            arrays["groups"] = self.groups
        return Arrays(arrays, {"models": json.dumps(self.models), "cases": json.dumps(self.cases)})

    @classmethod
    def unpacked(cls, packed: Arrays | None) -> "Outcomes":
        """Reads the arrays of `packed`; raises an InputError for anything else."""
        try:
            arrays, about = packed or Arrays({})
            samples, loss, groups = arrays["samples"], arrays["loss"], arrays.get("groups")
            models, cases = (tuple(json.loads(about[name])) for name in ("models", "cases"))
            shape = (len(models), len(cases), len(samples))
            if "bits" in arrays:
                counted = np.unpackbits(arrays["bits"], axis=-1).astype(np.float32)[..., : len(samples)]
                total = np.ones_like(counted)
            else:
                counted, total = arrays["counted"], arrays["total"]
            if counted.shape != shape or total.shape != shape or loss.shape != shape[:2]:
                raise ValueError(f"{counted.shape} outcomes of {shape}")
            if groups is not None and groups.shape != samples.shape:
                raise ValueError("groups do not fit the samples")
        except (LookupError, TypeError, ValueError) as error:
            raise InputError(f"the outcomes of samples are damaged ({error}): measure them again") from None
        return cls(models, cases, samples, counted, total, loss, groups)

    def joined(self, other: "Outcomes") -> "Outcomes":
        """Adds other cases of the same models and samples."""
        counted, total, loss = (
            np.concatenate([getattr(each, name) for each in (self, other)], 1) for name in ("counted", "total", "loss")
        )
        return self._replace(cases=self.cases + other.cases, counted=counted, total=total, loss=loss)


def packed_blocks(blocks: Sequence[Outcomes]) -> Arrays:
    """Returns outcomes of several sets of samples as the arrays of one file."""
    each = [block.packed() for block in blocks]
    arrays, about = (
        {f"{number}/{name}": value for number, part in enumerate(parts) for name, value in part.items()}
        for parts in zip(*each, strict=True)
    )
    return Arrays(arrays, about)


def unpacked_blocks(packed: Arrays | None) -> list[Outcomes]:
    """Reads the arrays of `packed_blocks`; raises an InputError for anything else."""
    parts: list[dict[str, dict[str, Any]]] = [{}, {}]
    for part, named in zip(parts, packed or (), strict=False):
        for name, value in named.items():
            number, _, rest = name.partition("/")
            part.setdefault(number, {})[rest] = value
    arrays, about = parts
    numbers = sorted(arrays, key=lambda number: (len(number), number))
    return [Outcomes.unpacked(Arrays(arrays[number], about.get(number, {}))) for number in numbers]


def over_folds(folds: Sequence[tuple[str, Outcomes]], case: str = CLEAN.name) -> np.ndarray:
    """Computes a number for each group of a run's samples, given the names of its folds with their outcomes.

    Folds that measure the same samples, such as test samples, are averaged. The outcomes of a sample that only some
    folds measure, as random splits validate on it, are averaged over these folds.
    """
    first = folds[0][1]
    if all(np.array_equal(outcomes.samples, first.samples) for _, outcomes in folds):
        return np.mean([outcomes.by_group(name, case) for name, outcomes in folds], 0)
    samples, groups = joined_samples(outcomes for _, outcomes in folds)
    sums = np.zeros((3, len(samples)))
    for name, outcomes in folds:
        sums[:, np.searchsorted(samples, outcomes.samples)] += (
            *outcomes.at(name, case),
            np.ones(len(outcomes.samples)),
        )
    counted, total, times = sums
    return statistics.by_group(counted / times, total / times, groups)


def joined_samples(blocks: Iterable[Outcomes]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the samples of several outcomes, sorted and each once, and the group of each."""
    each = list(blocks)
    samples, first = np.unique(np.concatenate([block.samples for block in each]), return_index=True)
    return samples, np.concatenate([block.groups_or_samples for block in each])[first]


def by_member(blocks: Iterable[Outcomes]) -> dict[str, list[tuple[str, Outcomes]]]:
    """Returns the names of the folds of each member of a group with their outcomes, by the member's name.

    A run alone has an empty name, and an ensemble the name `ENSEMBLE`.
    """
    found: dict[str, list[tuple[str, Outcomes]]] = {}
    for block in blocks:
        for name in block.models:
            found.setdefault(member_of(name), []).append((name, block))
    return found


def tested(uri: str, code: tuple[str, ...]) -> str | None:
    """Scores a run, or the members of a group, on its test samples: a line with the 95% confidence interval.

    Returns None if there are fewer than two groups of test samples, or if folds or members have different ones.

    Raises:
        InputError: the folder holds no finished run with checkpoints.
    """
    folds = folds_of(FinishedRun(run=uri, code=code))
    samples = {tuple(trained.fold.test_indices.tolist()) for trained in folds}
    fold = folds[0].fold
    groups = len(np.unique(fold.dataset.groups_of(fold.test_indices)))
    if len(samples) > 1 or groups < 2:
        return None
    found = measure({trained.name: Model(trained.fold.model) for trained in folds}, [CLEAN], Samples.of(fold))
    outcomes = np.stack([over_folds(folds) for folds in by_member([found]).values()])
    several = len(outcomes) > 1
    score, low, high = map(points, statistics.bounded(outcomes, "recipe" if several else "model", 0.0))
    of = f"mean of {len(outcomes)} seeds, " if several else ""
    title = f"test {fold.task.score}:".ljust(22)
    drawn = statistics.drawn(len(fold.test_indices), groups, "test")
    return f"{title}{score} (95% confidence interval: {low} to {high}; {of}{drawn}, best checkpoint)"


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
    counts = [stack.stacked for stack in stacks] + [1] * bool(ensemble)
    found: dict[str, list] = {case.name: [] for case in cases}
    # The device works at most one case ahead, because the images of many cases would fill its memory.
    ahead = OneAhead()
    with ticking(title, len(cases) * -(-len(samples.indices) // size)) as tick:
        for iso, of_iso in grouped(cases, lambda case: case.iso):
            dataset = samples.at(iso)
            processors = _processors(stacks, of_iso, dataset)
            renderings = {Rendering.of(case): case.name for case in of_iso}
            for batch in loader.eval_batches(dataset, samples.indices, size):
                batch = to_devices(batch, shardings().split)
                index = functions.gathered(batch["index"])
                for rendering, rendered in _images(renderer, list(renderings), batch, dataset.camera, processors):
                    logits = [functions.logits(*stack.head, each) for stack, each in zip(stacks, rendered, strict=True)]
                    if ensemble:
                        logits.append(functions.average(task, logits, batch["raw"]))
                    taken = {**batch, "target": renderer.targets(rendering.acquisition, batch["target"])}
                    parts = [
                        ahead.begun(functions.outcomes(task, each, taken, n))
                        for each, n in zip(logits, counts, strict=True)
                    ]
                    found[renderings[rendering]].append((index, parts))
                    tick()
    whole = [_whole(task, samples.indices, jax.device_get(found[case.name])) for case in cases]
    kept = _places(stacks) + [sum(stack.stacked for stack in stacks)] * bool(ensemble)
    outcomes, losses = (np.stack(parts, 1)[kept] for parts in zip(*whole, strict=True))
    named = tuple(case.name for case in cases)
    counted, total = outcomes[:, :, 0], outcomes[:, :, 1]
    return Outcomes((*names,), named, samples.indices, counted, total, losses, samples.groups)


class _Stack(NamedTuple):
    """A model with `stacked` values of its processing's parameters, of which the last ones may only pad the stack."""

    names: list[str]
    model: RawToLogit
    head: tuple[nnx.GraphDef, nnx.State]
    processor: Processor
    stacked: int


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
        model = models[names[0]].model
        # Powers of two, so that functions are compiled for few sizes.
        count = 2 ** (len(names) - 1).bit_length()
        filled = [models[name].values for name in names + [names[-1]] * (count - len(names))]
        processors = [
            model.processor if values is None else pipeline_of(model).with_values(values) for values in filled
        ]
        graph, state = nnx.split(processors[0])
        if count > 1:
            state = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(nnx.state(each) for each in processors))
        head = nnx.split(model.processed_by(Unprocessed()))
        stacks.append(_Stack(names, model, head, Processor(graph, state, count), count))
    return stacks


def _places(stacks: Sequence[_Stack]) -> list[int]:
    """Returns the places of the models among the results of all stacks, without those that only pad stacks."""
    starts = np.cumsum([0, *(stack.stacked for stack in stacks)])
    return [
        int(start) + place for start, stack in zip(starts, stacks, strict=False) for place in range(len(stack.names))
    ]


class _Processors(NamedTuple):
    """The processor of each pipeline, shared by all stacks or one for each; None stands for the model's pipeline."""

    shared: dict[NamedPipeline | None, Processor]
    of_stacks: list[dict[NamedPipeline | None, Processor]]


def _processors(stacks: Sequence[_Stack], cases: Sequence[Case], dataset: RawDataset) -> _Processors:
    pipelines = dict.fromkeys(case.pipeline for case in cases if case.pipeline is not None)
    of_stacks: list[dict[NamedPipeline | None, Processor]] = [{None: stack.processor} for stack in stacks]
    if not metering_of(stacks[0].model.processor):
        return _Processors({each: Processor.of(each(camera_of(dataset))) for each in pipelines}, of_stacks)
    for stack, processors in zip(stacks, of_stacks, strict=True):
        for each in pipelines:
            # Each model meters to its own target.
            processors[each] = Processor.of(each.metered_as(stack.model.processor)(camera_of(dataset)))
    return _Processors({}, of_stacks)


def _images(
    renderer: Renderer,
    renderings: Sequence[Rendering],
    batch: Batch,
    camera: isp.Camera | None,
    processors: _Processors,
) -> Iterator[tuple[Rendering, Sequence[jax.Array]]]:
    """Yields the images of each rendering for every stack."""
    raw, index, count = batch["raw"], batch["index"], len(processors.of_stacks)
    by_stack = [rendering for rendering in renderings if rendering.processing.pipeline not in processors.shared]
    for acquisition, of_acquisition in grouped(by_stack, lambda rendering: rendering.acquisition):
        taken = renderer.mosaics(acquisition, raw, index, camera)
        steps = [rendering._replace(acquisition=CLEAN) for rendering in of_acquisition]
        rendered = [renderer.images(steps, taken, index, camera, of_stack) for of_stack in processors.of_stacks]
        for made in zip(*rendered, strict=True):
            yield made[0][0]._replace(acquisition=acquisition), [images for _, images in made]
    others = [rendering for rendering in renderings if rendering.processing.pipeline in processors.shared]
    for rendering, images in renderer.images(others, raw, index, camera, processors.shared):
        yield rendering, [images] * count


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


def _logits(graph: nnx.GraphDef, state: nnx.State, images: jax.Array) -> jax.Array:
    return nnx.merge(graph, state)(images)


def _average(task: Task, logits: Sequence[jax.Array], raw: jax.Array) -> jax.Array:
    """Computes the logits of the mean of several models' probabilities."""
    return task.logits_of(jnp.mean(jnp.stack([task.probabilities(each, raw.shape[1]) for each in logits]), 0))


def _outcomes(task: Task, logits: jax.Array, batch: Batch, count: int) -> tuple[jax.Array, jax.Array]:
    """Computes the outcomes `(count, 2, B)` of a batch under `count` processings, and the sums of their losses."""

    def of_one(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        outcome = jnp.stack(task.outcome(confusions(task, logits, batch)))
        return outcome, task.measure(logits, batch)["loss"]

    return jax.vmap(of_one, in_axes=1)(logits.reshape(-1, count, *logits.shape[1:]))


def _whole(
    task: Task, samples: np.ndarray, batches: Sequence[tuple[np.ndarray, Sequence[tuple[np.ndarray, np.ndarray]]]]
) -> tuple[np.ndarray, np.ndarray]:
    """Joins the outcomes of batches in the order of the samples, `(M, 2, S)`, and computes the losses `(M,)`."""
    index = np.concatenate([index for index, _ in batches])
    outcomes, losses = zip(*(map(np.concatenate, zip(*parts, strict=True)) for _, parts in batches), strict=True)
    order = np.argsort(samples)
    ordered = np.zeros((len(samples), *outcomes[0].shape[:2]), np.float32)
    # Samples that only pad the last batch have outcomes of 0 of 0.
    np.add.at(
        ordered, order[np.searchsorted(samples, index, sorter=order)], np.moveaxis(np.concatenate(outcomes, -1), -1, 0)
    )
    count = np.array(float(len(samples)))
    total = [task.totals({"loss": each, "confusion": count})["loss"] / count for each in np.sum(losses, 0)]
    return np.moveaxis(ordered, 0, -1), np.array(total, float)


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
    size = samples.at_once
    ahead, found = OneAhead(), []
    with ticking(title, -(-len(samples.indices) // size)) as tick:
        for batch in loader.eval_batches(samples.dataset, samples.indices, size):
            batch = to_devices(batch, shardings().split)
            # One exchange among the devices at a time, since several would block each other on CPUs.
            found.append(ahead.begun(_functions().gathered((function(batch), batch["weight"]))))
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
                raise Interrupted(f"stopped{f' in {title}' if title else ''}; the same command resumes there")

        yield tick

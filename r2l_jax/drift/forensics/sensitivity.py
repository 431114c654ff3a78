"""Sensitivity: the change of the task loss with each parameter of a pipeline, and with the image after each stage.

Numbers are changes of the loss to first order when values move by one per cent of their natural range: gradients in
natural ranges, which makes parameters and images comparable.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import isp
from isp.parameter import MOST_ELEMENTS
from r2l_jax.data import loader
from r2l_jax.data.loader import Batch
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.drift import results
from r2l_jax.drift.analysis import Analysis, FoldAnalysis
from r2l_jax.drift.figures import heat_map
from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.drift.search.measure import ticking
from r2l_jax.drift.search.ranges import Facts, moved
from r2l_jax.runtime import compiler
from r2l_jax.runtime.devices import OneAhead, shardings, to_devices
from r2l_jax.runtime.tables import table
from r2l_jax.training.artifact import Artifact

# The distance that values move, in natural ranges.
PER_CENT = 0.01

# The natural range of images: the range of the display, or of a mosaic up to the white level.
_IMAGES = results.NaturalRange(1.0, "1, the white level of a mosaic or all of the display's range: moves by 0.01")

UNIT = "change of the task loss, to first order, when values move by 1% of their natural range"
MOVES = {
    "worst": "each value moves in the direction that raises the sample's loss",
    "together": "all values move up",
}
CAUTION = "after clipped: overstated for dark pixels, where the tone curve is too steep for first order"


class Change(NamedTuple):
    """The changes of the loss of each sample when a parameter or an image moves by 1% of its natural range.

    Attributes:
        worst: the change when each value moves in the direction that raises the loss, `(N,)`.
        together: the change when all values move up, `(N,)`.
    """

    worst: jax.Array | np.ndarray
    together: jax.Array | np.ndarray


class Sensitivity(NamedTuple):
    """The sensitivity of samples.

    Attributes:
        loss: the task loss of each sample, `(N,)`.
        parameters: the change with each parameter of the pipeline, in the order of the stages.
        elements: the change when a single value moves up, `(N, ...)` in the parameter's shape; for each parameter of 2
            to `MOST_ELEMENTS` values, in the same order.
        stages: the change with the image after each stage, in order.
    """

    loss: jax.Array | np.ndarray
    parameters: dict[str, Change]
    elements: dict[str, jax.Array | np.ndarray]
    stages: dict[str, Change]


@dataclasses.dataclass(frozen=True)
class SensitivityAnalysis(FoldAnalysis):
    """Finds out how a model's task loss depends on parameters and on the images after stages.

    Parameters move in their natural ranges, see `isp.Parameter`. The range of an image is 1: up to the white level of a
    mosaic, or the range of the display. All values of an image count, also the empty sites of planes that are still to
    be interpolated. At black the tone curve is so steep that 1% of the range is far beyond first order: the change with
    dark images before the curve, after `clipped`, is overstated.

    Attributes:
        batch_size: samples at once. The numbers do not depend on it.
    """

    batch_size: int
    name = "sensitivity"
    needs_gradient = True

    def analyze(self, fold: Artifact, done: Mapping[str, Any]) -> Analysis:
        """Measures the sensitivity of a fold's model on its measured samples; nothing is kept if it is stopped.

        The content is a `results.Sensitivity`. Its table has a row for each sample.
        """
        frozen, dataset, indices = Frozen(fold.model, fold.task), fold.dataset, fold.measured_indices
        sensitivity = measure(frozen, dataset, indices, self.batch_size)
        groups, facts = fold.task.groups(dataset.labels[indices]), frozen.facts
        content = results.Sensitivity(
            unit=UNIT,
            moves=MOVES,
            caution=CAUTION,
            ranges={name: _stated(facts[name]) for name in sensitivity.parameters} | {"images": _IMAGES},
            overall=_means(facts, sensitivity, np.ones(len(indices), bool)),
            by_class={name: _means(facts, sensitivity, taken) for name, taken in groups.items() if taken.any()},
        )
        names = [dataset.names[index] for index in indices]
        tables = {"sensitivity": _rows(facts, sensitivity, names, groups)}
        return Analysis(results.plain(content), _table(content), _figures(content), tables)


def measure(frozen: Frozen, dataset: RawDataset, indices: np.ndarray, batch_size: int) -> Sensitivity:
    """Measures the sensitivity of each of some samples, with a progress bar on stderr; returns NumPy arrays.

    Raises:
        Interrupted: a signal has asked to stop.
    """
    devices = jax.device_count()
    batch_size = -(-min(batch_size, len(indices)) // devices) * devices
    placed, function = jax.device_put(frozen, shardings().everywhere), compiled()
    ahead, measured, taken = OneAhead(), [], []
    total = -(-len(indices) // batch_size)
    with ticking("sensitivity", total) as tick:
        for batch in loader.eval_batches(dataset, indices, batch_size):
            taken.append(batch["weight"] > 0)
            on_devices = to_devices(batch, shardings().split)
            measured.append(ahead.begun(function(placed, on_devices)))
            tick(1)
    taken = np.concatenate(taken)
    every = jax.tree.map(lambda *parts: np.concatenate(parts)[taken], *jax.device_get(measured))
    # JAX sorts the dicts of a tree by name; these are in the order of the stages.
    pipeline = frozen.pipeline(frozen.default)
    parameters = list(pipeline.parameters())
    return Sensitivity(
        every.loss,
        {name: every.parameters[name] for name in parameters},
        {name: every.elements[name] for name in parameters if name in every.elements},
        {name: every.stages[name] for name in pipeline.stage_names},
    )


@functools.cache
def compiled() -> Callable[[Frozen, Batch], Sensitivity]:
    """Compiles the sensitivity of each sample of a batch, once for all models of one structure.

    Each sample is a batch of its own, since the Dice loss of a batch takes all its pixels together. Batch norms use
    their running statistics, so that no sample depends on the others.
    """

    def of_sample(frozen, sample):
        batch, default = jax.tree.map(lambda leaf: leaf[None], sample), frozen.default

        def loss(offsets, perturbations):
            pipeline = frozen.pipeline(moved(frozen.facts, default, offsets))
            images, _ = pipeline.trace(batch["raw"], perturbations)
            return frozen.sums(images, batch)["loss"]

        _, images = jax.eval_shape(lambda: frozen.pipeline(default).trace(batch["raw"]))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (default, images))
        value, (parameters, stages) = jax.value_and_grad(loss, argnums=(0, 1))(*zeros)
        parameters, stages = jax.tree.map(lambda gradient: PER_CENT * gradient, (parameters, stages))
        return Sensitivity(
            value,
            {name: _change(each) for name, each in parameters.items()},
            {name: each for name, each in parameters.items() if 1 < each.size <= MOST_ELEMENTS},
            {name: _change(each) for name, each in stages.items()},
        )

    return jax.jit(
        jax.vmap(of_sample, (None, 0)),
        out_shardings=shardings().split,
        compiler_options=compiler.options(),
    )


def _change(each: jax.Array) -> Change:
    return Change(jnp.abs(each).sum(), each.sum())


def _stated(facts: isp.Parameter) -> results.NaturalRange:
    """Describes the natural range of a parameter."""
    if facts.scale == "log":
        return results.NaturalRange(None, f"the value itself: moves by a factor of {math.exp(PER_CENT):.4g}")
    width = facts.width or 0.0
    return results.NaturalRange(facts.width, f"{width:g}: moves by {PER_CENT * width:g}")


def _means(facts: Facts, sensitivity: Sensitivity, taken: np.ndarray) -> results.Changes:
    """Computes means over some of the samples."""

    def signed(values: jax.Array | np.ndarray) -> results.Mean:
        return results.Mean(float(values[taken].mean()), float(np.abs(np.asarray(values[taken])).mean()))

    def changes(named: Mapping[str, Change]) -> dict[str, results.Change]:
        return {
            name: results.Change(float(change.worst[taken].mean()), signed(change.together))
            for name, change in named.items()
        }

    return results.Changes(
        int(taken.sum()),
        float(sensitivity.loss[taken].mean()),
        changes(sensitivity.parameters),
        {name: signed(values) for name, values in _each_element(facts, sensitivity).items()},
        changes(sensitivity.stages),
    )


def _each_element(facts: Facts, sensitivity: Sensitivity) -> dict[str, np.ndarray]:
    """Returns the change of each sample with each single value, by the value's name."""
    return {
        name: values
        for parameter, of_all in sensitivity.elements.items()
        for name, values in zip(
            facts[parameter].element_names(parameter, of_all.shape[1:]), of_all.reshape(len(of_all), -1).T, strict=True
        )
    }


def _after(stages: Mapping[str, Any]) -> dict[str, Any]:
    """Names the images after stages for tables, where some stages have the name of a parameter."""
    return {f"after {name}": value for name, value in stages.items()}


def _rows(
    facts: Facts, sensitivity: Sensitivity, names: Sequence[str], groups: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
    """Returns a row for each sample."""
    columns: dict[str, Sequence[Any] | np.ndarray | jax.Array] = {"sample": names}
    if groups:
        columns["class"] = np.select(list(groups.values()), list(groups), default="").tolist()
    columns["loss"] = sensitivity.loss
    for name, change in {**sensitivity.parameters, **_after(sensitivity.stages)}.items():
        columns |= {f"{name} worst": change.worst, f"{name} together": change.together}
    columns |= _each_element(facts, sensitivity)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _table(content: results.Sensitivity) -> str:
    """Formats the means over all samples, and the worst change of each class."""
    overall, classes = content.overall, content.by_class
    rows = [["", "natural range", *MOVES, *classes]]
    for name, change in named(overall).items():
        width = content.ranges.get(name, _IMAGES).width
        moves = [digits(change.worst), digits(change.together.mean, "+")]
        of_classes = [digits(named(means)[name].worst) for means in classes.values()]
        rows.append([name, "its value" if width is None else f"{width:g}", *moves, *of_classes])
    legend = [
        UNIT,
        *(f"{name}: {meaning}" for name, meaning in MOVES.items()),
        f"means over {overall.samples} samples, whose mean loss is {overall.loss:.4f}"
        + ("; columns of classes: worst" if classes else ""),
        *([CAUTION] if "clipped" in overall.stages else []),
    ]
    return "\n".join([*legend, table(rows)])


def digits(value: float, sign: str = "") -> str:
    """Formats a number with three digits, without a point at the end of a whole number."""
    return f"{value:{sign}#.3g}".removesuffix(".")


def named(means: results.Changes) -> dict[str, results.Change]:
    """Returns the changes with parameters and with the images after stages, named for tables."""
    return {**means.parameters, **_after(means.stages)}


def _figures(content: results.Sensitivity) -> dict[str, Figure]:
    """Draws the worst changes of all samples and of each class."""
    groups = {"all": content.overall, **content.by_class}

    def figure(kind: Literal["parameters", "stages"], title: str) -> Figure:
        of_groups = [means.parameters if kind == "parameters" else _after(means.stages) for means in groups.values()]
        names = list(of_groups[0])
        return heat_map(
            np.array([[changes[name].worst for changes in of_groups] for name in names]),
            names,
            list(groups),
            title=title,
            label="rise of the task loss",
            number="#.2g",
            logarithmic=True,
        )

    return {
        "sensitivity_parameters": figure("parameters", "parameters moved by 1% of their range, the worst way"),
        "sensitivity_stages": figure("stages", "images moved by 1% of their range, the worst way"),
    }

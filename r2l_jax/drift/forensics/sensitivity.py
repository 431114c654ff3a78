"""Sensitivity: the change of the task loss with each parameter of a pipeline, and with the image after each stage.

Numbers are first-order changes of the loss when values move by one percent of their natural range: gradients in
natural ranges, which makes parameters and images comparable.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from isp.parameter import MOST_ELEMENTS
from r2l_jax.data.loader import Batch
from r2l_jax.devices import compiler
from r2l_jax.devices.placement import shardings
from r2l_jax.drift.measure import Samples, of_each_sample
from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.drift.search.ranges import Declarations, moved
from r2l_jax.results.heat_map import heat_map
from r2l_jax.results.result import Cell, Column, Figure, Result, Table
from r2l_jax.training.model_io import Trained

# The distance that values move, in natural ranges.
PER_CENT = 0.01

_LEGEND = (
    "change of the task loss, to first order, when values move by 1% of their natural range; worst: each value moves "
    "in the direction that raises the sample's loss; together: all values move up"
)
_CAUTION = "after clipped: overstated for dark pixels, where the tone curve is too steep for first order"

_DIGITS, _SIGNED = "#.3g", "+#.3g"


class Change(NamedTuple):
    """The changes of the loss of each sample `(N,)` when a parameter or an image moves by 1% of its natural range.

    In `worst`, each value moves in the direction that raises the loss; in `together`, all values move up.
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


def analyze(fold: Trained, batch_size: int) -> Result:
    """Measures how a model's task loss on its measured samples depends on parameters and on the images after stages.

    Parameters move in their natural ranges, see `isp.Parameter`. The range of an image is 1: up to the white level of a
    raw image, or the range of the display. All values of an image count, including the empty sites of color planes
    before interpolation. At black, the tone curve is so steep that 1% of the range is far beyond first order: the
    change with dark images before the curve, after `clipped`, is overstated.

    The numbers do not depend on the `batch_size`.
    """
    frozen, indices = Frozen(fold.model, fold.task), fold.measured_indices
    found = measure(frozen, Samples.of(fold, batch_size))
    classes = {name: taken for name, taken in fold.task.groups(fold.dataset.labels[indices]).items() if taken.any()}
    stages = {f"after {name}": change for name, change in found.stages.items()}
    widths = {name: "its value" if each.scale == "log" else each.width for name, each in frozen.declarations.items()}
    values = [
        [name, float(change.mean()), float(np.abs(change).mean())]
        for name, change in _each_element(frozen.declarations, found).items()
    ]
    columns = (Column("value"), Column("mean", format=_SIGNED), Column("mean of absolute values", format=_DIGITS))
    tables = {
        "parameters": _table("parameters", found.parameters, widths, classes)._replace(note=_LEGEND),
        "stages": _table("images", stages, dict.fromkeys(stages, 1.0), classes)._replace(
            note=_CAUTION if "clipped" in found.stages else ""
        ),
        "values": Table("change of the loss when single values move", columns, values),
    }
    figures = {"parameters": _figure(found.parameters, classes), "stages": _figure(stages, classes)}
    return Result({"notes": [f"the mean loss is {float(np.mean(found.loss)):.4f}"]}, tables, figures)


def measure(frozen: Frozen, samples: Samples) -> Sensitivity:
    """Measures the sensitivity of each of some samples, with a progress bar on stderr; returns NumPy arrays."""
    placed = jax.device_put(frozen, shardings().everywhere)
    every = of_each_sample(functools.partial(compiler.jit(of_samples), placed), samples, "sensitivity")
    # JAX sorts the dicts of a tree by name; these are in the order of the stages.
    pipeline = frozen.pipeline(frozen.default)
    parameters = list(pipeline.parameters())
    return Sensitivity(
        every.loss,
        {name: every.parameters[name] for name in parameters},
        {name: every.elements[name] for name in parameters if name in every.elements},
        {name: every.stages[name] for name in pipeline.stage_names},
    )


def of_samples(frozen: Frozen, batch: Batch) -> Sensitivity:
    """Computes the sensitivity of each sample of a batch.

    Each sample is a separate batch, since the Dice loss of a batch takes all its pixels together. Batch norms use
    their running statistics, so that no sample depends on the others.
    """
    return jax.vmap(_of_sample, (None, 0))(frozen, batch)


def _of_sample(frozen: Frozen, sample: Any) -> Sensitivity:
    batch, default = jax.tree.map(lambda leaf: leaf[None], sample), frozen.default
    batch["weight"] = jnp.ones(1)

    def loss(offsets, perturbations):
        pipeline = frozen.pipeline(moved(frozen.declarations, default, offsets))
        images, _ = pipeline.trace(batch["raw"], perturbations)
        return frozen.loss(images, batch)

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


def _change(each: jax.Array) -> Change:
    return Change(jnp.abs(each).sum(), each.sum())


def _each_element(declarations: Declarations, sensitivity: Sensitivity) -> dict[str, np.ndarray]:
    """Returns the change of each sample with each single value, by the value's name."""
    return {
        name: values
        for parameter, of_all in sensitivity.elements.items()
        for name, values in zip(
            declarations[parameter].element_names(parameter, of_all.shape[1:]),
            of_all.reshape(len(of_all), -1).T,
            strict=True,
        )
    }


def _table(
    kind: str, changes: Mapping[str, Change], widths: Mapping[str, Cell], classes: Mapping[str, np.ndarray]
) -> Table:
    """Makes a table of the mean changes over all samples, and of the mean worst changes over each class."""
    of_classes = [Column(f"worst, {name}", format=_DIGITS) for name in classes]
    columns = [Column(kind), Column("natural range"), Column("worst", format=_DIGITS)]
    rows = [
        [name, widths[name], *map(float, (change.worst.mean(), change.together.mean())), *_of_classes(change, classes)]
        for name, change in changes.items()
    ]
    return Table(f"sensitivity to {kind}", [*columns, Column("together", format=_SIGNED), *of_classes], rows)


def _of_classes(change: Change, classes: Mapping[str, np.ndarray]) -> list[float]:
    return [float(change.worst[taken].mean()) for taken in classes.values()]


def _figure(changes: Mapping[str, Change], classes: Mapping[str, np.ndarray]) -> Figure:
    """Draws the mean worst changes of all samples and of each class."""
    return heat_map(
        np.array([[change.worst.mean(), *_of_classes(change, classes)] for change in changes.values()]),
        list(changes),
        ["all", *classes],
        label="rise in task loss",
        number="#.2g",
        logarithmic=True,
        caption="moved by 1% of their range, in the worst direction",
    )

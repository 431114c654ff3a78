"""Images, probabilities and slopes of one pipeline as functions of the positions of its knobs.

All numbers are arguments of compiled functions, so that nothing is compiled again while sliders move, or for another
frame of the same size.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float32, UInt8

import isp
from r2l_jax.data.loader import Batch
from r2l_jax.devices import compiler
from r2l_jax.drift.search import ranges
from r2l_jax.drift.search.knobs import Knob, knobs_of, turned
from r2l_jax.drift.search.ranges import Direction
from r2l_jax.model.tasks import Task
from r2l_jax.results.contact_sheet import quantized
from r2l_jax.training.run import Run

# The farthest position of a knob to either side, in natural ranges; less where values would not be valid.
REACH = 1.0

# About how far a knob moves in a step of a search, in natural ranges.
STEP = 0.02

_ADAM = optax.adam(STEP)

Positions = Float32[np.ndarray, " knobs"]
Mosaic = Float32[np.ndarray | Array, "rows cols"]

# The images after each stage, by name and in order, in display values from 0 to 255; a raw image is gray.
Images = dict[str, UInt8[np.ndarray, "..."]]

# The state of a pipeline, or of a `RawToLogit` around it; and for each parameter, the offsets `(knobs, ...)` of its
# values with each knob at position 1.
_Numbers = tuple[nnx.State, Mapping[str, np.ndarray | Array]]


class Judgement(NamedTuple):
    """A model's prediction for a processed raw image.

    Attributes:
        probabilities: of each class `(C,)`, or of the object or each class at each site, `(H, W)` or `(H, W, C)`.
        found: the most probable class `()`, or the mask `(H, W)`.
        loss: the task loss for the target.
        slope: the derivative of the loss with respect to each knob's position. Where a value is clipped to a limit, it
            ignores the clipping, so that it still shows which way the loss rises.
    """

    probabilities: Float32[np.ndarray, "..."]
    found: np.ndarray
    loss: float
    slope: Positions


class Engine:
    """Computes one pipeline's images, and a model's predictions for them, at positions of the pipeline's knobs.

    Positions are an array in the order of `knobs`, in natural ranges from the default, see `knobs_of`. Without a model,
    there are images only.

    Attributes:
        knobs: the knobs of the pipeline, by name.
        fixed: the parameters that no knob moves, by name, with the number of values of each.
        start: the positions of the default: zeros.
        limits: the least and the greatest position of each knob: `REACH`, or less where values are not valid.

    Raises:
        InputError: a parameter has no natural range.
    """

    def __init__(self, pipeline: isp.Pipeline, model: Run | None = None):
        self.pipeline = pipeline
        # In the order of the stages; as a pytree, it would be sorted by name.
        self._default = {name: np.asarray(value) for name, value in pipeline.parameters().items()}
        ranges.check(pipeline.declarations, self._default)
        self.knobs = knobs_of(pipeline.declarations, self._default)
        knobs = list(self.knobs.values())
        moved = {knob.parameter for knob in knobs}
        self.fixed = {name: value.size for name, value in self._default.items() if name not in moved}
        self.start: Positions = np.zeros(len(knobs), np.float32)
        ends = np.array([(knob.low, knob.high) for knob in knobs], np.float32).reshape(-1, 2)
        self.limits: tuple[Positions, Positions] = tuple(ends.clip(-REACH, REACH).T)
        whole = pipeline if model is None else model.model.processed_by(pipeline)
        self._task = None if model is None else model.task
        self._graph, state = nnx.split(whole)
        # Committed to one device: if only some arrays were, such as a checkpoint's, functions would be compiled again.
        self._numbers = jax.device_put((state, _directions(knobs, self._default)), jax.local_devices()[0])

    def values(self, positions: Positions) -> dict[str, np.ndarray]:
        """Computes the values of all parameters, clipped to valid ones."""
        placed = zip(self.knobs.values(), map(float, positions), strict=True)
        return turned(self.pipeline.declarations, self._default, placed)

    def images(self, positions: Positions, raw: Mosaic) -> Images:
        """Computes the images of a raw image `(H, W)` after each stage."""
        found = jax.device_get(compiler.jit(_images, 0)(self._graph, self._numbers, positions, raw))
        return dict(zip(self.pipeline.stage_names, found, strict=True))

    def target(self, raw: Mosaic) -> np.ndarray:
        """Returns the model's prediction at the default: a class `()`, or a mask `(H, W)`.

        It stands in for an unknown target.
        """
        assert self._task is not None
        any_target = np.zeros(raw.shape, np.uint8) if self._task.has_masks else np.zeros((), np.int32)
        return self.judge(self.start, raw, any_target).found

    def judge(self, positions: Positions, raw: Mosaic, target: np.ndarray) -> Judgement:
        """Computes the model's prediction for a raw image `(H, W)`, and the slope of its loss for a target."""
        assert self._task is not None
        structure = self._graph, self._task
        (loss, probabilities), slope = compiler.jit(_loss_and_slope, 0)(
            structure, self._numbers, positions, raw, target
        )
        probabilities = np.asarray(probabilities)
        found = self._task.found(self._task.stated(probabilities))
        return Judgement(probabilities, found, float(loss), np.asarray(slope))


class Search:
    """Moves positions along the slope of the loss with Adam steps of about `STEP` natural ranges.

    The direction "worst" raises the loss, "best" lowers it. Positions stay within the limits of the engine's knobs.
    """

    def __init__(self, engine: Engine, direction: Direction):
        self.direction, self.steps = direction, 0
        self._limits, self._sign = engine.limits, np.float32(1 if direction == "best" else -1)
        self._state = _ADAM.init(jnp.asarray(engine.start))

    def step(self, positions: Positions, slope: Positions) -> Positions:
        """Returns the next positions, from the present ones and the derivative of the loss there."""
        self.steps += 1
        updates, self._state = _ADAM.update(jnp.asarray(self._sign * slope), self._state)
        return np.clip(positions + np.asarray(updates), *self._limits)


def _directions(knobs: Sequence[Knob], default: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the directions of knobs by parameter; parameters that no knob moves are left out."""
    directions = {knob.parameter: np.zeros((len(knobs), *default[knob.parameter].shape), np.float32) for knob in knobs}
    for number, knob in enumerate(knobs):
        directions[knob.parameter][number] = knob.direction
    return directions


def _moved(whole: Any, directions: Mapping[str, np.ndarray | Array], positions: Array) -> isp.Pipeline:
    """Returns the pipeline with its knobs at positions. `whole` is the pipeline, or the `RawToLogit` around it."""
    pipeline: isp.Pipeline = getattr(whole, "processor", whole)
    declarations, default = pipeline.declarations, pipeline.parameters()
    offsets = {name: jnp.tensordot(positions, each, 1) for name, each in directions.items()}
    valid = ranges.valid_offsets(declarations, default, offsets)
    # The derivative ignores the clipping of offsets.
    clipped = {name: offset + jax.lax.stop_gradient(valid[name] - offset) for name, offset in offsets.items()}
    return pipeline.with_values(ranges.values_at(declarations, default, clipped))


def _images(graph: nnx.GraphDef, numbers: _Numbers, positions: Array, raw: Array) -> list[Array]:
    state, directions = numbers
    pipeline = _moved(nnx.merge(graph, state), directions, positions)
    _, stages = pipeline.trace(raw)
    # A list, because jit would sort a dict by name.
    return [quantized(stages[name], np.uint8) for name in pipeline.stage_names]


def _loss(
    structure: tuple[nnx.GraphDef, Task], numbers: _Numbers, positions: Array, raw: Array, target: Array
) -> tuple[Array, Array]:
    """Computes the loss and the probabilities."""
    (graph, task), (state, directions) = structure, numbers
    model = nnx.merge(graph, state)
    model.processor = _moved(model, directions, positions)
    logits = model(raw[None])
    batch: Batch = {
        "raw": raw[None],
        "target": target[None],
        "index": jnp.zeros(1, jnp.int32),
        "weight": jnp.ones(1),
    }
    return task.loss(logits, batch), task.probabilities(logits, raw.shape[0])[0]


_loss_and_slope = jax.value_and_grad(_loss, argnums=2, has_aux=True)

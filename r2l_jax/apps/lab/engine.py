"""Images, probabilities and slopes of one pipeline as functions of the positions of its knobs.

All numbers are arguments of compiled functions, so that nothing is compiled again while sliders move, and visitors with
equal pipelines share compiled functions.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float32, UInt8

import isp
from r2l_jax.data.loader import Batch
from r2l_jax.drift.search import ranges
from r2l_jax.drift.search.descent import Direction
from r2l_jax.drift.search.knobs import Knob, knobs_of, turned
from r2l_jax.model.raw_to_logit import RawToLogit
from r2l_jax.model.tasks import Task
from r2l_jax.runtime import compiler
from r2l_jax.runtime.contact_sheet import quantized
from r2l_jax.training.run import Run

# The values outside [0, 1] at the input of this stage count as clipped.
_CLIPPING = "clipped"

# The farthest position of a knob to either side, in natural ranges; less where values would not be valid.
REACH = 1.0

# About how far a knob moves in a step of a search, in natural ranges.
STEP = 0.02

Positions = Float32[np.ndarray, " knobs"]
Mosaic = Float32[np.ndarray | Array, "rows cols"]


class Picture(NamedTuple):
    """A processed mosaic.

    Attributes:
        image: the processed image, in display values from 0 to 255.
        stages: the images after each stage, by name and in order; a mosaic is gray.
        below: the pixels in which a channel falls below black, before values are clipped.
        above: the pixels in which a channel exceeds white, before values are clipped.
    """

    image: UInt8[np.ndarray, "height width 3"]
    stages: dict[str, UInt8[np.ndarray, "..."]]
    below: Bool[np.ndarray, "height width"]
    above: Bool[np.ndarray, "height width"]


class Judgement(NamedTuple):
    """A model's view of a processed mosaic.

    Attributes:
        probabilities: of each class `(C,)`, or of the object at each site `(H, W)`.
        loss: the task loss for the target.
    """

    probabilities: Float32[np.ndarray, "..."]
    loss: float


class _Structure(NamedTuple):
    """The static part of a computation: the graph of a `RawToLogit`, or of a pipeline if no model judges its images."""

    graph: nnx.GraphDef
    task: Task | None


class _Numbers(NamedTuple):
    """The numbers of a computation.

    Attributes:
        state: the variables of the graph; its pipeline has the values of position 0.
        directions: by parameter, the offsets of its values at position 1 of each knob `(knobs, ...)`.
    """

    state: nnx.State
    directions: Mapping[str, np.ndarray | Array]


class Engine:
    """Computes one pipeline's images, and a model's view of them, at positions of the pipeline's knobs.

    Positions are an array in the order of `knobs`, in natural ranges from the default, see `knobs_of`.

    Args:
        pipeline: the pipeline; its values are the default.
        model: the model whose normalization and head see the images; None for images only.

    Attributes:
        knobs: the knobs of the pipeline, by name.
        fixed: the number of values of each parameter that no knob moves, by name.
        start: the positions of the default: zeros.
        limits: the least and the greatest position of each knob: `REACH`, or less where values are not valid.

    Raises:
        InputError: a parameter has no natural range.
    """

    def __init__(self, pipeline: isp.Pipeline, model: Run | None = None):
        self.pipeline = pipeline
        # In the order of the stages; a tree of JAX is sorted by name.
        self._default = {name: np.asarray(value) for name, value in pipeline.parameters().items()}
        ranges.check(pipeline.facts, self._default)
        self.knobs = knobs_of(pipeline.facts, self._default)
        knobs = list(self.knobs.values())
        moved = {knob.parameter for knob in knobs}
        self.fixed = {name: value.size for name, value in self._default.items() if name not in moved}
        self.start: Positions = np.zeros(len(knobs), np.float32)
        ends = np.array([(knob.low, knob.high) for knob in knobs], np.float32).reshape(-1, 2)
        self.limits: tuple[Positions, Positions] = tuple(ends.clip(-REACH, REACH).T)
        whole = pipeline
        if model is not None:
            whole = RawToLogit(pipeline, model.model.normalizer, model.model.head)
        graph, state = nnx.split(whole)
        self._structure = _Structure(graph, None if model is None else model.task)
        # Placed on a named device: if only some arrays were, such as a checkpoint's, functions would be compiled anew.
        self._numbers = jax.device_put(_Numbers(state, _directions(knobs, self._default)), jax.local_devices()[0])

    def values(self, positions: Positions) -> dict[str, np.ndarray]:
        """Computes the values of all parameters, clipped to valid ones."""
        placed = zip(self.knobs.values(), map(float, positions), strict=True)
        return turned(self.pipeline.facts, self._default, placed)

    def draft(self, positions: Positions, raw: Mosaic) -> UInt8[np.ndarray, "_ _ 3"]:
        """Computes the processed image of a mosaic `(H, W)` alone, in display values from 0 to 255."""
        return np.asarray(_jit(_draft)(self._structure, self._numbers, positions, raw))

    def picture(self, positions: Positions, raw: Mosaic) -> Picture:
        """Computes the processed image of a mosaic `(H, W)`, the images after each stage, and the clipped pixels."""
        stages, below, above = jax.device_get(_jit(_picture)(self._structure, self._numbers, positions, raw))
        named = dict(zip(self.pipeline.stage_names, stages, strict=True))
        return Picture(stages[-1], named, below, above)

    def target(self, raw: Mosaic) -> np.ndarray:
        """Returns the model's own answer at the default: a class `()`, or a mask `(H, W)`.

        It stands in for the target of a mosaic whose target is unknown.
        """
        assert self._structure.task is not None
        segments = self._structure.task.name == "segmentation"
        any_target = np.zeros(raw.shape, np.uint8) if segments else np.zeros((), np.int32)
        found = self.judge(self.start, raw, any_target).probabilities
        return (found > 0.5).astype(np.uint8) if segments else np.asarray(found.argmax(), np.int32)

    def judge(self, positions: Positions, raw: Mosaic, target: np.ndarray) -> Judgement:
        """Computes the model's view of a mosaic `(H, W)` with a target."""
        loss, probabilities = _jit(_judge)(self._structure, self._numbers, positions, raw, target)
        return Judgement(np.asarray(probabilities), float(loss))

    def slope(self, positions: Positions, raw: Mosaic, target: np.ndarray) -> tuple[Judgement, Positions]:
        """Computes the model's view, and the derivative of the loss with respect to each knob's position.

        Where a value is clipped to a limit, the derivative ignores the clipping, so that it still tells which way the
        loss rises.
        """
        (loss, probabilities), slope = _jit(_slope)(self._structure, self._numbers, positions, raw, target)
        return Judgement(np.asarray(probabilities), float(loss)), np.asarray(slope)


class Search:
    """Moves positions along the slope of the loss by steps of Adam, each about `STEP` natural ranges.

    Args:
        engine: the engine, whose knobs' limits apply.
        direction: "worst" raises the loss, "best" lowers it.

    Attributes:
        direction: as above.
        steps: the number of steps taken.
    """

    def __init__(self, engine: Engine, direction: Direction):
        self.direction, self.steps = direction, 0
        self._limits, self._sign = engine.limits, np.float32(1 if direction == "best" else -1)
        self._state = _ADAM.init(jnp.asarray(engine.start))

    def step(self, positions: Positions, slope: Positions) -> Positions:
        """Returns the next positions, from the present ones and the derivative of the loss there."""
        self.steps += 1
        moved, self._state = _adam_step(positions, self._sign * slope, self._state)
        return np.clip(np.asarray(moved), *self._limits)


_ADAM = optax.adam(STEP)


@jax.jit
def _adam_step(positions: Array, slope: Array, state: optax.OptState) -> tuple[Array, optax.OptState]:
    updates, state = _ADAM.update(slope, state)
    return cast(Array, optax.apply_updates(positions, updates)), state


def _directions(knobs: Sequence[Knob], default: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the directions of knobs by parameter; parameters that no knob moves are left out."""
    directions = {knob.parameter: np.zeros((len(knobs), *default[knob.parameter].shape), np.float32) for knob in knobs}
    for number, knob in enumerate(knobs):
        directions[knob.parameter][number] = knob.direction
    return directions


@functools.cache
def _jit(function: Callable) -> Callable:
    # Made at the first use: the compiler is not asked for its options when this module is imported.
    return jax.jit(function, static_argnums=0, compiler_options=compiler.options())


def _moved(pipeline: isp.Pipeline, directions: Mapping[str, np.ndarray | Array], positions: Array) -> isp.Pipeline:
    """Returns a pipeline with its knobs at positions."""
    facts, default = pipeline.facts, pipeline.parameters()
    offsets = {name: jnp.tensordot(positions, each, 1) for name, each in directions.items()}
    valid = ranges.valid_offsets(facts, default, offsets)
    # The derivative ignores the clipping of offsets.
    clipped = {name: offset + jax.lax.stop_gradient(valid[name] - offset) for name, offset in offsets.items()}
    return pipeline.with_values(ranges.values_at(facts, default, clipped))


def _pipeline_at(structure: _Structure, numbers: _Numbers, positions: Array) -> isp.Pipeline:
    whole = nnx.merge(structure.graph, numbers.state)
    return _moved(whole if structure.task is None else whole.processor, numbers.directions, positions)


def _draft(structure: _Structure, numbers: _Numbers, positions: Array, raw: Array) -> Array:
    return quantized(_pipeline_at(structure, numbers, positions)(raw), np.uint8)


def _picture(
    structure: _Structure, numbers: _Numbers, positions: Array, raw: Array
) -> tuple[list[Array], Array, Array]:
    pipeline = _pipeline_at(structure, numbers, positions)
    _, stages = pipeline.trace(raw)
    # A list, since a compiled function sorts a dict by its names.
    images = [stages[name] for name in pipeline.stage_names]
    names = [*pipeline.stage_names, _CLIPPING]
    before = [raw, *images][names.index(_CLIPPING)]
    below, above = (beyond.reshape(*beyond.shape[:2], -1).any(-1) for beyond in (before < 0, before > 1))
    return [quantized(image, np.uint8) for image in images], below, above


def _judge(
    structure: _Structure, numbers: _Numbers, positions: Array, raw: Array, target: Array
) -> tuple[Array, Array]:
    """Computes the loss and the probabilities."""
    assert structure.task is not None
    model = nnx.merge(structure.graph, numbers.state)
    model.processor = _moved(model.processor, numbers.directions, positions)
    logits = model(raw[None])
    batch: Batch = {
        "raw": raw[None],
        "target": target[None],
        "index": jnp.zeros(1, jnp.int32),
        "weight": jnp.ones(1),
    }
    return structure.task.sums(logits, batch)["loss"], structure.task.probabilities(logits, raw.shape[0])[0]


_slope = jax.value_and_grad(_judge, argnums=2, has_aux=True)

"""Images, probabilities and slopes of one pipeline as functions of the positions of its knobs.

All numbers are arguments of compiled functions, so that nothing is compiled again while sliders move, and visitors with
equal pipelines share compiled functions.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Float32, UInt8

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

PyTree = Any

# The values outside [0, 1] at the input of this stage count as clipped.
_CLIPPING = "clipped"

# Knobs move so far to both sides of the default, in natural ranges, or less where values would not be valid.
REACH = 1.0

# About how far a knob moves in a step of a search, in natural ranges.
STEP = 0.02

Positions = Float32[np.ndarray, " knobs"]
Values = np.ndarray | jax.Array
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


class _Recipe(NamedTuple):
    """All that a compiled function depends on besides numbers.

    Attributes:
        stages: the pipeline's stages, without values.
        graph: the structure of normalizer and head; None without a model.
        task: the model's task; None without a model.
    """

    stages: tuple[isp.Stage, ...]
    graph: nnx.GraphDef | None
    task: Task | None

    @property
    def facts(self) -> ranges.Facts:
        """The declarations of all parameters."""
        return {name: facts for stage in self.stages for name, facts in stage.parameters.items()}


class _Numbers(NamedTuple):
    """The numbers of a pipeline and a model.

    Attributes:
        default: the values of the parameters at position 0.
        directions: by parameter, the offsets of its values at position 1 of each knob `(knobs, ...)`.
        head: the variables of normalizer and head.
    """

    default: Mapping[str, Values]
    directions: Mapping[str, Values]
    head: PyTree


class Engine:
    """Computes one pipeline's images, and a model's view of them, at positions of the pipeline's knobs.

    Positions are an array in the order of `knobs`, in natural ranges from the default, see `knobs_of`.

    Args:
        pipeline: the pipeline; its values are the default.
        model: the model whose normalization and head see the images; None for images alone.

    Attributes:
        knobs: the knobs of the pipeline, by name.
        stage_of: the name of the stage of each knob, by the knob's name.
        fixed: the number of values of each parameter that no knob moves, by name.

    Raises:
        InputError: a parameter has no natural range.
    """

    def __init__(self, pipeline: isp.Pipeline, model: Run | None = None):
        self.pipeline, self.model = pipeline, model
        # In the order of the stages; a tree of JAX is sorted by name.
        default = {name: np.asarray(value) for name, value in pipeline.parameters().items()}
        ranges.check(pipeline.facts, default)
        self.knobs = knobs_of(pipeline.facts, default)
        stages = {name: stage.name for stage in pipeline.stages for name in stage.parameters}
        self.stage_of = {name: stages[knob.parameter] for name, knob in self.knobs.items()}
        moved = {knob.parameter for knob in self.knobs.values()}
        self.fixed = {name: int(value.size) for name, value in default.items() if name not in moved}
        graph = task = head = None
        if model is not None:
            graph, head = nnx.split((model.model.normalizer, model.model.head))
            task = model.task
        self._default, self._recipe = default, _Recipe(pipeline.stages, graph, task)
        self._numbers = jax.device_put(_Numbers(default, _directions(list(self.knobs.values()), default), head))

    @property
    def start(self) -> Positions:
        """The positions of the default: zeros."""
        return np.zeros(len(self.knobs), np.float32)

    def values(self, positions: Positions) -> dict[str, np.ndarray]:
        """Computes the values of all parameters, clipped to valid ones."""
        placed = zip(self.knobs.values(), map(float, positions), strict=True)
        return turned(self.pipeline.facts, self._default, placed)

    def processes(self, height: int, width: int) -> bool:
        """Tells whether the pipeline takes mosaics of a size, which an additive layer or a user's stage may not."""
        mosaic = jax.ShapeDtypeStruct((height, width), np.float32)
        try:
            jax.eval_shape(self.pipeline, mosaic)
        except Exception:  # A user's stages may raise anything.
            return False
        return True

    def draft(self, positions: Positions, raw: Mosaic) -> UInt8[np.ndarray, "_ _ 3"]:
        """Computes the processed image of a mosaic `(H, W)` alone, in display values from 0 to 255."""
        return np.asarray(_jit(_draft)(self._recipe, self._numbers, positions, raw))

    def picture(self, positions: Positions, raw: Mosaic) -> Picture:
        """Computes the processed image of a mosaic `(H, W)`, the images after each stage, and the clipped pixels."""
        stages, below, above = jax.device_get(_jit(_picture)(self._recipe, self._numbers, positions, raw))
        named = dict(zip(self.pipeline.stage_names, stages, strict=True))
        return Picture(stages[-1], named, below, above)

    def target(self, raw: Mosaic) -> np.ndarray:
        """Returns the model's own answer at the default: a class `()`, or a mask `(H, W)`.

        It stands in for the target of a mosaic whose target is unknown.
        """
        assert self._recipe.task is not None
        segments = self._recipe.task.name == "segmentation"
        any_target = np.zeros(raw.shape, np.uint8) if segments else np.zeros((), np.int32)
        found = self.judge(self.start, raw, any_target).probabilities
        return np.asarray(found.argmax(), np.int32) if found.ndim == 1 else (found > 0.5).astype(np.uint8)

    def judge(self, positions: Positions, raw: Mosaic, target: np.ndarray) -> Judgement:
        """Computes the model's view of a mosaic `(H, W)` with a target."""
        probabilities, loss = _jit(_judge)(self._recipe, self._numbers, positions, raw, target)
        return Judgement(np.asarray(probabilities), float(loss))

    def slope(self, positions: Positions, raw: Mosaic, target: np.ndarray) -> tuple[Judgement, Positions]:
        """Computes the model's view, and the derivative of the loss with respect to each knob's position.

        Where clipping holds a value at a limit, the derivative is that without the limit, so that it still tells which
        way the loss rises.
        """
        function = _jit(_slope)
        (loss, probabilities), slope = function(self._recipe, self._numbers, positions, raw, target)
        return Judgement(np.asarray(probabilities), float(loss)), np.asarray(slope)

    def limits(self) -> tuple[Positions, Positions]:
        """Returns the least and the greatest position of each knob: `REACH`, or less where values are not valid."""
        low, high = (np.array([getattr(knob, end) for knob in self.knobs.values()]) for end in ("low", "high"))
        return np.maximum(low, -REACH).astype(np.float32), np.minimum(high, REACH).astype(np.float32)


class Search:
    """Moves positions along the slope of the loss by steps of Adam, each about `STEP` natural ranges.

    Args:
        engine: the limits of its knobs hold.
        direction: "worst" raises the loss, "best" lowers it.
    """

    def __init__(self, engine: Engine, direction: Direction):
        self._limits, self._sign = engine.limits(), np.float32(1 if direction == "best" else -1)
        self._state = _ADAM.init(jnp.asarray(engine.start))

    def step(self, positions: Positions, slope: Positions) -> Positions:
        """Returns the next positions, from the present ones and the derivative of the loss there."""
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


def _pipeline_at(recipe: _Recipe, numbers: _Numbers, positions: Array) -> isp.Pipeline:
    """Makes the pipeline whose knobs have these positions."""
    facts, default = recipe.facts, numbers.default
    offsets = {name: jnp.tensordot(positions, each, 1) for name, each in numbers.directions.items()}
    valid = ranges.valid_offsets(facts, default, offsets)
    # The derivative ignores the clipping of offsets.
    clipped = {name: offset + jax.lax.stop_gradient(valid[name] - offset) for name, offset in offsets.items()}
    values = {**default, **ranges.values_at(facts, default, clipped)}
    return isp.Pipeline([stage.starting_at(values) for stage in recipe.stages])


def _draft(recipe: _Recipe, numbers: _Numbers, positions: Array, raw: Array) -> Array:
    return quantized(_pipeline_at(recipe, numbers, positions)(raw), np.uint8)


def _picture(recipe: _Recipe, numbers: _Numbers, positions: Array, raw: Array) -> tuple[list[Array], Array, Array]:
    # A list, since a compiled function sorts a dict by its names.
    pipeline = _pipeline_at(recipe, numbers, positions)
    _, stages = pipeline.trace(raw)
    images = [stages[name] for name in pipeline.stage_names]
    before = _before_clipping(pipeline.stage_names, [raw, *images])
    below, above = (beyond.reshape(*beyond.shape[:2], -1).any(-1) for beyond in (before < 0, before > 1))
    return [quantized(image, np.uint8) for image in images], below, above


def _before_clipping(names: Sequence[str], images: Sequence[Array]) -> Array:
    """Returns the image before values are clipped, of the mosaic and the images after each stage."""
    return images[names.index(_CLIPPING)] if _CLIPPING in names else images[-1]


def _judge(
    recipe: _Recipe, numbers: _Numbers, positions: Array, raw: Array, target: Array
) -> tuple[Array, Float[Array, ""]]:
    assert recipe.graph is not None
    assert recipe.task is not None
    normalizer, head = nnx.merge(recipe.graph, numbers.head)
    model = RawToLogit(_pipeline_at(recipe, numbers, positions), normalizer, head)
    logits = model(raw[None])
    batch: Batch = {
        "raw": raw[None],
        "target": target[None],
        "index": jnp.zeros(1, jnp.int32),
        "weight": jnp.ones(1),
    }
    return recipe.task.probabilities(logits, raw.shape[0])[0], recipe.task.sums(logits, batch)["loss"]


def _slope(
    recipe: _Recipe, numbers: _Numbers, positions: Array, raw: Array, target: Array
) -> tuple[tuple[Array, Array], Array]:
    def loss(positions: Array) -> tuple[Array, Array]:
        probabilities, loss = _judge(recipe, numbers, positions, raw, target)
        return loss, probabilities

    return jax.value_and_grad(loss, has_aux=True)(positions)

"""Images, probabilities and slopes of one pipeline as functions of the positions of its knobs.

All numbers are arguments of compiled functions, so that nothing is compiled again while sliders move, or for another
frame of the same size.
"""

from collections.abc import Mapping
from typing import NamedTuple

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
from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.drift.search.ranges import Direction
from r2l_jax.model.processors import Standardize
from r2l_jax.model.raw_to_logit import RawToLogit
from r2l_jax.model.settings import NetworkSettings
from r2l_jax.model.tasks import make_task
from r2l_jax.results.contact_sheet import quantized
from r2l_jax.training.run import Run

# The farthest position of a knob to either side, in natural ranges; less where values would not be valid.
REACH = 1.0

# A step of a search moves each knob by about 0.02 natural ranges.
_OPTIMIZER = optax.adam(0.02)

Positions = Float32[np.ndarray, " knobs"]
Mosaic = Float32[np.ndarray | Array, "rows cols"]

# The images after each stage, by name and in order, in display values from 0 to 255; a raw image is gray.
Images = dict[str, UInt8[np.ndarray, "..."]]

# For each parameter, the offsets `(knobs, ...)` of its values with each knob at position 1.
_Directions = Mapping[str, np.ndarray | Array]


class Search(NamedTuple):
    """A search along the slope of the loss: "worst" raises the loss, "best" lowers it. `state` is the optimizer's."""

    direction: Direction
    state: optax.OptState
    steps: int = 0


class Judgement(NamedTuple):
    """A model's prediction for a processed raw image.

    Attributes:
        probabilities: of each class `(C,)`, or of the object or each class at each site, `(H, W)` or `(H, W, C)`.
        found: the most probable class `()`, or the mask `(H, W)`.
        loss: the task loss for the target.
        slope: the derivative of the loss with respect to each knob's position. Where a value is clipped to a limit, it
            ignores the clipping, so that it still shows which way the loss rises.
        next: the positions after a step of the search, within the knobs' limits.
        search: the search after that step.
    """

    probabilities: Float32[np.ndarray, "..."]
    found: np.ndarray
    loss: float
    slope: Positions
    next: Positions
    search: Search


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
        self.pipeline, self._task = pipeline, None if model is None else model.task
        whole = RawToLogit(pipeline, Standardize(jnp.zeros(3), jnp.ones(3)), nnx.Module())
        if model is not None:
            whole = model.model.processed_by(pipeline)
        frozen = Frozen(whole, self._task or make_task("classification", (), NetworkSettings()))
        self.knobs, self._turned = frozen.knobs, frozen.turned
        knobs, default = list(self.knobs.values()), frozen.default
        moved = {knob.parameter for knob in knobs}
        self.fixed = {name: default[name].size for name in frozen.declarations if name not in moved}
        self.start: Positions = np.zeros(len(knobs), np.float32)
        ends = np.array([(knob.low, knob.high) for knob in knobs], np.float32).reshape(-1, 2)
        self.limits: tuple[Positions, Positions] = tuple(ends.clip(-REACH, REACH).T)
        directions = {name: np.zeros((len(knobs), *default[name].shape), np.float32) for name in moved}
        for number, knob in enumerate(knobs):
            directions[knob.parameter][number] = knob.direction
        # Committed to one device: if only some arrays were, such as a checkpoint's, functions would be compiled again.
        self._numbers = jax.device_put((frozen, directions), jax.local_devices()[0])

    def values(self, positions: Positions) -> dict[str, np.ndarray]:
        """Computes the values of all parameters, clipped to valid ones."""
        return self._turned(dict(zip(self.knobs, map(float, positions), strict=True)))

    def images(self, positions: Positions, raw: Mosaic) -> Images:
        """Computes the images of a raw image `(H, W)` after each stage."""
        found = jax.device_get(compiler.jit(_images)(*self._numbers, positions, raw))
        return dict(zip(self.pipeline.stage_names, found, strict=True))

    def target(self, raw: Mosaic) -> np.ndarray:
        """Returns the model's prediction at the default: a class `()`, or a mask `(H, W)`.

        It stands in for an unknown target.
        """
        assert self._task is not None
        any_target = np.zeros(raw.shape, np.uint8) if self._task.has_masks else np.zeros((), np.int32)
        return self.judge(self.start, raw, any_target).found

    def search(self, direction: Direction) -> Search:
        """Begins a search."""
        return Search(direction, _OPTIMIZER.init({"positions": jnp.asarray(self.start)}))

    def judge(self, positions: Positions, raw: Mosaic, target: np.ndarray, search: Search | None = None) -> Judgement:
        """Computes the model's prediction for a raw image `(H, W)`, the slope of its loss, and the next step."""
        assert self._task is not None
        search = search or self.search("worst")
        sign = np.float32(1 if search.direction == "best" else -1)
        moved, state, slope, loss, probabilities = compiler.jit(_judged)(
            *self._numbers, positions, raw, target, sign, search.state
        )
        probabilities = np.asarray(probabilities)
        found = self._task.found(self._task.stated(probabilities))
        after = np.clip(np.asarray(moved), *self.limits)
        return Judgement(
            probabilities,
            found,
            float(loss),
            np.asarray(slope),
            after,
            Search(search.direction, state, search.steps + 1),
        )


def _pipeline(frozen: Frozen, directions: _Directions, positions: Array) -> isp.Pipeline:
    """Returns the pipeline with its knobs at positions."""
    offsets = {name: jnp.tensordot(positions, each, 1) for name, each in directions.items()}
    valid = ranges.valid_offsets(frozen.declarations, frozen.default, offsets)
    # The derivative ignores the clipping of offsets.
    clipped = {name: offset + jax.lax.stop_gradient(valid[name] - offset) for name, offset in offsets.items()}
    return frozen.pipeline(ranges.values_at(frozen.declarations, frozen.default, clipped))


def _images(frozen: Frozen, directions: _Directions, positions: Array, raw: Array) -> list[Array]:
    pipeline = _pipeline(frozen, directions, positions)
    _, stages = pipeline.trace(raw)
    # A list, because jit would sort a dict by name.
    return [quantized(stages[name], np.uint8) for name in pipeline.stage_names]


def _judged(
    frozen: Frozen,
    directions: _Directions,
    positions: Array,
    raw: Array,
    target: Array,
    sign: Array,
    state: optax.OptState,
) -> tuple[Array, optax.OptState, Array, Array, Array]:
    """Computes the positions and the optimizer's state after a step, the slope, the loss and the probabilities."""
    batch: Batch = {"raw": raw[None], "target": target[None], "index": jnp.zeros(1, jnp.int32), "weight": jnp.ones(1)}

    def cost(values: dict[str, Array]) -> tuple[Array, tuple[Array, Array]]:
        logits = frozen.logits(_pipeline(frozen, directions, values["positions"])(batch["raw"]))
        loss = frozen.task.loss(logits, batch)
        return sign * loss, (loss, frozen.task.probabilities(logits, raw.shape[0])[0])

    # All positions together are one parameter.
    declarations = {"positions": isp.Parameter(None, width=1.0, low=-REACH, high=REACH)}
    default, at = {"positions": jnp.zeros_like(positions)}, {"positions": positions}
    moved, state, slope, others = ranges.descend(_OPTIMIZER, declarations, default, cost, at, state, {"positions": 1.0})
    return moved["positions"], state, sign * slope["positions"], *others

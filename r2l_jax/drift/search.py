"""Search over a pipeline's parameters: uphill in the task loss for the worst processing, downhill for a better one.

Many searches run at once, as one compiled step: they are stacked along a first axis, of which each device takes a part
(`jax.pmap`), and works on its part together (`jax.vmap`). A single search is a stack of one.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float
from tqdm import tqdm

import isp
import tasks
from r2l_jax import steps
from r2l_jax.data.loader import Batch
from r2l_jax.drift.ranges import Range
from r2l_jax.model import RawToLogit
from r2l_jax.objective import Objective

PyTree = Any

AUX_LOSSES = ("ssim", "l2")


class Search(NamedTuple):
    """One search.

    Attributes:
        group: names of the parameters that it moves; the others stay at the default.
        aux_weight: what it costs to leave the default rendering, times the deviation.
        seed: of its start and of its batches.
        spread: standard deviation of the random start around the default, in ranges; 0 starts at the default.
    """

    group: tuple[str, ...]
    aux_weight: float = 1.0
    seed: int = 0
    spread: float = 0.0


class Found(NamedTuple):
    """What a search came to.

    Attributes:
        parameters: the values at its end, by name.
        task_loss: of each step's batch, before the step.
        deviation: of that batch's images from their default rendering.
    """

    parameters: dict[str, np.ndarray]
    task_loss: np.ndarray
    deviation: np.ndarray


class _State(NamedTuple):
    """What a step changes: the parameters, as distances from their defaults in ranges, and the optimiser's memory."""

    offsets: dict[str, Array]
    opt_state: optax.OptState
    step: Array


class _Fixed(NamedTuple):
    """What makes a search: which parameters are free (1 or 0), the weight of deviation, the key of its batches."""

    free: dict[str, Array]
    aux_weight: Array
    key: Array


def deviation(
    images: Float[Array, "batch height width 3"], default: Float[Array, "batch height width 3"], aux_loss: str
) -> Float[Array, ""]:
    """How far images are from their default rendering: 0 if they are equal, and more the farther.

    Args:
        images: the images.
        default: their default rendering.
        aux_loss: "ssim", 1 less the structural similarity (`tasks.losses.ssim`); or "l2", the mean square difference.
    """
    if aux_loss == "ssim":
        return 1 - tasks.losses.ssim(images, default)
    return jnp.square(images - default).mean()


class Searcher:
    """Searches over the parameters of a model's pipeline; head and normalisation stay as they are.

    Args:
        model: a model that evaluates. Its processor is an `isp.Pipeline`; the values that it has are the default.
        objective: what the model was trained for.
        ranges: of the pipeline's parameters, see `natural_ranges`. Searches stay within what is valid.
        direction: "worst" raises the task loss, "best" lowers it. Deviation costs in both.
        aux_loss: what deviation is, see `deviation`.
        learning_rate: Adam's, in ranges: about how far each parameter moves in a step.
        batch_size: samples in a step of one search. Each search draws its own.
        devices: which devices share the searches; all of this process if left out.
    """

    def __init__(
        self,
        model: RawToLogit,
        objective: Objective,
        ranges: dict[str, Range],
        *,
        direction: Literal["worst", "best"],
        aux_loss: Literal["ssim", "l2"] = "ssim",
        learning_rate: float = 0.01,
        batch_size: int = 32,
        devices: Sequence[jax.Device] | None = None,
    ):
        # On the host, from where each stack of searches puts them on its devices.
        self._stages, self._default = model.processor.stages, jax.device_get(model.processor.parameters())
        self._rest_graph, rest = nnx.split((model.normalizer, model.head))
        self._rest = jax.device_get(rest)
        self._objective, self._ranges = objective, ranges
        self._sign = {"worst": -1.0, "best": 1.0}[direction]
        self._aux_loss, self._batch_size = aux_loss, batch_size
        self._optimizer = optax.adam(learning_rate)
        self._devices = list(devices or jax.local_devices())
        self._compiled = {}

    @property
    def default(self) -> dict[str, np.ndarray]:
        """The values that the searches start around."""
        return self._default

    def run(
        self,
        searches: Sequence[Search],
        raws: np.ndarray,
        targets: np.ndarray,
        steps: int,
        stop: Callable[[], bool] = lambda: False,
    ) -> list[Found]:
        """Runs searches together, with a progress bar on stderr.

        Args:
            searches: any number of them.
            raws: mosaics `(N, H, W)` that their batches are drawn from.
            targets: theirs.
            steps: how many each search takes.
            stop: asked after each step, and ends the searches there.
        """
        starts, fixed = zip(*map(self._start, searches), strict=True)
        state, fixed = self._stack(starts), self._stack(fixed)
        shared = (self._rest, {"raw": raws, "target": targets})
        step = self._compile(self._step, (state, fixed), shared)
        fixed, *shared = jax.device_put((fixed, *shared), step.input_shardings[0][1:])
        curves = []
        for _ in tqdm(range(steps), desc=f"{len(searches)} searches", unit="step"):
            state, losses = step(state, fixed, *shared)
            curves.append(losses)
            # The device works on one step while the next is prepared, and no further ahead.
            jax.block_until_ready(curves[-2:-1])
            if stop():
                break
        ends = [self._values(offsets) for offsets in self._unstack(state.offsets, len(searches))]
        curves = np.stack(jax.device_get(curves), 2) if curves else np.zeros((*state.step.shape, 0, 2), np.float32)
        return [
            Found(parameters, curve[:, 0], curve[:, 1])
            for parameters, curve in zip(ends, self._unstack(curves, len(searches)), strict=True)
        ]

    def evaluate(self, parameters: Sequence[dict[str, np.ndarray]], batches: Iterable[Batch]) -> list[dict[str, Any]]:
        """Measures the model under several processings at once.

        Args:
            parameters: the values of each, all of the pipeline's.
            batches: the samples, those of weight 0 left out.

        Returns:
            Of each: `loss` and `score`, the objective's; `ssim`, the mean structural similarity to the default
            rendering; `confusion`.
        """
        classes = len(self._objective.classes)
        nothing = {"loss": np.zeros(()), "confusion": np.zeros((classes, classes)), "ssim": np.zeros(())}
        stack = self._stack([jax.tree.map(np.float32, dict(values)) for values in parameters])
        sums = self._stack([jax.tree.map(np.float32, nothing)] * len(parameters))
        rest, add = self._rest, None
        for batch in batches:
            if add is None:
                add = self._compile(self._add, (sums, stack), (rest, batch))
                stack, rest = jax.device_put((stack, rest), add.input_shardings[0][1:3])
            sums = add(sums, stack, rest, batch)
        results = []
        for total in self._unstack(sums, len(parameters)):
            count = total["confusion"].sum()
            results.append(
                {
                    "loss": float(total["loss"] / count),
                    "score": float(self._objective.score_of(total["confusion"])),
                    "ssim": float(total["ssim"] / count),
                    "confusion": total["confusion"],
                }
            )
        return results

    def _start(self, search: Search) -> tuple[_State, _Fixed]:
        if unknown := set(search.group) - set(self._default):
            raise ValueError(f"group must be of {sorted(self._default)}, got also {sorted(unknown)}")
        start_key, key = jax.random.split(jax.random.key(search.seed))
        keys = jax.random.split(start_key, len(self._default))
        free = {name: np.float32(name in search.group) for name in self._default}
        offsets = {
            name: self._valid(name, free[name] * search.spread * jax.random.normal(key, value.shape))
            for key, (name, value) in zip(keys, self._default.items(), strict=True)
        }
        state = _State(offsets, self._optimizer.init(offsets), jnp.zeros((), jnp.int32))
        return state, _Fixed(free, np.float32(search.aux_weight), jax.random.key_data(key))

    def _valid(self, name: str, offset: Array) -> Array:
        """The nearest offset at which the parameter is valid."""
        width, low, high = self._ranges[name]
        value = self._default[name]
        return jnp.clip(offset, (low - value) / width, (high - value) / width)

    def _values(self, offsets: dict[str, Array | np.ndarray]) -> dict[str, Array | np.ndarray]:
        return {name: self._default[name] + self._ranges[name].width * offset for name, offset in offsets.items()}

    def _render(self, parameters: dict[str, Array | np.ndarray], raw: Array) -> Array:
        return isp.Pipeline(self._stages, parameters)(raw)

    def _sums(self, images: Array, rest: PyTree, batch: Batch) -> dict[str, Array]:
        normalizer, head = nnx.merge(self._rest_graph, rest)
        return self._objective.sums(head(normalizer(images)), batch)

    def _step(self, state: _State, fixed: _Fixed, rest: PyTree, samples: dict[str, Array]):
        count = len(samples["raw"])
        size = min(self._batch_size, count)
        key = jax.random.fold_in(jax.random.wrap_key_data(fixed.key), state.step)
        drawn = jax.random.permutation(key, count)[:size]
        batch = {name: array[drawn] for name, array in samples.items()} | {"weight": jnp.ones(size)}
        default = self._render(self._default, batch["raw"])

        def cost(offsets):
            images = self._render(self._values(offsets), batch["raw"])
            task_loss = self._sums(images, rest, batch)["loss"] / size
            away = deviation(images, default, self._aux_loss)
            return self._sign * task_loss + fixed.aux_weight * away, jnp.stack([task_loss, away])

        gradients, losses = jax.grad(cost, has_aux=True)(state.offsets)
        gradients = {name: fixed.free[name] * gradient for name, gradient in gradients.items()}
        updates, opt_state = self._optimizer.update(gradients, state.opt_state)
        offsets = {
            name: self._valid(name, offset) for name, offset in optax.apply_updates(state.offsets, updates).items()
        }
        return _State(offsets, opt_state, state.step + 1), losses

    def _add(self, sums: PyTree, parameters: dict[str, Array], rest: PyTree, batch: Batch) -> PyTree:
        images, default = (self._render(values, batch["raw"]) for values in (parameters, self._default))
        added = self._sums(images, rest, batch)
        added["ssim"] = (jax.vmap(tasks.losses.ssim)(images, default) * batch["weight"]).sum()
        return jax.tree.map(jnp.add, sums, added)

    def _stack(self, trees: Sequence[PyTree]) -> PyTree:
        """Trees as one, on the host, `(devices, searches a device, ...)`; the last is repeated to fill it up."""
        devices = len(self._devices)
        padded = [*trees, *[trees[-1]] * (-len(trees) % devices)]
        return jax.tree.map(lambda *leaves: np.stack(leaves).reshape(devices, -1, *leaves[0].shape), *padded)

    def _unstack(self, tree: PyTree, count: int) -> list[PyTree]:
        """Undoes `_stack`, on the host."""
        flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), jax.device_get(tree))
        return [jax.tree.map(lambda leaf, index=index: leaf[index], flat) for index in range(count)]

    def _compile(
        self, function: Callable, stacked: tuple[PyTree, ...], shared: tuple[PyTree, ...]
    ) -> jax.stages.Compiled:
        """A function of one search, for all of a stack; consumes its first argument."""
        known = (function, tuple((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves((stacked, shared))))
        if known not in self._compiled:
            axes = (0,) * len(stacked) + (None,) * len(shared)
            mapped = jax.pmap(jax.vmap(function, in_axes=axes), in_axes=axes, devices=self._devices, donate_argnums=0)
            self._compiled[known] = mapped.lower(*stacked, *shared).compile(compiler_options=steps.compiler_options())
        return self._compiled[known]

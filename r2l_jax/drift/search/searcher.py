"""Search over a pipeline's parameters: uphill in the task loss for the worst processing, downhill for a better one.

Many searches run at once, as one compiled step over a stack of them, see `mapped`. A single search is a stack of one.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from isp.metering import Part
from r2l_jax.cli import stop
from r2l_jax.cli.progress import Bar
from r2l_jax.cli.stop import Interrupted
from r2l_jax.devices import compiler
from r2l_jax.devices.placement import OneAhead, shardings
from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.drift.search.ranges import Direction, apart, cost_of, descend, gains, valid_offsets, valid_values
from r2l_jax.errors import InputError

PyTree = Any

# The objective of searches: the task loss, which needs labels, or the distance from the training features.
Objective = Literal["task", "features"]


class Search(NamedTuple):
    """One search.

    Attributes:
        group: names of the parameters that may move; the others stay at the default.
        aux_weight: the weight of the deviation from the default rendering.
        seed: the seed of the start and of the batches.
        spread: standard deviation of the random start around the default, in natural ranges; 0 starts at the default.
        exposure: factor on the group's gains at the start; only gains that start at a camera's white balance count.
        turned: a knob of the group (see `Frozen.knobs`) and its position at the start.
        left_out: the places of the samples that the task loss leaves out.
    """

    group: tuple[str, ...]
    aux_weight: float = 1.0
    seed: int = 0
    spread: float = 0.0
    exposure: float = 1.0
    turned: tuple[str, float] | None = None
    left_out: tuple[int, ...] = ()


class Found(NamedTuple):
    """The end of a search: the values of all parameters by name, and the course of the search.

    `task_loss` is the objective on each step's batch before the step: the task loss, or the distance of features.
    `deviation` is the deviation of that batch's images from their default rendering.
    """

    parameters: dict[str, np.ndarray]
    task_loss: np.ndarray
    deviation: np.ndarray


class _State(NamedTuple):
    """The part of a search that a step changes: offsets in natural ranges, and the optimizer's state."""

    offsets: dict[str, Array]
    opt_state: optax.OptState
    step: Array


class _Fixed(NamedTuple):
    """The constant part of a search: which parameters are free (1 or 0), the weight of deviation, the batches' key.

    `weights` `(N,)` is 0 for the samples that are left out, and 1 for the others.
    """

    free: Mapping[str, Array]
    aux_weight: Array
    key: Array
    weights: Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Searcher:
    """Searches over the parameters of models' pipelines; head and normalization do not change.

    The functions that are compiled for a searcher serve all models of one structure, and all equal searchers.

    Attributes:
        direction: "worst" raises the task loss, "best" lowers it. Both are penalized for deviation.
        objective: "task" for the task loss; "features" for `Frozen.distance`, which needs no targets.
        price: the weight of the penalty on changes that no single drift of a camera would make, see `ranges.apart`.
        aux_loss: the measure of deviation, see `deviation`.
        learning_rate: Adam's learning rate, in natural ranges: about the length of a parameter's first step. It falls
            to 0 along half a cosine, so that searches settle despite noisy batches.
        batch_size: samples in a step of one search. Each search draws its own, from its seed.
    """

    direction: Direction
    objective: Objective = "task"
    price: float = 0.0
    aux_loss: str = "ssim"
    learning_rate: float = 0.01
    batch_size: int = 32

    def run(
        self, frozen: Frozen, searches: Sequence[Search], raws: np.ndarray | Part, targets: np.ndarray, steps: int
    ) -> list[Found]:
        """Runs searches together, with a progress bar on stderr.

        Batches are drawn from the raw images `raws` `(N, H, W)` with their targets. Parameters stay valid, see
        `isp.Parameter`.

        Raises:
            InputError: a search has diverged.
            Interrupted: a signal has asked to stop.
        """
        state, fixed = zip(*(self._start(frozen, search, len(raws)) for search in searches), strict=True)
        state, fixed = stack(state), stack(fixed)
        shared = jax.device_put((frozen, {"raw": raws, "target": targets}, np.float32(steps)), shardings().everywhere)
        ahead, losses, step = OneAhead(), list[Array](), mapped(_step, donates=True)
        title = f"{len(searches)} search{'es' if len(searches) > 1 else ''}"
        with Bar(total=steps, desc=title, unit="step") as bar:
            for _ in range(steps):
                state, of_step = step(self, state, fixed, shared)
                losses.append(ahead.begun(of_step))
                bar.update()
                if stop.requested() and len(losses) < steps:
                    raise Interrupted("stopped; the same command starts this analysis again")
        ends = unstack(state.offsets, len(searches))
        ways = np.zeros((len(searches), 0, 2))
        if losses:
            ways = np.stack(jax.device_get(losses), 1)
        return [self._found(frozen, *each) for each in zip(searches, ends, ways[: len(searches)], strict=True)]

    def losses(
        self, frozen: Frozen, ends: Sequence[Mapping[str, np.ndarray]], raws: np.ndarray | Part, targets: np.ndarray
    ) -> np.ndarray:
        """Computes the penalized objective on all samples at once, for several sets of values of all parameters."""
        values = stack([jax.tree.map(np.float32, dict(each)) for each in ends])
        shared = jax.device_put((frozen, {"raw": raws, "target": targets}), shardings().everywhere)
        return np.array(unstack(mapped(_loss_of_all)(self, values, (), shared), len(ends)))

    def loss(self, frozen: Frozen, images: Array, batch: Any) -> Array:
        """Computes the objective of processed images."""
        if self.objective == "features":
            return frozen.distance(images)
        return frozen.loss(images, batch)

    def _found(self, frozen: Frozen, search: Search, offsets: dict[str, np.ndarray], losses: np.ndarray) -> Found:
        """Returns the end of a search from its last offsets and its losses `(steps, 2)`."""
        found = Found(jax.device_get(valid_values(frozen.declarations, frozen.default, offsets)), *losses.T)
        if not all(np.isfinite(array).all() for array in jax.tree.leaves(found)):
            raise InputError(
                f"the search over {', '.join(search.group)} has diverged: try a learning rate below "
                f"{self.learning_rate:g}"
            )
        return found

    def _start(self, frozen: Frozen, search: Search, count: int) -> tuple[_State, _Fixed]:
        default = frozen.default
        start_key, key = jax.random.split(jax.random.key(search.seed))
        keys = jax.random.split(start_key, len(default))
        free = {name: jnp.float32(name in search.group) for name in default}
        offsets = {
            name: free[name] * search.spread * jax.random.normal(key, value.shape)
            for key, (name, value) in zip(keys, default.items(), strict=True)
        }
        for name in gains(frozen.declarations, search.group):
            offsets[name] += math.log(search.exposure)
        if search.turned is not None:
            name, position = search.turned
            knob = frozen.knobs[name]
            offsets[knob.parameter] += np.float32(position) * knob.direction
        offsets = valid_offsets(frozen.declarations, default, offsets)
        state = _State(offsets, optax.adam(self.learning_rate).init(offsets), jnp.zeros((), jnp.int32))
        weights = jnp.ones(count).at[jnp.array(search.left_out, int)].set(0)
        return jax.device_get((state, _Fixed(free, jnp.float32(search.aux_weight), jax.random.key_data(key), weights)))


def _loss_of_all(
    searcher: Searcher, values: dict[str, Array], stacked: tuple[()], shared: tuple[Frozen, dict[str, Array]]
) -> Array:
    del stacked
    frozen, samples = shared
    count = len(samples["raw"])
    batch = _batch(samples, jnp.arange(count), jnp.ones(count))
    price = searcher.price * apart(frozen.declarations, frozen.default, values)
    return searcher.loss(frozen, frozen.images(values, batch), batch) + price


def _step(
    searcher: Searcher, state: _State, fixed: _Fixed, shared: tuple[Frozen, dict[str, Array], Array]
) -> tuple[_State, Array]:
    frozen, samples, steps = shared
    count, declarations, default = len(samples["raw"]), frozen.declarations, frozen.default
    key = jax.random.fold_in(jax.random.wrap_key_data(fixed.key), state.step)
    drawn = jax.random.permutation(key, count)
    drawn = drawn[jnp.argsort(fixed.weights[drawn], descending=True, stable=True)][: min(searcher.batch_size, count)]
    batch = _batch(samples, drawn, fixed.weights)
    by_default = frozen.images(default, batch)

    def cost(values):
        images = frozen.images(values, batch)
        loss = searcher.loss(frozen, images, batch)
        total, away = cost_of(searcher.direction, loss, images, by_default, searcher.aux_loss, fixed.aux_weight)
        if searcher.price:
            total += searcher.price * apart(declarations, default, values)
        return total, jnp.stack([loss, away])

    optimizer = optax.adam(searcher.learning_rate * (1 + jnp.cos(jnp.pi * state.step / steps)) / 2)
    offsets, opt_state, _, losses = descend(
        optimizer, declarations, default, cost, state.offsets, state.opt_state, fixed.free
    )
    return _State(offsets, opt_state, state.step + 1), losses


def _batch(samples: Mapping[str, Any], drawn: Array, weights: Array) -> Any:
    """Returns some of the samples as a batch."""
    return {
        **jax.tree.map(lambda leaf: leaf[drawn], samples),
        "index": drawn.astype(jnp.int32),
        "weight": weights[drawn],
    }


def stack(trees: Sequence[PyTree]) -> PyTree:
    """Stacks pytrees on the devices, an equal part on each; copies of the last one pad the stack."""
    filled = [*trees, *[trees[-1]] * (-len(trees) % jax.device_count())]
    return jax.device_put(jax.tree.map(lambda *leaves: np.stack(leaves), *filled), shardings().split)


def unstack(tree: PyTree, count: int) -> list[PyTree]:
    """Returns the first `count` pytrees of a stack, on the host."""
    whole = jax.device_get(tree)
    return [jax.tree.map(lambda leaf, place=place: np.asarray(leaf[place]), whole) for place in range(count)]


@functools.cache
def mapped(function: Callable[..., PyTree], donates: bool = False) -> Callable[..., PyTree]:
    """Compiles a function of one pytree for stacks of them, once for each structure and shape of its arguments.

    Each device computes its part of the stack at once (`jax.vmap`), and the devices run in parallel. The function must
    be defined in a module: compiled versions of it are kept forever, and serve all models, drifts and members of a
    group.

    Args:
        function: takes static options, two pytrees of its arguments, and the pytree of shared arguments.
        donates: whether a call consumes the first of the two stacks.

    Returns:
        A function of the options, the two stacks and the shared arguments, which are on all devices.
    """
    split, everywhere = shardings()

    def of_all(options: Hashable, carried: PyTree, stacked: PyTree, shared: PyTree) -> PyTree:
        of_device = jax.vmap(functools.partial(function, options), in_axes=(0, 0, None))
        specs = (split.spec, split.spec, everywhere.spec)
        each = jax.shard_map(of_device, mesh=split.mesh, in_specs=specs, out_specs=split.spec, check_vma=False)
        return each(carried, stacked, shared)

    donated = 1 if donates else ()
    return jax.jit(of_all, static_argnums=0, donate_argnums=donated, compiler_options=compiler.options())

"""Search over a pipeline's parameters: uphill in the task loss for the worst processing, downhill for a better one.

Many searches run at once, as one compiled step over a stack of them, see `Stacks`. A single search is a stack of one.
"""

import hashlib
import math
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array
from tqdm import tqdm

from r2l_jax.data.loader import Batch
from r2l_jax.drift.search.frozen import Frozen, deviation
from r2l_jax.drift.search.ranges import Facts, gains, moved, valid_offsets, valid_values
from r2l_jax.drift.search.stacks import Stacks
from r2l_jax.runtime.devices import OneAhead
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.hosts import any_process, is_first, on_first_process
from r2l_jax.runtime.stop import Interrupted
from r2l_jax.runtime.store import Identity, Unfinished, identity

PyTree = Any

Direction = Literal["worst", "best"]

# How often searches are saved, in seconds.
_SAVED_EVERY = 30.0


class Search(NamedTuple):
    """One search.

    Attributes:
        group: names of the parameters that it moves; the others stay at the default.
        aux_weight: what it costs to leave the default rendering, times the deviation.
        seed: of its start and of its batches.
        spread: standard deviation of the random start around the default, in natural ranges; 0 starts at the default.
        exposure: factor on all gains at the start, if gains that start at a camera's are in the group.
    """

    group: tuple[str, ...]
    aux_weight: float = 1.0
    seed: int = 0
    spread: float = 0.0
    exposure: float = 1.0


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
    """The part of a search that a step changes: offsets in natural ranges, and the optimizer's state."""

    offsets: dict[str, Array]
    opt_state: optax.OptState
    step: Array


class _Fixed(NamedTuple):
    """The fixed part of a search: which parameters are free (1 or 0), the weight of deviation, the batches' key."""

    free: Mapping[str, Array]
    aux_weight: Array
    key: Array


def cost_of(direction: Direction, task_loss: Array, away: Array, aux_weight: Array | float) -> Array:
    """Computes the cost that a search lowers: the task loss or its negative, and a price on deviation.

    Args:
        direction: "worst" raises the task loss, "best" lowers it.
        task_loss: the mean over a batch.
        away: the batch's `deviation`. It costs in both directions.
        aux_weight: the price of deviation.
    """
    return (task_loss if direction == "best" else -task_loss) + aux_weight * away


def descend(
    optimizer: optax.GradientTransformation,
    facts: Facts,
    default: dict[str, Array],
    cost: Callable[[dict[str, Array]], tuple[Array, PyTree]],
    offsets: dict[str, Array],
    opt_state: optax.OptState,
    free: Mapping[str, Array | float],
) -> tuple[dict[str, Array], optax.OptState, PyTree]:
    """Takes one step down a cost of a pipeline's parameters, which stay valid.

    Args:
        optimizer: updates the offsets.
        facts: the declarations of the parameters.
        default: the values that offsets count from.
        cost: takes values to the cost and any other results.
        offsets: the parameters' offsets, see `moved`.
        opt_state: the optimizer's state.
        free: 1 for each parameter that may move, and 0 for the others.

    Returns:
        The next offsets, the optimizer's next state, and the other results of the cost.
    """
    gradients, wanted = jax.grad(lambda offsets: cost(moved(facts, default, offsets)), has_aux=True)(offsets)
    gradients = {name: free[name] * gradient for name, gradient in gradients.items()}
    updates, opt_state = optimizer.update(gradients, opt_state)
    moved_offsets = cast(dict[str, Array], optax.apply_updates(offsets, updates))
    return valid_offsets(facts, default, moved_offsets), opt_state, wanted


class Searcher:
    """Searches over the parameters of a model's pipeline; head and normalisation stay as they are.

    Args:
        frozen: the model. Parameters stay valid, see `isp.Parameter`.
        direction: "worst" raises the task loss, "best" lowers it. Deviation costs in both.
        aux_loss: what deviation is, see `deviation`.
        learning_rate: Adam's, in natural ranges: about how far each parameter moves in a step at first. It falls to 0
            along half a cosine, so that searches settle in spite of the noise of their batches.
        batch_size: samples in a step of one search. Each search draws its own, by its seed.
    """

    def __init__(
        self,
        frozen: Frozen,
        *,
        direction: Direction,
        aux_loss: str = "ssim",
        learning_rate: float = 0.01,
        batch_size: int = 32,
    ):
        self._frozen = frozen
        self._direction: Direction = direction
        self._aux_loss, self._batch_size = aux_loss, batch_size
        self._learning_rate = learning_rate
        self._stacks = Stacks()

    def run(
        self,
        searches: Sequence[Search],
        raws: np.ndarray,
        targets: np.ndarray,
        steps: int,
        stop: Callable[[], bool] = lambda: False,
        file: pathlib.Path | None = None,
    ) -> list[Found]:
        """Runs searches together, with a progress bar on stderr, and returns the same in all processes.

        Args:
            searches: any number of them.
            raws: mosaics `(N, H, W)` that their batches are drawn from.
            targets: theirs.
            steps: how many each search takes.
            stop: asked after each step, and ends the searches there; the same answer in all processes.
            file: where unfinished searches are kept, every half minute and when they are stopped. The same searches
                in the same samples go on from there. It stays until somebody removes it.

        Raises:
            InputError: a search has diverged.
            Interrupted: `stop` said so.
        """
        kept = Unfinished(file, self._identity(searches, raws, targets, steps))
        starts, fixed = zip(*(self._start(search) for search in searches), strict=True)
        before = np.zeros((len(searches), 0, 2), np.float32)
        if (arrays := on_first_process(kept.load)) is not None:
            starts, before = _states(arrays, starts), arrays["losses"]
        state, fixed = self._stacks.stack(starts), self._stacks.stack(fixed)
        samples = {"raw": raws, "target": targets}
        shared = (self._frozen.default, self._frozen.rest, samples, np.float32(steps))
        step = self._stacks.compile(self._step, (state, fixed), shared, donated=(0,))
        fixed, *shared = jax.device_put((fixed, *shared), step.input_shardings[0][1:])

        curves = []

        def all_losses() -> np.ndarray:
            """Returns the losses of all searches and steps so far, `(searches, steps, 2)`."""
            if not curves:
                return before
            after = self._stacks.unstack(np.stack(jax.device_get(curves), 2), len(searches))
            return np.concatenate([before, np.stack(after)], 1)

        def save(state: _State) -> None:
            arrays = {**_arrays(self._stacks.unstack(state, len(searches))), "losses": all_losses()}
            on_first_process(lambda: kept.save(arrays))

        ahead, saved, done = OneAhead(), time.monotonic(), before.shape[1]
        title = f"{len(searches)} searches"
        for _ in tqdm(range(done, steps), desc=title, unit="step", initial=done, total=steps, disable=not is_first()):
            state, losses = step(state, fixed, *shared)
            curves.append(ahead.begun(losses))
            last = done + len(curves) == steps
            stopped = stop() and not last
            # Also saved after the last step: the measurement that follows may be interrupted.
            if file and (stopped or last or any_process(time.monotonic() - saved > _SAVED_EVERY)):
                save(state)
                saved = time.monotonic()
            if stopped:
                goes_on = "the same command goes on from there" if file else "nothing is kept"
                raise Interrupted(f"stopped at step {done + len(curves)} of {steps}; {goes_on}")
        ends = self._stacks.unstack(state.offsets, len(searches))
        found = [
            Found(jax.device_get(valid_values(self._frozen.facts, self._frozen.default, offsets)), *losses.T)
            for offsets, losses in zip(ends, all_losses(), strict=True)
        ]
        for search, one in zip(searches, found, strict=True):
            if not all(np.isfinite(array).all() for array in jax.tree.leaves(one)):
                raise InputError(
                    f"the search over {', '.join(search.group)} has diverged: try a learning rate below "
                    f"{self._learning_rate:g}"
                )
        return found

    def _identity(self, searches: Sequence[Search], raws: np.ndarray, targets: np.ndarray, steps: int) -> Identity:
        """Collects everything that the steps of the searches depend on."""
        settings = {
            "searches": [search._asdict() for search in searches],
            "direction": self._direction,
            "aux_loss": self._aux_loss,
            "batch_size": self._batch_size,
            "learning_rate": self._learning_rate,
            "steps": steps,
        }
        digest = hashlib.sha256()
        for array in (raws, targets):
            digest.update(array.tobytes())
        return identity(settings, model=self._frozen.fingerprint, data=digest.hexdigest())

    def _start(self, search: Search) -> tuple[_State, _Fixed]:
        default = self._frozen.default
        if unknown := set(search.group) - set(default):
            raise ValueError(f"group must be of {sorted(default)}, got also {sorted(unknown)}")
        start_key, key = jax.random.split(jax.random.key(search.seed))
        keys = jax.random.split(start_key, len(default))
        free = {name: jnp.float32(name in search.group) for name in default}
        offsets = {
            name: free[name] * search.spread * jax.random.normal(key, value.shape)
            for key, (name, value) in zip(keys, default.items(), strict=True)
        }
        for name in gains(self._frozen.facts, search.group):
            offsets[name] += math.log(search.exposure)
        offsets = valid_offsets(self._frozen.facts, default, offsets)
        state = _State(offsets, optax.adam(self._learning_rate).init(offsets), jnp.zeros((), jnp.int32))
        return jax.device_get(state), jax.device_get(
            _Fixed(free, jnp.float32(search.aux_weight), jax.random.key_data(key))
        )

    def _step(
        self,
        state: _State,
        fixed: _Fixed,
        default: dict[str, Array],
        rest: PyTree,
        samples: dict[str, Array],
        steps: Array,
    ):
        count = len(samples["raw"])
        size = min(self._batch_size, count)
        key = jax.random.fold_in(jax.random.wrap_key_data(fixed.key), state.step)
        drawn = jax.random.permutation(key, count)[:size]
        batch: Batch = {
            "raw": samples["raw"][drawn],
            "target": samples["target"][drawn],
            "index": drawn.astype(jnp.int32),
            "weight": jnp.ones(size),
        }
        by_default = self._frozen.pipeline(default)(batch["raw"])

        def cost(values):
            images = self._frozen.pipeline(values)(batch["raw"])
            task_loss = self._frozen.sums(images, rest, batch)["loss"] / size
            away = deviation(images, by_default, self._aux_loss)
            return cost_of(self._direction, task_loss, away, fixed.aux_weight), jnp.stack([task_loss, away])

        optimizer = optax.adam(self._learning_rate * (1 + jnp.cos(jnp.pi * state.step / steps)) / 2)
        facts = self._frozen.facts
        offsets, opt_state, losses = descend(
            optimizer, facts, default, cost, state.offsets, state.opt_state, fixed.free
        )
        return _State(offsets, opt_state, state.step + 1), losses


def _arrays(states: Sequence[PyTree]) -> dict[str, np.ndarray]:
    """Takes the states of unfinished searches apart into arrays by name."""
    leaves = jax.tree.leaves(jax.tree.map(lambda *leaves: np.stack(leaves), *states))
    return {f"leaf_{number}": leaf for number, leaf in enumerate(leaves)}


def _states(arrays: dict[str, np.ndarray], like: Sequence[PyTree]) -> list[PyTree]:
    """Puts the states that `_arrays` has taken apart together, in the structure of others."""
    leaves, structure = jax.tree.flatten(like[0])
    stacked = [arrays[f"leaf_{number}"] for number in range(len(leaves))]
    return [jax.tree.unflatten(structure, [leaf[number] for leaf in stacked]) for number in range(len(like))]

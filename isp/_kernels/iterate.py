"""A loop that runs until it converges, with reverse-mode gradients in little memory."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import sequential_vmap
from jaxtyping import Array, Bool, Float, Int, PyTree

from isp._kernels.xla import is_fast_on_cpu, with_gradient

State = PyTree[Float[Array, "..."]]
Parameters = PyTree[Float[Array, "..."]]
Scalar = Float[Array, ""]
Result = TypeVar("Result")
Step = Callable[[State, Parameters], tuple[State, Scalar]]
Stop = Callable[[Scalar, Scalar, Scalar], Bool[Array, ""]]


def iterate(step: Step, stop: Stop, state: State, parameters: Parameters, max_iterations: int) -> State:
    """Applies `step` until `stop` returns true, at most `max_iterations` times.

    Reverse-mode gradients for the initial state and the parameters are exact; forward-mode and second derivatives do
    not work. They need memory for about 2 sqrt(max_iterations) states, and each step runs three more times. Under
    `vmap`, a CPU solves the problems one after another, so each can stop early and stay in the cache; on other devices,
    problems that have stopped wait for the others.

    `step(state, parameters) -> (state, measure)` must not close over traced arrays, and no gradient flows through the
    measure. `stop(first, previous, measure) -> bool` gets an infinite `previous` at the first step. The state's arrays
    are all of one floating-point type.
    """
    return _iterate(step, stop, max_iterations, state, parameters)


def _one_by_one(function: Callable[..., Result]) -> Callable[..., Result]:
    """Makes a function of steps, rules and arrays that `vmap` calls for one problem at a time on a CPU."""

    def call(step: Step, stop: Stop, max_iterations: int, *arrays: PyTree) -> Result:
        bound = functools.partial(function, step, stop, max_iterations)
        return (sequential_vmap(bound) if is_fast_on_cpu() else bound)(*arrays)

    return call


class _Progress(NamedTuple):
    state: State
    steps: Int[Array, ""]
    first: Scalar
    previous: Scalar
    done: Bool[Array, ""]


def _start(state: State) -> _Progress:
    infinity = jnp.full((), jnp.inf, jnp.result_type(*jax.tree.leaves(state)))
    return _Progress(state, jnp.zeros((), int), infinity, infinity, jnp.zeros((), bool))


def _advance(
    step: Step, stop: Stop, parameters: Parameters, progress: _Progress, until: Int[Array, ""] | int
) -> _Progress:
    """Steps until `until` steps have been made in total, or until `stop` returns true."""

    def once(progress: _Progress) -> _Progress:
        state, measure = step(progress.state, parameters)
        first = jnp.where(progress.steps == 0, measure, progress.first)
        return _Progress(state, progress.steps + 1, first, measure, stop(first, progress.previous, measure))

    return lax.while_loop(lambda progress: _goes_on(progress, until), once, progress)


def _goes_on(progress: _Progress, until: Int[Array, ""] | int) -> Bool[Array, ""]:
    return (progress.steps < until) & ~progress.done


def _last_state(step: Step, stop: Stop, max_iterations: int, state: State, parameters: Parameters) -> State:
    return _advance(step, stop, parameters, _start(state), max_iterations).state


def _gradient(
    step: Step, stop: Stop, max_iterations: int, residuals: tuple[State, Parameters], cotangent: State
) -> tuple[State, Parameters]:
    """Computes the cotangents of the initial state and of the parameters.

    Runs all steps again and keeps the first state of every segment of sqrt(max_iterations) steps. Then, from the last
    segment to the first, runs the segment once more, keeps all of its states, and steps backwards through it.
    """
    state, parameters = residuals
    length = max(1, math.isqrt(max_iterations))
    segments = max(1, -(-max_iterations // length))

    def next_segment(carry: tuple[_Progress, State]) -> tuple[_Progress, State]:
        progress, starts = carry
        starts = _store(starts, progress.steps // length, progress.state)
        until = jnp.minimum(progress.steps + length, max_iterations)
        return _advance(step, stop, parameters, progress, until), starts

    progress, starts = lax.while_loop(
        lambda carry: _goes_on(carry[0], max_iterations), next_segment, (_start(state), _buffer(state, segments))
    )

    def next_state(state: State, parameters: Parameters) -> State:
        return step(state, parameters)[0]

    def previous_segment(carry: tuple[Array, State, Parameters]) -> tuple[Array, State, Parameters]:
        end, *cotangents = carry
        segment = (end - 1) // length
        start = segment * length

        def forwards(i: Array, carry: tuple[State, State]) -> tuple[State, State]:
            state, states = carry
            return next_state(state, parameters), _store(states, i, state)

        def backwards(i: Array, cotangents: tuple[State, Parameters]) -> tuple[State, Parameters]:
            state, sums = cotangents
            _, pull_back = jax.vjp(next_state, _load(states, end - start - 1 - i), parameters)
            state, terms = pull_back(state)
            return state, jax.tree.map(jnp.add, sums, terms)

        _, states = lax.fori_loop(0, end - start, forwards, (_load(starts, segment), _buffer(state, length)))
        return start, *lax.fori_loop(0, end - start, backwards, tuple(cotangents))

    zeros = jax.tree.map(jnp.zeros_like, parameters)
    return lax.while_loop(lambda carry: carry[0] > 0, previous_segment, (progress.steps, cotangent, zeros))[1:]


_iterate = with_gradient(_one_by_one(_last_state), _one_by_one(_gradient), static_argnums=(0, 1, 2))


def _buffer(state: State, length: int) -> State:
    return jax.tree.map(lambda leaf: jnp.zeros((length, *leaf.shape), leaf.dtype), state)


def _store(buffer: State, index: Int[Array, ""], state: State) -> State:
    return jax.tree.map(lambda leaves, leaf: lax.dynamic_update_index_in_dim(leaves, leaf, index, 0), buffer, state)


def _load(buffer: State, index: Int[Array, ""]) -> State:
    return jax.tree.map(lambda leaves: lax.dynamic_index_in_dim(leaves, index, 0, keepdims=False), buffer)

"""Iterating until it converges, differentiably and in little memory."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import sequential_vmap
from jaxtyping import Array, Bool, Float, Int, PyTree

State = PyTree[Float[Array, "..."]]
Parameters = PyTree[Float[Array, "..."]]
Scalar = Float[Array, ""]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 4))
def iterate(
    step: Callable[[State, Parameters], tuple[State, Scalar]],
    stop: Callable[[Scalar, Scalar, Scalar], Bool[Array, ""]],
    state: State,
    parameters: Parameters,
    max_iterations: int,
) -> State:
    """Applies `step` until `stop` says so, at most `max_iterations` times.

    Reverse-mode gradients, for the first state and for the parameters, are exact: those of the same number of steps
    written out. They take the memory of about 2 sqrt(max_iterations) states, where writing out keeps the intermediate
    results of every step, and for that run each step three times more. Forward-mode and
    second derivatives do not work.

    On the CPU `vmap` runs its problems one after the other: each ends by its own rule and stays in the cache. Elsewhere
    they run together, and those that are done wait for the rest.

    Args:
        step: `(state, parameters) -> (state, measure)`: the next state, and a scalar that tells how far things are,
            through which no gradient flows. A function of its arguments alone: it must not close over traced arrays.
        stop: `(first, previous, measure) -> bool`, of the measures of the first step, the step before, and this one.
            There is none before the first step: `previous` is infinite then.
        state: where to start, arrays of one floating-point type.
        parameters: what the step depends on; floating-point arrays.
        max_iterations: how often to step at most.
    """
    return _each(_last_state, step, stop, max_iterations)(state, parameters)


def _forward(step, stop, state, parameters, max_iterations):
    return iterate(step, stop, state, parameters, max_iterations), (state, parameters)


def _backward(step, stop, max_iterations, residuals, cotangent):
    return _each(_gradient, step, stop, max_iterations)(*residuals, cotangent)


iterate.defvjp(_forward, _backward)


def _each(function, *static):
    """`function` of arrays, which `vmap` calls one by one on the CPU."""
    function = functools.partial(function, *static)
    return sequential_vmap(function) if jax.default_backend() == "cpu" else function


class _Progress(NamedTuple):
    state: State
    count: Int[Array, ""]
    first: Scalar
    previous: Scalar
    done: Bool[Array, ""]


def _start(state):
    infinity = jnp.full((), jnp.inf, jnp.result_type(*jax.tree.leaves(state)))
    return _Progress(state, jnp.zeros((), int), infinity, infinity, jnp.zeros((), bool))


def _advance(step, stop, parameters, progress, until):
    """Steps until the count is `until` or the rule says stop."""

    def once(progress):
        state, measure = step(progress.state, parameters)
        first = jnp.where(progress.count == 0, measure, progress.first)
        return _Progress(state, progress.count + 1, first, measure, stop(first, progress.previous, measure))

    return lax.while_loop(lambda progress: _runs(progress, until), once, progress)


def _runs(progress, until):
    return (progress.count < until) & ~progress.done


def _last_state(step, stop, max_iterations, state, parameters):
    return _advance(step, stop, parameters, _start(state), max_iterations).state


def _gradient(step, stop, max_iterations, state, parameters, cotangent):
    """The cotangents of the first state and the parameters.

    Runs again, keeping the state at the start of every segment of sqrt(max_iterations) steps; then, last segment first,
    runs a segment again, keeping its every state, and steps backwards through it.
    """
    length = max(1, math.isqrt(max_iterations))
    segments = max(1, -(-max_iterations // length))

    def next_segment(carry):
        progress, starts = carry
        starts = _store(starts, progress.count // length, progress.state)
        until = jnp.minimum(progress.count + length, max_iterations)
        return _advance(step, stop, parameters, progress, until), starts

    progress, starts = lax.while_loop(
        lambda carry: _runs(carry[0], max_iterations), next_segment, (_start(state), _buffer(state, segments))
    )

    def next_state(state, parameters):
        return step(state, parameters)[0]

    def previous_segment(carry):
        end, *cotangents = carry
        segment = (end - 1) // length
        start = segment * length

        def forwards(i, carry):
            state, states = carry
            return next_state(state, parameters), _store(states, i, state)

        def backwards(i, cotangents):
            state, sums = cotangents
            _, pull_back = jax.vjp(next_state, _load(states, end - start - 1 - i), parameters)
            state, terms = pull_back(state)
            return state, jax.tree.map(jnp.add, sums, terms)

        _, states = lax.fori_loop(0, end - start, forwards, (_load(starts, segment), _buffer(state, length)))
        return start, *lax.fori_loop(0, end - start, backwards, tuple(cotangents))

    zeros = jax.tree.map(jnp.zeros_like, parameters)
    return lax.while_loop(lambda carry: carry[0] > 0, previous_segment, (progress.count, cotangent, zeros))[1:]


def _buffer(state, length):
    return jax.tree.map(lambda leaf: jnp.zeros((length, *leaf.shape), leaf.dtype), state)


def _store(buffer, index, state):
    return jax.tree.map(lambda leaves, leaf: lax.dynamic_update_index_in_dim(leaves, leaf, index, 0), buffer, state)


def _load(buffer, index):
    return jax.tree.map(lambda leaves: lax.dynamic_index_in_dim(leaves, index, 0, keepdims=False), buffer)

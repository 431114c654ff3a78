"""Traced functions without nested functions and without operations on constants.

An exporter writes a node for each operation of a traced function. Much of what is traced depends on the parameters
alone, such as the taps of a Gaussian, and is the same at each call.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend import core
from jax.interpreters import partial_eval

# The parameter that holds the function of an operation that only calls it. A rule for derivatives is dropped.
_CALLS = {
    "jit": "jaxpr",
    "closed_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}


def _padded(operand: jax.Array, value: jax.Array, padding_config: Sequence[tuple[int, int, int]]) -> jax.Array:
    for axis, (before, after, _) in enumerate(padding_config):
        sides = [operand.shape[:axis] + (margin,) + operand.shape[axis + 1 :] for margin in (before, after)]
        before, after = (jnp.broadcast_to(value, side) if side[axis] else None for side in sides)
        parts = [part for part in (before, operand, after) if part is not None]
        operand = jnp.concatenate(parts, axis) if len(parts) > 1 else operand
    return operand


def _selected(which: jax.Array, *cases: jax.Array) -> jax.Array:
    if cases[0].dtype != bool:
        return jax.lax.select_n(which, *cases)
    first, second = cases
    return (which & second) | (~which & first)


def _concatenated(*operands: jax.Array, dimension: int) -> jax.Array:
    parts = [operand for operand in operands if operand.shape[dimension] != 0]
    return jnp.concatenate(parts, dimension) if len(parts) > 1 else parts[0]


def _reversed(operand: jax.Array, dimensions: Sequence[int]) -> jax.Array:
    for axis in dimensions:
        if operand.shape[axis] != 1:
            chosen = (*[slice(None)] * axis, np.arange(operand.shape[axis])[::-1])
            operand = operand.at[chosen].get(mode="promise_in_bounds")
    return operand


def _broadcast(operand: jax.Array, shape: Sequence[Any], broadcast_dimensions: Sequence[int], **_: Any) -> jax.Array:
    sizes = [1] * len(shape)
    for axis, size in zip(broadcast_dimensions, operand.shape, strict=True):
        sizes[axis] = size
    if tuple(sizes) == tuple(shape):
        return operand if operand.shape == tuple(shape) else jax.lax.reshape(operand, shape)
    return jax.lax.broadcast_in_dim(operand, shape, broadcast_dimensions)


def _looped(
    *inputs: jax.Array,
    cond_jaxpr: core.ClosedJaxpr,
    cond_nconsts: int,
    body_jaxpr: core.ClosedJaxpr,
    body_nconsts: int,
) -> Sequence[jax.Array]:
    """Runs a loop whose condition may differ between the elements of a batch: those that are done keep their state."""
    of_condition, of_body = inputs[:cond_nconsts], inputs[cond_nconsts : cond_nconsts + body_nconsts]

    def running(state: Sequence[jax.Array]) -> jax.Array:
        return _evaluate(cond_jaxpr.jaxpr, cond_jaxpr.consts, [*of_condition, *state])[0]

    def step(state: Sequence[jax.Array]) -> list[jax.Array]:
        moved, runs = _evaluate(body_jaxpr.jaxpr, body_jaxpr.consts, [*of_body, *state]), running(state)
        if runs.ndim == 0:
            return moved
        return [
            _selected(jnp.broadcast_to(jnp.expand_dims(runs, range(runs.ndim, new.ndim)), new.shape), old, new)
            for old, new in zip(state, moved, strict=True)
        ]

    return jax.lax.while_loop(lambda state: running(state).any(), step, list(inputs[cond_nconsts + body_nconsts :]))


_REWRITTEN = {
    "while": _looped,
    "broadcast_in_dim": _broadcast,
    "rev": _reversed,
    "concatenate": _concatenated,
    "select_n": _selected,
    "pad": _padded,
    "clamp": lambda low, x, high: jnp.minimum(jnp.maximum(x, low), high),
    "copy": lambda x: x,
    "copy_p": lambda x: x,
}


def folded(function: Callable[..., jax.Array], *arguments: jax.ShapeDtypeStruct) -> core.ClosedJaxpr:
    """Traces a function, inlines the functions that it calls, and computes all that does not depend on the arguments.

    Args:
        function: a function of arrays; its derivatives are lost.
        arguments: their shapes and types. Sides may be symbolic.

    Returns:
        The traced function.
    """
    traced = jax.make_jaxpr(function)(*arguments)
    result = jax.make_jaxpr(lambda *values: _evaluate(traced.jaxpr, traced.consts, values))(*arguments)
    used, _ = partial_eval.dce_jaxpr(result.jaxpr, [True] * len(result.jaxpr.outvars), instantiate=True)
    return core.ClosedJaxpr(used, result.consts)


def _evaluate(jaxpr: core.Jaxpr, constants: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    """Evaluates a traced function, operation by operation."""
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *arguments], strict=True))

    def read(variable: Any) -> Any:
        return variable.val if isinstance(variable, core.Literal) else values[variable]

    for equation in jaxpr.eqns:
        inputs = [read(variable) for variable in equation.invars]
        if equation.primitive.name in _CALLS:
            inner = equation.params[_CALLS[equation.primitive.name]]
            inner, consts = (inner.jaxpr, inner.consts) if isinstance(inner, core.ClosedJaxpr) else (inner, ())
            outputs = _evaluate(inner, consts, inputs)
        elif _is_constant(equation, inputs):
            with jax.ensure_compile_time_eval():
                outputs = _apply(equation, inputs)
        elif equation.primitive.name in _REWRITTEN:
            outputs = _REWRITTEN[equation.primitive.name](*inputs, **equation.params)
            outputs = outputs if equation.primitive.multiple_results else [outputs]
        else:
            outputs = _apply(equation, inputs)
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(variable) for variable in jaxpr.outvars]


def _is_constant(equation: core.JaxprEqn, inputs: Sequence[Any]) -> bool:
    """Tells whether the results of an operation are known: they depend on no argument, not even on its size."""
    sizes = (side for variable in equation.outvars for side in variable.aval.shape)
    is_known = not any(isinstance(value, Tracer) for value in inputs) and all(isinstance(side, int) for side in sizes)
    return is_known and equation.primitive.name != "dim_as_value"


def _apply(equation: core.JaxprEqn, inputs: Sequence[Any]) -> Sequence[Any]:
    parameters = {name: _rewritten(value) for name, value in equation.params.items()}
    outputs = equation.primitive.bind(*inputs, **equation.primitive.get_bind_params(parameters))
    return outputs if equation.primitive.multiple_results else [outputs]


def _rewritten(parameter: Any) -> Any:
    """Rewrites the traced functions among the parameters of an operation, such as the body of a loop."""
    if type(parameter) is tuple:
        return tuple(_rewritten(each) for each in parameter)
    if not isinstance(parameter, core.ClosedJaxpr):
        return parameter
    return jax.make_jaxpr(lambda *values: _evaluate(parameter.jaxpr, parameter.consts, values))(*parameter.in_avals)

"""Simplifies traced functions for converters: inlines nested functions, folds constants, and rewrites operations.

A converter writes a node for each operation of a traced function. Many results depend on the parameters alone, such as
the taps of a Gaussian, and are the same at each call. jax2onnx 0.17 refuses some operations if the number of images is
symbolic, such as padding and arrays without elements, and loops that end at a different step for each image.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.extend import core
from jax.interpreters import partial_eval

AnyArray = jax.Array | np.ndarray

# Operations that only call a function, with the parameter that holds the function. Derivative rules are dropped.
_CALLS = {
    "jit": "jaxpr",
    "closed_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}


def folded(function: Callable[..., jax.Array], *arguments: jax.ShapeDtypeStruct) -> core.ClosedJaxpr:
    """Traces a function, inlines the functions that it calls, and computes all that does not depend on the arguments.

    Args:
        function: a function of arrays; its derivatives are lost.
        arguments: the shapes and types of its arguments. Sizes may be symbolic.
    """
    traced = jax.make_jaxpr(function)(*arguments)
    result = jax.make_jaxpr(lambda *values: _evaluate(traced.jaxpr, traced.consts, values))(*arguments)
    used, _ = partial_eval.dce_jaxpr(result.jaxpr, [True] * len(result.jaxpr.outvars), instantiate=True)
    return core.ClosedJaxpr(used, result.consts)


def _evaluate(jaxpr: core.Jaxpr, constants: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    """Evaluates a traced function, operation by operation."""
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *arguments], strict=True))

    def read(variable: Any) -> Any:
        if isinstance(variable, core.Literal):
            return np.asarray(variable.val, jax.typeof(variable.val).dtype)
        return values[variable]

    for equation in jaxpr.eqns:
        outputs = _results(equation, [read(variable) for variable in equation.invars])
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(variable) for variable in jaxpr.outvars]


def _results(equation: core.JaxprEqn, inputs: Sequence[Any]) -> Sequence[Any]:
    """Computes the results of an operation."""
    name, parameters = equation.primitive.name, equation.params
    outputs: Any
    if name in _CALLS:
        inner = parameters[_CALLS[name]]
        return _evaluate(*((inner.jaxpr, inner.consts) if isinstance(inner, core.ClosedJaxpr) else (inner, ())), inputs)
    if _is_constant(equation, inputs):
        with jax.ensure_compile_time_eval():
            outputs = equation.primitive.bind(*inputs, **equation.primitive.get_bind_params(parameters))
    elif name == "while":
        return _loop(inputs, **parameters)
    elif name in RULES:
        outputs = RULES[name](*inputs, **parameters)
    else:
        rewritten = {name: _rewritten(value) for name, value in parameters.items()}
        outputs = equation.primitive.bind(*inputs, **equation.primitive.get_bind_params(rewritten))
    return outputs if equation.primitive.multiple_results else [outputs]


def _is_constant(equation: core.JaxprEqn, inputs: Sequence[Any]) -> bool:
    """Tells whether the results of an operation depend on no argument, not even on its size."""
    shapes = (getattr(variable.aval, "shape", ()) for variable in equation.outvars)
    sides = (side for shape in shapes for side in shape)
    is_known = not any(isinstance(value, Tracer) for value in inputs) and all(isinstance(side, int) for side in sides)
    return is_known and equation.primitive.name != "dim_as_value"


def _loop(
    inputs: Sequence[Any],
    cond_jaxpr: core.ClosedJaxpr,
    cond_nconsts: int,
    body_jaxpr: core.ClosedJaxpr,
    body_nconsts: int,
) -> Sequence[Any]:
    of_condition, rest = inputs[:cond_nconsts], inputs[cond_nconsts:]
    of_body, start = rest[:body_nconsts], rest[body_nconsts:]
    return loop(
        lambda state: _evaluate(cond_jaxpr.jaxpr, cond_jaxpr.consts, [*of_condition, *state])[0],
        lambda state: _evaluate(body_jaxpr.jaxpr, body_jaxpr.consts, [*of_body, *state]),
        start,
    )


def _rewritten(parameter: Any) -> Any:
    """Rewrites the traced functions among the parameters of an operation, such as the body of a scan."""
    if type(parameter) is tuple:  # Not a named tuple.
        return tuple(_rewritten(each) for each in parameter)
    if not isinstance(parameter, core.ClosedJaxpr):
        return parameter
    return jax.make_jaxpr(lambda *values: _evaluate(parameter.jaxpr, parameter.consts, values))(*parameter.in_avals)


def pad(operand: AnyArray, value: AnyArray, padding_config: Sequence[tuple[Any, Any, Any]]) -> AnyArray:
    """Pads by concatenation; negative and interior padding are left to `lax.pad`."""
    if any(min(margins) < 0 or margins[2] for margins in padding_config):
        return lax.pad(operand, value, padding_config)
    for axis, (before, after, _) in enumerate(padding_config):
        shapes = [(*operand.shape[:axis], margin, *operand.shape[axis + 1 :]) for margin in (before, after)]
        first, last = (jnp.broadcast_to(value, shape) for shape in shapes)
        operand = concatenate(first, operand, last, dimension=axis)
    return operand


def concatenate(*operands: AnyArray, dimension: int) -> AnyArray:
    """Joins arrays, leaving out empty ones."""
    parts = [operand for operand in operands if operand.shape[dimension] != 0]
    return lax.concatenate(parts, dimension) if len(parts) > 1 else (*parts, operands[0])[0]


def loop(
    condition: Callable[[Sequence[AnyArray]], AnyArray],
    body: Callable[[Sequence[AnyArray]], Sequence[AnyArray]],
    start: Sequence[AnyArray],
) -> Sequence[AnyArray]:
    """Runs a loop whose condition may differ within a batch: elements that are done keep their state."""

    def step(state: Sequence[AnyArray]) -> Sequence[AnyArray]:
        moved, runs = body(state), condition(state)
        if runs.ndim == 0:
            return moved
        running = [jnp.broadcast_to(jnp.expand_dims(runs, range(runs.ndim, new.ndim)), new.shape) for new in moved]
        return [_where(which, new, old) for which, new, old in zip(running, moved, state, strict=True)]

    return lax.while_loop(lambda state: condition(state).any(), step, list(start))


def _where(which: AnyArray, first: AnyArray, second: AnyArray) -> AnyArray:
    """Selects between arrays; onnxruntime does not select between booleans, which are combined instead."""
    return (which & first) | (~which & second) if first.dtype == bool else lax.select(which, first, second)


# Replacements of JAX operations, by name. Each takes the operands and the parameters of the operation.
RULES: dict[str, Callable[..., AnyArray]] = {"pad": pad, "concatenate": concatenate}

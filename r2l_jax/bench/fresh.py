"""Rows that compare ours with a limit: the time that a pipeline takes to compile, and its memory."""

import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

import isp
from r2l_jax.bench import timing
from r2l_jax.bench.inputs import CAMERA
from r2l_jax.bench.timing import Measured

# The static pipeline that takes longest to compile.
SLOWEST = ("menon2007", "unsharp_masking", "bilateral")


def compile_times(shape: tuple[int, int, int], gradient: bool, repeats: int | None) -> Measured:
    """Measures the seconds that the slowest pipeline takes to compile, each time in a fresh process.

    Args:
        shape: the shape of a batch of mosaics.
        gradient: compiles the gradient for all parameters and the mosaics.
        repeats: how many times to compile; None is `timing.FEWEST`.
    """
    rounds = range(repeats or timing.FEWEST)
    samples = [1e3 * timing.in_fresh_process(compile_seconds, SLOWEST, gradient, shape) for _ in rounds]
    return Measured(statistics.median(samples) / 1e3, {"ours": samples}, "_".join(SLOWEST))


def compile_seconds(algorithms: tuple[str, str, str], gradient: bool, shape: tuple[int, int, int]) -> float:
    """Compiles a static pipeline, or its gradient, and returns the seconds that it takes."""
    jax.config.update("jax_enable_compilation_cache", False)
    forward, parameters = _forward(isp.static(CAMERA, *algorithms))

    def weighted_mean(parameters, raw, weight):
        return (forward(parameters, raw) * weight).mean()

    function = jax.value_and_grad(weighted_mean, argnums=(0, 1)) if gradient else forward
    shapes = [shape, (*shape, 3)] if gradient else [shape]
    arguments = [parameters, *(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)]
    started = time.perf_counter()
    jax.jit(function).lower(*arguments).compile()
    return time.perf_counter() - started


def _forward(pipeline: isp.Pipeline) -> tuple[Callable, nnx.State]:
    """Returns a pipeline as a function `(parameters, raw) -> rgb`, and its parameters."""
    graph, parameters = nnx.split(pipeline)
    return lambda parameters, raw: nnx.merge(graph, parameters)(raw), parameters


def memory(shape: tuple[int, int], repeats: int | None) -> Measured:
    """Returns the memory that XLA plans for a frame, in multiples of the frame and its picture.

    The value is that of the pipeline that needs most. Nothing varies, so `repeats` is ignored.
    """
    frame, multiples = jax.ShapeDtypeStruct(shape, jnp.float32), {}
    for name in ("parametrized", "full"):
        forward, parameters = _forward(getattr(isp, name)(CAMERA))
        plan = jax.jit(forward).lower(parameters, frame).compile().memory_analysis()
        assert plan is not None
        planned = plan.temp_size_in_bytes + plan.output_size_in_bytes + plan.argument_size_in_bytes
        multiples[name] = planned / (4 * 4 * frame.size)
    note = ", ".join(f"{name} {multiple:.2f}x" for name, multiple in multiples.items())
    return Measured(max(multiples.values()), {}, note)

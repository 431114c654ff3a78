"""Measures the memory and the time of rendering single large frames, each in a fresh process."""

import functools
import math
import pathlib
import re
import statistics

import jax
import jax.numpy as jnp
from flax import nnx

import isp
from r2l_jax.bench import timing
from r2l_jax.bench.inputs import CAMERA
from r2l_jax.bench.rows import Measured
from r2l_jax.runtime import startup

Shape = tuple[int, int]

PIPELINES = {"parametrized": isp.parametrized, "full": isp.full}

# Rounds of the frames that are timed.
_ROUNDS = 5


def memory(shape: Shape, repeats: int | None) -> Measured:
    """Measures the peak memory of pipelines in multiples of the mosaic and the image, and returns the largest.

    The memory of a pipeline is the larger of what the compiler plans and what the process takes.

    Args:
        shape: the frame's.
        repeats: ignored, because nothing varies from one measurement to the next.
    """
    of_pipelines = {name: timing.in_fresh_process(_multiples, name, shape) for name in PIPELINES}
    largest = {name: max(multiples) for name, multiples in of_pipelines.items() if multiples}
    note = ", ".join(f"{name} {multiple:.2f}x" for name, multiple in largest.items())
    return Measured(max(largest.values(), default=None), {}, note)


def _multiples(name: str, shape: Shape) -> list[float]:
    """Returns the memory that the compiler plans, and the memory that the process takes, as far as they are known."""
    startup.keep_memory()
    graph, parameters = nnx.split(PIPELINES[name](CAMERA))
    raw = jnp.full(shape, 0.5)
    compiled = jax.jit(lambda parameters, raw: nnx.merge(graph, parameters)(raw)).lower(parameters, raw).compile()
    plan = compiled.memory_analysis()
    before = _process_bytes("VmRSS")
    rgb = jax.block_until_ready(compiled(parameters, raw))
    peak = _process_bytes("VmHWM")
    moved = raw.nbytes + rgb.nbytes
    multiples = []
    if plan is not None:
        planned = plan.temp_size_in_bytes + plan.output_size_in_bytes + plan.argument_size_in_bytes
        multiples.append(planned / moved)
    if before is not None and peak is not None:
        multiples.append((peak - before + raw.nbytes) / moved)
    return multiples


def _process_bytes(field: str) -> int | None:
    """Returns this process's memory: VmRSS is the present one, VmHWM the peak. None on systems other than Linux."""
    # The resource module would not do: the peak that it returns starts at that of the parent process.
    status = pathlib.Path("/proc/self/status")
    found = re.search(rf"{field}:\s*(\d+) kB", status.read_text()) if status.exists() else None
    return 1024 * int(found[1]) if found else None


def time_per_pixel(shapes: tuple[Shape, Shape], repeats: int | None) -> Measured:
    """Measures how much longer a pixel of a very large frame takes than one of a large frame.

    Args:
        shapes: those of the large frame and the very large one.
        repeats: the number of rounds; None takes five.
    """
    samples = timing.in_fresh_process(_milliseconds, shapes, repeats or _ROUNDS)
    large, larger = (
        statistics.median(samples[name]) / math.prod(shape) for name, shape in zip(samples, shapes, strict=True)
    )
    note = ", ".join(f"{name} {statistics.median(times):.0f} ms" for name, times in samples.items())
    return Measured(larger / large, samples, note)


def _milliseconds(shapes: tuple[Shape, Shape], repeats: int) -> dict[str, list[float]]:
    """Times frames in turns, after a first call of each, by their numbers of megapixels."""
    startup.keep_memory()
    pipeline = isp.parametrized(CAMERA)
    calls = {
        f"{math.prod(shape) / 1e6:g} megapixels": functools.partial(pipeline, jnp.full(shape, 0.5)) for shape in shapes
    }
    return timing.alternate(
        {name: functools.partial(timing.milliseconds, call, 0) for name, call in calls.items()}, repeats
    )

"""Rows that are measured in fresh processes: compile times of pipelines, and memory and time of single large frames."""

import functools
import math
import pathlib
import re
import statistics
import time

import jax
import jax.numpy as jnp
from flax import nnx

import isp
from r2l_jax.bench import timing
from r2l_jax.bench.inputs import CAMERA
from r2l_jax.bench.rows import Measured
from r2l_jax.runtime import startup

Shape = tuple[int, int]

# The pipelines to compile, as the arguments of `isp.static`; no arguments stand for the parametrized pipeline. The
# denoisers that no published pipeline has follow the demosaicing and the sharpening that take longest to compile.
_UNPUBLISHED = ("fft_denoising", "tv_chambolle", "tv_bregman", "bilateral", "chroma_denoising", "nlm_denoising")
PIPELINES: tuple[tuple[str, ...], ...] = (
    *((), *isp.PUBLISHED_STATIC),
    *(("menon2007", "unsharp_masking", denoise) for denoise in _UNPUBLISHED),
)


def pipeline_name(algorithms: tuple[str, ...]) -> str:
    """Returns the name of one of the `PIPELINES` in the table."""
    return "_".join(("static", *algorithms)) if algorithms else "parametrized"


def compile_times(shape: tuple[int, int, int], gradient: bool, repeats: int | None) -> Measured:
    """Measures the seconds that the slowest pipeline takes to compile, and compiles only this one repeatedly.

    Args:
        shape: the shape of a batch of mosaics.
        gradient: compiles the gradient for all parameters and the mosaics.
        repeats: how many times to compile the slowest pipeline; None is `timing.FEWEST_SLOW`.
    """

    def compile_ms(algorithms: tuple[str, ...]) -> float:
        return 1e3 * timing.in_fresh_process(_compile_seconds, algorithms, gradient, shape)

    samples = {algorithms: [compile_ms(algorithms)] for algorithms in PIPELINES}
    slowest = max(samples, key=samples.__getitem__)
    samples[slowest] += [compile_ms(slowest) for _ in range((repeats or timing.FEWEST_SLOW) - 1)]
    by_name = {pipeline_name(algorithms): times for algorithms, times in samples.items()}
    value = statistics.median(samples[slowest]) / 1e3
    return Measured(value, {"ours": samples[slowest]} | by_name, pipeline_name(slowest))


def _compile_seconds(algorithms: tuple[str, ...], gradient: bool, shape: tuple[int, int, int]) -> float:
    jax.config.update("jax_enable_compilation_cache", False)
    graph, parameters = nnx.split(isp.static(CAMERA, *algorithms) if algorithms else isp.parametrized(CAMERA))

    def forward(parameters, raw):
        return nnx.merge(graph, parameters)(raw)

    def weighted_mean(parameters, raw, weight):
        return (forward(parameters, raw) * weight).mean()

    function = jax.value_and_grad(weighted_mean, argnums=(0, 1)) if gradient else forward
    shapes = [shape, (*shape, 3)] if gradient else [shape]
    arguments = [parameters, *(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)]
    started = time.perf_counter()
    jax.jit(function).lower(*arguments).compile()
    return time.perf_counter() - started


def memory(shape: Shape, repeats: int | None) -> Measured:
    """Measures the peak memory of pipelines in multiples of a mosaic of this shape and its image; returns the largest.

    The memory of a pipeline is the larger of the compiler's plan and the process's growth. Nothing varies from one
    measurement to the next, so `repeats` is ignored.
    """
    of_pipelines = {name: timing.in_fresh_process(_multiples, name, shape) for name in ("parametrized", "full")}
    largest = {name: max(multiples) for name, multiples in of_pipelines.items() if multiples}
    note = ", ".join(f"{name} {multiple:.2f}x" for name, multiple in largest.items())
    return Measured(max(largest.values(), default=None), {}, note)


def _multiples(name: str, shape: Shape) -> list[float]:
    """Returns the memory that the compiler plans and the memory that the process takes, as far as they are known."""
    startup.keep_memory()
    graph, parameters = nnx.split(getattr(isp, name)(CAMERA))
    raw = jnp.full(shape, 0.5)
    compiled = jax.jit(lambda parameters, raw: nnx.merge(graph, parameters)(raw)).lower(parameters, raw).compile()
    before = _process_bytes("VmRSS")
    rgb = jax.block_until_ready(compiled(parameters, raw))
    peak = _process_bytes("VmHWM")
    multiples = []
    if (plan := compiled.memory_analysis()) is not None:
        multiples.append(plan.temp_size_in_bytes + plan.output_size_in_bytes + plan.argument_size_in_bytes)
    if before is not None and peak is not None:
        multiples.append(peak - before + raw.nbytes)
    return [taken / (raw.nbytes + rgb.nbytes) for taken in multiples]


def _process_bytes(field: str) -> int | None:
    """Returns this process's memory: VmRSS is the present one, VmHWM the peak. None on systems other than Linux."""
    # The resource module is of no use here, because its peak starts at the peak of the parent process.
    status = pathlib.Path("/proc/self/status")
    found = re.search(rf"{field}:\s*(\d+) kB", status.read_text()) if status.exists() else None
    return 1024 * int(found[1]) if found else None


def time_per_pixel(shapes: tuple[Shape, Shape], repeats: int | None) -> Measured:
    """Measures how much longer a pixel of the second frame takes than one of the first, in five rounds by default."""
    samples = timing.in_fresh_process(_milliseconds, shapes, repeats or 5)
    large, larger = (
        statistics.median(samples[name]) / math.prod(shape) for name, shape in zip(samples, shapes, strict=True)
    )
    note = ", ".join(f"{name} {statistics.median(times):.0f} ms" for name, times in samples.items())
    return Measured(larger / large, samples, note)


def _milliseconds(shapes: tuple[Shape, Shape], repeats: int) -> dict[str, list[float]]:
    """Times frames in turns, after a first call of each; returns times by megapixels."""
    startup.keep_memory()
    pipeline = isp.parametrized(CAMERA)
    stopwatches = {
        f"{math.prod(shape) / 1e6:g} megapixels": functools.partial(
            timing.milliseconds, functools.partial(pipeline, jnp.full(shape, 0.5)), 0
        )
        for shape in shapes
    }
    return timing.alternate(stopwatches, repeats)

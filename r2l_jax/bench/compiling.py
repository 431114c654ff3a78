"""Measures how long pipelines take to compile, each in a fresh process."""

import statistics
import time

import jax
import jax.numpy as jnp
from flax import nnx

import isp
from r2l_jax.bench import timing
from r2l_jax.bench.inputs import CAMERA
from r2l_jax.bench.rows import Measured

# The pipelines to compile, as the arguments of `isp.static`; no arguments stand for the parametrized pipeline. The
# denoisers that no published pipeline has follow the demosaicing and the sharpening that take longest to compile.
PIPELINES: tuple[tuple[str, ...], ...] = (
    (),
    *isp.PUBLISHED_STATIC,
    *(
        ("menon2007", "unsharp_masking", denoise)
        for denoise in (
            *("fft_denoising", "tv_chambolle", "tv_bregman", "bilateral"),
            *("chroma_denoising", "nlm_denoising"),
        )
    ),
)


def pipeline_name(algorithms: tuple[str, ...]) -> str:
    """Returns the name of one of the `PIPELINES` in the table."""
    return "_".join(("static", *algorithms)) if algorithms else "parametrized"


def compile_times(shape: tuple[int, int, int], gradient: bool, repeats: int | None) -> Measured:
    """Measures the seconds that the slowest pipeline takes to compile; only the slowest one is compiled repeatedly.

    Args:
        shape: the shape of a batch of mosaics.
        gradient: whether to compile the gradient for all parameters and the mosaics.
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

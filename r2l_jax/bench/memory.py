"""Measures the peak memory of rendering one frame, in a fresh process."""

import pathlib
import re

import jax
import jax.numpy as jnp
from flax import nnx

import isp
from r2l_jax.bench import timing
from r2l_jax.bench.inputs import CAMERA
from r2l_jax.bench.rows import Measured


def memory(shape: tuple[int, int], repeats: int | None) -> Measured:
    """Measures the peak memory in multiples of the mosaic and the image, and returns the larger of plan and fact.

    Args:
        shape: the frame's.
        repeats: ignored, because nothing varies from one measurement to the next.
    """
    multiples = timing.in_fresh_process(_multiples, shape)
    note = ", ".join(f"{name} {multiple:.2f}x" for name, multiple in multiples.items())
    return Measured(max(multiples.values(), default=None), {}, note)


def _multiples(shape: tuple[int, int]) -> dict[str, float]:
    """Returns the memory that the compiler plans, and the memory that the process takes, as far as they are known."""
    graph, parameters = nnx.split(isp.parametrized(CAMERA))
    raw = jnp.full(shape, 0.5)
    compiled = jax.jit(lambda parameters, raw: nnx.merge(graph, parameters)(raw)).lower(parameters, raw).compile()
    plan = compiled.memory_analysis()
    before = _process_bytes("VmRSS")
    rgb = jax.block_until_ready(compiled(parameters, raw))
    peak = _process_bytes("VmHWM")
    moved = raw.nbytes + rgb.nbytes
    multiples = {}
    if plan is not None:
        planned = plan.temp_size_in_bytes + plan.output_size_in_bytes + plan.argument_size_in_bytes
        multiples["planned"] = planned / moved
    if before is not None and peak is not None:
        multiples["resident"] = (peak - before + raw.nbytes) / moved
    return multiples


def _process_bytes(field: str) -> int | None:
    """Returns this process's memory: VmRSS is the present one, VmHWM the peak. None on systems other than Linux."""
    # The resource module would not do: the peak that it returns starts at that of the parent process.
    status = pathlib.Path("/proc/self/status")
    found = re.search(rf"{field}:\s*(\d+) kB", status.read_text()) if status.exists() else None
    return 1024 * int(found[1]) if found else None

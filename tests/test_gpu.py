"""Tests of the programs that JAX gives XLA to compile for a GPU. JAX lowers for CUDA without a GPU."""

import json
import subprocess
import sys

import pytest

# In a process of its own, since functions traced for a CPU before would be reused. It prints how often loops, calls out
# of XLA, and units that XLA must not fuse occur in each program and its gradient.
LOWER = """
import json, sys
import jax
kind, backend, platform = sys.argv[1:]
jax.default_backend = lambda: backend
from flax import nnx
import isp, tasks

def made():
    camera = isp.CAMERAS["drone"]
    if kind == "pipelines":
        static = isp.static(camera, "menon2007", "unsharp_masking", "median_denoising")
        return isp.parametrized(camera), static, isp.full(camera)
    unet = tasks.unet("unetplusplus", rngs=nnx.Rngs(0))
    return tasks.resnet("resnet18", num_classes=9, rngs=nnx.Rngs(0)), unet

counts = []
images = jax.ShapeDtypeStruct((8, 256, 256) if kind == "pipelines" else (8, 256, 256, 3), "float32")
for module in made() if kind == "pipelines" else nnx.eval_shape(made):
    graph, state = nnx.split(module)
    forward = lambda state, images: nnx.merge(graph, state)(images)
    for function in (forward, jax.grad(lambda *arguments: forward(*arguments).mean(), argnums=(0, 1))):
        text = jax.jit(function).trace(state, images).lower(lowering_platforms=(platform,)).as_text()
        counts.append([text.count(word) for word in ("stablehlo.while", "stablehlo.custom_call", "inlineable")])
print(json.dumps(counts))
"""


def lowered(kind, backend, platform):
    command = [sys.executable, "-c", LOWER, kind, backend, platform]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("kind", ["pipelines", pytest.param("networks", marks=pytest.mark.slow)])
def test_gpus_get_whole_batches_in_one_piece(kind):
    counts = lowered(kind, "gpu", "cuda")
    assert counts == [[0, 0, 0]] * len(counts)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "has_loops"), [("pipelines", True), ("networks", False)])
def test_cpus_get_units_that_are_not_fused(kind, has_loops):
    for loops, _, units in lowered(kind, "cpu", "cpu"):
        assert units > 0
        assert (loops > 0) == has_loops

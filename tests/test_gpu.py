"""Tests of the programs that JAX gives XLA to compile for a GPU. JAX lowers for CUDA without a GPU."""

import json
import subprocess
import sys

import pytest

# In a process of its own, since functions traced for a CPU before would be reused. It prints how often loops,
# calls out of XLA, and units that XLA must not fuse occur in each program.
LOWER = """
import json, sys
import jax
kind, backend, platform = sys.argv[1:]
jax.default_backend = lambda: backend
from flax import nnx
import isp, tasks

def pipelines():
    camera = isp.CAMERAS["drone"]
    return {
        "parametrized": isp.parametrized(camera),
        "static": isp.static(camera, "menon2007", "unsharp_masking", "median_denoising"),
        "full": isp.full(camera),
    }

def networks():
    return {
        "resnet18": tasks.resnet("resnet18", num_classes=9, rngs=nnx.Rngs(0)),
        "unetplusplus": tasks.unet("unetplusplus", rngs=nnx.Rngs(0)),
    }

modules, shape = {
    "pipelines": (pipelines, (8, 256, 256)),
    "networks": (lambda: nnx.eval_shape(networks), (8, 256, 256, 3)),
}[kind]
counts = {}
for name, module in modules().items():
    graph, state = nnx.split(module)
    forward = lambda state, images: nnx.merge(graph, state)(images)
    gradient = jax.grad(lambda *arguments: forward(*arguments).mean(), argnums=(0, 1))
    for function in (forward, gradient):
        images = jax.ShapeDtypeStruct(shape, "float32")
        text = jax.jit(function).trace(state, images).lower(lowering_platforms=(platform,)).as_text()
        words = ("stablehlo.while", "stablehlo.custom_call", "inlineable")
        counts.setdefault(name, []).append([text.count(word) for word in words])
print(json.dumps(counts))
"""


def lowered(kind, backend, platform):
    """Returns the counts of forward and gradient by the names of pipelines or networks."""
    command = [sys.executable, "-c", LOWER, kind, backend, platform]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("kind", ["pipelines", pytest.param("networks", marks=pytest.mark.slow)])
def test_gpus_get_whole_batches_in_one_piece(kind):
    for name, counts in lowered(kind, "gpu", "cuda").items():
        assert counts == [[0, 0, 0], [0, 0, 0]], name


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "has_loops"), [("pipelines", True), ("networks", False)])
def test_cpus_get_units_that_are_not_fused(kind, has_loops):
    for name, counts in lowered(kind, "cpu", "cpu").items():
        for loops, _, units in counts:
            assert units > 0, name
            assert (loops > 0) == has_loops, name

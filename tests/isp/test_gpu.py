"""What a GPU is given to compile. No test here needs a GPU: JAX lowers for CUDA on any machine."""

import json
import subprocess
import sys

import pytest

# In a process of its own, since functions that were traced for a CPU before would be taken as they are. It prints how
# often loops, calls out of XLA, and units that XLA must not fuse occur in each program.
LOWER = """
import json, re, sys
import jax
backend, platform = sys.argv[1:]
jax.default_backend = lambda: backend
from flax import nnx
import isp

camera = isp.CAMERAS["drone"]
pipelines = {
    "parametrized": isp.parametrized(camera),
    "static": isp.static(camera, "menon2007", "unsharp_masking", "median_denoising"),
    "full": isp.full(camera),
}
counts = {}
for name, pipeline in pipelines.items():
    graph, parameters = nnx.split(pipeline)
    forward = lambda parameters, raw: nnx.merge(graph, parameters)(raw)
    gradient = jax.grad(lambda *arguments: forward(*arguments).mean(), argnums=(0, 1))
    for kind, function in (("forward", forward), ("gradient", gradient)):
        raw = jax.ShapeDtypeStruct((8, 256, 256), "float32")
        text = jax.jit(function).trace(parameters, raw).lower(lowering_platforms=(platform,)).as_text()
        words = ("stablehlo.while", "stablehlo.custom_call", "inlineable")
        counts[f"{name} {kind}"] = [len(re.findall(word, text)) for word in words]
print(json.dumps(counts))
"""


def lowered(backend, platform):
    done = subprocess.run([sys.executable, "-c", LOWER, backend, platform], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_gpus_get_whole_batches_in_one_piece():
    for program, counts in lowered("gpu", "cuda").items():
        assert counts == [0, 0, 0], program


@pytest.mark.slow
def test_cpus_get_loops_of_units_that_are_not_fused():
    for program, (loops, _, units) in lowered("cpu", "cpu").items():
        assert loops > 0, program
        assert units > 0, program

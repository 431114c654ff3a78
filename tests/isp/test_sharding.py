"""Pipelines on several devices, which a process of its own simulates."""

import os
import subprocess
import sys

CODE = """
import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

import isp

raws = jax.random.uniform(jax.random.key(0), (8, 16, 16))
mesh = Mesh(jax.devices(), ("batch",))
assert mesh.size == 4
split = {"mesh": mesh, "in_specs": (PartitionSpec(), PartitionSpec("batch")), "out_specs": PartitionSpec()}
camera = isp.CAMERAS["drone"]
menon = isp.stages.ALGORITHMS["demosaic"]["menon2007"](camera.pattern)
for pipeline in (isp.parametrized(camera), isp.full(camera).replaced("demosaic", menon)):
    graph, values = nnx.split(pipeline)
    # Each image counts differently, so that the devices' gradients differ.
    weights = jax.numpy.arange(1.0, 9)[:, None, None]

    def loss(values, raws):
        return (nnx.merge(graph, values)(raws) ** 2).mean()

    def whole(values):
        return jax.shard_map(lambda *args: jax.lax.pmean(loss(*args), "batch"), **split)(values, raws * weights / 8)

    def of_parts(values, raws):
        return jax.tree.map(lambda summed: summed / 4, jax.grad(loss)(values, raws))

    wanted = jax.jit(jax.grad(loss))(values, raws * weights / 8)
    within = jax.jit(jax.shard_map(of_parts, **split))(values, raws * weights / 8)
    for found in (jax.jit(jax.grad(whole))(values), within):
        jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6), found, wanted)
"""


def test_gradients_of_parameters_that_devices_share_are_summed_in_shard_map():
    flags = {"JAX_NUM_CPU_DEVICES": "4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, env=os.environ | flags)
    assert done.returncode == 0, done.stderr

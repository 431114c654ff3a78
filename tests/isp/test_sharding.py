"""Pipelines on several devices, which a process of its own simulates."""

import os
import subprocess
import sys

CODE = """
import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

import isp

raws = jax.random.uniform(jax.random.key(0), (4, 12, 12)) / jax.numpy.arange(1, 5)[:, None, None]
mesh = Mesh(jax.devices(), ("batch",))
assert mesh.size == 2
split = {"mesh": mesh, "in_specs": (PartitionSpec(), PartitionSpec("batch")), "out_specs": PartitionSpec()}
pipeline = isp.parametrized(isp.CAMERAS["drone"]).inserted(isp.stages.defects(), before="demosaic")


def loss(values, raws):
    return (pipeline.with_values(values)(raws) ** 2).mean()


def whole(values):
    return jax.shard_map(lambda *args: jax.lax.pmean(loss(*args), "batch"), **split)(values, raws)


def of_parts(values, raws):
    return jax.tree.map(lambda summed: summed / 2, jax.grad(loss)(values, raws))


values = pipeline.parameters()
wanted = jax.jit(jax.grad(loss))(values, raws)
within = jax.jit(jax.shard_map(of_parts, **split))(values, raws)
for found in (jax.jit(jax.grad(whole))(values), within):
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6), found, wanted)
"""


def test_gradients_of_parameters_that_devices_share_are_summed_in_shard_map():
    flags = {"JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, env=os.environ | flags)
    assert done.returncode == 0, done.stderr

"""Parts of models as StableHLO, using `jax.export`: one file for CPUs, GPUs and TPUs, and for any number of images."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from r2l_jax.apps.export.parts import Part


def write(part: Part, target: Path, gradient: bool) -> None:
    """Writes a function of the parameters, a dict by name, and of a batch, for `jax.export.deserialize`.

    With `gradient`, the file also has the reverse-mode derivative.
    """
    (batch,) = jax.export.symbolic_shape("B")
    parameters = jax.tree.map(lambda value: jax.ShapeDtypeStruct(value.shape, value.dtype), part.parameters)
    inputs = jax.ShapeDtypeStruct((batch, *part.shape), jnp.float32)
    exported = jax.export.export(jax.jit(part.function), platforms=("cpu", "cuda", "tpu"))(parameters, inputs)
    target.write_bytes(exported.serialize(vjp_order=int(gradient)))


def run(part: Part, file: Path, inputs: np.ndarray) -> np.ndarray:
    """Computes a part's outputs from its file."""
    exported = jax.export.deserialize(bytearray(file.read_bytes()))
    return np.asarray(exported.call(part.parameters, inputs))

"""How XLA compiles what takes the time."""

import functools

import jax
import jax.numpy as jnp


@functools.cache
def options() -> dict[str, str]:
    """On a CPU, leaves convolutions to Eigen.

    XLA gives them to YNNPACK, which takes 1.7 times as long for the forward pass of ResNet-18's first blocks, and 2.3
    times for the gradient of their kernels. An XLA that does not know the option has no YNNPACK to turn off.
    """
    without = {"xla_cpu_experimental_ynn_fusion_type": ""}
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda: jnp.zeros(()), compiler_options=without).lower().compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return without

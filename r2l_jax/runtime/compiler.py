"""Compiler options for the functions that take most of the time."""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp


@functools.cache
def options() -> dict[str, str | int]:
    """Returns the options to compile with, which on a CPU leave convolutions to Eigen and products to YNNPACK.

    YNNPACK's convolutions take 1.7 times as long as Eigen's for the forward pass of ResNet-18's first blocks, and 2.3
    times for the gradient of their kernels. Eigen's matrix products allocate memory 36,000 times in a training step of
    a ResNet-18. Where all threads share one heap (`startup.keep_memory`), the step takes 1.15 times as long with them,
    or more if the heap is fragmented; elsewhere it takes as long. Versions of XLA that do not know the option lack
    YNNPACK.
    """
    if jax.default_backend() != "cpu":
        return {}
    return known({"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"})


def for_one_call() -> dict[str, str | int]:
    """Returns the options for a function that is called once, such as the one that draws initial weights.

    On a CPU, LLVM optimizes it less. The function that draws the weights of a ResNet-18 then compiles in 2.2 s rather
    than 5.5 s, takes the same 0.1 s, and draws the same weights.
    """
    if jax.default_backend() != "cpu":
        return {}
    return options() | known({"xla_backend_optimization_level": 1})


def known(wanted: Mapping[str, str | int]) -> dict[str, str | int]:
    """Returns those options that this version of XLA knows.

    Raises:
        jax.errors.JaxRuntimeError: XLA knows an option but refuses its value.
    """
    return {name: value for name, value in wanted.items() if _is_known(name, value)}


def _is_known(name: str, value: str | int) -> bool:
    try:
        jax.jit(lambda: jnp.zeros(()), compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "No such compile option" in str(error):
            return False
        raise
    return True

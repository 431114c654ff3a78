"""Compiler options for the most expensive functions."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp


@functools.cache
def options() -> dict[str, str | int]:
    """Returns compiler options, which on a CPU leave convolutions to Eigen and matrix products to YNNPACK.

    YNNPACK's convolutions take 1.7 times as long in ResNet-18's first blocks; Eigen's products need much memory.
    """
    if jax.default_backend() != "cpu":
        return {}
    return known({"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"})


@functools.cache
def jit(function: Callable, *static: int) -> Callable[..., Any]:
    """Compiles a function with `options`, to be called at its first use: the options start a backend."""
    return jax.jit(function, static_argnums=static, compiler_options=options())


def for_one_call() -> dict[str, str | int]:
    """Returns options for a function that is called once: on a CPU, fewer optimizations halve its compile time."""
    return options() | {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else {}


def known(wanted: Mapping[str, str | int]) -> dict[str, str | int]:
    """Returns the options that this version of XLA supports."""
    taken = {}
    for name, value in wanted.items():
        try:
            jax.jit(lambda: jnp.zeros(()), compiler_options={name: value}).lower().compile()
            taken[name] = value
        except jax.errors.JaxRuntimeError as error:
            if "No such compile option" not in str(error):
                raise
    return taken

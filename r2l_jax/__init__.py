"""Experiments with raw data and a differentiable ISP: data sets, training, drift controls and programs."""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from r2l_jax import data

__all__ = ["data"]


def __getattr__(name: str) -> ModuleType:
    # Imported on first use, because the libraries that read raw files take seconds.
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

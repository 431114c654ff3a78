"""Experiments with raw data and a differentiable ISP: data sets, training, drift controls and programs."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from r2l_jax import data, maite
    from r2l_jax.apps.share.hub import load
    from r2l_jax.controls import adapt, evaluate, export, forensics, monitor, report, synthesize, train
    from r2l_jax.model.heads import from_flax, from_onnx, from_torch

__version__: str
__all__ = [
    "__version__",
    "adapt",
    "data",
    "evaluate",
    "export",
    "forensics",
    "from_flax",
    "from_onnx",
    "from_torch",
    "load",
    "maite",
    "monitor",
    "report",
    "synthesize",
    "train",
]

_MODULES = {
    "apps.share.hub": ("load",),
    "controls": ("adapt", "evaluate", "export", "forensics", "monitor", "report", "synthesize", "train"),
    "model.heads": ("from_flax", "from_onnx", "from_torch"),
}


def __getattr__(name: str) -> Any:
    # Imported on first use, because the libraries that read raw files and checkpoints take seconds.
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version(__name__)
    if name in ("data", "maite"):
        return importlib.import_module(f"{__name__}.{name}")
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

"""Raw data: files, data sets, splits and batches."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from r2l_jax.data.files.rawfile import read_raw
    from r2l_jax.data.in_memory import from_arrays
    from r2l_jax.data.sets.datasets import load

__all__ = ["from_arrays", "load", "read_raw"]


def __getattr__(name: str) -> Any:
    # Imported on first use, because the libraries that read raw files would delay `--help`.
    if name == "from_arrays":
        return importlib.import_module("r2l_jax.data.in_memory").from_arrays
    if name == "load":
        return importlib.import_module("r2l_jax.data.sets.datasets").load
    if name == "read_raw":
        return importlib.import_module("r2l_jax.data.files.rawfile").read_raw
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

"""The machine that is measured, and the kind of its devices to compute on."""

import os
import pathlib
import platform
import re
from typing import Any

import jax

from r2l_jax.runtime.errors import InputError

DEVICES = ("cpu", "gpu")


def compute_on(device: str | None) -> str:
    """Makes this process and those that it starts compute on one of `DEVICES`; must come before any computation.

    None leaves the choice to JAX. Returns the chosen kind.

    Raises:
        InputError: JAX computes on another kind of device.
    """
    if device == "cpu":
        os.environ["JAX_PLATFORMS"] = device
        jax.config.update("jax_platforms", device)
    else:
        # Several processes share a GPU: by default, the first one that uses JAX takes three quarters of its memory.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        # PyTorch computes on one GPU, and JAX would train on all.
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    found = jax.default_backend()
    if device not in (None, found):
        raise InputError(
            f"--device={device}: JAX computes on {found}; a GPU needs the extra cuda12 and no JAX_PLATFORMS"
        )
    if found not in DEVICES:
        raise InputError(f"JAX computes on {found}, but --device must be one of {', '.join(DEVICES)}")
    return found


def description() -> dict[str, Any]:
    """Returns the CPU's name, the number of its cores, and the name of the device that JAX computes on."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return {
        "cpu": model[1] if model else platform.processor(),
        "cores": os.cpu_count(),
        "device": jax.devices()[0].device_kind,
    }

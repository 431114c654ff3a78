import math
import os
import pathlib
import platform
import subprocess
import sys

import pytest

HUGE_PAGES = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")

PAGE_FAULTS = """
import resource, sys
import jax, jax.numpy as jnp
from isp.filter import apart
from r2l_jax.runtime import startup

if sys.argv[1] == "kept":
    startup.keep_memory()

@jax.jit
def total(x):
    # Between two units, the table of 64 MiB is among the temporaries.
    return apart(jnp.sum)(apart(jnp.add)(x[:, None], x))

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    jax.block_until_ready(total(x))
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

x = jnp.ones(2**12)
# Now and then, a call begins before the memory of the one before it is free.
print(min([faults() for _ in range(8)][1:]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the settings that keep memory")
@pytest.mark.skipif(
    HUGE_PAGES.exists() and "[always]" in HUGE_PAGES.read_text(),
    reason="this Linux always maps 2 MiB at a time, so 64 MiB cost 32 page faults with and without the settings",
)
@pytest.mark.parametrize(
    ("memory", "low", "high"),
    [
        pytest.param("given back", 2**26 // os.sysconf("SC_PAGE_SIZE"), math.inf, marks=pytest.mark.slow),
        ("kept", 0, 100),
    ],
)
def test_kept_memory_is_mapped_once(memory, low, high):
    command = [sys.executable, "-c", PAGE_FAULTS, memory]
    faults = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert low <= faults < high

import math
import os
import pathlib
import platform
import subprocess
import sys

import pytest

HUGE_PAGES = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")

PAGE_FAULTS = """
import resource, sys, threading
import jax, jax.numpy as jnp
from isp.filter import apart
from r2l_jax.runtime import startup

if sys.argv[1] != "given back":
    startup.keep_memory(any_thread=sys.argv[1] == "any thread")

@jax.jit
def total(x):
    # Between two units, the table of 64 MiB is among the temporaries.
    return apart(jnp.sum)(apart(jnp.add)(x[:, None], x))

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    jax.block_until_ready(total(x))
    of_calls.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

x, of_calls = jnp.ones(2**12), []
for _ in range(8):
    if sys.argv[1] == "any thread":
        thread = threading.Thread(target=faults)
        thread.start()
        thread.join()
    else:
        faults()
# Now and then, a call begins before the memory of the one before it is free.
print(min(of_calls[1:]))
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
        ("main thread", 0, 100),
        pytest.param("any thread", 0, 100, marks=pytest.mark.slow),
    ],
)
def test_kept_memory_is_mapped_once(memory, low, high):
    command = [sys.executable, "-c", PAGE_FAULTS, memory]
    faults = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert low <= faults < high

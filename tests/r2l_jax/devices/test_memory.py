import pathlib
import platform
import subprocess
import sys

import pytest

HUGE_PAGES = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")

PAGE_FAULTS = """
import resource
import jax, jax.numpy as jnp
from isp.filter import apart
from r2l_jax.devices.memory import keep_memory

keep_memory()

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
def test_kept_memory_is_mapped_once():
    done = subprocess.run([sys.executable, "-c", PAGE_FAULTS], capture_output=True, text=True, check=True)
    # Otherwise, each call would map 64 MiB.
    assert int(done.stdout) < 100

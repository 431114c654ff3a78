import os
import pathlib
import platform
import subprocess
import sys

import pytest

HUGE_PAGES = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")

PAGE_FAULTS = """
import resource, sys
import numpy as np
from r2l_jax import startup

if sys.argv[1] == "kept":
    startup.keep_memory()
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**24, np.float32)  # 64 MiB, freed at once
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that gives memory back")
@pytest.mark.skipif(
    HUGE_PAGES.exists() and "[always]" in HUGE_PAGES.read_text(),
    reason="Linux maps 2 MiB at a time here, asked or not, so that 64 MiB are 32 page faults in any case",
)
def test_kept_memory_is_mapped_once():
    def second_array(memory):
        # NumPy would ask for pages of 2 MiB, of which 32 are enough.
        environment = os.environ | {"NUMPY_MADVISE_HUGEPAGE": "0"}
        command = [sys.executable, "-c", PAGE_FAULTS, memory]
        return int(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)

    assert second_array("given back") >= 2**26 // os.sysconf("SC_PAGE_SIZE")
    assert second_array("kept") < 100

import pathlib
import platform
import subprocess
import sys

import jax
import pytest

from r2l_jax.devices import memory

HUGE_PAGES = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")

PAGE_FAULTS = """
import resource
import jax, jax.numpy as jnp
from isp.filter import unfused
from r2l_jax.devices.memory import keep_memory

keep_memory()

@jax.jit
def total(x):
    # Between two units, the table of 64 MiB is among the temporaries.
    return unfused(jnp.sum)(unfused(jnp.add)(x[:, None], x))

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


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of 1000 bytes, whose control groups are the files that a test writes."""
    limits = memory._limits
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 10, "SC_PHYS_PAGES": 100}.get)
    monkeypatch.setattr(memory, "_limits", lambda: limits(tmp_path / "cgroup", tmp_path / "fs"))

    def write(known, **files):
        (tmp_path / "cgroup").write_text(known)
        for name, limit in files.items():
            file = tmp_path / "fs" / name.replace("__", "/").replace("_max", ".max").replace("_limit", ".limit")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{limit}\n")

    return write


def test_memory_is_that_of_the_machine_without_a_limit(machine):
    assert memory.of_process() == 1000
    machine("0::/a\n", a__memory_max="max")
    assert memory.of_process() == 1000


def test_the_least_limit_of_a_group_and_those_around_it_holds(machine):
    machine("0::/a/b\n", a__b__memory_max="max", a__memory_max=300, memory_max=400)
    assert memory.of_process() == 300


def test_a_container_sees_its_limit_at_the_root(machine):
    machine("0::/../host/path\n", memory_max=200)
    assert memory.of_process() == 200


def test_version_1_has_its_own_folder_for_memory(machine):
    known = "5:cpu,cpuacct:/a\n4:memory:/job\n1:name=systemd:/\n0::/\n"
    files = {"memory__memory_limit_in_bytes": 2**63 - 4096, "memory__job__memory_limit_in_bytes": 700}
    machine(known, **files)
    assert memory.of_process() == 700


@pytest.mark.parametrize("is_training", [True, False])
def test_processes_of_one_machine_share_its_memory(machine, monkeypatch, is_training):
    if is_training:
        monkeypatch.setattr(jax, "process_count", lambda: 4)
    else:
        monkeypatch.setenv(memory.PROCESSES, "4")
    assert memory.of_process() == 250

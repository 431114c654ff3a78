import os
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
from r2l_jax.runtime import startup

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
def test_kept_memory_is_mapped_once():
    done = subprocess.run([sys.executable, "-c", PAGE_FAULTS], capture_output=True, text=True, check=True)
    # Otherwise, each call would map 64 MiB.
    assert int(done.stdout) < 100


CACHED = """
import dataclasses
from r2l_jax.runtime import flags

@dataclasses.dataclass(frozen=True)
class Config(flags.Settings):
    pass

def main(config: Config) -> int:
    import jax, jax.numpy as jnp
    print(jax.jit(lambda x: jnp.sin(x) @ x.T)(jnp.ones((64, 64))).shape)
    return 0

flags.run(main)
"""


def test_functions_are_read_from_the_cache_without_a_word(tmp_path):
    """XLA 0.10.1 reports an error for each of them, though it uses them."""
    program = tmp_path / "program.py"
    program.write_text(CACHED)
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    environment |= {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    for _ in range(2):
        command = [sys.executable, str(program)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        assert (done.stdout, done.stderr) == ("(64, 64)\n", "")
    assert any((tmp_path / "cache").iterdir())

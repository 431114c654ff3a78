import os
import subprocess
import sys

CACHED = """
import dataclasses
from r2l_jax.cli import flags

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

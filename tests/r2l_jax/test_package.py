import subprocess
import sys

PROGRAM = """
import sys
import r2l_jax

assert "r2l_jax.data" not in sys.modules
print(r2l_jax.data.read_raw.__module__, hasattr(r2l_jax, "nothing"))
"""


def test_public_names_are_imported_on_first_use():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout == "r2l_jax.data.files.rawfile False\n"

import os
import subprocess
import sys
import zlib

import pytest

from r2l_jax.runtime import compilation_cache

WHOLE = zlib.compress(b"compiled" * 100)

CALL = """
import jax
from r2l_jax.runtime.startup import prepare

prepare()
print(jax.jit(lambda x: 2 * x)(21))
"""


def call(folder):
    """Compiles a function as a program does, and returns what was stored."""
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(folder)}
    done = subprocess.run([sys.executable, "-c", CALL], env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "42\n", "")
    return {entry.name: entry.read_bytes() for entry in folder.glob("*-cache")}


def test_what_was_half_written_is_compiled_again_without_a_warning(tmp_path):
    stored = call(tmp_path)
    assert stored
    for name, content in stored.items():
        (tmp_path / name).write_bytes(content[: len(content) // 2])
    again = call(tmp_path)
    assert again.keys() == stored.keys()
    for name, content in again.items():
        assert len(zlib.decompress(content)) == len(zlib.decompress(stored[name]))


@pytest.mark.parametrize("content", [b"", WHOLE[:-1], WHOLE[:10], b"something else"])
def test_what_cannot_be_read_is_removed(tmp_path, content):
    (tmp_path / "whole-cache").write_bytes(WHOLE)
    (tmp_path / "broken-cache").write_bytes(content)
    (tmp_path / "notes").write_bytes(content)
    compilation_cache.remove_broken(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".checked", "notes", "whole-cache"]


def test_each_entry_is_looked_at_once(tmp_path):
    entry, mark = tmp_path / "entry-cache", tmp_path / ".checked"
    compilation_cache.remove_broken(tmp_path)
    entry.write_bytes(WHOLE[:10])
    os.utime(entry, ns=(0, mark.stat().st_mtime_ns - 1))
    compilation_cache.remove_broken(tmp_path)
    assert entry.exists()
    os.utime(entry, ns=(0, mark.stat().st_mtime_ns))
    compilation_cache.remove_broken(tmp_path)
    assert not entry.exists()


def test_a_folder_that_cannot_be_written_is_left_alone(tmp_path):
    (tmp_path / "file").touch()
    compilation_cache.remove_broken(tmp_path / "file" / "compiled")

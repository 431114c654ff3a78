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


def name(function):
    """Returns the name that JAX gives an entry."""
    return f"jit_{function}-{64 * 'a'}-cache"


def test_what_was_half_written_is_compiled_again_without_a_warning(tmp_path):
    stored = call(tmp_path)
    assert stored
    for entry, content in stored.items():
        (tmp_path / entry).write_bytes(content[: len(content) // 2])
    assert call(tmp_path).keys() == stored.keys()
    compilation_cache.remove_broken(tmp_path)
    assert {entry.name for entry in tmp_path.glob("*-cache")} == stored.keys()


@pytest.mark.parametrize("content", [b"", WHOLE[:-1], WHOLE[:10], b"something else"])
def test_what_cannot_be_read_is_removed(tmp_path, content):
    (tmp_path / name("whole")).write_bytes(WHOLE)
    (tmp_path / name("broken")).write_bytes(content)
    (tmp_path / "my-cache").write_bytes(content)
    compilation_cache.remove_broken(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".checked", name("whole"), "my-cache"]


def test_zstd_is_read_where_it_is_installed(tmp_path):
    if sys.version_info >= (3, 14):
        from compression.zstd import compress
    else:
        compress = pytest.importorskip("zstandard").ZstdCompressor().compress
    whole = compress(b"compiled" * 100)
    (tmp_path / name("whole")).write_bytes(whole)
    (tmp_path / name("broken")).write_bytes(whole[:-1])
    compilation_cache.remove_broken(tmp_path)
    assert [path.name for path in tmp_path.glob("*-cache")] == [name("whole")]


def test_what_cannot_be_decompressed_here_stays(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    monkeypatch.setitem(sys.modules, "compression", None)
    (tmp_path / name("zstd")).write_bytes(b"\x28\xb5\x2f\xfd and so on")
    compilation_cache.remove_broken(tmp_path)
    assert (tmp_path / name("zstd")).exists()


def test_each_entry_is_looked_at_once(tmp_path):
    entry, mark = tmp_path / name("entry"), tmp_path / ".checked"
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

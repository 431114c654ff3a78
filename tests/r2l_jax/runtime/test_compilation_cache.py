import os
import sys
import zlib

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache as cache_of_jax

from r2l_jax.runtime import compilation_cache

WHOLE = zlib.compress(b"compiled" * 100)


def name(function):
    """Returns the name that JAX gives an entry."""
    return f"jit_{function}-{64 * 'a'}-cache"


@pytest.fixture
def folder(tmp_path):
    """An empty folder where JAX stores what it compiles during the test."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    cache_of_jax.reset_cache()
    compilation_cache.keep(tmp_path / "compiled")
    yield tmp_path / "compiled"
    jax.config.update("jax_compilation_cache_dir", before)
    cache_of_jax.reset_cache()


def test_what_jax_has_half_written_is_compiled_again_without_a_warning(folder):
    def compiled():
        assert jax.jit(lambda x: 2 * x)(21) == 42
        return {entry.name for entry in folder.glob("*-cache")}

    stored = compiled()
    compilation_cache.remove_broken(folder)
    assert {entry.name for entry in folder.glob("*-cache")} == stored != set()
    for entry in stored:
        (folder / entry).write_bytes((folder / entry).read_bytes()[:99])
    compilation_cache.remove_broken(folder)
    assert not list(folder.glob("*-cache"))
    jax.clear_caches()
    assert compiled() == stored


def zstd():
    if sys.version_info >= (3, 14):
        from compression.zstd import compress
    else:
        compress = pytest.importorskip("zstandard").ZstdCompressor().compress
    return compress(b"compiled" * 100)


@pytest.mark.parametrize("whole", [lambda: WHOLE, zstd], ids=["zlib", "zstd"])
def test_entries_that_cannot_be_read_are_removed(tmp_path, whole):
    content = whole()
    (tmp_path / name("whole")).write_bytes(content)
    broken = [b"", content[:-1], content[:10], b"something else"]
    for number, part in enumerate(broken):
        (tmp_path / name(f"broken{number}")).write_bytes(part)
        (tmp_path / "my-cache").write_bytes(part)
    compilation_cache.remove_broken(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".checked", name("whole"), "my-cache"]


def test_an_entry_that_cannot_be_decompressed_here_stays(tmp_path, monkeypatch):
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

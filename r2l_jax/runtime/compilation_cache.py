"""Compiled functions that are kept from one start of a program to the next."""

import contextlib
import os
import pathlib
import re
import sys
import zlib

import jax

# The first bytes of what JAX compresses by zstd, which it prefers to zlib where Python or a package has it.
_ZSTD = b"\x28\xb5\x2f\xfd"

# The names of entries end with the hash of what was compiled.
_ENTRY = re.compile(r"-[0-9a-f]{64}-cache$")


def keep(default: pathlib.Path) -> None:
    """Stores compiled functions in JAX_COMPILATION_CACHE_DIR, or else in a default folder.

    Entries that cannot be read are removed first, see `remove_broken`.

    Args:
        default: the default folder.
    """
    if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]  # JAX adds it later
        jax.config.update("jax_compilation_cache_dir", str(default))
    # By default, JAX stores only functions that take a second to compile, and most of ours take less.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    folder = str(jax.config.jax_compilation_cache_dir)  # pyright: ignore[reportAttributeAccessIssue]
    # An empty name switches the cache off, and JAX itself reads URLs.
    if folder and "://" not in folder:
        remove_broken(pathlib.Path(folder))


def remove_broken(folder: pathlib.Path) -> None:
    """Removes compiled functions that cannot be read; looks only at those that are new since the last call.

    JAX writes entries in place, so that a killed process or a full disk leaves a part of one. JAX would neither use nor
    replace it: at each start, it would warn and compile the function again.

    Args:
        folder: where JAX stores compiled functions. Nothing happens if it cannot be written.
    """
    mark, begun = folder / ".checked", folder / f".checking-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        last = mark.stat().st_mtime_ns if mark.exists() else 0
        begun.touch()
        for entry in folder.iterdir():
            # Another process may have removed it.
            with contextlib.suppress(FileNotFoundError):
                if _ENTRY.search(entry.name) and entry.stat().st_mtime_ns >= last and not _is_whole(entry.read_bytes()):
                    entry.unlink()
        # Now, with the time at which the check began: what was written since will be checked next time.
        begun.replace(mark)
    except OSError:
        return
    finally:
        with contextlib.suppress(OSError):
            begun.unlink(missing_ok=True)


def _is_whole(entry: bytes) -> bool:
    """Tells whether an entry can be decompressed, or is of a kind that cannot be decompressed here."""
    try:
        if entry.startswith(_ZSTD):
            _decompress_zstd(entry)
        else:
            zlib.decompress(entry)
    except ImportError:
        return True
    except Exception:  # Each library has errors of its own.
        return False
    return True


def _decompress_zstd(entry: bytes) -> None:
    if sys.version_info >= (3, 14):
        from compression import zstd

        zstd.decompress(entry)
    else:
        import zstandard  # pyright: ignore[reportMissingImports]  # JAX uses it where it is installed.

        zstandard.ZstdDecompressor().decompress(entry)

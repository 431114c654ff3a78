"""Compiled functions that are kept from one start of a program to the next."""

import contextlib
import os
import pathlib
import re
import sys
import time
import zlib

import jax

# The first bytes of zstd data. JAX prefers zstd to zlib where Python or a package has it.
_ZSTD = b"\x28\xb5\x2f\xfd"

# The names of entries end with a hash of the function.
_ENTRY = re.compile(r"-[0-9a-f]{64}-cache$")

# The most nanoseconds between the clocks of a file system and of this machine.
_DIFFERENCE = 60 * 10**9


def keep(default: pathlib.Path) -> None:
    """Stores compiled functions in JAX_COMPILATION_CACHE_DIR, or else in a default folder; removes broken ones there.

    Args:
        default: the default folder.
    """
    folder = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]  # JAX adds it later
    if folder is None:
        folder = str(default)
        jax.config.update("jax_compilation_cache_dir", folder)
    # By default, JAX stores only functions that take a second to compile, and most of ours take less.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    # An empty name switches the cache off, and JAX itself reads URLs.
    if folder and "://" not in folder:
        remove_broken(pathlib.Path(folder))


def remove_broken(folder: pathlib.Path) -> None:
    """Removes incomplete compiled functions from a folder. Only those that are new since the last call are read.

    JAX writes entries in place, so a killed process or a full disk can leave one incomplete. JAX would neither use nor
    replace it: at each start, it would warn and compile the function again.

    Args:
        folder: where JAX stores compiled functions. Nothing happens if it cannot be written.
    """
    mark, begun = folder / ".checked", time.time_ns()
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        last = mark.stat().st_mtime_ns if mark.exists() else 0
        for entry in folder.iterdir():
            # Another process may have removed it.
            with contextlib.suppress(FileNotFoundError):
                if _ENTRY.search(entry.name) and entry.stat().st_mtime_ns >= last and not _is_whole(entry.read_bytes()):
                    entry.unlink()
        mark.touch()
        # The next check reads entries written during this one, although clocks of file systems may differ.
        os.utime(mark, ns=(begun - _DIFFERENCE, begun - _DIFFERENCE))


def _is_whole(entry: bytes) -> bool:
    """Returns whether an entry can be decompressed; True if the package for it is missing."""
    try:
        if not entry.startswith(_ZSTD):
            zlib.decompress(entry)
        elif sys.version_info >= (3, 14):
            from compression import zstd

            zstd.decompress(entry)
        else:
            import zstandard  # pyright: ignore[reportMissingImports]  # JAX uses it where it is installed.

            zstandard.ZstdDecompressor().decompress(entry)
    except ImportError:
        return True
    except Exception:  # The errors of zlib and of both zstd libraries have no other base in common.
        return False
    return True

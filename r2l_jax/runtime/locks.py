"""Locks of output folders: at most one run of a program writes to a folder at a time."""

import contextlib
import datetime
import errno
import json
import os
import pathlib
import platform
from collections.abc import Iterator

import filelock

from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.files import clear_parts, make_output_folder, write_json

_LOCK = ".lock"

# This file is beside the lock, because on file systems without locks, filelock writes to the lock file itself.
_HOLDER = ".lock_holder"


class FolderInUseError(InputError):
    """Raised while another program is writing to a folder."""


@contextlib.contextmanager
def writing_to(folder: pathlib.Path) -> Iterator[None]:
    """Makes a folder, and keeps other runs of this and other programs from writing to it in the meantime.

    A run's first process takes the lock for all of its processes, and all must enter the context.

    Args:
        folder: the output folder of a program. Folders within it have locks of their own.

    Raises:
        FolderInUseError: another program is writing to the folder.
        InputError: the folder cannot be made or written to.
    """
    # Imported here, since the help of programs with --scheduler is printed without JAX.
    from r2l_jax.runtime.hosts import on_first_process

    with contextlib.ExitStack() as held:
        on_first_process(lambda: held.enter_context(locked(folder)))
        yield


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Locks a folder as `writing_to` does, for this process alone.

    The lock belongs to the process and ends with it, however it ends: the lock of a killed program is taken over, and
    the temporary files that it left are removed.
    """
    make_output_folder(folder)
    lock, holder = filelock.FileLock(folder / _LOCK), folder / _HOLDER
    try:
        lock.acquire(timeout=0)
        since = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
        clear_parts(folder)
        write_json(holder, {"host": platform.node(), "process": os.getpid(), "since": since})
    except filelock.Timeout:
        raise FolderInUseError(f"{folder}: another program is writing to this folder{_describe(holder)}") from None
    except OSError as error:
        lock.release()
        # On some network file systems nothing can be locked. There, the user must not start two programs.
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
            raise InputError(f"{folder}: not a folder to write to ({error.strerror})") from None
    try:
        yield
    finally:
        # Removed while the lock is still held: filelock does not accept a lock file that has been removed meanwhile.
        for file in (holder, folder / _LOCK):
            with contextlib.suppress(OSError):
                file.unlink()
        lock.release()


def _describe(holder: pathlib.Path) -> str:
    """Says who holds a lock; nothing if the holder has not written it yet, or is just ending."""
    try:
        known = json.loads(holder.read_text())
        return f": process {known['process']} on {known['host']}, since {known['since']}"
    except (OSError, ValueError, LookupError, TypeError):
        return ""

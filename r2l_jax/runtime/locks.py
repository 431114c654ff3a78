"""Locks of output folders and files: at most one run of a program writes to each at a time."""

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

# The suffix of a file beside the lock, because on file systems without locks, filelock writes to the lock file itself.
_HOLDER = "_holder"


class FolderInUseError(InputError):
    """Raised while another program is writing to a folder or a file."""


@contextlib.contextmanager
def writing_to(folder: pathlib.Path, file: str = "") -> Iterator[None]:
    """Makes a folder, and keeps other runs of this and other programs from writing to it in the meantime.

    A run's first process takes the lock for all of its processes, and all must enter the context.

    Args:
        folder: the output folder of a program. Folders within it have locks of their own.
        file: the name of the only file in it that the program writes, with a lock of its own.

    Raises:
        FolderInUseError: another program is writing to the folder or the file.
        InputError: the folder cannot be made or written to.
    """
    # Imported here, since the help of programs with --scheduler is printed without JAX.
    from r2l_jax.runtime.hosts import on_first_process

    with contextlib.ExitStack() as held:
        on_first_process(lambda: held.enter_context(locked(folder, file)))
        yield


@contextlib.contextmanager
def locked(folder: pathlib.Path, file: str = "") -> Iterator[None]:
    """Locks a folder or a file as `writing_to` does, for this process alone.

    The lock belongs to the process and ends with it, however it ends: the lock of a killed program is taken over, and
    the temporary files that it left are removed.
    """
    make_output_folder(folder)
    path = folder / (f".{file}{_LOCK}" if file else _LOCK)
    lock, holder = filelock.FileLock(path), path.with_name(path.name + _HOLDER)
    try:
        lock.acquire(timeout=0)
        since = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
        clear_parts(folder)
        write_json(holder, {"host": platform.node(), "process": os.getpid(), "since": since})
    except filelock.Timeout:
        target, kind = (folder / file, "file") if file else (folder, "folder")
        raise FolderInUseError(f"{target}: another program is writing to this {kind}{_describe(holder)}") from None
    except OSError as error:
        lock.release()
        # On some network file systems nothing can be locked. There, the user must not start two programs.
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
            raise InputError(f"{folder}: not a folder to write to ({error.strerror})") from None
    try:
        yield
    finally:
        # Removed while the lock is still held: filelock does not accept a lock file that has been removed meanwhile.
        for own in (holder, path):
            with contextlib.suppress(OSError):
                own.unlink()
        lock.release()


def _describe(holder: pathlib.Path) -> str:
    """Says who holds a lock; nothing if the holder has not written it yet, or is just ending."""
    try:
        known = json.loads(holder.read_text())
        return f": process {known['process']} on {known['host']}, since {known['since']}"
    except (OSError, ValueError, LookupError, TypeError):
        return ""

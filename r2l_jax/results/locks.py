"""Locks on output folders and files, so that at most one program writes to each at a time."""

import contextlib
import errno
import pathlib
from collections.abc import Iterable, Iterator

import filelock

from r2l_jax.errors import InputError
from r2l_jax.results.files import clear_parts, make_output_folder


@contextlib.contextmanager
def writing_to(folder: pathlib.Path, file: str = "") -> Iterator[None]:
    """Makes a folder, and keeps other programs from writing to it within the context.

    The lock ends with the process, however it ends, and a killed program's temporary files are removed. A training
    run's first process takes the lock for all. With `file`, only this file in the folder is locked.
    """
    # Imported here, since the help of programs with --scheduler is printed without JAX.
    from r2l_jax.devices.hosts import is_first

    if not is_first():
        yield
        return
    make_output_folder(folder)
    path = folder / (f".{file}.lock" if file else ".lock")
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
        clear_parts(folder)
    except filelock.Timeout:
        target, kind = (folder / file, "file") if file else (folder, "folder")
        raise InputError(f"{target}: another program is writing to this {kind}") from None
    except OSError as error:
        # Some network file systems do not support locks. There, the user must not start two programs.
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
            raise
    try:
        yield
    finally:
        # Removed while the lock is still held, because filelock rejects a lock file that was removed in the meantime.
        with contextlib.suppress(OSError):
            path.unlink()
            # Files left by a program that was killed less than a minute before this one started.
            clear_parts(folder)
        lock.release()


@contextlib.contextmanager
def writing_to_all(folders: Iterable[pathlib.Path]) -> Iterator[None]:
    """Locks several folders, each once, as `writing_to` does."""
    with contextlib.ExitStack() as held:
        for folder in sorted({folder.absolute() for folder in folders}):
            held.enter_context(writing_to(folder))
        yield

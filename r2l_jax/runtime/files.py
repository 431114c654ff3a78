"""Files that are either whole or not there, and many of them at once."""

import contextlib
import csv
import glob
import json
import os
import pathlib
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

from tqdm import tqdm

from r2l_jax.runtime.errors import InputError

Job = TypeVar("Job")
Result = TypeVar("Result")

# Files read, worked on and written at once. A few hide the disk's time; each may hold a whole picture in memory.
AT_ONCE = 4


@contextlib.contextmanager
def replacing(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """A path to write to, moved to `target` once written; its folder is made, and nothing stays behind on an error.

    Raises:
        OSError: the target, by its own name, cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(target)
    except OSError as error:
        # A full disk names no file, other errors the path that nobody knows.
        if error.errno is None or error.filename not in (None, str(part)):
            raise
        raise OSError(error.errno, error.strerror, str(target)) from error
    finally:
        # On a read-only file system this fails, too, and would hide why.
        with contextlib.suppress(OSError):
            part.unlink()


def clear_parts(folder: pathlib.Path) -> None:
    """Removes what `replacing` was writing to a folder in processes of this machine that were killed."""
    for part in folder.glob(".*.part"):
        if not _is_running(part.name.split(".")[-2]):
            part.unlink(missing_ok=True)


def write_json(target: pathlib.Path, content: Mapping) -> None:
    """Writes a JSON file."""
    with replacing(target) as part:
        part.write_text(json.dumps(content, indent=2) + "\n")


def write_csv(target: pathlib.Path, rows: Sequence[Mapping], columns: Sequence[str] | None = None) -> None:
    """Writes a CSV file of rows that all have these columns, or those of the first one."""
    with replacing(target) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns or list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@contextlib.contextmanager
def drafting(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """A new folder to fill, moved to `folder` once filled; its parent is made, and nothing stays behind on an error.

    Nor does what an earlier process of this machine was filling when it was killed. Of two processes that fill it at
    once, the slower one drops its copy.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    mark = f".{folder.name}_{platform.node()}_"
    for left in folder.parent.glob(f"{glob.escape(mark)}*"):
        if not _is_running(left.name.removeprefix(mark).split("_")[0]):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{mark}{os.getpid()}_", dir=folder.parent) as scratch:
        # A folder within the temporary one, which only its owner may read.
        draft = pathlib.Path(scratch) / folder.name
        draft.mkdir()
        yield draft
        try:
            draft.rename(folder)
        except OSError:
            if not folder.exists():
                raise


def _is_running(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (ValueError, OSError):  # not one of these folders, or another user's process
        return True
    return True


def each_file(work: Callable[[Job], Result], jobs: Sequence[Job]) -> list[Result]:
    """Calls `work` for each of many files, several at once, with a progress bar on stderr.

    A file that fails, by an InputError or an OSError, is reported on stderr, and the others go on.

    Returns:
        The results of those that did not fail, in the order in which they came.
    """
    results = []
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        futures = [pool.submit(work, job) for job in jobs]
        for future in tqdm(as_completed(futures), total=len(futures), unit="file"):
            try:
                results.append(future.result())
            except (InputError, OSError) as error:
                tqdm.write(f"error: {error}", file=sys.stderr)
    finally:
        pool.shutdown(cancel_futures=True)  # When interrupted, files not yet begun are left out.
    return results

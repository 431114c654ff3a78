"""Files that are either whole or not there, and many of them at once."""

import contextlib
import json
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

from tqdm import tqdm

from r2l_jax.errors import InputError

Job = TypeVar("Job")
Result = TypeVar("Result")

# Files read, worked on and written at once. A few hide the disk's time; each may hold a whole picture in memory.
_AT_ONCE = 4


@contextlib.contextmanager
def replacing(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """A path to write to, moved to `target` once written; its folder is made, and nothing stays behind on an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def write_json(target: pathlib.Path, content: Mapping) -> None:
    """Writes a JSON file."""
    with replacing(target) as part:
        part.write_text(json.dumps(content, indent=2) + "\n")


def each_file(work: Callable[[Job], Result], jobs: Sequence[Job]) -> list[Result]:
    """Calls `work` for each of many files, several at once, with a progress bar on stderr.

    A file that fails, by an InputError or an OSError, is reported on stderr, and the others go on.

    Returns:
        The results of those that did not fail, in the order in which they came.
    """
    results = []
    pool = ThreadPoolExecutor(_AT_ONCE)
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

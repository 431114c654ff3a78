"""Work on many items that is recorded as it is done, so that the same command resumes it after the program was killed.

A program compares its settings with the manifest of its output (`read_manifest`), reads which items are done from a
`Table`, and works on the others, in this process or on the workers of a cluster (`worked`). `finished` shows the
progress, lets the program record each item, and lists those that failed.
"""

import collections
import contextlib
import csv
import dataclasses
import functools
import itertools
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Generic, NamedTuple, TypeVar

from tqdm import tqdm

from r2l_jax.runtime import cluster
from r2l_jax.runtime.cluster import Job
from r2l_jax.runtime.errors import InputError, collected_warnings, in_words, one_line, warn_once
from r2l_jax.runtime.files import AT_ONCE, append_csv, cut_torn_row, open_csv, read_csv, write_csv

Item = TypeVar("Item")
Result = TypeVar("Result")
Loaded = TypeVar("Loaded")

# The manifest of a folder. A file has its own beside it, <file>.manifest.json.
MANIFEST = "manifest.json"

# The most bytes of a job: one core works on them for seconds to a minute. Large jobs make up for the time that it takes
# to give them to a worker; with small jobs, less is lost if a worker dies.
_BYTES = 2**29

# The fixed cost of a file, such as opening it, as the number of bytes of samples that take as long.
_EACH = 2**19

# The number of jobs of each worker, if there are enough items, so that all workers finish at about the same time.
_JOBS = 4


def read_manifest(file: pathlib.Path, fixed: Mapping[str, Any], content: str) -> dict[str, Any] | None:
    """Reads the manifest that earlier calls have left; returns None without one.

    Args:
        file: the manifest.
        fixed: the entries that all calls must share, in the form that they have after a round trip through JSON.
        content: a word for the contents of the output, such as "sets".

    Raises:
        InputError: the manifest is damaged, or has other settings.
    """
    if not file.exists():
        return None
    try:
        earlier = json.loads(file.read_text())
        changed = {name: earlier[name] for name in fixed if earlier[name] != fixed[name]}
    except (OSError, ValueError, LookupError, TypeError):
        raise damaged(file) from None
    if changed:
        differences = [
            f"other {name}" if dict in (type(value), type(fixed[name])) else f"{name}={value}, not {fixed[name]}"
            for name, value in changed.items()
        ]
        output, kind = _described(file)
        raise InputError(f"--output={output} holds {content} of {' and '.join(differences)}: choose another {kind}")
    return earlier


def damaged(file: pathlib.Path) -> InputError:
    """Returns the error for a manifest that no program can have written."""
    output, kind = _described(file)
    return InputError(f"--output={output}: its {file.name} is damaged: choose another {kind}")


def _described(manifest: pathlib.Path) -> tuple[pathlib.Path, str]:
    """Returns the output that a manifest describes, and its kind."""
    if manifest.name == MANIFEST:
        return manifest.parent, "folder"
    return manifest.with_name(manifest.name.removesuffix(f".{MANIFEST}")), "file"


class Table:
    """The rows of the items that are done, in a CSV file.

    Rows are added as items are done, so that a program that is killed loses only the last few.

    Args:
        file: the file, in an existing folder.
        columns: its columns. The first cell of a row is its name.

    Attributes:
        file: the file.
    """

    def __init__(self, file: pathlib.Path, columns: Sequence[str]):
        self.file, self._columns, self._next_sync = file, list(columns), 0.0

    def rows(self) -> dict[str, dict[str, str]]:
        """Returns the complete rows by their names. Removes a damaged file, and an incomplete last row.

        Raises:
            InputError: the table in the file has other columns.
        """
        try:
            cut_torn_row(self.file)
            with open_csv(self.file) as file:
                columns = next(csv.reader(file))
            rows = read_csv(self.file)
        except (OSError, ValueError, csv.Error, StopIteration):
            self.file.unlink(missing_ok=True)
            return {}
        if columns != self._columns:
            raise InputError(f"{self.file} has other columns than {', '.join(self._columns)}: choose another output")
        return {row[columns[0]]: row for row in rows if None not in (*row, *row.values())}

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Rewrites the file with these rows."""
        write_csv(self.file, list(rows), self._columns)

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Adds rows. Every second, they are forced to the disk, in case the machine loses its power."""
        if not self.file.exists():
            self.write([])
        append_csv(self.file, rows, self._columns)
        if time.monotonic() >= self._next_sync:
            with self.file.open("a") as file:
                os.fsync(file.fileno())
            self._next_sync = time.monotonic() + 1

    def sort(self, names: Iterable[str]) -> None:
        """Sorts rows by name, unnamed rows first; removes the file if there are no rows."""
        rows, order = self.rows(), {name: number for number, name in enumerate(names)}
        if rows:
            self.write(sorted(rows.values(), key=lambda row: order.get(row[self._columns[0]], -1)))
        else:
            self.file.unlink(missing_ok=True)


class Workers(NamedTuple):
    """The processes that work on a program's items.

    Attributes:
        scheduler: the value of `--scheduler`; "serial" means this process alone.
        load: loads the tools of a process, such as a model. Called by each worker for every job, so it must be
            picklable, and remember its result: only a worker's first job waits for it.
    """

    scheduler: str = "serial"
    load: Callable[[], Any] = int

    @property
    def are_others(self) -> bool:
        """Whether processes other than this one do the work."""
        return self.scheduler != "serial"


SERIAL = Workers()


@dataclasses.dataclass(frozen=True)
class Done(Generic[Item, Result]):
    """Items that have ended.

    Attributes:
        results: the results of the items that are done.
        errors: why other items failed, each in one line that names the item.
        warnings: warnings about some of the items that are done.
    """

    results: Mapping[Item, Result]
    errors: Mapping[Item, str]
    warnings: Sequence[str] = ()


# Takes the object that a process has loaded, and items.
Work = Callable[[Any, Sequence[Item]], Generator[Done[Item, Result], None, None]]


def worked(
    work: Work[Item, Result],
    units: Sequence[Sequence[Item]],
    workers: Workers,
    size: Callable[[Item], int] = lambda item: 0,
) -> Generator[Done[Item, Result], None, None]:
    """Works on items in this process, or in chunks by workers; yields them as they end.

    A chunk whose worker dies is started again, so the work must replace earlier files.

    Args:
        work: takes the result of `workers.load`, and items. It is sent to the workers, so it must be picklable. It may
            raise an InputError for items that no worker can do.
        units: items that must stay together.
        workers: the workers.
        size: returns the size of an item, in bytes of samples.

    Raises:
        InputError: the workers cannot be started or reached.
    """
    if not workers.are_others:
        with contextlib.closing(work(workers.load(), [item for unit in units for item in unit])) as ended:
            yield from ended
        return
    with cluster.running(workers.scheduler) as runner:
        chunks = {f"chunk {number}": chunk for number, chunk in enumerate(divided(units, size, runner.workers))}
        calls = [Job(name, functools.partial(_work, work, workers.load, chunk)) for name, chunk in chunks.items()]
        for outcome in runner.run(calls):
            if outcome.error is None:
                yield from outcome.result
            else:
                yield Done({}, {item: one_line(f"{item}: {outcome.error}") for item in chunks[outcome.name]})


def _work(work: Work, load: Callable[[], Any], chunk: Sequence[Item]) -> list[Done]:
    return list(work(load(), chunk))


def divided(units: Sequence[Sequence[Item]], size: Callable[[Item], int], workers: int) -> list[list[Item]]:
    """Divides items into chunks, in their order, so that each worker has several and each takes about as long.

    Args:
        units: items that must stay together.
        size: returns the size of an item, in bytes of samples.
        workers: how many chunks are worked on at a time.
    """
    sizes = [sum(size(item) + _EACH for item in unit) for unit in units]
    most = min(_BYTES, sum(sizes) / (_JOBS * workers))
    chunks, held = list[list[Item]](), 0
    for unit, own in zip(units, sizes, strict=True):
        if not chunks or held + own > most:
            chunks.append([])
            held = 0
        chunks[-1].extend(unit)
        held += own
    return chunks


def most_files(size: int) -> int:
    """Returns how many files of a size in bytes a chunk holds at most."""
    return max(_BYTES // (size + _EACH), 1)


def one_by_one(
    work: Callable[[Loaded, Item], Result], loaded: Loaded, items: Iterable[Item], most: int = 2 * AT_ONCE
) -> Generator[Done[Item, Result], None, None]:
    """Calls `work` for each item, several at once in threads, and yields each in order; a `Work` once `work` is bound.

    Args:
        work: the work for one item. Messages of its InputErrors name the item.
        loaded: its first argument.
        items: the items.
        most: see `ahead`.
    """

    def call(item: Item) -> tuple[Result, list[str]]:
        with collected_warnings() as warnings:
            return work(loaded, item), warnings

    with contextlib.closing(ahead(call, items, most)) as ended:
        for item, future in ended:
            try:
                result, warnings = future.result()
                yield Done({item: result}, {}, warnings)
            except Exception as error:
                yield Done({}, {item: _said(error, item)})


def ahead(
    call: Callable[[Item], Result], items: Iterable[Item], most: int, threads: int = AT_ONCE
) -> Generator[tuple[Item, Future[Result]], None, None]:
    """Calls a function for each item in threads, and yields items in order, each with its finished call.

    Closing the generator finishes the items that have been started. After an interruption, the caller must close it.

    Args:
        call: the function.
        items: the items, each of which is only taken when there is room for it.
        most: how many items are in progress or wait with their results to be yielded. All at once would take much
            memory.
        threads: how many calls run at once.
    """
    pool, rest, begun = ThreadPoolExecutor(threads), iter(items), collections.deque[tuple[Item, Future[Result]]]()
    try:
        while True:
            begun.extend((item, pool.submit(call, item)) for item in itertools.islice(rest, most - len(begun)))
            if not begun:
                return
            wait([begun[0][1]])
            yield begun.popleft()
    finally:
        # After an interruption, items that have not been started are left out.
        pool.shutdown(cancel_futures=True)


def _said(error: Exception, item: object) -> str:
    """Describes an error in one line that names the item."""
    message = in_words(error)
    if isinstance(error, InputError) or getattr(error, "filename", None) is not None:
        return message
    name = one_line(str(item))
    return f"{name}: {message.removeprefix(f'{name}: ') or type(error).__name__}"


def finished(
    ended: Generator[Done[Item, Result], None, None],
    items: Collection[Item],
    before: int = 0,
    record: Callable[[Mapping[Item, Result]], None] = lambda results: None,
) -> tuple[dict[Item, Result], int]:
    """Finishes work, with a progress bar; at the end, prints on stderr why items failed, in the items' order.

    Warnings about several items are one line with their number.

    Args:
        ended: the generator of `worked`.
        items: all items that are left.
        before: how many items were done before.
        record: called with items as soon as they are done.

    Returns:
        The results, and the number of items that failed.
    """
    results, errors, warnings = dict[Item, Result](), dict[Item, str](), list[str]()
    bar = tqdm(total=before + len(items), initial=before, unit="file", disable=None)
    try:
        with bar, contextlib.closing(ended):
            for done in ended:
                if done.results:
                    record(done.results)
                results |= done.results
                errors |= done.errors
                warnings += done.warnings
                bar.update(len(done.results) + len(done.errors))
    finally:
        warn_once(warnings, len(items))
        for item in items:
            if item in errors:
                print(f"error: {errors[item]}", file=sys.stderr)
    return results, len(errors)

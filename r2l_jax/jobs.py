"""Processes many items: in this process, in others on this machine, or on the workers of a Dask cluster.

A job is a call that can be repeated: it writes its results to files, and a repeated call resumes or replaces them.
Every worker runs one job at a time, and can access the files of the program that submits the jobs. Dask restarts a job
if it raises an error or its worker dies. Workers need the extra `cluster`.
"""

import collections
import contextlib
import dataclasses
import importlib.util
import itertools
import os
import pathlib
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from tqdm import tqdm

from r2l_jax.cli import stop
from r2l_jax.cli.stop import Interrupted
from r2l_jax.errors import InputError, collected_warnings, in_words, one_line, spelled, warn_once

Item = TypeVar("Item")
Result = TypeVar("Result")

# The number of files processed at once, which hides disk latency. Each may hold a whole picture in memory.
AT_ONCE = 4

SETTING = (
    "where jobs run: serial, in this process; local:<n>, in n processes on this machine; or tcp://<host>:<port>, on "
    "the workers of a Dask scheduler"
)

# How often Dask restarts a job that raises an error.
_RETRIES = 2

# In a worker, `keep_memory` is too late: Dask has already started threads, whose arenas cannot keep large arrays.
_ENVIRON = {"MALLOC_ARENA_MAX": "1", "DASK_LOGGING__DISTRIBUTED": "error"}


class Ended(NamedTuple):
    """The outcome of an item, or of a job by its name: a result, or a one-line error."""

    item: Any
    result: Any = None
    error: str | None = None
    warnings: Sequence[str] = ()
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Job:
    """An independent call, which any process can make.

    A cluster pickles `work` and its result; `work` is a module-level function, or `functools.partial` of one. `after`
    names earlier jobs in the list whose results it needs.
    """

    name: str
    work: Callable[[], Any]
    after: tuple[str, ...] = ()


def run(jobs: Iterable[Job], scheduler: str = "serial", logs: pathlib.Path | None = None) -> Iterator[Ended]:
    """Runs jobs, each after the jobs that it needs, and yields their outcomes in the order of completion.

    Jobs that need a failed one are not started. `logs` is the folder for the output of jobs in other processes,
    one file per job.
    """
    if scheduler != "serial":
        yield from run_elsewhere(jobs, scheduler, logs)
        return
    ended = dict[str, Ended]()
    for job in jobs:
        ended[job.name] = _call(job.name, job.work, [ended[name] for name in job.after], retried=False)
        yield ended[job.name]


def failures(jobs: Sequence[Job], scheduler: str, logs: pathlib.Path) -> dict[str, str]:
    """Runs jobs like `run`, prints each outcome on stderr, and returns the failures' errors by name."""
    failed = {}
    for number, (name, _, error, _, seconds) in enumerate(run(jobs, scheduler, logs), start=1):
        if error is not None:
            failed[name] = error
        print(f"[{number} of {len(jobs)}] {name}: {spelled(error or f'{seconds:.0f} s')}", file=sys.stderr, flush=True)
    return failed


def run_elsewhere(jobs: Iterable[Job], scheduler: str, logs: pathlib.Path | None) -> Iterator[Ended]:
    """Runs jobs on workers, as `run` does."""
    with stop.after_step(), _joined(scheduler) as client:
        import distributed

        folder, futures = os.getcwd(), dict[str, Any]()
        for job in jobs:
            given = job.name, job.work, [futures[name] for name in job.after], folder, logs
            futures[job.name] = client.submit(_call_elsewhere, *given, pure=False, retries=_RETRIES)
        names = {future.key: name for name, future in futures.items()}
        ended = distributed.as_completed(futures.values())
        while not ended.is_empty():
            if stop.requested():
                raise Interrupted("stopped; the same command resumes there")
            time.sleep(0.05)
            for future in ended.next_batch(block=False):
                if future.status == "finished":
                    yield future.result()
                else:
                    error = future.exception()
                    is_lost = type(error).__name__ in ("KilledWorker", "NoneType")
                    yield Ended(names[future.key], error="the worker was lost" if is_lost else in_words(error))
                # Dask would recompute a stored result if its worker were lost.
                future.release()


def _call(name: str, work: Callable[[], Any], needed: Sequence[Ended], retried: bool) -> Ended:
    """Calls a job. With `retried`, raises errors that a retry may avoid."""
    if failed := [other.item for other in needed if other.error is not None]:
        return Ended(name, error=f"not started because {failed[0]} failed")
    started = time.monotonic()
    try:
        return Ended(name, work(), seconds=time.monotonic() - started)
    except Exception as error:
        if not isinstance(error, InputError):
            if not stop.is_for_the_user(error):
                traceback.print_exc()
            if retried:
                raise
        return Ended(name, error=in_words(error), seconds=time.monotonic() - started)


def _call_elsewhere(
    name: str, work: Callable[[], Any], needed: Sequence[Ended], folder: str, logs: pathlib.Path | None
) -> Ended:
    """Calls a job in a worker, in the folder of the program that submitted it, and keeps its output."""
    # A worker on another machine may lack that folder, and then does not need it.
    with contextlib.chdir(folder) if os.path.isdir(folder) else contextlib.nullcontext():
        if logs is None:
            return _call(name, work, needed, retried=True)
        logs.mkdir(parents=True, exist_ok=True)
        file = logs / f"{re.sub('[^A-Za-z0-9_=.-]+', '_', name)}.txt"
        with file.open("a", buffering=1) as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            return _call(name, work, needed, retried=True)


def mapped(
    work: Callable[[Item], Result], items: Iterable[Item], most: int = 2 * AT_ONCE, threads: int = AT_ONCE
) -> Generator[Result, None, None]:
    """Calls a function for each item, several at once in threads, and yields the results in the items' order.

    To save memory, at most `most` items are in progress or wait to be yielded. An error of an item is raised in its
    place; items that have not been started then are left out, as after an interruption.
    """
    pool, begun = ThreadPoolExecutor(threads), collections.deque[Future[Result]]()
    rest = iter(items)
    try:
        while True:
            begun.extend(pool.submit(work, item) for item in itertools.islice(rest, most - len(begun)))
            if not begun:
                return
            yield begun.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def in_threads(
    work: Callable[[Item], Any], items: Iterable[Item], most: int = 2 * AT_ONCE, threads: int = AT_ONCE
) -> Generator[Ended, None, None]:
    """Yields the outcome of each item, with its error and warnings; otherwise as `mapped`.

    InputErrors from `work` must name the item.
    """

    def call(item: Item) -> Ended:
        with collected_warnings() as warnings:
            try:
                return Ended(item, work(item), warnings=warnings)
            except Exception as error:
                name, said = one_line(str(item)), in_words(error)
                is_named = isinstance(error, InputError) or getattr(error, "filename", None) is not None
                return Ended(item, error=said if is_named else f"{name}: {said.removeprefix(f'{name}: ')}")

    return mapped(call, items, most, threads)


def finished(ended: Generator[Ended, None, None], items: Collection[Item]) -> tuple[dict[Item, Any], int]:
    """Collects outcomes with a progress bar; returns the results, and the number of failed items.

    Prints the errors of failed items on stderr at the end, in the items' order, and the first warning with the number
    of others.
    """
    results, errors, warnings = dict[Item, Any](), dict[Item, str](), list[str]()
    try:
        with tqdm(total=len(items), unit="file", disable=None) as bar, contextlib.closing(ended):
            for item, result, error, said, _ in ended:
                warnings += said
                if error is None:
                    results[item] = result
                else:
                    errors[item] = error
                bar.update()
    finally:
        warn_once(warnings, len(items))
        for item in items:
            if item in errors:
                print(f"error: {spelled(errors[item])}", file=sys.stderr)
    return results, len(errors)


def prepare(scheduler: str) -> None:
    """Checks `scheduler` and its packages, and leaves GPUs to workers. Must be called before anything is computed."""
    if scheduler == "serial":
        return
    if not re.fullmatch(r"local:[1-9][0-9]{0,3}|tcp://.+", scheduler):
        raise InputError(
            f"`scheduler` must be serial, local:<number of processes> or tcp://<host>:<port>, got {scheduler!r}"
        )
    if importlib.util.find_spec("distributed") is None:
        raise InputError(f"`scheduler={scheduler}` needs Dask: pip install 'r2l_jax[cluster]'")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def prepare_worker(dask_worker: Any) -> None:
    """Prepares the process of a worker once, before anything in it uses JAX: memory, compiled functions and the GPU.

    Workers of a local cluster get one GPU each. On other clusters, whoever starts the workers assigns GPUs.
    """
    from r2l_jax.cli import startup

    if isinstance(dask_worker.name, int):
        there = sorted(file.name.removeprefix("nvidia") for file in pathlib.Path("/dev").glob("nvidia[0-9]*"))
        if gpus := os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(there)):
            os.environ["CUDA_VISIBLE_DEVICES"] = gpus.split(",")[dask_worker.name % len(gpus.split(","))]
        if threading.current_thread() is threading.main_thread():
            # A terminal also sends Ctrl-C to the workers, but the program ends them.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
    startup.prepare(any_thread=True)


@contextlib.contextmanager
def _joined(scheduler: str) -> Iterator[Any]:
    """Yields a client for the workers of a scheduler, and ends the workers that it started."""
    import dask.config

    # Set before the import: Dask also reports the start and the end of workers.
    dask.config.set({"logging": {"distributed": "error"}})
    import distributed

    from r2l_jax.devices import memory

    environ = dask.config.get("distributed.nanny.pre-spawn-environ")
    count = scheduler.removeprefix("local:") if scheduler.startswith("local:") else "1"
    dask.config.set({"distributed.nanny.pre-spawn-environ": {**environ, **_ENVIRON, memory.PROCESSES: count}})
    # A job that waits at a worker would count as failed if the worker died.
    dask.config.set({"distributed.scheduler.worker-saturation": 1.0})
    with contextlib.ExitStack() as held:
        place: Any = scheduler
        if scheduler.startswith("local:"):
            # No memory limit, because workers keep freed memory for their next arrays, and Dask would pause or kill
            # them for that.
            limits = {"threads_per_worker": 1, "memory_limit": 0, "dashboard_address": "127.0.0.1:0"}
            place = held.enter_context(distributed.LocalCluster(n_workers=int(count), processes=True, **limits))
        try:
            client = held.enter_context(distributed.Client(place, timeout=30))
        except OSError as error:
            raise InputError(f"`scheduler={scheduler}` cannot be reached: {one_line(error)}") from None
        except MemoryError:
            if scheduler.startswith("local:"):
                raise
            # Dask takes the first bytes of the answer, such as "HTTP/1.1", for the length of a message.
            raise InputError(f"`scheduler={scheduler}`: another server answers there, not a Dask scheduler") from None
        client.register_worker_callbacks(prepare_worker)
        yield client

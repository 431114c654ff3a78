"""Jobs in this process, in other processes of this machine, or on the workers of a Dask or Slurm cluster.

A job is a call that can be repeated: it writes its results to files, and a repeated call resumes or replaces them.
Every worker runs one job at a time, and sees the files of the program that gives out the jobs. Another worker restarts
the job of a worker that dies. Workers need the extra `cluster`.
"""

import collections
import contextlib
import dataclasses
import io
import json
import logging
import os
import pathlib
import re
import signal
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import resource_tracker
from typing import Any, NamedTuple

from tqdm import tqdm

from r2l_jax.runtime.errors import InputError, in_words, one_line
from r2l_jax.runtime.locks import FolderInUseError
from r2l_jax.runtime.stop import Interrupted

# The help of `--scheduler`.
SETTING = (
    "where jobs run: serial, in this process; local:<n>, in n processes of this machine; tcp://<host>:<port>, on the "
    "workers of a Dask scheduler; or a JSON file with the options of a Slurm cluster"
)

# How often a job is started before it counts as failed.
TRIES = 3

_LOCAL = re.compile(r"local:([1-9][0-9]{0,3})")

# `startup.keep_memory` comes too late in a worker: Dask has started threads, whose arenas cannot keep large arrays. A
# frame of 24 megapixels would take 0.8 s of a core more.
# When a program is interrupted, workers would warn about the jobs that they give up.
_ENVIRON = {"MALLOC_ARENA_MAX": "1", "DASK_LOGGING__DISTRIBUTED": "error"}

# The seconds after which jobs are given to workers that have joined in the meantime.
_SECONDS = 5


@dataclasses.dataclass(frozen=True)
class Job:
    """A call that a process can make by itself.

    Attributes:
        name: its unique name.
        work: the call. A cluster pickles it, and its result: a function of a module, or `functools.partial` of one.
        after: the names of the jobs, earlier in the list, whose results it needs.
    """

    name: str
    work: Callable[[], Any]
    after: tuple[str, ...] = ()


class Outcome(NamedTuple):
    """How a job has ended.

    Attributes:
        name: the job's name.
        seconds: how long it took, without failed tries.
        error: why it failed, in one line; None for a job that succeeded.
        result: the result of its call.
        printed: the text that it printed in another process, unless the text is in a file.
        is_final: whether another try would end the same way.
    """

    name: str
    seconds: float = 0.0
    error: str | None = None
    result: Any = None
    printed: str = ""
    is_final: bool = True


class Runner:
    """Runs jobs one after the other in this process.

    Attributes:
        workers: how many jobs run at a time.
    """

    workers = 1

    def run(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Runs jobs, each after those that it needs, and yields how each ended, in the order in which they end.

        A job that fails is started again, up to `TRIES` times in all, except after an `InputError`, which would only
        recur. Jobs that need a failed one are not started; the others are.

        Raises:
            Interrupted: the user asked to stop.
        """
        waiting, begun, errors = list(jobs), dict[str, tuple[Job, Any]](), dict[str, str | None]()
        tries = collections.Counter()
        while waiting or begun:
            room = self._room()
            for job in list(waiting):
                if len(begun) >= room:
                    break
                if not errors.keys() >= set(job.after):
                    continue
                waiting.remove(job)
                if failed := [name for name in job.after if errors[name] is not None]:
                    errors[job.name] = f"not started, since {failed[0]} failed"
                    yield Outcome(job.name, error=errors[job.name])
                else:
                    begun[job.name] = job, self._begin(job)
            for outcome in self._ended({name: handle for name, (_, handle) in begun.items()}):
                job, _ = begun.pop(outcome.name)
                tries[job.name] += 1
                if outcome.printed:
                    tqdm.write(outcome.printed, file=sys.stderr, end="")
                if not outcome.is_final and tries[job.name] < TRIES:
                    said = f"{job.name}: try {tries[job.name]} of {TRIES} failed: {outcome.error}"
                    tqdm.write(said, file=sys.stderr)
                    waiting.insert(0, job)
                    continue
                if not outcome.is_final:
                    outcome = outcome._replace(error=f"failed {TRIES} times, last error: {outcome.error}")
                errors[job.name] = outcome.error
                yield outcome

    def _room(self) -> int:
        """Returns how many jobs can run at a time now."""
        return 1

    def _begin(self, job: Job) -> Any:
        """Starts a job, and returns its handle for `_ended`."""
        return job

    def _ended(self, begun: Mapping[str, Any]) -> Iterator[Outcome]:
        """Waits for a job, and yields how jobs ended; `begun` holds the handles of started jobs by name."""
        for job in begun.values():
            yield _call(job)


def _call(job: Job) -> Outcome:
    """Calls a job once, and returns how it ended.

    Raises:
        Interrupted: the user asked to stop.
    """
    started = time.monotonic()
    try:
        result = job.work()
    except Interrupted:
        raise
    except Exception as error:
        # A folder may still be locked by the process of a worker that was lost.
        is_final = isinstance(error, InputError) and not isinstance(error, FolderInUseError)
        if not is_final:
            traceback.print_exc()
        seconds, reason = time.monotonic() - started, in_words(error) or type(error).__name__
        return Outcome(job.name, seconds, reason, is_final=is_final)
    return Outcome(job.name, time.monotonic() - started, result=result)


class Cluster(Runner):
    """Runs jobs on the workers of a Dask client.

    Args:
        client: the `distributed.Client`.
        logs: the folder for the output of jobs; None prints it to stderr.
        asked: the number of requested workers, some of which may join later.
    """

    def __init__(self, client: Any, logs: pathlib.Path | None, asked: int = 1):
        self._client, self._logs = client, logs and logs.absolute()
        for name, worker in self._list().items():
            if (count := worker["nthreads"]) != 1:
                raise InputError(f"--scheduler: the worker {name} has {count} threads; start workers with --nthreads 1")
        self.workers = max(len(self._list()), asked)
        client.register_worker_callbacks(prepare_worker)

    def _list(self) -> dict[str, Any]:
        return self._client.scheduler_info(n_workers=-1)["workers"]

    def _room(self) -> int:
        # One job for each worker: others would wait at a worker, and count as failed if it died. At least one waits
        # until there is a worker. A worker that is just starting is listed, but gets no jobs yet.
        return max(sum(worker["status"] == "running" for worker in self._list().values()), 1)

    def _begin(self, job: Job) -> Any:
        # Only the call is sent: other attributes of a job may not be picklable.
        call = Job(job.name, job.work)
        # Other programs may have given the scheduler a job of the same name, whose result this job would get.
        key = f"{job.name} {uuid.uuid4().hex}"
        return self._client.submit(_call_elsewhere, call, os.getcwd(), self._logs, key=key, pure=False)

    def _ended(self, begun: Mapping[str, Any]) -> Iterator[Outcome]:
        import distributed

        with contextlib.suppress(TimeoutError):
            distributed.wait(list(begun.values()), timeout=_SECONDS, return_when="FIRST_COMPLETED")
        for name, future in begun.items():
            if future.status == "finished":
                yield future.result()
            elif future.done():
                error = future.exception()
                lost = type(error).__name__ == "KilledWorker"
                reason = "its worker was lost" if lost else in_words(error) or type(error).__name__
                yield Outcome(name, error=reason, is_final=False)
            else:
                continue
            # A result that is kept is computed anew when its worker is lost.
            future.release()


def _call_elsewhere(job: Job, folder: str, logs: pathlib.Path | None) -> Outcome:
    """Calls a job in a worker, in the folder of the program that gave it, and keeps its output."""
    with contextlib.ExitStack() as held:
        # A worker on another machine may lack that folder, and needs none then.
        if os.path.isdir(folder):
            held.enter_context(contextlib.chdir(folder))
        if logs is None:
            log = io.StringIO()
        else:
            logs.mkdir(parents=True, exist_ok=True)
            file = logs / f"{re.sub('[^A-Za-z0-9_=.-]+', '_', job.name)}.txt"
            log = held.enter_context(file.open("a", buffering=1))
        held.enter_context(contextlib.redirect_stdout(log))
        held.enter_context(contextlib.redirect_stderr(log))
        outcome = _call(job)
    return outcome._replace(printed=log.getvalue()) if isinstance(log, io.StringIO) else outcome


def prepare_worker(dask_worker: Any) -> None:
    """Prepares the process of a worker once, before anything in it uses JAX: memory, compiled functions and the GPU.

    Args:
        dask_worker: the `distributed.Worker`. Workers of a local cluster are numbered, and get a GPU each. On other
            clusters, whoever starts the workers assigns GPUs.
    """
    from r2l_jax.runtime import startup

    gpus = visible_gpus(os.environ)
    if isinstance(dask_worker.name, int) and gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[dask_worker.name % len(gpus)]
    startup.prepare(any_thread=True)


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """Lists the NVIDIA GPUs of this machine that a program may use, without starting CUDA on them."""
    if "CUDA_VISIBLE_DEVICES" in environment:
        return [name for name in environment["CUDA_VISIBLE_DEVICES"].split(",") if name]
    files = pathlib.Path("/dev").glob("nvidia[0-9]*")
    return sorted((file.name.removeprefix("nvidia") for file in files), key=int)


@contextlib.contextmanager
def running(scheduler: str, logs: pathlib.Path | None = None) -> Iterator[Runner]:
    """Starts or joins the workers that a `--scheduler` names, and ends those that it started.

    Args:
        scheduler: "serial", "local:<n>", "tcp://<host>:<port>", or a JSON file with the options of
            `dask_jobqueue.SLURMCluster` and the number of `jobs`, each of which starts the workers of one allocation.
        logs: the folder for the output of jobs in other processes, a file for each job; None prints it to stderr when
            the job has ended.

    Raises:
        InputError: a scheduler that is not of these forms or cannot be reached, a file that cannot be read, or the
            extra `cluster` is not installed.
    """
    if scheduler == "serial":
        yield Runner()
        return
    workers, _ = _options(scheduler)
    dask, distributed = import_dask()
    # Dask would give a dead worker's job at once to another worker, which may already have one. If that worker also
    # died, both jobs would count as failed. `Runner.run` gives the job to a free worker.
    dask.config.set({"distributed.scheduler.allowed-failures": 0})
    # If an interruption ends one of Dask's requests, another thread reports it before this one learns of it.
    logging.getLogger("tornado.application").setLevel(logging.CRITICAL)
    environ = dask.config.get("distributed.nanny.pre-spawn-environ")
    dask.config.set({"distributed.nanny.pre-spawn-environ": {**environ, **_ENVIRON}})
    with contextlib.ExitStack() as held:
        if _LOCAL.fullmatch(scheduler):
            # Without a limit: workers keep freed memory for their next arrays, for which Dask would pause or kill them.
            options = {"threads_per_worker": 1, "memory_limit": 0, "dashboard_address": "127.0.0.1:0"}
            with _interrupts_blocked():
                place = held.enter_context(distributed.LocalCluster(n_workers=workers, processes=True, **options))
        elif scheduler.startswith("tcp://"):
            place = scheduler
        else:
            place = held.enter_context(_slurm(scheduler))
        try:
            client = held.enter_context(distributed.Client(place, timeout=30))
        except OSError as error:
            raise InputError(f"--scheduler={scheduler} cannot be reached: {one_line(error)}") from None
        try:
            yield Cluster(client, logs, workers)
        except KeyboardInterrupt:
            # The program ends, and with it running jobs and requests, which Dask would report.
            logging.getLogger("distributed").setLevel(logging.ERROR)
            raise


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Blocks SIGINT in the threads that start in the block, and in the processes that those start.

    Otherwise, Ctrl-C would also reach the workers, and each would print a traceback; they end with this process anyway.
    An interrupt in the meantime takes effect after the block.
    """
    resource_tracker.ensure_running()  # It would otherwise start with the first worker, and then unblock the signal.
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)


def prepare(scheduler: str) -> None:
    """Checks a `--scheduler` and the packages that it needs, and leaves the memory of GPUs to its workers.

    Must be called before this process computes anything.

    Raises:
        InputError: see `running`.
    """
    _options(scheduler)
    if scheduler != "serial":
        import_dask()
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def asked_for(scheduler: str) -> int:
    """Returns how many workers a `--scheduler` asks for; 1 where the scheduler decides."""
    return _options(scheduler)[0]


def import_dask() -> tuple[Any, Any]:
    """Imports Dask, which takes a second, and returns its modules `dask` and `distributed`.

    Raises:
        InputError: it is not installed.
    """
    try:
        import dask.config

        # Dask also reports that workers start and end; only their loss matters.
        dask.config.set({"logging": {"distributed": "warning"}})
        import distributed
    except ImportError:
        raise InputError("the workers of --scheduler need Dask: pip install 'r2l_jax[cluster]'") from None
    return dask, distributed


def _options(scheduler: str) -> tuple[int, dict[str, Any]]:
    """Reads how many workers a `--scheduler` asks for, and for a Slurm cluster its other options.

    Raises:
        InputError: see `running`.
    """
    if local := _LOCAL.fullmatch(scheduler):
        return int(local[1]), {}
    if scheduler == "serial" or scheduler.startswith("tcp://"):
        return 1, {}
    if not scheduler.endswith(".json"):
        raise InputError(
            "--scheduler must be serial, local:<number of processes>, tcp://<host>:<port> or a JSON file, "
            f"got {scheduler!r}"
        )
    try:
        options = json.loads(pathlib.Path(scheduler).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"--scheduler={scheduler} cannot be read: {in_words(error)}") from None
    if not isinstance(options, dict) or not isinstance(jobs := options.pop("jobs", None), int) or jobs < 1:
        raise InputError(
            f"--scheduler={scheduler} must hold the options of dask_jobqueue.SLURMCluster and the number of jobs, such "
            'as {"jobs": 8, "cores": 8, "memory": "32GB", "walltime": "08:00:00"}'
        )
    return jobs, options


def _slurm(scheduler: str) -> Any:
    """Starts a Slurm cluster: its jobs begin as Slurm has room for them."""
    jobs, options = _options(scheduler)
    try:
        from dask_jobqueue.slurm import SLURMCluster
    except ImportError:
        raise InputError("--scheduler needs dask-jobqueue: pip install 'r2l_jax[cluster]'") from None
    # One worker of one thread for each job, so that a job has the memory and the GPU of its allocation.
    defaults = {"processes": 1, "worker_extra_args": ["--nthreads", "1"]}
    try:
        prologue = [
            *(f"export {name}={value}" for name, value in _ENVIRON.items()),
            *options.pop("job_script_prologue", []),
        ]
        cluster = SLURMCluster(**{**defaults, **options, "job_script_prologue": prologue})
    except (TypeError, ValueError) as error:
        raise InputError(f"--scheduler={scheduler}: {one_line(error)}") from None
    cluster.scale(jobs=jobs)
    return cluster
